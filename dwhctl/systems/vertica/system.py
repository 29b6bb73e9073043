"""Vertica as a system: its connection's keys, and what opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dwhctl.project.connections import CHECKED_TLS, NetworkConnection, TlsWords
from dwhctl.project.fields import ProjectPath, Text
from dwhctl.systems.base.system import CursorOptions, System, TargetOptions, refuse_other_database
from dwhctl.systems.vertica import NAME_OCTETS

if TYPE_CHECKING:
    from dwhctl.systems.base.source import Cursor
    from dwhctl.systems.base.target import Target


class VerticaConnection(NetworkConnection):
    """A Vertica database."""

    default_port: ClassVar[int | None] = 5433
    tls_words: ClassVar[TlsWords] = TlsWords(
        "tlsmode", "tls_cafile", CHECKED_TLS, local="prefer", off="disable"
    )
    type: Literal["vertica"] = Field("vertica", examples=["vertica"])
    """The kind of system."""
    database: Text = Field(examples=["docker"])
    """The database to log in to."""
    tlsmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        None, examples=["verify-full"]
    )
    """Whether the connection is encrypted, and what of the server's certificate is checked: nothing, its authority,
    or its authority and its name. With `tls_cafile` alone it is `verify-full`."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/ca.pem"])
    """The CA certificates for the server's certificate; relative to the project. Left out: the system's."""
    staging_schema: Text | None = Field(None, examples=["staging"])
    """The schema for staging tables; default: the target table's own."""


class _Vertica(System[VerticaConnection]):
    connection = VerticaConnection
    is_target = stages_parts = True
    driver = "vertica_python"
    types_module = "dwhctl.systems.vertica.types"

    def open_target(self, connection: VerticaConnection, options: TargetOptions) -> Target:
        from dwhctl.systems.vertica.target import VerticaTarget

        return VerticaTarget(connection, options.timeout, options.label, keep=options.keep)

    def open_cursor(
        self, connection: VerticaConnection, database: str | None, options: CursorOptions
    ) -> Cursor:
        refuse_other_database(connection, database)
        from dwhctl.systems.vertica.console import VerticaCursor

        return VerticaCursor(connection, write=options.write, timeout=options.timeout)

    def table_problem(self, connection: VerticaConnection, table: str) -> str | None:
        schema, _, name = table.lower().partition(".")
        if schema.startswith("v_"):
            return f"the schema {schema} is Vertica's own; name another one"
        if max(len(schema.encode()), len(name.encode())) > NAME_OCTETS:
            return f"a name in Vertica has at most {NAME_OCTETS} octets; shorten it"
        return None


SYSTEM = _Vertica()
