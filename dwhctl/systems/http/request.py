"""What a request is: its URL below the base URL, its parameters and body; and how `render` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from dwhctl.core.errors import QueryError
from dwhctl.core.secrets import MASKED
from dwhctl.systems.http.keys import ApiKeyAuth, HttpBasicAuth
from dwhctl.systems.http.types import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dwhctl.systems.http.system import HttpConnection


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its URL without parameters of ours, the parameters, the body and the endpoint's headers."""

    url: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def joined(url: str, link: str) -> str:
    """Give the URL that a link in an answer means. Raise QueryError for none."""
    try:
        return urljoin(url, link)
    except ValueError:
        raise QueryError("the server gives a link that is no URL") from None


def origin(url: str) -> tuple[str, str, int | None]:
    """Give the scheme, host and port of a URL. Raise QueryError for none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        raise QueryError("the server gives a link that is no URL") from None
    return parts.scheme, (parts.hostname or "").lower(), port


def url_of(connection: HttpConnection, path: str) -> str:
    """Give the URL of a path below the base URL. Raise QueryError for one that leads elsewhere."""
    segments = {segment.lower().replace("%2e", ".") for segment in path.partition("?")[0].split("/")}
    if urlsplit(path).scheme or path.startswith("//") or {".", ".."} & segments:
        raise QueryError("endpoint.path leads out of base_url; write a path below it, without '.' and '..'")
    base = connection.base_url
    return f"{base.rstrip('/')}/{path.lstrip('/')}" if path else base


def shown(connection: HttpConnection, method: str, call: Call, *, form: bool) -> str:
    """Show a request as it would be sent, with asterisks for what is secret."""
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
    """Write parameters as HTTP has them."""
    return {
        name: [_one(each) for each in value] if isinstance(value, list) else _one(value)
        for name, value in values.items()
    }


def _one(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else value if value is None else str(value)
