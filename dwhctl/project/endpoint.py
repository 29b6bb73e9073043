"""What a load asks of an HTTP source: endpoint and paginator, in the words of dlt's rest_api."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Struct, field
from pydantic import AfterValidator, Field, model_validator

from dwhctl.core.words import quoted
from dwhctl.project.fields import Listed, Table, TemplateHeaders, Text

if TYPE_CHECKING:
    from dwhctl.project.response_columns import ResponseColumn

# Paths


_STEP = re.compile(r"\.?([^\W\d][\w-]*)|\[(?:'([^']+)'|\"([^\"]+)\"|(\*)|(\d+))\]")


def path_steps(path: str) -> tuple[str | int, ...] | None:
    """Split a path such as `$.data.items[*]` into names, numbers and `*`; None for JSONPath beyond these."""
    at, steps = (1 if path.startswith("$") else 0), list[str | int]()
    if path.startswith("$."):
        at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or (at == 0 and match[0].startswith(".")) or (at and path[at] not in ".["):
            return None
        name, quoted_1, quoted_2, star, number = match.groups()
        steps.append(int(number) if number else star or name or quoted_1 or quoted_2)
        at = match.end()
    return tuple(steps)


def _json_path(path: str) -> str:
    if path_steps(path) is None:
        from jsonpath_ng.ext.parser import parse

        try:
            parse(path)
        except Exception as error:
            raise ValueError(f"{quoted(path)} is no JSONPath; write one as $.items[*]") from error
    return path


JsonPath = Annotated[Text, AfterValidator(_json_path)]

# Paginators


class _Paginator(Table):
    """How the next page is asked for."""


class SinglePagePaginator(_Paginator):
    """One page is all."""

    type: Literal["single_page"] = Field("single_page", examples=["single_page"])
    """The kind."""


class JsonLinkPaginator(_Paginator):
    """The body holds the URL of the next page."""

    type: Literal["json_link"] = Field("json_link", examples=["json_link"])
    """The kind."""
    next_url_path: JsonPath = Field("next", examples=["$.paging.next"])
    """Where the URL is."""


class HeaderLinkPaginator(_Paginator):
    """The header Link holds the URL of the next page."""

    type: Literal["header_link"] = Field("header_link", examples=["header_link"])
    """The kind."""
    links_next_key: Text = Field("next", examples=["next"])
    """The `rel` of the next page."""


class HeaderCursorPaginator(_Paginator):
    """A header holds the cursor of the next page."""

    type: Literal["header_cursor"] = Field("header_cursor", examples=["header_cursor"])
    """The kind."""
    cursor_key: Text = Field("next", examples=["X-Next-Page"])
    """The name of the header."""
    cursor_param: Text = Field("cursor", examples=["page_token"])
    """The parameter that takes it."""


class CursorPaginator(_Paginator):
    """The body holds the cursor of the next page."""

    type: Literal["cursor"] = Field("cursor", examples=["cursor"])
    """The kind."""
    cursor_path: JsonPath = Field("cursors.next", examples=["$.next"])
    """Where the cursor is."""
    cursor_param: Text | None = Field(None, examples=["after"])
    """The parameter that takes it; `cursor` when left out."""
    cursor_body_path: Text | None = Field(None, examples=["paging.after"])
    """The key of the request's `json` that takes it, names with dots between; in place of `cursor_param`."""
    stop_after_empty_page: bool = Field(False, examples=[True])
    """Whether a page without records is the last one."""
    has_more_path: JsonPath | None = Field(None, examples=["$.has_more"])
    """Where the body says whether there is another page."""

    @model_validator(mode="after")
    def _one_place(self) -> CursorPaginator:
        if self.cursor_param is not None and self.cursor_body_path is not None:
            raise ValueError("cursor_body_path: is there beside cursor_param; keep one of the two")
        return self


class OffsetPaginator(_Paginator):
    """Pages by the number of records to skip."""

    type: Literal["offset"] = Field("offset", examples=["offset"])
    """The kind."""
    limit: int = Field(ge=1, examples=[1000])
    """How many records a page has."""
    offset: int = Field(0, ge=0, examples=[0])
    """The first page's offset."""
    offset_param: Text = Field("offset", examples=["skip"])
    """The parameter for the offset."""
    limit_param: Text = Field("limit", examples=["top"])
    """The parameter for the limit."""
    offset_body_path: Text | None = Field(None, examples=["paging.offset"])
    """The key of the request's `json` that takes the offset, names with dots between; in place of `offset_param`."""
    limit_body_path: Text | None = Field(None, examples=["paging.limit"])
    """The key of the request's `json` that takes the limit; in place of `limit_param`."""
    total_path: JsonPath | None = Field(None, examples=["$.total"])
    """Where the body says how many records there are."""
    maximum_offset: int | None = Field(None, ge=1, examples=[100000])
    """No page from this offset on is asked for."""
    stop_after_empty_page: bool = Field(True, examples=[True])
    """Whether a page without records is the last one."""
    has_more_path: JsonPath | None = Field(None, examples=["$.has_more"])
    """Where the body says whether there is another page."""

    @model_validator(mode="after")
    def _ends(self) -> OffsetPaginator:
        _has_an_end(self, self.total_path, self.maximum_offset, "maximum_offset")
        return self


class PageNumberPaginator(_Paginator):
    """Pages by number."""

    type: Literal["page_number"] = Field("page_number", examples=["page_number"])
    """The kind."""
    base_page: int = Field(0, ge=0, examples=[1])
    """The number of the API's first page."""
    page: int | None = Field(None, ge=0, examples=[1])
    """The page to begin with; default: the first."""
    page_param: Text = Field("page", examples=["p"])
    """The parameter for the number."""
    page_body_path: Text | None = Field(None, examples=["paging.page"])
    """The key of the request's `json` that takes the number, names with dots between; in place of `page_param`."""
    total_path: JsonPath | None = Field(None, examples=["$.pages"])
    """Where the body says how many pages there are."""
    maximum_page: int | None = Field(None, ge=1, examples=[1000])
    """No page from this number on is asked for."""
    stop_after_empty_page: bool = Field(True, examples=[True])
    """Whether a page without records is the last one."""
    has_more_path: JsonPath | None = Field(None, examples=["$.has_more"])
    """Where the body says whether there is another page."""

    @model_validator(mode="after")
    def _ends(self) -> PageNumberPaginator:
        _has_an_end(self, self.total_path, self.maximum_page, "maximum_page")
        return self


def _has_an_end(
    paginator: OffsetPaginator | PageNumberPaginator, total: str | None, most: int | None, key: str
) -> None:
    if not (paginator.stop_after_empty_page or total or most or paginator.has_more_path):
        raise ValueError(
            f"stop_after_empty_page: is false, and nothing else says which page is the last one; add total_path,"
            f" has_more_path or {key}"
        )


AnyPaginator = (
    SinglePagePaginator
    | JsonLinkPaginator
    | HeaderLinkPaginator
    | HeaderCursorPaginator
    | CursorPaginator
    | OffsetPaginator
    | PageNumberPaginator
)
Paginator = Annotated[AnyPaginator, Field(discriminator="type")]

# Endpoint


class ResponseAction(Table):
    """What an answer means that is no page, also a refusal."""

    status_code: int | None = Field(None, ge=100, le=599, examples=[404])
    """The answer's status. Needed for 401, 403, 408, 425, 429 and 5xx, which a `content` alone does not match."""
    content: Text | None = Field(None, examples=["no such account"])
    """A text in the first 64 KiB of its body."""
    action: Literal["ignore", "retry"] = Field("ignore", examples=["retry"])
    """`ignore`: it is an empty last page. `retry`: the request is sent again later, as after 429."""

    @model_validator(mode="after")
    def _says_something(self) -> ResponseAction:
        if self.status_code is None and self.content is None:
            raise ValueError('status_code: is missing; add status_code = 404, content = "...", or both')
        return self


class Endpoint(Table):
    """What is asked of an HTTP source; texts are templates."""

    path: str = Field("", examples=["accounts/{{ shard.database }}/calls"])
    """The path below `base_url`; what a template fills in is percent-encoded."""
    method: Literal["GET", "POST"] = Field("GET", examples=["POST"])
    """The method."""
    params: dict[str, Any] = Field(default_factory=dict, examples=[{"from": "{{ data_interval_start }}"}])
    """Parameters of the query; a list gives a parameter several times."""
    headers: TemplateHeaders = Field(default_factory=dict, examples=[{"X-Account": "{{ shard.database }}"}])
    """Headers of the requests, beside those of the connection."""
    json_: dict[str, Any] | None = Field(None, alias="json", examples=[{"day": "{{ ds }}"}])
    """The body as JSON, with `POST`."""
    data: dict[str, Any] | None = Field(None, examples=[{"day": "{{ ds }}"}])
    """The body as a form, with `POST`."""
    format: Literal["json", "csv"] = Field("json", examples=["csv"])
    """What the answer is."""
    data_selector: JsonPath = Field("$", examples=["$.items[*]"])
    """JSONPath of the records; of one array they are its items."""
    may_lack_records: bool = Field(False, examples=[True])
    """Whether an answer with nothing at `data_selector` has no records, where an API leaves an empty list out."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", examples=[";"])
    """What is between the values of a CSV line."""
    encoding: Literal["utf-8", "cp1251", "latin-1", "utf-16"] = Field("utf-8", examples=["cp1251"])
    """The encoding of CSV."""
    paginator: Paginator = Field(
        default_factory=SinglePagePaginator,
        json_schema_extra={"default": '`{ type = "single_page" }`'},
        examples=[{"type": "cursor", "cursor_path": "$.next"}],
    )
    """How the next page is asked for."""
    response_actions: Annotated[tuple[ResponseAction, ...], Listed] = Field(
        (), examples=[[{"status_code": 404, "action": "ignore"}]]
    )
    """Answers that mean that there are no records, or that the request must be sent again."""

    @model_validator(mode="after")
    def _fits(self) -> Endpoint:
        for key, body in (("json", self.json_), ("data", self.data)):
            if body is not None and self.method != "POST":
                raise ValueError(f'{key}: needs method = "POST"')
        if self.json_ is not None and self.data is not None:
            raise ValueError("data: is there beside json; keep one of the two")
        for key in ("cursor", "offset", "limit", "page"):
            if (path := getattr(self.paginator, f"{key}_body_path", None)) is None:
                continue
            if self.data is not None:
                raise ValueError(f"data: takes no {key}; write json, or {key}_param in the paginator")
            if self.method != "POST":
                raise ValueError(f'paginator.{key}_body_path: needs method = "POST"')
            if not _has_room(self.json_ or {}, path):
                raise ValueError(f"paginator.{key}_body_path: leads through a value of json that is no table")
        if self.format == "csv" and isinstance(self.paginator, JsonLinkPaginator | CursorPaginator):
            raise ValueError(f"paginator: {self.paginator.type} reads JSON, and the answer is CSV")
        return self


def _has_room(body: Any, path: str) -> bool:
    """Return whether there are only tables, or nothing, on the way to a key of the body."""
    *outer, _ = path.removeprefix("$.").split(".")
    for name in outer:
        body = body.get(name, {})
        if not isinstance(body, dict):
            return False
    return True


class Request(Struct, frozen=True):
    """An endpoint rendered for one slice: what the first page is asked for with."""

    endpoint: Endpoint
    columns: Mapping[str, ResponseColumn]
    path: str
    params: Mapping[str, Any]
    #: The body as JSON or as a form, as the endpoint has it.
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
