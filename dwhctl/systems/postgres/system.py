"""PostgreSQL as a system: the sessions of several machines, and queries."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dwhctl.project.connections import CHECKED_TLS, NetworkConnection, TlsWords
from dwhctl.project.fields import ProjectPath, SomeTime, Text
from dwhctl.systems.base.system import System

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor

_TLS = TlsWords("sslmode", "sslrootcert", CHECKED_TLS, local="prefer", off="disable")


def _no_allow(word: object) -> object:
    if word == "allow":
        raise ValueError(
            '\'allow\' sends the password in clear first; write "require", or "disable" to have no TLS'
        )
    return word


class PostgresConnection(NetworkConnection):
    """A PostgreSQL database."""

    default_port: ClassVar[int | None] = 5432
    tls_words: ClassVar[TlsWords] = _TLS
    type: Literal["postgres"] = Field("postgres", description="The kind of system.", examples=["postgres"])
    database: Text = Field(description="The database to log in to.", examples=["etl"])
    sslmode: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None, BeforeValidator(_no_allow)
    ] = Field(
        None,
        description="Whether the connection is encrypted, and what is checked of the server's certificate: nothing, its"
        " authority, also its name. With `sslrootcert` alone it is `verify-full`.",
        examples=["verify-full"],
        json_schema_extra={"default": _TLS.default()},
    )
    sslrootcert: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; relative to the project. Left out:"
        " the system's.",
        examples=["config/ca.pem"],
    )
    answer_timeout: SomeTime | None = Field(
        None,
        description="How long to wait for one answer of the sessions database; after it the connection is lost."
        " Left out: 60s, and 10s in commands that only report.",
        examples=["30s"],
    )


class _Postgres(System[PostgresConnection]):
    connection = PostgresConnection
    is_sessions = True
    driver = "psycopg2"
    schemes = ("postgresql",)

    def open_cursor(
        self,
        connection: PostgresConnection,
        database: str | None,
        *,
        write: bool,
        timeout: timedelta | None,
        state_dir: Path | None = None,
    ) -> Cursor:
        from dwhctl.systems.postgres.console import PostgresCursor

        own = connection if database is None else connection.model_copy(update={"database": database})
        return PostgresCursor(own, write=write)


SYSTEM = _Postgres()
