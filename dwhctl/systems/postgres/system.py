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


def _no_allow(word: object) -> object:
    if word == "allow":
        raise ValueError(
            '\'allow\' sends the password in clear first; write "require", or "disable" to have no TLS'
        )
    return word


class PostgresConnection(NetworkConnection):
    """A PostgreSQL database."""

    default_port: ClassVar[int | None] = 5432
    tls_words: ClassVar[TlsWords] = TlsWords(
        "sslmode", "sslrootcert", CHECKED_TLS, local="prefer", off="disable"
    )
    type: Literal["postgres"] = Field("postgres", examples=["postgres"])
    """The kind of system."""
    database: Text = Field(examples=["etl"])
    """The database to log in to."""
    sslmode: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None, BeforeValidator(_no_allow)
    ] = Field(None, examples=["verify-full"])
    """Whether the connection is encrypted, and what of the server's certificate is checked: nothing, its authority,
    or its authority and its name. With `sslrootcert` alone it is `verify-full`."""
    sslrootcert: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""
    answer_timeout: SomeTime | None = Field(None, examples=["30s"])
    """How long to wait for one answer of the sessions database; then the connection counts as lost. Left out: 60s, and
    10s in commands that only report."""


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
