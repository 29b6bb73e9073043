"""What a request is: its URL below the base URL, its parameters and body; how `render` shows it; and its answer."""

from __future__ import annotations

import zlib
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin, urlsplit

import requests
from msgspec import Struct, field

from dwhctl.core.errors import QueryError
from dwhctl.core.secrets import MASKED
from dwhctl.systems.http.keys import ApiKeyAuth, HttpBasicAuth
from dwhctl.systems.http.types import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.project.endpoint import ResponseAction
    from dwhctl.systems.http.system import HttpConnection


CHUNK = 64 * 1024
#: How much of a refusal's body is read.
REFUSAL_OCTETS = 64 * 1024
LOGIN = frozenset({401, 403})
TRANSIENT = frozenset({408, 425, 429})


class Call(Struct, frozen=True):
    """One request: its URL without parameters of ours, the parameters, the body and the endpoint's headers."""

    url: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def joined(url: str, link: str) -> str:
    """Return the URL that a link in an answer means. Raise QueryError for none."""
    try:
        return urljoin(url, link)
    except ValueError:
        raise QueryError("the server gives a link that is no URL") from None


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, host and port of a URL. Raise QueryError for none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        raise QueryError("the server gives a link that is no URL") from None
    return parts.scheme, (parts.hostname or "").lower(), port


def url_of(connection: HttpConnection, path: str) -> str:
    """Return the URL of a path below the base URL. Raise QueryError for one that leads elsewhere."""
    segments = {segment.lower().replace("%2e", ".") for segment in path.partition("?")[0].split("/")}
    if urlsplit(path).scheme or path.startswith("//") or {".", ".."} & segments:
        raise QueryError("endpoint.path leads out of base_url; write a path below it, without '.' and '..'")
    base = connection.base_url
    return f"{base.rstrip('/')}/{path.lstrip('/')}" if path else base


def shown(connection: HttpConnection, method: str, call: Call, *, form: bool) -> str:
    """Return a request as it would be sent, with asterisks for what is secret."""
    prepared = requests.Request(
        method, call.url, params=plain(call.params), data=octets_of(call, form=form)
    ).prepare()
    url, auth = prepared.url or "", connection.auth
    headers = [f"{name}: {value}" for name, value in {**connection.headers, **call.headers}.items()]
    if isinstance(auth, ApiKeyAuth) and auth.location in ("query", "param"):
        url = f"{url}{'&' if '?' in url else '?'}{auth.name}={MASKED}"
    elif isinstance(auth, ApiKeyAuth):
        headers.append(
            f"Cookie: {auth.name}={MASKED}" if auth.location == "cookie" else f"{auth.name}: {MASKED}"
        )
    elif auth is not None:
        headers.append(f"Authorization: {'Basic' if isinstance(auth, HttpBasicAuth) else 'Bearer'} {MASKED}")
    body = prepared.body.decode() if isinstance(prepared.body, bytes) else prepared.body
    return "\n".join([f"{method} {url}", *headers, *(["", body] if body else [])])


def octets_of(call: Call, *, form: bool) -> dict[str, Any] | bytes | None:
    """Return the body as requests takes it: a form, or JSON with all digits of its numbers."""
    if form:
        return plain(call.body or {})
    return None if call.body is None else json_text(call.body).encode()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as HTTP has them."""
    return {
        name: [_one(each) for each in value] if isinstance(value, list) else _one(value)
        for name, value in values.items()
    }


def _one(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else value if value is None else str(value)


class Answer(Struct, frozen=True):
    """A whole answer. Close its body."""

    status: int
    headers: Mapping[str, str]
    body: IO[bytes]
    size: int
    #: Whether the server gave the length, so that an early end would have been seen.
    is_whole: bool

    @property
    def is_refusal(self) -> bool:
        """Whether the status refuses the login, or any request for a while."""
        return self.status in LOGIN or self.status in TRANSIENT or self.status >= 500

    def text(self) -> str:
        """Return the beginning of the body as text."""
        self.body.seek(0)
        text = self.body.read(REFUSAL_OCTETS).decode("utf-8", "replace")
        self.body.seek(0)
        return text

    def meaning(self, actions: Sequence[ResponseAction]) -> Literal["ignore", "retry"] | None:
        """Return the first of the actions that the answer has. One without a status says nothing of a refusal."""
        for action in actions:
            is_meant = (
                not self.is_refusal if action.status_code is None else action.status_code == self.status
            )
            if is_meant and (action.content is None or action.content in self.text()):
                return action.action
        return None


def unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip in pieces of bounded size. Raise zlib.error when it ends early."""
    unpack, is_empty = zlib.decompressobj(31), True
    for chunk in chunks:
        data, is_empty = chunk, False
        while data or not unpack.eof:
            if unpack.eof:
                unpack = zlib.decompressobj(31)  # another member follows
            piece = unpack.decompress(data, CHUNK)
            if piece:
                yield piece
            data = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if not piece and not data:
                break
    if not (unpack.eof or is_empty):
        raise zlib.error("ends early")
