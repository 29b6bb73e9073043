"""Functions about the server, the database and the session: their arguments must be constants."""

from __future__ import annotations

from .convert import Typed
from .errors import TdsError
from .scope import Context
from .storage import quoted
from .types import COLLATIONS, INT, SYSNAME, SqlType, nvarchar, varchar

VERSION = "16.0.4165.4"
BANNER = (
    f"Microsoft SQL Server 2022 (RTM-CU16) (KB0000000) - {VERSION} (X64) \n\tNov  6 2024 19:24:49 \n"
    "\tCopyright (C) 2022 Microsoft Corporation\n\tDeveloper Edition (64-bit)"
    " on Linux (protocol server of the dwhctl tests)"
)
_PROPERTIES = {
    "productversion": VERSION,
    "productlevel": "RTM",
    "productmajorversion": "16",
    "edition": "Developer Edition (64-bit)",
    "engineedition": "3",
    "collation": "SQL_Latin1_General_CP1_CI_AS",
    "servername": "tds",
    "machinename": "tds",
    "instancename": None,
    "ishadrenabled": "0",
}


def answer(name: str, context: Context, given: list[str | None]) -> Typed:
    """What the server knows."""
    first = given[0] if given else None
    match name:
        case "DB_NAME":
            return _name(_database_name(context, first, called=bool(given)))
        case "DB_ID":
            found = context.catalog.find(first) if first is not None else context.database
            return _number(found.number if found and (first or not given) else None, SqlType("smallint"))
        case "OBJECT_ID":
            return _number(_object(context, first))
        case "SCHEMA_ID":
            return _number(
                {None: 1, "dbo": 1, "sys": 4, "information_schema": 3}.get(first and first.casefold())
            )
        case "SCHEMA_NAME" | "USER_NAME" | "CURRENT_USER" | "SESSION_USER" | "USER":
            return _name("dbo")
        case "SUSER_SNAME" | "SUSER_NAME" | "ORIGINAL_LOGIN" | "SYSTEM_USER":
            return _name(context.user)
        case "SERVERPROPERTY":
            return _property(_PROPERTIES.get((first or "").casefold()))
        case "DATABASEPROPERTYEX":
            return _database_property(context, first, (given[1] or "").casefold() if len(given) > 1 else "")
        case "HAS_DBACCESS":
            database = context.catalog.find(first or "")
            allowed = (
                database is not None and database.online and context.user.casefold() not in database.closed
            )
            return _number(int(allowed) if database is not None else None)
        case "HAS_PERMS_BY_NAME":
            return _number(_permitted(context, given))
        case "IS_SRVROLEMEMBER" | "IS_MEMBER" | "IS_ROLEMEMBER":
            return _number(int(context.user.casefold() == "sa"))
        case "COLLATIONPROPERTY":
            return _collation_property(first, (given[1] or "").casefold() if len(given) > 1 else "")
        case "APP_NAME" | "HOST_NAME":
            maker = context.values.get(name)
            return maker() if maker else _name(None)
        case _:
            return _number(None)


def _name(text: str | None) -> Typed:
    if text is None:
        return Typed("CAST(NULL AS VARCHAR)", nvarchar(128))
    return Typed(quoted(text), nvarchar(128))


def _number(number: int | None, kind: SqlType = INT) -> Typed:
    return Typed(f"CAST({'NULL' if number is None else number} AS {kind.stored})", kind)


def _property(text: str | None) -> Typed:
    kind = SqlType("sql_variant")
    if text is None:
        return Typed(f"CAST(NULL AS {kind.stored})", kind)
    base = "int" if text.isdigit() and len(text) < 2 else nvarchar(128).declared
    return Typed(f"{{'b': '{base}', 'v': {quoted(text)}}}", kind)


def _collation_property(name: str | None, what: str) -> Typed:
    known = {each.casefold(): codec for each, (codec, _) in COLLATIONS.items()}
    codec = known.get((name or "").casefold())
    if codec is None or what != "codepage":
        return _property(None)
    page = "65001" if codec == "utf-8" else codec.removeprefix("cp")
    return Typed(f"{{'b': 'int', 'v': '{page}'}}", SqlType("sql_variant"))


def _database_name(context: Context, first: str | None, *, called: bool) -> str | None:
    if not called:
        return context.database.name
    number = (first or "").partition("::")[0]
    return next((each.name for each in context.catalog if str(each.number) == number), None)


def _object(context: Context, text: str | None) -> int | None:
    from .parse_query import QueryParser

    if text is None:
        return None
    try:
        parts = QueryParser(text).parts()
        return context.catalog.table(parts, context.database.name)[1].number
    except TdsError:
        return None


def _database_property(context: Context, name: str | None, what: str) -> Typed:
    database = context.catalog.find(name or "")
    if database is None:
        return _property(None)
    known = {
        "status": "ONLINE" if database.online else "OFFLINE",
        "collation": database.collation,
        "updateability": "READ_WRITE",
        "useraccess": "MULTI_USER",
        "recovery": "SIMPLE",
    }
    return _property(known.get(what))


def _permitted(context: Context, given: list[str | None]) -> int | None:
    securable, kind, permission = (*given, None, None, None)[:3]
    if (kind or "").upper() == "DATABASE":
        database = context.catalog.find(securable or context.database.name)
        return None if database is None else int(context.user.casefold() not in database.closed)
    if (kind or "").upper() != "OBJECT":
        return 1
    from .parse_query import QueryParser

    try:
        database, table = context.catalog.table(QueryParser(securable or "").parts(), context.database.name)
    except TdsError:
        return None
    return int((table.name.casefold(), (permission or "").upper()) not in database.denied)


__all__ = ["BANNER", "SYSNAME", "VERSION", "answer", "varchar"]
