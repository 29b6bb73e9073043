"""HTTP APIs as a system: the keys of a connection, in the words of dlt's rest_api, and what opens it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dwhctl.core.errors import UsageError
from dwhctl.project.connections import Connection
from dwhctl.project.fields import ProjectPath, SomeTime
from dwhctl.systems.base.system import System
from dwhctl.systems.http.keys import Auth, Headers, HttpUrl, OAuth2Auth, Rate, Size, is_clear

if TYPE_CHECKING:
    from dwhctl.project.templates import Query
    from dwhctl.systems.base.source import Cursor, Source


class HttpConnection(Connection):
    """An application's HTTP API. A shard is an account of it: its `database` is a value for templates."""

    url_keys: ClassVar[frozenset[str]] = frozenset({"base_url"})

    type: Literal["http"] = Field("http", description="The kind of system.", examples=["http"])
    base_url: HttpUrl = Field(
        description="The URL that the paths of endpoints are below.",
        examples=["https://crm.example.com/api/v2/"],
    )
    auth: Auth | None = Field(
        None,
        description="How requests log in; left out, they do not.",
        examples=[{"type": "bearer", "token": {"env": "CRM_TOKEN"}}],
    )
    headers: Headers = Field(
        default_factory=dict,
        description="Headers of every request; a value may be a secret.",
        examples=[{"Accept-Language": "ru"}],
    )
    rate_limit: Rate | None = Field(
        None,
        description="Requests in any such time, over all dwhctl processes that share the state folder.",
        examples=["10/s"],
    )
    connect_timeout: SomeTime = Field(
        timedelta(seconds=10), description="How long to wait for the server to answer.", examples=["10s"]
    )
    answer_timeout: SomeTime = Field(
        timedelta(minutes=5),
        description="How long an answer may take from the request to its last byte.",
        examples=["5m"],
    )
    ca_file: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; relative to the project. Left out:"
        " those that come with dwhctl (certifi).",
        examples=["config/ca.pem"],
    )
    insecure: bool = Field(
        False,
        description="Whether a `base_url` of another machine may be `http://`: login and rows travel in clear then.",
        examples=[True],
    )
    max_body: Size = Field(
        "256MiB", description="How large an answer may be, decompressed.", examples=["1GiB"]
    )
    max_pages: int = Field(
        10_000, ge=1, le=10_000_000, description="How many pages a slice may have.", examples=[50_000]
    )
    test_path: str = Field(
        "", description="The path below `base_url` that `connections test` asks for.", examples=["status"]
    )

    def address(self, root: Path) -> str:
        return self.base_url

    def in_clear(self) -> str | None:
        return "insecure = true" if any(is_clear(url) for _, url in self._urls()) else None

    def _urls(self) -> list[tuple[str, str]]:
        """List every URL that gets a login, by its key."""
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

    def open_source(
        self,
        connection: HttpConnection,
        database: str,
        zone: str,
        timeout: float | None = None,
        *,
        login_known: bool | None = None,
        state_dir: Path | None = None,
    ) -> Source:
        from dwhctl.systems.http.source import HttpSource

        return HttpSource(connection, timeout, state_dir)

    def open_cursor(
        self,
        connection: HttpConnection,
        database: str | None,
        *,
        write: bool,
        timeout: timedelta | None,
        state_dir: Path | None = None,
    ) -> Cursor:
        raise UsageError(
            f"connection {connection.name} is an HTTP API, which takes no SQL; `dwhctl render LOAD` shows its requests"
        )

    def shown_request(self, connection: HttpConnection, query: Query) -> str:
        from dwhctl.systems.http.source import shown_request

        return shown_request(connection, query)


SYSTEM = _Http()
