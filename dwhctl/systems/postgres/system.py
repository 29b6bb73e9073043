"""PostgreSQL as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dwhctl.project.connections import CHECKED_TLS, NetworkConnection, TlsWords
from dwhctl.project.fields import ProjectPath, SomeTime, Text
from dwhctl.systems.base.system import CursorOptions, SourceOptions, System, TargetOptions
from dwhctl.systems.postgres import NAME_OCTETS

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor, Source
    from dwhctl.systems.base.target import Target


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
    staging_schema: Text | None = Field(None, examples=["staging"])
    """The schema for staging tables; default: the target table's own."""


class _Postgres(System[PostgresConnection]):
    connection = PostgresConnection
    is_source = is_target = is_sessions = stages_parts = True
    driver = "psycopg2"
    types_module = "dwhctl.systems.postgres.types"
    schemes = ("postgresql",)

    def open_source(self, connection: PostgresConnection, database: str, options: SourceOptions) -> Source:
        from dwhctl.systems.postgres.source import PostgresSource

        return PostgresSource(connection, database, options.zone, options.timeout, keep=options.keep)

    def open_target(self, connection: PostgresConnection, options: TargetOptions) -> Target:
        from dwhctl.systems.postgres.target import PostgresTarget

        return PostgresTarget(connection, options.timeout, options.label, keep=options.keep)

    def list_databases(self, connection: PostgresConnection, timeout: float) -> list[str]:
        from dwhctl.systems.postgres.source import list_databases

        return list_databases(connection, timeout)

    def table_problem(self, connection: PostgresConnection, table: str) -> str | None:
        schema, _, name = table.rpartition(".")
        if schema.lower().startswith("pg_") or schema.lower() == "information_schema":
            return f"the schema {schema} is PostgreSQL's own; name another one"
        if max(len(schema.encode()), len(name.encode())) > NAME_OCTETS:
            return f"a name in PostgreSQL has at most {NAME_OCTETS} octets; shorten it"
        return None

    def open_cursor(
        self, connection: PostgresConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        from dwhctl.systems.postgres.console import PostgresCursor

        own = connection if database is None else connection.model_copy(update={"database": database})
        return PostgresCursor(own, write=options.write)


SYSTEM = _Postgres()
