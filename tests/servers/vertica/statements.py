"""Which statement it is, and who runs it: queries, transactions and settings are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from tests.servers.base import Fault
from tests.servers.vertica import copy_load, ddl, dml, wire
from tests.servers.vertica.kinds import Kind, of_engine
from tests.servers.vertica.lexer import Reader, Sql
from tests.servers.vertica.problems import VerticaError, syntax_error, unsupported
from tests.servers.vertica.rewrite import Rewriter, Rewritten
from tests.servers.vertica.wire import Shown

if TYPE_CHECKING:
    import duckdb

    from tests.servers.vertica.session import Session

#: Rows of a result that are in Python's hands at once.
_BATCH = 10_000


def execute(session: Session, sql: Sql, waiting: Fault | None = None) -> None:
    """Run a statement; `waiting` is a fault that strikes within a COPY."""
    word = sql.word(0)
    if word in _WRITING and (word, sql.word(1)) != ("ALTER", "SESSION"):
        session.refuse_writing()
    if word == "COPY":
        copy_load.copy(session, sql, waiting)
        return
    if sql.tokens[0].value == "(":
        word = "SELECT"
    run = _STATEMENTS.get(word)
    if run is None:
        raise syntax_error(sql.tokens[0].value)
    run(session, sql)


#: What the original refuses in a read-only transaction. TRUNCATE is not in its list: "does not prevent all writes".
_WRITING = {"INSERT", "UPDATE", "DELETE", "COPY", "CREATE", "ALTER", "DROP", "GRANT", "REVOKE"}


def _select(session: Session, sql: Sql) -> None:
    work = session.begin()
    with session.server.store.statement(work) as visible:
        rewriter = Rewriter(session, visible)
        try:
            query = rewriter.query(sql)
            relation = session.connection.sql(query.sql)
            columns = shown(relation, query)
            session.put_columns(columns)
            count = session.put_batches(columns, relation.to_arrow_reader(_BATCH))
        finally:
            rewriter.close()
    session.put(wire.complete(f"SELECT {count}" if count else "SELECT"))


def shown(relation: duckdb.DuckDBPyRelation, query: Rewritten) -> list[Shown]:
    """The columns of a result: as the catalog knows them, else as the engine does."""
    engine = [of_engine(str(each)) for each in relation.types]
    if query.shape is None or len(query.shape) != len(engine):
        return [Shown(name, kind) for name, kind in zip(relation.columns, engine, strict=True)]
    return [
        Shown(name, known if known is not None and _same(known, kind) else kind)
        for (name, known), kind in zip(query.shape, engine, strict=True)
    ]


def _same(known: Kind, kind: Kind) -> bool:
    return known.engine == kind.engine


def _commit(session: Session, sql: Sql) -> None:
    session.commit(sql.text)
    session.put(wire.complete("COMMIT"))


def _rollback(session: Session, sql: Sql) -> None:
    if "TO" in (sql.word(1), sql.word(2)):
        raise unsupported("ROLLBACK TO SAVEPOINT")
    session.rollback()
    session.put(wire.complete("ROLLBACK"))


def _begin(session: Session, sql: Sql) -> None:
    session.begin()
    session.put(wire.complete("BEGIN"))


def _set(session: Session, sql: Sql) -> None:
    reader = Reader(sql)
    reader.expect("SET")
    if reader.words("TIME", "ZONE") or reader.words("TIMEZONE"):
        reader.words("TO") or reader.op("=")
        _set_zone(session, reader.string())
    elif reader.words("SESSION", "AUTOCOMMIT"):
        reader.words("TO") or reader.op("=")
        session.autocommit = reader.name().upper() == "ON"
        session.put(wire.parameter("auto_commit", "on" if session.autocommit else "off"))
    elif reader.words("SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"):
        _set_characteristics(session, reader)
    else:
        reader.words("SESSION")
        if reader.name().upper() not in _IGNORED:
            raise VerticaError("22023", 5448, f"Unrecognized session parameter in: {sql.text[:60]}")
    session.put(wire.complete("SET"))


def _set_characteristics(session: Session, reader: Reader) -> None:
    """ISOLATION LEVEL has no effect here; the access mode holds for transactions that begin from now on."""
    if reader.words("ISOLATION", "LEVEL"):
        reader.any_word("SERIALIZABLE", "REPEATABLE", "READ")
        reader.any_word("READ", "COMMITTED", "UNCOMMITTED")
        reader.op(",")
    if reader.words("READ"):
        mode = reader.name().upper()
        if mode not in ("ONLY", "WRITE"):
            raise reader.fail()
        session.read_only = mode == "ONLY"
    if not reader.ended():
        raise reader.fail()


#: Settings that are taken and have no effect here.
_IGNORED = {
    "SEARCH_PATH",
    "DATESTYLE",
    "LOCALE",
    "RESOURCE_POOL",
    "RUNTIMECAP",
    "IDLESESSIONTIMEOUT",
    "MEMORYCAP",
    "TEMPSPACECAP",
    "STANDARD_CONFORMING_STRINGS",
    "INTERVALSTYLE",
    "GRACEPERIOD",
}


def _set_zone(session: Session, name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise VerticaError("22023", 5446, f'Unrecognized time zone name: "{name}"') from None
    session.zone = name
    session.connection.execute("SET TimeZone = '" + name.replace("'", "''") + "'")
    session.put(wire.parameter("timezone", name))


def _alter(session: Session, sql: Sql) -> None:
    if sql.word(1) != "SESSION":
        ddl.execute(session, sql)
        return
    reader = Reader(sql)
    reader.expect("ALTER", "SESSION", "SET")
    name = reader.name().upper()
    reader.expect_op("=")
    if name == "LOCKTIMEOUT":
        session.lock_timeout = reader.number()
    session.put(wire.complete("ALTER SESSION"))


def _show(session: Session, sql: Sql) -> None:
    known = {
        "autocommit": "on" if session.autocommit else "off",
        "timezone": session.zone,
        "search_path": '"$user", public, v_catalog, v_monitor, v_internal',
        "workload": "",
        "transaction_isolation": "READ COMMITTED",
        "transaction_read_only": "true" if session.read_only else "false",
    }
    asked = sql.word(1).lower()
    if asked not in ("all", *known):
        raise VerticaError("22023", 5448, f'Unrecognized parameter "{asked}"')
    pairs = [(name, value) for name, value in known.items() if asked in ("all", name)]
    text = Kind("varchar", 65_000)
    columns = [Shown("name", text), Shown("setting", text)]
    batch = pa.record_batch(
        [pa.array([name for name, _ in pairs]), pa.array([value for _, value in pairs])],
        names=["name", "setting"],
    )
    session.put_columns(columns)
    session.put_batches(columns, iter([batch]))
    session.put(wire.complete("SHOW"))


def _unsupported(session: Session, sql: Sql) -> None:
    raise unsupported(sql.word(0))


_STATEMENTS: dict[str, Callable[[Session, Sql], None]] = {
    "SELECT": _select,
    "WITH": _select,
    "VALUES": _select,
    "INSERT": dml.insert,
    "UPDATE": dml.update,
    "DELETE": dml.delete,
    **dict.fromkeys(("CREATE", "DROP", "TRUNCATE", "GRANT", "REVOKE", "COMMENT"), ddl.execute),
    "ALTER": _alter,
    "COMMIT": _commit,
    "END": _commit,
    "ROLLBACK": _rollback,
    "ABORT": _rollback,
    "BEGIN": _begin,
    "START": _begin,
    **dict.fromkeys(("MERGE", "EXPLAIN", "PROFILE", "SAVEPOINT", "RELEASE", "EXPORT", "CALL"), _unsupported),
    "SET": _set,
    "SHOW": _show,
}
