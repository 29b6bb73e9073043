"""HTTP APIs as a system: the keys of a connection, in the words of dlt's rest_api, and what opens it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dwhctl.core.errors import UsageError
from dwhctl.project.connections import Connection
from dwhctl.project.fields import Headers, ProjectPath, SomeTime
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System
from dwhctl.systems.http.keys import Auth, HttpUrl, OAuth2Auth, Rate, Size, is_clear

if TYPE_CHECKING:
    from dwhctl.project.query import Query
    from dwhctl.systems.base.source import Cursor, Source


class HttpConnection(Connection):
    """An application's HTTP API. A shard is an account of it: its `database` is a value for templates."""

    url_keys: ClassVar[frozenset[str]] = frozenset({"base_url"})

    type: Literal["http"] = Field("http", examples=["http"])
    """The kind of system."""
    base_url: HttpUrl = Field(examples=["https://crm.example.com/api/v2/"])
    """The URL that the paths of endpoints are below."""
    auth: Auth | None = Field(None, examples=[{"type": "bearer", "token": {"env": "CRM_TOKEN"}}])
    """How requests log in; left out, they do not."""
    headers: Headers = Field(default_factory=dict, examples=[{"Accept-Language": "ru"}])
    """Headers of every request; a value may be a secret."""
    rate_limit: Rate | None = Field(None, examples=["10/s"])
    """Requests in any such time, over all dwhctl processes that share the state folder."""
    connect_timeout: SomeTime = Field(timedelta(seconds=10), examples=["10s"])
    """How long to wait for the server to answer."""
    answer_timeout: SomeTime = Field(timedelta(minutes=5), examples=["5m"])
    """How long an answer may take from the request to its last byte."""
    ca_file: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The authorities that the server's certificate may come from; relative to the project. Left out: those that
    come with dwhctl (certifi)."""
    insecure: bool = Field(False, examples=[True])
    """Whether a `base_url` of another machine may be `http://`: login and rows travel in clear then."""
    max_body: Size = Field("256MiB", examples=["1GiB"])
    """How large an answer may be, decompressed."""
    max_pages: int = Field(10_000, ge=1, le=10_000_000, examples=[50_000])
    """How many pages a slice may have."""
    test_path: str = Field("", examples=["status"])
    """The path below `base_url` that `connections test` asks for."""

    def address(self, root: Path) -> str:
        return self.base_url

    def in_clear(self) -> str | None:
        return "insecure = true" if any(is_clear(url) for _, url in self._urls()) else None

    def _urls(self) -> list[tuple[str, str]]:
        """Return every URL that gets a login, by its key."""
        urls = [("base_url", self.base_url)]
        if isinstance(self.auth, OAuth2Auth):
            urls.append(("auth.access_token_url", self.auth.access_token_url))
        return urls

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The server of the base URL."""
        url = urlsplit(self.base_url)
        return ((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)),)

    @model_validator(mode="after")
    def _encrypted(self) -> HttpConnection:
        for key, url in self._urls():
            if is_clear(url) and not self.insecure:
                raise ValueError(
                    f'{key}: is "http://" on another machine: login and rows travel in clear; write "https://...",'
                    " or insecure = true"
                )
        return self


class _Http(System[HttpConnection]):
    connection = HttpConnection
    is_source = takes_endpoint = True
    driver = "dwhctl.systems.http.source"
    types_module = "dwhctl.systems.http.types"
    schemes = ("https",)

    def open_source(self, connection: HttpConnection, database: str, options: SourceOptions) -> Source:
        from dwhctl.systems.http.source import HttpSource

        return HttpSource(connection, options.timeout, options.state_dir)

    def open_cursor(self, connection: HttpConnection, database: str | None, options: CursorOptions) -> Cursor:
        raise UsageError(
            f"connection {connection.name} is an HTTP API, which takes no SQL; `dwhctl render LOAD` shows its requests"
        )

    def shown_request(self, connection: HttpConnection, query: Query) -> str:
        from dwhctl.systems.http.source import shown_request

        return shown_request(connection, query)


SYSTEM = _Http()
