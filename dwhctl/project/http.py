"""The keys of HTTP sources, in the words of dlt's rest_api: auth and rate limit of a connection, a load's endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.secrets import Secret, is_sensitive
from dwhctl.core.words import did_you_mean, quoted
from dwhctl.project.fields import Listed, Table, Text

# Columns


class ColumnType(NamedTuple):
    """The declared type of a column: the word, and the digits of a decimal or the length of a text."""

    word: str
    precision: int | None = None
    scale: int | None = None


#: The words for types, and what each is here.
TYPE_WORDS = {
    "boolean": "boolean",
    "bool": "boolean",
    "smallint": "smallint",
    "integer": "integer",
    "int": "integer",
    "bigint": "bigint",
    "decimal": "decimal",
    "numeric": "decimal",
    "real": "real",
    "double": "double",
    "double precision": "double",
    "text": "text",
    "varchar": "text",
    "uuid": "uuid",
    "binary": "binary",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "json": "json",
}
_TYPE = re.compile(
    r"([a-z]+(?: precision)?) ?(?:\( ?(\d{1,9}) ?(?:, ?(\d{1,3}) ?)?\))?( not null)?", re.ASCII
)
_MOST_DIGITS = 38


def parse_type(text: str) -> tuple[ColumnType, bool]:
    """Read a declared type such as `decimal(12,2) not null`; tell whether it may be NULL. Raise ValueError."""
    match = _TYPE.fullmatch(" ".join(text.lower().split()))
    word = TYPE_WORDS.get(match[1]) if match else None
    if match is None or word is None:
        hint = did_you_mean(text, TYPE_WORDS) or f"write one of {', '.join(TYPE_WORDS)}"
        raise ValueError(f"{quoted(text)} is no type of a column; {hint}")
    precision, scale = (int(each) if each else None for each in match.groups()[1:3])
    if word == "decimal":
        precision, scale = precision or 0, scale or 0
        if not 0 < precision <= _MOST_DIGITS or scale > precision:
            raise ValueError(f"{quoted(text)}: a decimal has 1 to {_MOST_DIGITS} digits; write decimal(12,2)")
    elif scale is not None or (precision is not None and word != "text"):
        raise ValueError(f"{quoted(text)}: only decimal and varchar take numbers in parentheses")
    return ColumnType(word, precision, scale), not match[4]


def _type(text: str) -> str:
    parse_type(text)
    return text


class ResponseColumn(Table):
    """A column of the answer as a table: its type, and where its value is in a record."""

    type: Annotated[Text, AfterValidator(_type)] = Field(
        description="The declared type, optionally with `not null`.", examples=["bigint"]
    )
    path: Text | None = Field(
        None,
        description="Where the value is in the record, names with dots between; default: the column's name.",
        examples=["customer.id"],
    )
    optional: bool = Field(
        False, description="Whether a record without the field is NULL in it, not an error.", examples=[True]
    )


def _column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _some_columns(columns: dict[str, ResponseColumn]) -> dict[str, ResponseColumn]:
    seen: set[str] = set()
    for name in columns:
        if not name.strip() or name.lower() in seen:
            raise ValueError(f"{quoted(name)} is declared twice" if name.strip() else "a name is empty")
        seen.add(name.lower())
    return columns


ResponseColumns = Annotated[
    dict[str, Annotated[ResponseColumn, BeforeValidator(_column)]], AfterValidator(_some_columns)
]

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
        from jsonpath_ng.ext import parse

        try:
            parse(path)
        except Exception as error:
            raise ValueError(f"{quoted(path)} is no JSONPath; write one as $.items[*]") from error
    return path


JsonPath = Annotated[Text, AfterValidator(_json_path)]

# Connections


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
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that dwhctl or the protocol writes.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "connection"})


def _headers(headers: dict[str, Any]) -> dict[str, Secret | str]:
    checked: dict[str, Secret | str] = {}
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise ValueError(f"{quoted(name)} is no name of a header")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{quoted(name)} is written by dwhctl itself; leave it out")
        # Most headers are no secrets: a text in the file is one where its name says so.
        is_plain = isinstance(value, str) and not is_secret_header(name)
        checked[name] = value if is_plain else Secret.of(value)
        if isinstance(value, str) and not (value.isprintable() and value.isascii()):
            raise ValueError(f"the value of {name} has characters that a header cannot hold")
    return checked


Headers = Annotated[dict[str, Any], AfterValidator(_headers)]


def is_secret_header(name: str) -> bool:
    """Tell whether people put a secret under this name."""
    return is_sensitive(name) or name.lower() in ("authorization", "cookie", "proxy-authorization")


class BearerAuth(Table):
    """A token in the header Authorization."""

    type: Literal["bearer"] = Field("bearer", description="The kind of auth.", examples=["bearer"])
    token: Secret = Field(description="The token.", examples=[{"env": "CRM_TOKEN"}])


class ApiKeyAuth(Table):
    """A key in a header, a query parameter or a cookie."""

    type: Literal["api_key"] = Field("api_key", description="The kind of auth.", examples=["api_key"])
    name: Text = Field(
        "Authorization", description="The name of the header, parameter or cookie.", examples=["X-Api-Key"]
    )
    api_key: Secret = Field(description="The key.", examples=[{"env": "CRM_KEY"}])
    location: Literal["header", "query", "param", "cookie"] = Field(
        "header", description="Where the key is sent; `param` is `query`.", examples=["query"]
    )


class HttpBasicAuth(Table):
    """User and password in the header Authorization."""

    type: Literal["http_basic"] = Field(
        "http_basic", description="The kind of auth.", examples=["http_basic"]
    )
    username: Text = Field(description="The user.", examples=["dwh"])
    password: Secret = Field(description="The password.", examples=[{"env": "CRM_PASSWORD"}])


class OAuth2Auth(Table):
    """A token that the authorization server gives for the client's own credentials (RFC 6749, 4.4)."""

    type: Literal["oauth2_client_credentials"] = Field(
        "oauth2_client_credentials", description="The kind of auth.", examples=["oauth2_client_credentials"]
    )
    access_token_url: HttpUrl = Field(
        description="Where the token is asked for.", examples=["https://login.example.com/oauth/token"]
    )
    client_id: Text = Field(description="The client's id.", examples=["dwh"])
    client_secret: Secret = Field(description="The client's secret.", examples=[{"env": "CRM_SECRET"}])
    access_token_request_data: dict[str, str] = Field(
        default_factory=dict, description="More fields of the request.", examples=[{"scope": "read"}]
    )


Auth = Annotated[BearerAuth | ApiKeyAuth | HttpBasicAuth | OAuth2Auth, Field(discriminator="type")]

# Paginators


class _Paginator(Table):
    """How the next page is asked for."""


class SinglePage(_Paginator):
    """One page is all."""

    type: Literal["single_page"] = Field("single_page", description="The kind.", examples=["single_page"])


class JsonLink(_Paginator):
    """The body holds the URL of the next page."""

    type: Literal["json_link"] = Field("json_link", description="The kind.", examples=["json_link"])
    next_url_path: JsonPath = Field("next", description="Where the URL is.", examples=["$.paging.next"])


class HeaderLink(_Paginator):
    """The header Link holds the URL of the next page."""

    type: Literal["header_link"] = Field("header_link", description="The kind.", examples=["header_link"])
    links_next_key: Text = Field("next", description="The `rel` of the next page.", examples=["next"])


class HeaderCursor(_Paginator):
    """A header holds the cursor of the next page."""

    type: Literal["header_cursor"] = Field(
        "header_cursor", description="The kind.", examples=["header_cursor"]
    )
    cursor_key: Text = Field("next", description="The name of the header.", examples=["X-Next-Page"])
    cursor_param: Text = Field("cursor", description="The parameter that takes it.", examples=["page_token"])


class Cursor(_Paginator):
    """The body holds the cursor of the next page."""

    type: Literal["cursor"] = Field("cursor", description="The kind.", examples=["cursor"])
    cursor_path: JsonPath = Field("cursors.next", description="Where the cursor is.", examples=["$.next"])
    cursor_param: Text | None = Field(
        None, description="The parameter that takes it; `cursor` when left out.", examples=["after"]
    )
    cursor_body_path: Text | None = Field(
        None,
        description="The key of the request's `json` that takes it, names with dots between; in place of"
        " `cursor_param`.",
        examples=["paging.after"],
    )
    stop_after_empty_page: bool = Field(
        False, description="Whether a page without records is the last one.", examples=[True]
    )
    has_more_path: JsonPath | None = Field(
        None, description="Where the body says whether there is another page.", examples=["$.has_more"]
    )

    @model_validator(mode="after")
    def _one_place(self) -> Cursor:
        if self.cursor_param is not None and self.cursor_body_path is not None:
            raise ValueError("cursor_body_path: is there beside cursor_param; keep one of the two")
        return self


class Offset(_Paginator):
    """Pages by the number of records to skip."""

    type: Literal["offset"] = Field("offset", description="The kind.", examples=["offset"])
    limit: int = Field(ge=1, description="How many records a page has.", examples=[1000])
    offset: int = Field(0, ge=0, description="The first page's offset.", examples=[0])
    offset_param: Text = Field("offset", description="The parameter for the offset.", examples=["skip"])
    limit_param: Text = Field("limit", description="The parameter for the limit.", examples=["top"])
    total_path: JsonPath | None = Field(
        None, description="Where the body says how many records there are.", examples=["$.total"]
    )
    maximum_offset: int | None = Field(
        None, ge=1, description="No page from this offset on is asked for.", examples=[100_000]
    )
    stop_after_empty_page: bool = Field(
        True, description="Whether a page without records is the last one.", examples=[True]
    )
    has_more_path: JsonPath | None = Field(
        None, description="Where the body says whether there is another page.", examples=["$.has_more"]
    )

    @model_validator(mode="after")
    def _ends(self) -> Offset:
        _has_an_end(self, self.total_path, self.maximum_offset, "maximum_offset")
        return self


class PageNumber(_Paginator):
    """Pages by number."""

    type: Literal["page_number"] = Field("page_number", description="The kind.", examples=["page_number"])
    base_page: int = Field(0, ge=0, description="The number of the API's first page.", examples=[1])
    page: int | None = Field(
        None, ge=0, description="The page to begin with; default: the first.", examples=[1]
    )
    page_param: Text = Field("page", description="The parameter for the number.", examples=["p"])
    total_path: JsonPath | None = Field(
        None, description="Where the body says how many pages there are.", examples=["$.pages"]
    )
    maximum_page: int | None = Field(
        None, ge=1, description="No page from this number on is asked for.", examples=[1000]
    )
    stop_after_empty_page: bool = Field(
        True, description="Whether a page without records is the last one.", examples=[True]
    )
    has_more_path: JsonPath | None = Field(
        None, description="Where the body says whether there is another page.", examples=["$.has_more"]
    )

    @model_validator(mode="after")
    def _ends(self) -> PageNumber:
        _has_an_end(self, self.total_path, self.maximum_page, "maximum_page")
        return self


def _has_an_end(paginator: Offset | PageNumber, total: str | None, most: int | None, key: str) -> None:
    if not (paginator.stop_after_empty_page or total or most or paginator.has_more_path):
        raise ValueError(
            f"stop_after_empty_page: is false, and nothing else says which page is the last one; add total_path,"
            f" has_more_path or {key}"
        )


AnyPaginator = SinglePage | JsonLink | HeaderLink | HeaderCursor | Cursor | Offset | PageNumber
Paginator = Annotated[AnyPaginator, Field(discriminator="type")]

# Endpoint


class ResponseAction(Table):
    """What an answer means that is no page."""

    status_code: int | None = Field(None, ge=100, le=599, description="The answer's status.", examples=[404])
    content: Text | None = Field(None, description="A text in its body.", examples=["no such account"])
    action: Literal["ignore"] = Field(
        "ignore", description="`ignore`: it is an empty last page.", examples=["ignore"]
    )

    @model_validator(mode="after")
    def _says_something(self) -> ResponseAction:
        if self.status_code is None and self.content is None:
            raise ValueError('status_code: is missing; add status_code = 404, content = "...", or both')
        return self


class Endpoint(Table):
    """What is asked of an HTTP source; texts are templates."""

    path: str = Field(
        "",
        description="The path below `base_url`; what a template fills in is percent-encoded.",
        examples=["accounts/{{ shard.database }}/calls"],
    )
    method: Literal["GET", "POST"] = Field("GET", description="The method.", examples=["POST"])
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of the query; a list gives a parameter several times.",
        examples=[{"from": "{{ data_interval_start }}"}],
    )
    json_: dict[str, Any] | None = Field(
        None, alias="json", description="The body as JSON, with `POST`.", examples=[{"day": "{{ ds }}"}]
    )
    data: dict[str, Any] | None = Field(
        None, description="The body as a form, with `POST`.", examples=[{"day": "{{ ds }}"}]
    )
    format: Literal["json", "csv"] = Field("json", description="What the answer is.", examples=["csv"])
    data_selector: JsonPath = Field(
        "$", description="JSONPath of the records; of one array they are its items.", examples=["$.items[*]"]
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(
        ",", description="What is between the values of a CSV line.", examples=[";"]
    )
    encoding: Literal["utf-8", "cp1251", "latin-1", "utf-16"] = Field(
        "utf-8", description="The encoding of CSV.", examples=["cp1251"]
    )
    paginator: Paginator = Field(
        default_factory=SinglePage,
        description="How the next page is asked for.",
        examples=[{"type": "cursor", "cursor_path": "$.next"}],
    )
    response_actions: Annotated[tuple[ResponseAction, ...], Listed] = Field(
        (),
        description="Answers that mean that there are no records.",
        examples=[[{"status_code": 404, "action": "ignore"}]],
    )

    @model_validator(mode="after")
    def _fits(self) -> Endpoint:
        for key, body in (("json", self.json_), ("data", self.data)):
            if body is not None and self.method != "POST":
                raise ValueError(f'{key}: needs method = "POST"')
        if self.json_ is not None and self.data is not None:
            raise ValueError("data: is there beside json; keep one of the two")
        if isinstance(self.paginator, Cursor) and self.paginator.cursor_body_path and self.data is not None:
            raise ValueError("data: takes no cursor; write json, or cursor_param in the paginator")
        if self.format == "csv" and isinstance(self.paginator, JsonLink | Cursor):
            raise ValueError(f"paginator: {self.paginator.type} reads JSON, and the answer is CSV")
        return self


@dataclass(frozen=True, slots=True)
class Request:
    """An endpoint rendered for one slice: what the first page is asked for with."""

    endpoint: Endpoint
    columns: Mapping[str, ResponseColumn]
    path: str
    params: Mapping[str, Any]
    #: The body as JSON or as a form, as the endpoint has it.
    body: Mapping[str, Any] | None = None


#: How long an answer may take from the request to its last byte.
ANSWER_TIMEOUT = timedelta(minutes=5)
