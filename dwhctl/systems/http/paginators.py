"""The seven paginators of dlt's rest_api, by their words, and what each refuses rather than lose or double records."""

from __future__ import annotations

import copy
import hashlib
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dwhctl.core.errors import QueryError, SourceError
from dwhctl.project import endpoint as words
from dwhctl.systems.http.records import find_first
from dwhctl.systems.http.request import Call, joined, origin
from dwhctl.systems.http.types import MISSING, json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dwhctl.project.endpoint import AnyPaginator


_Counting = words.CursorPaginator | words.OffsetPaginator | words.PageNumberPaginator


class Page(Struct, frozen=True):
    """What of an answer decides about the next page."""

    call: Call
    records: int
    rest: Any
    headers: Mapping[str, str]


def json_paths(paginator: AnyPaginator) -> list[str]:
    """List the paths that the paginator reads in a body."""
    names = ("next_url_path", "cursor_path", "total_path", "has_more_path")
    return [path for name in names if (path := getattr(paginator, name, None)) is not None]


class Pages:
    """The state of one slice's pages."""

    def __init__(self, paginator: AnyPaginator, most: int) -> None:
        self._paginator = paginator
        self._most = most
        self._count = 0
        #: The number or offset of the last page that was asked for.
        self._number = 0
        self._records = 0
        self._short: int | None = None
        #: What the last page said that there is beyond it.
        self._left: str | None = None
        self._seen: set[bytes] = set()

    def first(self, call: Call) -> Call:
        """Return the first request."""
        paginator = self._paginator
        if isinstance(paginator, words.OffsetPaginator):
            call = _with(call, paginator.limit_param, paginator.limit_body_path, paginator.limit)
            return self._numbered(call, paginator.offset)
        if isinstance(paginator, words.PageNumberPaginator):
            return self._numbered(call, paginator.base_page if paginator.page is None else paginator.page)
        return call

    def _numbered(self, call: Call, number: int) -> Call:
        """Return the request of the page with this number or offset."""
        paginator, self._number = self._paginator, number
        if isinstance(paginator, words.OffsetPaginator):
            return _with(call, paginator.offset_param, paginator.offset_body_path, number)
        assert isinstance(paginator, words.PageNumberPaginator)
        return _with(call, paginator.page_param, paginator.page_body_path, number)

    def after(self, page: Page) -> Call | None:
        """Return the next request, None after the last page. Raise QueryError or SourceError."""
        self._count += 1
        self._records += page.records
        following = self._after(page)
        if following is not None and self._count >= self._most:
            raise QueryError(
                f"the answer has more than {self._most:,} pages; ask for larger ones, or raise max_pages"
            )
        return following

    def end(self) -> None:
        """End the pages by an answer that has none. Raise SourceError when the page before says that there is more."""
        if self._left is not None:
            raise SourceError(f"{self._left}, and the next answer says that there are no records")

    def unnamed(self, page: Page) -> str | None:
        """Return where a page with records, by which the pages end, has no field for the next one, not even a null."""
        paginator, place, found = self._paginator, "", None
        if isinstance(paginator, words.JsonLinkPaginator):
            place = f"next_url_path {paginator.next_url_path}"
            found = find_first(page.rest, paginator.next_url_path)
        elif isinstance(paginator, words.CursorPaginator) and paginator.has_more_path is None:
            place = f"cursor_path {paginator.cursor_path}"
            found = find_first(page.rest, paginator.cursor_path)
        elif isinstance(paginator, words.HeaderCursorPaginator):
            place = f"the header of cursor_key {paginator.cursor_key}"
            found = page.headers.get(paginator.cursor_key, MISSING)
        elif isinstance(paginator, words.HeaderLinkPaginator):
            place = f"the relation of links_next_key {paginator.links_next_key} in the header Link"
            found = linked(page.headers.get("Link", ""), paginator.links_next_key) or MISSING
        return place if page.records and found is MISSING else None

    def _after(self, page: Page) -> Call | None:
        paginator, call = self._paginator, page.call
        if isinstance(paginator, words.JsonLinkPaginator):
            return self._linked(call, find_first(page.rest, paginator.next_url_path))
        if isinstance(paginator, words.HeaderLinkPaginator):
            return self._linked(call, linked(page.headers.get("Link", ""), paginator.links_next_key))
        if isinstance(paginator, words.HeaderCursorPaginator):
            return self._with_cursor(call, paginator.cursor_param, page.headers.get(paginator.cursor_key))
        if isinstance(paginator, words.CursorPaginator):
            return self._after_cursor(paginator, page)
        if isinstance(paginator, words.OffsetPaginator):
            return self._after_offset(paginator, page)
        if isinstance(paginator, words.PageNumberPaginator):
            return self._after_number(paginator, page)
        return None

    def _linked(self, call: Call, link: Any) -> Call | None:
        if link is MISSING or not link:
            return None
        if not isinstance(link, str):
            raise QueryError("the link to the next page is no text; correct next_url_path")
        url = joined(call.url, link)
        if origin(url) != origin(call.url):
            scheme, host, port = origin(url)
            raise QueryError(
                f"the next page is on another server ({scheme}://{host}:{port}), which gets neither login nor request;"
                " base_url must have the same scheme, host and port as the links"
            )
        self._once(url, "the link to the next page")
        return replace(call, url=url, params={})

    def _with_cursor(self, call: Call, param: str, cursor: Any) -> Call | None:
        if not self._goes_on(cursor):
            return None
        return _with(call, param, None, cursor)

    def _goes_on(self, cursor: Any, *, in_body: bool = False) -> bool:
        if cursor is MISSING or not cursor:
            return False
        # A body takes a list as well, such as the values that the last record is sorted by.
        parts = cursor if isinstance(cursor, list) and in_body else [cursor]
        if any(not isinstance(part, str | int | Decimal | None) or cursor is True for part in parts):
            raise QueryError(
                "the cursor of the next page is no text or number; correct cursor_path"
                + (", or use cursor_body_path for a list" if isinstance(cursor, list) and not in_body else "")
            )
        self._once(json_text(cursor), "the cursor of the next page")
        return True

    def _after_cursor(self, paginator: words.CursorPaginator, page: Page) -> Call | None:
        more = _has_more(paginator, page)
        if more is False or _is_last(paginator, page, more):
            return None
        cursor = find_first(page.rest, paginator.cursor_path)
        if more and (cursor is MISSING or not cursor):
            raise SourceError("the answer says that there are more pages, and has no cursor for the next one")
        if paginator.cursor_body_path is None:
            return self._with_cursor(page.call, paginator.cursor_param or "cursor", cursor)
        if not self._goes_on(cursor, in_body=True):
            return None
        return _with(page.call, "", paginator.cursor_body_path, cursor)

    def _after_offset(self, paginator: words.OffsetPaginator, page: Page) -> Call | None:
        if page.records > paginator.limit:
            raise QueryError(
                f"a page has {page.records:,} records, more than limit = {paginator.limit:,}: the server does not go by"
                f" {paginator.limit_param}; correct limit_param"
            )
        if self._short is not None and page.records:
            raise QueryError(
                f"a page in the middle has {self._short:,} records, fewer than limit = {paginator.limit:,}: the next"
                " offset would leave records out; set limit to what the server gives at most"
            )
        if page.records < paginator.limit:
            self._short = page.records
        total = self._total(page.rest, paginator.total_path)
        following = self._number + paginator.limit
        more = _has_more(paginator, page)
        ends = (
            _is_last(paginator, page, more)
            # Offsets that begin with 1 reach the last record one later.
            or (total is not None and following >= total + (paginator.offset == 1))
            or (paginator.maximum_offset is not None and following >= paginator.maximum_offset)
            or more is False
        )
        if not ends:
            if total is not None:
                self._left = f"the server counts {total:,} records, its pages have {self._records:,}"
            return self._numbered(page.call, following)
        # More than the total: it counts something else, or stops at a limit, and the pages may go on.
        left = max((total or 0) - paginator.offset, 0)
        few = paginator.maximum_offset is None and self._records < left
        is_all = paginator.offset == 1 and self._records == total
        if total is not None and not is_all and (few or self._records > left):
            raise SourceError(
                f"the server counts {total:,} records, and its pages have {self._records:,}: the records changed"
                " while they were read, or total_path counts something else"
            )
        return None

    def _after_number(self, paginator: words.PageNumberPaginator, page: Page) -> Call | None:
        total = self._total(page.rest, paginator.total_path)
        more = _has_more(paginator, page)
        following = self._number + 1
        ends = _is_last(paginator, page, more) or more is False
        if total is not None:
            left = total + paginator.base_page - following
            self._left = (
                f"the server counts {total:,} pages, and {left:,} of them are left" if left > 0 else None
            )
            if (ends and left > 0) or (page.records and left < 0):
                raise SourceError(
                    f"the server counts {total:,} pages, and page {following - 1:,} is"
                    f" {'not the last one' if page.records else 'empty'}: the records changed while they were read,"
                    " total_path counts something else, or base_page is not the number of the first page"
                )
            ends = ends or left <= 0
        if ends or (paginator.maximum_page is not None and following >= paginator.maximum_page):
            return None
        return self._numbered(page.call, following)

    @staticmethod
    def _total(rest: Any, path: str | None) -> int | None:
        if path is None:
            return None
        total = find_first(rest, path)
        if isinstance(total, str) and total.isascii() and total.isdigit():
            total = int(total[:18])
        if isinstance(total, Decimal) and total == total.to_integral_value() and total < 10**18:
            total = int(total)  # 153.0 is 153
        if isinstance(total, bool) or not isinstance(total, int) or total < 0:
            raise QueryError(f"the answer has no number at total_path {path}")
        return total

    def _once(self, text: str, what: str) -> None:
        """Raise QueryError when a page would be asked for again: the pages had no end."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            raise QueryError(f"{what} comes a second time: the pages of the server have no end")
        self._seen.add(digest)


class FirstPage(Pages):
    """The first of a slice's pages only. `place`: where it has nothing that leads to the next one."""

    place: str | None = None

    def after(self, page: Page) -> None:
        """Check the page as a load does. Raise QueryError or SourceError."""
        if super().after(page) is None:
            self.place = self.unnamed(page)


_PARAMETER = r"""\s*;[\s;]*+([\w!#$%&*+.^`|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s",;]*))?"""
# `*+`: what does not match is not tried again in each other way, of which a hostile server could make any number.
_LINK = re.compile(rf"[\s,]*+<([^>]*)>((?:{_PARAMETER})*+)[\s;]*+(?:,|$)")


def linked(header: str, wanted: str) -> str | None:
    """Return the URL of the relation `wanted` in a header Link (RFC 8288). Raise QueryError for one that is no list.

    A relation that was overlooked would end the pages too early.
    """
    at = 0
    while header[at:].strip(" \t,"):
        if (found := _LINK.match(header, at)) is None:
            raise QueryError("the header Link of a page cannot be read; choose another paginator")
        at = found.end()
        values = {
            name.lower(): value.strip("\"'") for name, value in reversed(re.findall(_PARAMETER, found[2]))
        }
        if wanted.lower() in values.get("rel", "").lower().split() and "anchor" not in values:
            return found[1].strip()
    return None


def _is_last(paginator: _Counting, page: Page, more: bool | None) -> bool:
    """Return whether an empty page is the last one. Raise SourceError when it says that there are more."""
    if page.records or not paginator.stop_after_empty_page:
        return False
    if more:
        raise SourceError(
            f"a page is empty, and says at has_more_path {paginator.has_more_path} that there are more; if the server"
            " has empty pages in the middle, set stop_after_empty_page = false"
        )
    return True


def _has_more(paginator: _Counting, page: Page) -> bool | None:
    if (path := paginator.has_more_path) is None:
        return None
    more = find_first(page.rest, path)
    if isinstance(more, str):
        more = {"true": True, "false": False}.get(more.lower(), more)
    if isinstance(more, bool | int) and more in (0, 1):
        return bool(more)
    if not page.records and paginator.stop_after_empty_page:
        return None  # an answer without records may say nothing else
    raise QueryError(f"the answer has neither true nor false at has_more_path {path}")


def _with(call: Call, param: str, body_path: str | None, value: Any) -> Call:
    """Return the request with another value of a parameter, or of a key of its body."""
    if body_path is None:
        return replace(call, params={**call.params, param: value})
    return replace(call, body=_put(call.body or {}, body_path, value))


def _put(body: Mapping[str, Any], path: str, value: Any) -> Mapping[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(body))
    *outer, last = path.removeprefix("$.").split(".")
    inner = changed
    for name in outer:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return changed
