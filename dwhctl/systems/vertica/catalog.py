"""Read Vertica's catalog: columns, privileges, sessions; name tables in SQL; and translate errors by their SQLSTATE."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from vertica_python import errors as driver_errors

from dwhctl.core.columns import Column
from dwhctl.core.errors import (
    About,
    AttemptError,
    ConnectError,
    LoginRefusedError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
    TlsError,
)
from dwhctl.core.secrets import mask
from dwhctl.core.sql import literal, quote_name
from dwhctl.systems.base.staging import Described, described_each, literals, staging_name
from dwhctl.systems.base.target import ColumnWarning, StagingGroup
from dwhctl.systems.vertica import NAME_OCTETS, types

if TYPE_CHECKING:
    from dwhctl.systems.vertica.client import VerticaClient


#: Name, type as Vertica writes it, and whether NULL is allowed.
Declared = tuple[str, str, bool]


def declared_columns(client: VerticaClient, table: TableName) -> list[Declared]:
    """Return the columns that dwhctl writes; none when there is no table."""
    return _declared(_catalog_rows(client, table))


def _declared(rows: Iterable[dict[str, Any]]) -> list[Declared]:
    return [
        (str(row["column_name"]), str(row["data_type"]), bool(row.get("is_nullable", True)))
        for row in rows
        if not _is_computed(row)
    ]


def _is_computed(row: dict[str, Any]) -> bool:
    """Return whether Vertica alone writes the column: IDENTITY, and SET USING, which REFRESH_COLUMNS fills.

    A column with DEFAULT USING has both expressions, and may be written.
    """
    return bool(row.get("is_identity") or (row.get("column_set_using") and not row.get("column_default")))


def filled_columns(client: VerticaClient, table: TableName) -> set[str]:
    """Return the columns that Vertica fills where a statement does not: DEFAULT, IDENTITY, SET USING."""
    rows = _catalog_rows(client, table)
    return {str(row["column_name"]) for row in rows if _is_computed(row) or row.get("column_default")}


def _catalog_rows(client: VerticaClient, *tables: TableName) -> list[dict[str, Any]]:
    found = " OR ".join(f"({table.condition})" for table in tables)
    return client.dicts(f"SELECT * FROM v_catalog.columns WHERE {found} ORDER BY ordinal_position")


def existing_columns(client: VerticaClient, table: TableName) -> list[Declared]:
    """Return the columns that dwhctl writes. Raise TargetRefusedError when there is no such table."""
    return _existing(table, declared_columns(client, table))


def _existing(table: TableName, found: list[Declared]) -> list[Declared]:
    if not found:
        missing = TargetRefusedError(f"there is no table {table}, or the user has no privilege on it")
        missing.about = About.TABLE
        raise missing
    return found


def described(client: VerticaClient, table: TableName) -> list[Column]:
    """Return the columns. Raise TargetRefusedError for a type that dwhctl does not write."""
    return _written(table, declared_columns(client, table))


def described_tables(client: VerticaClient, tables: Sequence[str]) -> dict[str, Described]:
    """Return the columns of each table, or the error that `described` raises, by one query."""
    names = {text: TableName.of(text) for text in tables}
    rows: dict[TableName, list[dict[str, Any]]] = {}
    for row in _catalog_rows(client, *names.values()):
        name = TableName(str(row["table_schema"]).lower(), str(row["table_name"]).lower())
        rows.setdefault(name, []).append(row)

    def describe(text: str) -> list[Column]:
        table = names[text]
        own = rows.get(TableName(table.schema.lower(), table.table.lower()), [])
        return _written(table, _declared(own))

    return described_each(names, describe)


def _written(table: TableName, declared: list[Declared]) -> list[Column]:
    return [_described(table, column) for column in _existing(table, declared)]


def described_column(client: VerticaClient, table: TableName, name: str) -> Column:
    """Return one column. Raise TargetRefusedError when it does not exist."""
    for column in declared_columns(client, table):
        if column[0].lower() == name.lower():
            return _described(table, column)
    raise TargetRefusedError(f"there is no {table}.{name}, or the user has no privilege on the table")


def _described(table: TableName, declared: Declared) -> Column:
    name, type_, nullable = declared
    column = types.column(name, type_, nullable=nullable)
    if column is None:
        raise TargetRefusedError(f"{table}.{name}: dwhctl does not write Vertica's type {type_}")
    return column


_DEFAULT_SCHEMA = "public"


class TableName(Struct, frozen=True):
    """A table. Vertica compares names without case, quoted or not."""

    schema: str
    table: str

    @classmethod
    def of(cls, text: str) -> TableName:
        """Read `table`, `schema.table` or `database.schema.table`."""
        *before, table = text.split(".")
        return cls(before[-1] if before else _DEFAULT_SCHEMA, table)

    @property
    def sql(self) -> str:
        return f"{quote_name(self.schema)}.{quote_name(self.table)}"

    @property
    def condition(self) -> str:
        """The condition of the table's rows in a view of v_catalog."""
        return (
            f"LOWER(table_schema) = LOWER({literal(self.schema)})"
            f" AND LOWER(table_name) = LOWER({literal(self.table)})"
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def staging_table(group: StagingGroup, schema: str | None) -> TableName:
    """Return the staging table of a group: in the given schema, or that of the target."""
    return TableName(schema or TableName.of(group.table).schema, staging_name(group, NAME_OCTETS))


_PRIVILEGES = ("SELECT", "INSERT", "DELETE")
_KEYS = {"p": "primary key", "u": "unique key"}


def table_warnings(client: VerticaClient, table: TableName) -> Iterator[ColumnWarning]:
    """Yield what prevents or slows loads into an existing table: privileges, enabled keys.

    Source: https://docs.vertica.com/24.2.x/en/sql-reference/system-tables/v-catalog-schema/constraint-columns/
    """
    try:
        lacking = [
            privilege
            for privilege in _PRIVILEGES
            if not client.query(f"SELECT HAS_TABLE_PRIVILEGE({literal(str(table))}, {literal(privilege)})")[
                0
            ][0]
        ]
        if lacking:
            yield ColumnWarning(f"the user has no {', '.join(lacking)} on {table}: GRANT it", blocks=True)
        keys = client.query(
            "SELECT DISTINCT constraint_name, constraint_type FROM v_catalog.constraint_columns"
            f" WHERE {table.condition} AND is_enabled AND constraint_type IN ({literals(list(_KEYS))})"
        )
    except TargetRefusedError as error:
        # An older server, or a user without access to the catalog: loads do not need it.
        yield ColumnWarning(f"privileges and keys of {table} could not be checked: {error}", blocks=False)
        return
    for name, kind in sorted(keys):
        yield ColumnWarning(
            f"{table} has the {_KEYS[kind]} {name} ENABLED: Vertica then lets one transaction at a time load it, and"
            f" checks every row; ALTER TABLE ... ALTER CONSTRAINT {name} DISABLED, dwhctl checks for duplicate keys",
            blocks=False,
        )


#: How long the server may take to end a session, which rolls back first.
_END_SECONDS = 30.0
_POLL_SECONDS = 0.05


def end_sessions(client: VerticaClient, label: str, *, and_longer: bool = False) -> None:
    """End the other sessions with this label, and wait until they are gone.

    With `and_longer` also those whose label continues with a colon. A user who is not dbadmin sees and ends his own.
    Raise TargetError when they do not end within half a minute, or the client's timeout.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/management-functions/session-functions/close-session/
    """
    where = f"client_label = {literal(label)}"
    if and_longer:
        where += f" OR LEFT(client_label, {len(label) + 1}) = {literal(label + ':')}"
    closed: set[str] = set()
    refused = ""
    until = time.monotonic() + min(_END_SECONDS, client.timeout)
    while left := _sessions(client, where):
        for session_id in left - closed:
            try:
                client.query(f"SELECT CLOSE_SESSION({literal(session_id)})")
            except TargetRefusedError as error:
                refused = f"({error})"  # or it has just ended
        closed |= left
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} sessions of {label} do not end {refused}".rstrip())
        time.sleep(_POLL_SECONDS)


def _sessions(client: VerticaClient, where: str) -> set[str]:
    try:
        rows = client.query(
            f"SELECT session_id FROM v_monitor.sessions WHERE ({where})"
            f" AND client_label <> {literal(client.label)}"
        )
    except TargetRefusedError:
        return set()  # a user who may not see sessions cannot end any
    return {str(session_id) for (session_id,) in rows}


#: SQLSTATEs by their names in the driver's errors.py.
MISSING = ("3F000", "42V01")  # a schema or a table
MISSING_COLUMN = "42703"
EXISTS_ALREADY, COLUMN_EXISTS = "42710", "42701"
COPY_REJECTED = "22V04"
LOCK_TIMEOUT = "55V03"

#: Classes of SQLSTATEs that every later attempt meets too: not supported, wrong values, broken constraints, wrong
#: names, no permission, syntax, a limit of the program. Source: https://docs.vertica.com/24.2.x/en/error-codes/
_PERMANENT_CLASSES = (
    "0A", "0L", "0P", "21", "22", "23", "26", "28", "2B", "2F", "34", "3D", "3F", "42", "44", "54",
)  # fmt: skip
_ABOUT = {**dict.fromkeys(MISSING, About.TABLE), "42501": About.PERMISSION}


#: SQLSTATEs of a refused login, and of a database that does not exist.
_LOGIN_CLASS, _MISSING_DATABASE = "28", "3D000"


def is_sqlstate(error: BaseException, sqlstates: Collection[str]) -> bool:
    """Return whether Vertica raised the error with one of these SQLSTATEs."""
    cause = error.__cause__
    return isinstance(cause, driver_errors.QueryError) and cause.sqlstate in sqlstates


def translate_error(error: Any) -> AttemptError:
    sqlstate = error.sqlstate or ""
    text = words(error)
    if sqlstate == LOCK_TIMEOUT:
        return TargetBusyError(text)
    if sqlstate.startswith(_PERMANENT_CLASSES):
        refused = TargetRefusedError(text)
        refused.about = _ABOUT.get(sqlstate, About.SQL)
        return refused
    return TargetError(text)


def words(error: Any) -> str:
    """Return Vertica's message in one line with its SQLSTATE and number, without the statement."""
    message = " ".join((error.message or type(error).__name__).split())
    marks = [f"SQLSTATE {error.sqlstate}"] if error.sqlstate else []
    marks += [f"error {error.error_code}"] if error.error_code else []
    return mask(f"{message} ({', '.join(marks)})" if marks else message)


def connect_error(
    error: Exception, refusal: Any, address: str, name: str, tls_remedy: str | None = None
) -> AttemptError:
    """Return why a connection failed: by the server's answer `refusal`, if any, or by TLS, with a remedy."""
    if refusal is None:
        text = _network_words(error)
        if tls_remedy is not None:
            return TlsError(f"connection {name}, {address}: {text}; {tls_remedy}", connection=name)
        # The driver reports an expired password without an answer of the server.
        expired = isinstance(error, driver_errors.ConnectionError) and "has expired" in str(error)
        kind = LoginRefusedError if expired else ConnectError
        return kind(f"connection {name}, {address}: {text}", connection=name)
    text = f"connection {name}, {address}: {words(refusal)}"
    if (refusal.sqlstate or "").startswith(_LOGIN_CLASS):
        return LoginRefusedError(text, connection=name)
    if refusal.sqlstate == _MISSING_DATABASE:
        return TargetRefusedError(text)
    return ConnectError(text, connection=name)


def lost(error: BaseException, name: str, timeout: float) -> TargetError:
    first = error
    # In COPY the driver raises what it did after the loss; the loss is in its context.
    while isinstance(first.__context__, driver_errors.ConnectionError | OSError):
        first = first.__context__
    if "timed out" in str(first):
        return TargetError(f"no answer from {name} for {timeout:g} s; the connection is closed")
    return TargetError(f"the connection to {name} is lost: {_network_words(first)}")


def _network_words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return mask(" ".join(text.split())) or type(error).__name__


def rejection(error: BaseException) -> tuple[int | None, str] | None:
    """Return the number (from 1) of a row that COPY rejected, and the reason without the value."""
    cause = error.__cause__
    if not isinstance(cause, driver_errors.QueryError) or cause.sqlstate != COPY_REJECTED:
        return None
    message = " ".join((cause.message or "").split())
    match = re.search(r"record (\d+) has been rejected \((.*)\)", message)
    reason = re.sub(r"'[^']*'|\[[^\]]*\]", "...", match[2] if match else message)
    return (int(match[1]) if match else None), mask(reason)
