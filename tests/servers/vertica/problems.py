"""The errors of the Vertica server, by SQLSTATE and number.

Numbers are those of the vendor's "Error Codes" guide (10.1) where it lists them for the SQLSTATE; the others are
marked in BEHAVIOUR.md.
"""

from __future__ import annotations

import re

import duckdb
import sqlglot.errors


class VerticaError(Exception):
    """What goes to the client as an ErrorResponse."""

    def __init__(
        self, sqlstate: str, code: int, message: str, *, severity: str = "ERROR", detail: str = ""
    ) -> None:
        super().__init__(f"{severity} {code}: {message}")
        self.sqlstate = sqlstate
        self.code = code
        self.message = message
        self.severity = severity
        self.detail = detail


def syntax_error(near: str) -> VerticaError:
    """A statement that the grammar does not know."""
    return VerticaError("42601", 4856, f'Syntax error at or near "{near}"')


def unsupported(what: str) -> VerticaError:
    """Something that the original knows and this server does not."""
    return VerticaError("0A000", 4213, f"{what} is not supported by this test server")


def missing_relation(name: str) -> VerticaError:
    """A table or view that does not exist."""
    return VerticaError("42V01", 4566, f'Relation "{name}" does not exist')


def missing_schema(name: str) -> VerticaError:
    """A schema that does not exist."""
    return VerticaError("3F000", 4650, f'Schema "{name}" does not exist')


def missing_column(name: str) -> VerticaError:
    """A column that does not exist."""
    return VerticaError("42703", 2624, f'Column "{name}" does not exist')


def duplicate_object(name: str) -> VerticaError:
    """A schema, table or view that exists already."""
    return VerticaError("42710", 4213, f'Object "{name}" already exists')


def denied_relation(name: str) -> VerticaError:
    """No privilege on a table or view."""
    return VerticaError("42501", 4367, f"Permission denied for relation {name}")


def denied_schema(name: str) -> VerticaError:
    """No privilege on a schema."""
    return VerticaError("42501", 4368, f"Permission denied for schema {name}")


def lock_failure(mode: str, table: str, holder: str) -> VerticaError:
    """A lock that was not to be had in time."""
    return VerticaError(
        "55V03",
        5156,
        f"Unavailable: initiator locks for query - Locking failure: Timed out {mode} locking Table:{table}. {holder}",
    )


def deadlock() -> VerticaError:
    """A lock that a deadlock costs."""
    return VerticaError("55V03", 5157, "Unavailable: [Txn 0xa0] X lock table - deadlock error")


def copy_rejected(record: int, reason: str) -> VerticaError:
    """ABORT ON ERROR met a bad record."""
    return VerticaError("22V04", 2035, f"COPY: Input record {record} has been rejected ({reason})")


def too_many_rejected(limit: int) -> VerticaError:
    """REJECTMAX is reached."""
    return VerticaError("22V04", 2037, f"COPY: Rejected row count reached REJECTMAX ({limit})")


def too_many_containers(projection: str) -> VerticaError:
    """A commit would pass the limit of ROS containers."""
    return VerticaError(
        "53000", 5065, f"Too many ROS containers exist for the following projections: {projection}"
    )


def canceled() -> VerticaError:
    """The statement was canceled from outside."""
    return VerticaError("57014", 3322, "Execution canceled by operator")


def read_only_transaction() -> VerticaError:
    """A statement that writes, in a transaction that only reads."""
    return VerticaError("25006", 2448, "Cannot issue this command in a read-only transaction")


def too_long(octets: int, kind: str) -> VerticaError:
    """A string that does not fit its column, in INSERT or UPDATE."""
    return VerticaError("22001", 8682, f"String of {octets} octets is too long for type {kind}")


def wrong_conversion(column: str, old: str, new: str) -> VerticaError:
    """An ALTER COLUMN to a type that would need another storage."""
    return VerticaError(
        "42804", 2377, f'Cannot convert column "{column}" from "{old}" to type "{new}"', severity="ROLLBACK"
    )


def too_wide_for(column: str, new: str) -> VerticaError:
    """An ALTER COLUMN to a width that stored values pass."""
    return VerticaError(
        "22001", 2378, f'Cannot convert column "{column}" to type "{new}"', severity="ROLLBACK"
    )


def null_in_not_null(column: str) -> VerticaError:
    """NULL for a NOT NULL column."""
    return VerticaError(
        "22004",
        2501,
        f"Cannot set a NOT NULL column ({column}) to a NULL value in INSERT/UPDATE statement",
    )


def duplicate_key(key: str, constraint: str) -> VerticaError:
    """An enabled primary key is violated."""
    return VerticaError("23505", 6745, f"Duplicate key values: '{key}' -- violates constraint '{constraint}'")


def bad_login() -> VerticaError:
    """Unknown user or wrong password."""
    return VerticaError("28000", 3781, "Invalid username or password", severity="FATAL")


def missing_database(name: str) -> VerticaError:
    """The login names another database."""
    return VerticaError("3D000", 2983, f'Database "{name}" does not exist', severity="FATAL")


def too_many_sessions(active: int) -> VerticaError:
    """MaxClientSessions is reached."""
    return VerticaError(
        "53300",
        4060,
        f"New session rejected due to limit, already {active} sessions active",
        severity="FATAL",
    )


#: A value that DuckDB's error() carries out of a query: sqlstate, number and message.
MARK = "vertica-error"
_CARRIED = re.compile(rf"{MARK}\|(\w+)\|(\d+)\|(.*)", re.DOTALL)
_QUOTED = re.compile(r"[\"'`]([^\"'`]*)[\"'`]")


def from_sqlglot(error: sqlglot.errors.SqlglotError) -> VerticaError:
    """The grammar refused the statement."""
    details = getattr(error, "errors", None) or [{}]
    return syntax_error(str(details[0].get("highlight") or "end of input"))


def from_duckdb(error: duckdb.Error) -> VerticaError:
    """The engine's error as the original would tell it, as far as it is known."""
    text = str(error)
    carried = _CARRIED.search(text)
    if carried:
        return VerticaError(carried[1], int(carried[2]), carried[3].strip())
    first = text.splitlines()[0]
    if isinstance(error, duckdb.ConstraintException) and "NOT NULL" in first:
        return null_in_not_null(first.rpartition(".")[2])
    name = _QUOTED.search(first)
    named = name[1] if name else ""
    for kind, pattern, sqlstate, code in _TABLE:
        if isinstance(error, kind) and re.search(pattern, first):
            return VerticaError(sqlstate, code, _TEXTS.get(sqlstate, "{0}").format(first, named))
    return VerticaError("XX000", 2000, first)


_TABLE: tuple[tuple[type[duckdb.Error], str, str, int], ...] = (
    (duckdb.InterruptException, "", "57014", 3322),
    (duckdb.BinderException, r"Referenced column|does not have a column|not found in FROM", "42703", 2624),
    (duckdb.BinderException, r"Referenced table", "42V01", 4566),
    (duckdb.BinderException, r"No function matches|candidate", "42883", 3457),
    (duckdb.CatalogException, r"Function", "42883", 3457),
    (duckdb.CatalogException, r"Table|View", "42V01", 4566),
    (duckdb.ConversionException, r"Could not cast value|out of range of", "22003", 5411),
    (duckdb.ConversionException, r"INT64|INT32|HUGEINT", "22V02", 3681),
    (duckdb.ConversionException, r"DECIMAL|DOUBLE|FLOAT", "22V02", 3682),
    (duckdb.ConversionException, r"out of range", "22008", 2992),
    (duckdb.ConversionException, r"(?i)date|time", "22007", 3679),
    (duckdb.ConversionException, r"", "22V02", 3683),
    (duckdb.OutOfRangeException, r"(?i)division by zero", "22012", 3117),
    (duckdb.OutOfRangeException, r"", "22003", 5411),
    (duckdb.OutOfMemoryException, r"", "53200", 4302),
    (duckdb.ParserException, r"", "42601", 4856),
    (duckdb.BinderException, r"", "42601", 4856),
    (duckdb.InvalidInputException, r"", "22023", 2042),
)
_TEXTS = {
    "57014": "Execution canceled by operator",
    "42703": 'Column "{1}" does not exist',
    "42V01": 'Relation "{1}" does not exist',
    "42601": "{0}",
}
