"""The values of a connection's keys: logins, rates, sizes, URLs and headers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from dwhctl.core.secrets import Secret, is_sensitive
from dwhctl.core.words import quoted
from dwhctl.project.connections import is_local
from dwhctl.project.fields import Table, Text


class RateLimit(NamedTuple):
    """At most `calls` in any `seconds` seconds."""

    calls: int
    seconds: float


_RATE = re.compile(r"([1-9]\d{0,8}) ?/ ?(\d{1,6})? ?(s|min|m|h|d)", re.ASCII)
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_MOST_CALLS = 100_000


def parse_rate(text: str) -> RateLimit:
    """Read a rate such as `10/s`, `600/min` or `100/10s`. Raise ValueError."""
    match = _RATE.fullmatch(text)
    if match is None or match[2] == "0" or int(match[1]) > _MOST_CALLS:
        raise ValueError(
            f"{quoted(text)} is no rate; write calls per time as 10/s, 600/min or 100/10s"
            f" (at most {_MOST_CALLS:,} calls)"
        )
    return RateLimit(int(match[1]), int(match[2] or 1) * float(_UNITS[match[3]]))


def _rate(text: str) -> str:
    parse_rate(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        wrong = (
            url.scheme not in ("http", "https") or not url.hostname or (url.port is not None and not url.port)
        )
    except ValueError:
        wrong = True
    if wrong or re.search(r"[\s\\\x00-\x20]", value):
        raise ValueError('is no URL of a server; write one as "https://crm.example.com/api/v2/"')
    if url.username is not None or url.password is not None:
        raise ValueError(
            'holds a login; write it as auth = { type = "http_basic", username = ..., password = ... }'
        )
    if url.query or url.fragment:
        raise ValueError("has a '?' or '#'; parameters belong to the load's [endpoint] params, a key to auth")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class BearerAuth(Table):
    """A token in the header Authorization."""

    type: Literal["bearer"] = Field("bearer", examples=["bearer"])
    """The kind of auth."""
    token: Secret = Field(examples=[{"env": "CRM_TOKEN"}])
    """The token."""


class ApiKeyAuth(Table):
    """A key in a header, a query parameter or a cookie."""

    type: Literal["api_key"] = Field("api_key", examples=["api_key"])
    """The kind of auth."""
    name: Text = Field("Authorization", examples=["X-Api-Key"])
    """The name of the header, parameter or cookie."""
    api_key: Secret = Field(examples=[{"env": "CRM_KEY"}])
    """The key."""
    location: Literal["header", "query", "param", "cookie"] = Field("header", examples=["query"])
    """Where the key is sent; `param` is `query`."""


def _user(value: Any) -> Any:
    return value if isinstance(value, str) and value else Secret.of(value)


User = Annotated[Any, AfterValidator(_user)]


class HttpBasicAuth(Table):
    """User and password in the header Authorization."""

    type: Literal["http_basic"] = Field("http_basic", examples=["http_basic"])
    """The kind of auth."""
    username: User = Field(examples=["dwh"])
    """The user; it may be a secret, where it is a key of the API."""
    password: Secret | None = Field(None, examples=[{"env": "CRM_PASSWORD"}])
    """The password; left out, it is empty."""


def _fields(values: dict[str, Any]) -> dict[str, Secret | str]:
    plain = {name for name, value in values.items() if isinstance(value, str) and not is_sensitive(name)}
    return {name: value if name in plain else Secret.of(value) for name, value in values.items()}


Fields = Annotated[dict[str, Any], AfterValidator(_fields)]


class OAuth2Auth(Table):
    """A token that the authorization server gives for the client's own credentials (RFC 6749, 4.4)."""

    type: Literal["oauth2_client_credentials"] = Field(
        "oauth2_client_credentials", examples=["oauth2_client_credentials"]
    )
    """The kind of auth."""
    access_token_url: HttpUrl = Field(examples=["https://login.example.com/oauth/token"])
    """Where the token is asked for."""
    client_id: Text = Field(examples=["dwh"])
    """The client's id."""
    client_secret: Secret = Field(examples=[{"env": "CRM_SECRET"}])
    """The client's secret."""
    access_token_request_data: Fields = Field(default_factory=dict, examples=[{"scope": "read"}])
    """More fields of the request; a value may be a secret. `grant_type` is `client_credentials` when left out."""
    client_authentication: Literal["body", "header"] = Field("body", examples=["header"])
    """Where id and secret are sent: as fields of the request, or as user and password (HTTP Basic)."""


Auth = Annotated[BearerAuth | ApiKeyAuth | HttpBasicAuth | OAuth2Auth, Field(discriminator="type")]


_SIZE = re.compile(r"([1-9]\d{0,8}) ?([KMG])iB", re.ASCII)
_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}


def parse_size(text: str) -> int:
    """Read a size such as `256MiB` as octets. Raise ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is no size; write one as 256MiB or 1GiB")
    return int(match[1]) * _SIZES[match[2]]


def _size(text: str) -> str:
    parse_size(text)
    return text


Size = Annotated[str, AfterValidator(_size)]


def is_clear(url: str) -> bool:
    """Return whether a URL leads to another machine without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_local(parts.hostname or "")
