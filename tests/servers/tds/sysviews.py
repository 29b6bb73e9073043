"""The system views, made from the catalog at the moment that they are asked.

https://learn.microsoft.com/sql/relational-databases/system-catalog-views/catalog-views-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from .catalog import Database
from .errors import error, messages
from .scope import Context, Output
from .storage import quoted
from .syntax import Parts
from .types import BIT, DATETIME, INT, SYSNAME, TEXTS, SqlType, nvarchar, varchar

_TINY = SqlType("tinyint")
_SMALL = SqlType("smallint")
_KIND = SqlType("char", 2, collation=SYSNAME.collation)
_TEXT60 = nvarchar(60)
Row = tuple[object, ...]
View = tuple[tuple[tuple[str, SqlType], ...], Callable[[Context, Database], Iterator[Row]]]


def find(parts: Parts, context: Context) -> tuple[str, tuple[Output, ...]] | None:
    """The view of this name as a query over constants; None: it is no view."""
    if len(parts) < 2 or parts[-2].casefold() not in ("sys", "information_schema"):
        return None
    database = context.database
    if len(parts) == 3 and parts[0]:
        found = context.catalog.find(parts[0])
        if found is None or not found.online:
            raise error(208, ".".join(parts))
        if context.user.casefold() in found.closed:
            raise error(916, context.user, found.name)
        database = found
    name = f"{parts[-2]}.{parts[-1]}".casefold()
    if name not in _VIEWS:
        raise error(208, ".".join(parts))
    columns, maker = _VIEWS[name]
    rows = list(maker(context, database))
    listed = ", ".join(f"c{at}" for at in range(len(columns)))
    casts = ", ".join(f"CAST(c{at} AS {kind.stored}) AS c{at}" for at, (_, kind) in enumerate(columns))
    values = ", ".join("(" + ", ".join(_constant(each) for each in row) + ")" for row in rows)
    nothing = "(" + ", ".join("NULL" for _ in columns) + ")"
    where = "" if rows else " WHERE false"
    sql = f"SELECT {casts} FROM (VALUES {values or nothing}) AS v({listed}){where}"
    return sql, tuple(Output(column, kind) for column, kind in columns)


def _constant(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.replace(tzinfo=None)}'"
    return quoted(str(value))


def _databases(context: Context, database: Database) -> Iterator[Row]:
    for each in context.catalog:
        yield (
            each.name, each.number, each.created, 160, each.collation, 0, "MULTI_USER", False, 0 if each.online else 6,
            "ONLINE" if each.online else "OFFLINE", int(each.snapshot), "ON" if each.snapshot else "OFF",
            each.versioned, 3, "SIMPLE",
        )  # fmt: skip


def _schemas(context: Context, database: Database) -> Iterator[Row]:
    yield from (("dbo", 1, 1), ("guest", 2, 2), ("INFORMATION_SCHEMA", 3, 3), ("sys", 4, 4))


def _tables(context: Context, database: Database) -> Iterator[Row]:
    for each in list(database.tables.values()):
        yield each.name, each.number, 1, 0, "U ", "USER_TABLE", each.created, each.created, False


def _columns(context: Context, database: Database) -> Iterator[Row]:
    for table in list(database.tables.values()):
        for ordinal, each in enumerate(table.columns, 1):
            kind = each.type
            yield (
                table.number, each.name, ordinal, *kind.ids, kind.octets, *kind.digits, _collation(kind),
                each.nullable, each.identity, False,
            )  # fmt: skip


def _collation(kind: SqlType) -> str | None:
    return kind.collation if kind.name in TEXTS else None


def _types(context: Context, database: Database) -> Iterator[Row]:
    from .types import PRECEDENCE

    for name in sorted(PRECEDENCE):
        kind = SqlType(name, length=1, precision=38 if name in ("decimal", "numeric") else 0)
        yield name, *kind.ids, 4, kind.octets, *kind.digits, True, False


def _information_tables(context: Context, database: Database) -> Iterator[Row]:
    for each in list(database.tables.values()):
        yield database.name, "dbo", each.name, "BASE TABLE"


def _information_columns(context: Context, database: Database) -> Iterator[Row]:
    for table in list(database.tables.values()):
        for ordinal, each in enumerate(table.columns, 1):
            kind = each.type
            long = kind.length or None if kind.is_text or kind.name in ("binary", "varbinary") else None
            number = kind.digits if kind.is_number and kind.name != "bit" else (None, None)
            moment = (
                kind.digits[1] if kind.name in ("time", "datetime", "datetime2", "datetimeoffset") else None
            )
            yield (
                database.name, "dbo", table.name, each.name, ordinal, None, "YES" if each.nullable else "NO",
                kind.name, long, kind.octets if long else None, *number, moment, _collation(kind),
            )  # fmt: skip


def _keys(context: Context, database: Database) -> Iterator[Row]:
    for table in list(database.tables.values()):
        for ordinal, column in enumerate(table.key, 1):
            yield database.name, "dbo", table.key_name, database.name, "dbo", table.name, column, ordinal


def _constraints(context: Context, database: Database) -> Iterator[Row]:
    for table in list(database.tables.values()):
        if table.key:
            yield database.name, "dbo", table.key_name, database.name, "dbo", table.name, "PRIMARY KEY"


def _sessions(context: Context, database: Database) -> Iterator[Row]:
    yield from context.sessions()


def _messages(context: Context, database: Database) -> Iterator[Row]:
    for number, (severity, text) in messages().items():
        yield number, 1033, severity, False, text


_NAME = ("name", SYSNAME)
_OBJECTS = (
    _NAME, ("object_id", INT), ("schema_id", INT), ("parent_object_id", INT), ("type", _KIND), ("type_desc", _TEXT60),
    ("create_date", DATETIME), ("modify_date", DATETIME), ("is_ms_shipped", BIT),
)  # fmt: skip
_WHERE = (("TABLE_CATALOG", nvarchar(128)), ("TABLE_SCHEMA", nvarchar(128)), ("TABLE_NAME", SYSNAME))
_CONSTRAINT = (
    ("CONSTRAINT_CATALOG", nvarchar(128)), ("CONSTRAINT_SCHEMA", nvarchar(128)), ("CONSTRAINT_NAME", SYSNAME),
)  # fmt: skip
_VIEWS: dict[str, View] = {
    "sys.databases": (
        (
            _NAME, ("database_id", INT), ("create_date", DATETIME), ("compatibility_level", _TINY),
            ("collation_name", SYSNAME), ("user_access", _TINY), ("user_access_desc", _TEXT60), ("is_read_only", BIT),
            ("state", _TINY), ("state_desc", _TEXT60), ("snapshot_isolation_state", _TINY),
            ("snapshot_isolation_state_desc", _TEXT60), ("is_read_committed_snapshot_on", BIT),
            ("recovery_model", _TINY), ("recovery_model_desc", _TEXT60),
        ),
        _databases,
    ),
    "sys.schemas": ((_NAME, ("schema_id", INT), ("principal_id", INT)), _schemas),
    "sys.tables": (_OBJECTS, _tables),
    "sys.objects": (_OBJECTS, _tables),
    "sys.columns": (
        (
            ("object_id", INT), _NAME, ("column_id", INT), ("system_type_id", _TINY), ("user_type_id", INT),
            ("max_length", _SMALL), ("precision", _TINY), ("scale", _TINY), ("collation_name", SYSNAME),
            ("is_nullable", BIT), ("is_identity", BIT), ("is_computed", BIT),
        ),
        _columns,
    ),
    "sys.types": (
        (
            _NAME, ("system_type_id", _TINY), ("user_type_id", INT), ("schema_id", INT), ("max_length", _SMALL),
            ("precision", _TINY), ("scale", _TINY), ("is_nullable", BIT), ("is_user_defined", BIT),
        ),
        _types,
    ),
    "sys.dm_exec_sessions": (
        (
            ("session_id", _SMALL), ("login_name", nvarchar(128)), ("program_name", nvarchar(128)),
            ("database_id", _SMALL), ("status", nvarchar(30)), ("is_user_process", BIT),
        ),
        _sessions,
    ),
    "sys.messages": (
        (
            ("message_id", INT), ("language_id", _SMALL), ("severity", _TINY), ("is_event_logged", BIT),
            ("text", nvarchar(2048)),
        ),
        _messages,
    ),
    "information_schema.tables": ((*_WHERE, ("TABLE_TYPE", varchar(10))), _information_tables),
    "information_schema.columns": (
        (
            *_WHERE, ("COLUMN_NAME", SYSNAME), ("ORDINAL_POSITION", INT), ("COLUMN_DEFAULT", nvarchar(4000)),
            ("IS_NULLABLE", varchar(3)), ("DATA_TYPE", nvarchar(128)), ("CHARACTER_MAXIMUM_LENGTH", INT),
            ("CHARACTER_OCTET_LENGTH", INT), ("NUMERIC_PRECISION", _TINY), ("NUMERIC_SCALE", INT),
            ("DATETIME_PRECISION", _SMALL), ("COLLATION_NAME", SYSNAME),
        ),
        _information_columns,
    ),
    "information_schema.key_column_usage": (
        (*_CONSTRAINT, *_WHERE, ("COLUMN_NAME", SYSNAME), ("ORDINAL_POSITION", INT)),
        _keys,
    ),
    "information_schema.table_constraints": ((*_CONSTRAINT, *_WHERE, ("CONSTRAINT_TYPE", varchar(11))), _constraints),
}  # fmt: skip
