"""Statements that read and write data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from .catalog import Column, Database, Table
from .compile_query import QueryCompiler, compile_query
from .convert import Typed, convert, fail_with
from .encode import wire_sql
from .errors import TdsError, error
from .failures import translate
from .scope import Bound, Compiled, Context, Field, Scope
from .storage import M, named, quoted
from .syntax import Compound, Parts, Query, Select, TableRef
from .syntax_statements import Action, CreateTable, Delete, DropTable, Insert, Truncate, Update
from .types import SqlType, declare

if TYPE_CHECKING:
    from .session import Session
    from .sink import Sink

#: Rows of a batch of an answer; of a wide answer DuckDB gives fewer.
ROWS = 16_384
_SELECT, _INSERT, _DELETE, _UPDATE = 0xC1, 0xC3, 0xC4, 0xC5


def run(session: Session, action: Action, sink: Sink) -> None:
    """Run a statement."""
    match action:
        case Query():
            _query(session, action, sink)
        case Insert() | Update() | Delete():
            _change(session, action, sink)
        case CreateTable():
            _create(session, action, sink)
        case DropTable():
            _drop(session, action, sink)
        case Truncate():
            _truncate(session, action, sink)
        case _:
            raise TdsError(50000, f"the protocol server cannot run {type(action).__name__}")


def _query(session: Session, query: Query, sink: Sink) -> None:
    if isinstance(query.body, Select) and query.body.into:
        _select_into(session, query, query.body, sink)
        return
    context = session.context()
    compiled = compile_query(query, context, None)
    session.before_reading(context)
    relation = session.duck.sql(wire_sql(compiled.sql, compiled.columns))
    sink.columns(compiled.columns)
    reader = relation.to_arrow_reader(ROWS)
    del relation
    count = 0
    try:
        while (batch := _next(session, reader)) is not None:
            count += batch.num_rows
            if not sink.rows(batch, compiled.columns):
                return
    finally:
        reader.close()
    session.row_count = count
    sink.done(count, command=_SELECT)


def _next(session: Session, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None
    except (OSError, pa.ArrowException) as failure:
        # Arrow wraps what DuckDB raises in the middle of a stream.
        words = str(failure)
        if "INTERRUPT" in words.upper():
            session.check()
        kind = duckdb.OutOfRangeException if "Out of Range" in words else duckdb.ConversionException
        raise translate(kind(words)) from failure


def _write(session: Session, database: Database, table: Table, sql: str, sink: Sink, command: int) -> None:
    session.before_writing(database, table.name)
    try:
        found = session.ask(sql)
    except duckdb.Error as failure:
        raise translate(failure, table.name, table.key_name) from failure
    session.row_count = int(found[0][0]) if found else 0
    sink.done(session.row_count, command=command)


def _target(session: Session, parts: Parts, permission: str) -> tuple[Database, Table]:
    database, table = session.server.catalog.table(parts, session.database.name)
    if (table.name.casefold(), permission) in database.denied:
        raise error(229, permission, table.name, database.name)
    return database, table


@dataclass(frozen=True)
class Change:
    """A statement that changes a table, compiled."""

    database: Database
    table: Table
    sql: str
    context: Context
    reads: bool
    command: int


def compile_change(session: Session, action: Insert | Update | Delete, context: Context) -> Change:
    """The statement in DuckDB's SQL. Raises what SQL Server refuses before it runs it."""
    match action:
        case Insert():
            return _insert(session, action, context)
        case Update():
            return _update(session, action, context)
    return _delete(session, action, context)


def _change(session: Session, action: Insert | Update | Delete, sink: Sink) -> None:
    made = compile_change(session, action, session.context())
    if made.reads:
        session.before_reading(made.context)
    _write(session, made.database, made.table, made.sql, sink, made.command)


def _insert(session: Session, action: Insert, context: Context) -> Change:
    database, table = _target(session, action.table, "INSERT")
    columns = _listed(session, table, action.columns)
    if action.query is not None:
        compiled = compile_query(action.query, context, None)
        if len(compiled.columns) != len(columns):
            if not action.columns:
                raise error(213)
            raise error(120 if len(compiled.columns) < len(columns) else 121)
        rows = [_selected(compiled, columns, table)]
    elif not action.rows:
        rows = ["(SELECT 1)"]
        columns = []
    else:
        rows = _values(action, columns, context, table)
    automatic = [each for each in table.columns if each not in columns]
    extra = {each.name: _automatic(session, database, table, each, context) for each in automatic}
    names = ", ".join(named(each.name) for each in (*columns, *automatic))
    picked = [named(each.name) for each in columns] + list(extra.values())
    source = " UNION ALL ".join(rows)
    target = session.server.catalog.stored_name(database, table)
    sql = f"INSERT INTO {target} ({names}) SELECT {', '.join(picked)} FROM ({source})"
    return Change(database, table, sql, context, action.query is not None, _INSERT)


def _listed(session: Session, table: Table, names: tuple[str, ...]) -> list[Column]:
    if not names:
        return [each for each in table.columns if not each.identity and each.type.name != "timestamp"]
    found: list[Column] = []
    for name in names:
        column = table.column(name)
        if column is None:
            raise error(207, name)
        if column in found:
            raise error(264, name)
        if column.identity and session.identity_insert != table.name.casefold():
            raise error(544, table.name)
        if column.type.name == "timestamp":
            raise TdsError(273, "Cannot insert an explicit value into a timestamp column.")
        found.append(column)
    return found


def _values(action: Insert, columns: list[Column], context: Context, table: Table) -> list[str]:
    compiler = QueryCompiler(context, Scope())
    rows = []
    for row in action.rows:
        if len(row) != len(columns):
            if not action.columns:
                raise error(213)
            raise error(109 if len(row) < len(columns) else 110)
        cells = []
        for column, expr in zip(columns, row, strict=True):
            given = expr if expr is not None else column.default
            value = Typed("NULL", column.type, null=True) if given is None else compiler.expr(given)  # type: ignore[arg-type]
            cells.append(f"{stored(value, column, table)} AS {named(column.name)}")
        rows.append(f"SELECT {', '.join(cells)}")
    return rows


def _selected(compiled: Compiled, columns: list[Column], table: Table) -> str:
    cells = []
    for at, (output, column) in enumerate(zip(compiled.columns, columns, strict=True)):
        value = Typed(f"c{at}", output.type, output.nullable)
        cells.append(f"{stored(value, column, table)} AS {named(column.name)}")
    return f"SELECT {', '.join(cells)} FROM ({compiled.sql})"


def stored(value: Typed, column: Column, table: Table, word: str = "INSERT") -> str:
    """The value as the column takes it: an error where it is too long, or NULL in a column that takes none."""
    if value.deduce is not None:
        value.deduce(column.type)
        return f"CAST(NULL AS {column.type.stored})"
    if value.null and not column.nullable:
        return f"CAST({fail_with(error(515, column.name, table.name, word))} AS {column.type.stored})"
    kind = column.type
    whole = kind
    if kind.length > 0 and (kind.is_text or kind.name in ("binary", "varbinary")):
        whole = replace(kind, length=-1, name={"char": "varchar", "nchar": "nvarchar", "binary": "varbinary"}.get(
            kind.name, kind.name))  # fmt: skip
    made = convert(value, whole).sql
    if whole is not kind:
        made = _measured(made, value, column, table)
    if not column.nullable and value.nullable:
        made = f"CASE WHEN {made} IS NULL THEN {fail_with(error(515, column.name, table.name, word))} ELSE {made} END"
    return made


def _measured(made: str, value: Typed, column: Column, table: Table) -> str:
    kind = column.type
    if value.type.name == kind.name and 0 < value.type.length <= kind.length and value.text is None:
        cut = made
    else:
        cut = _cut(made, kind, fail_with(error(2628, table.name, column.name, "...")))
    if kind.name == "nchar":
        return f"{M}.pad({cut}, {kind.length})"
    if kind.name == "char":
        return (
            f"{M}.pad_octets({cut}, {kind.length})"
            if kind.codec == "utf-8"
            else f"rpad({cut}, {kind.length}, ' ')"
        )
    if kind.name == "binary":
        return f"unhex(rpad(hex({cut}), {2 * kind.length}, '0'))"
    return cut


def _cut(made: str, kind: SqlType, failure: str) -> str:
    if not kind.is_text:
        return f"CASE WHEN octet_length({made}) > {kind.length} THEN {failure} ELSE {made} END"
    size = f"{M}.units({made})" if kind.name.startswith("n") else f"length({made})"
    if kind.codec == "utf-8" and not kind.name.startswith("n"):
        size = f"strlen({made})"
    # Blanks that are too many are cut in silence. The count of octets goes first: it is the cheapest.
    long = f"strlen({made}) > {kind.length} AND {size} > {kind.length}"
    blanks = f"{size} - length({made}) + length(rtrim({made}, ' ')) <= {kind.length}"
    shortened = f"CASE WHEN {blanks} THEN left({made}, {kind.length}) ELSE {failure} END"
    return f"CASE WHEN {long} THEN {shortened} ELSE {made} END"


def _automatic(session: Session, database: Database, table: Table, column: Column, context: Context) -> str:
    """What a column gets that the statement does not name."""
    if column.identity:
        return f"CAST(nextval({quoted(_sequence(database, table.name))}) AS {column.type.stored})"
    if column.type.name == "timestamp":
        return f"unhex(printf('%016x', nextval({quoted(f'{named(database.name)}.dbo.dbts')})))"
    if column.default is not None:
        value = QueryCompiler(context, Scope()).expr(column.default)  # type: ignore[arg-type]
        return stored(value, column, table)
    return stored(Typed("NULL", column.type, null=True), column, table)


def _sequence(database: Database, table: str) -> str:
    return f"{named(database.name)}.dbo.{named('identity of ' + table)}"


def _scoped(context: Context, table: Table) -> QueryCompiler:
    fields = tuple(
        Field(each.name, Typed(f"t0.{named(each.name)}", each.type, each.nullable)) for each in table.columns
    )
    return QueryCompiler(context, Scope([Bound(table.name, ("dbo", table.name), fields)]))


def _update(session: Session, action: Update, context: Context) -> Change:
    parts = action.table
    if isinstance(action.source, TableRef) and (action.source.alias or "").casefold() == parts[-1].casefold():
        parts = action.source.parts
    elif action.source is not None:
        raise TdsError(50000, "the protocol server knows UPDATE ... FROM only with the table itself")
    database, table = _target(session, parts, "UPDATE")
    compiler = _scoped(context, table)
    if isinstance(action.source, TableRef):
        compiler.scope.bound[0] = replace(compiler.scope.bound[0], alias=action.table[-1])
    changes = []
    for name, expr in action.changes:
        column = table.column(name)
        if column is None:
            raise error(207, name)
        changes.append(f"{named(column.name)} = {stored(compiler.expr(expr), column, table, 'UPDATE')}")
    where = f" WHERE {compiler.predicate(action.where)}" if action.where is not None else ""
    target = session.server.catalog.stored_name(database, table)
    sql = f"UPDATE {target} AS t0 SET {', '.join(changes)}{where}"
    return Change(database, table, sql, context, reads=True, command=_UPDATE)


def _delete(session: Session, action: Delete, context: Context) -> Change:
    database, table = _target(session, action.table, "DELETE")
    compiler = _scoped(context, table)
    where = f" WHERE {compiler.predicate(action.where)}" if action.where is not None else ""
    target = session.server.catalog.stored_name(database, table)
    sql = f"DELETE FROM {target} AS t0{where}"
    return Change(database, table, sql, context, reads=True, command=_DELETE)


def _truncate(session: Session, action: Truncate, sink: Sink) -> None:
    database, table = _target(session, action.table, "DELETE")
    session.before_writing(database, table.name)
    session.ask(f"DELETE FROM {session.server.catalog.stored_name(database, table)}")
    sink.done()


def _free_name(session: Session, parts: Parts) -> tuple[Database, str]:
    database, schema, name = session.server.catalog.locate(parts, session.database.name)
    if schema.casefold() != "dbo":
        raise error(2760, schema)
    try:
        session.server.catalog.table(("dbo", name), database.name)
    except TdsError:
        return database, name
    raise error(2714, name, state=6)


def _create(session: Session, action: CreateTable, sink: Sink) -> None:
    database, name = _free_name(session, action.table)
    key = {each.casefold() for each in action.key}
    columns: list[Column] = []
    for each in action.columns:
        if any(one.name.casefold() == each.name.casefold() for one in columns):
            raise error(2705, each.name, name)
        kind = each.type if each.type.collation is None else each.type.collated(each.type.collation)
        nullable = each.nullable is not False and not each.identity and each.name.casefold() not in key
        columns.append(Column(each.name, kind, nullable, each.identity, each.default))
    for each_key in action.key:
        if not any(one.name.casefold() == each_key.casefold() for one in columns):
            raise TdsError(1911, f"Column name '{each_key}' does not exist in the target table or view.")
    _make(session, database, name, columns, action.key)
    sink.done()


def _make(
    session: Session, database: Database, name: str, columns: list[Column], key: tuple[str, ...]
) -> None:
    session.before_writing(database, name)
    target = session.server.catalog.stored_name(database, name)
    listed = [f"{named(each.name)} {each.type.stored}" for each in columns]
    if key and not any(each.type.stored.startswith("STRUCT") for each in columns if each.name in key):
        listed.append(f"PRIMARY KEY ({', '.join(map(named, key))})")
    if any(each.identity for each in columns):
        session.ask(f"CREATE OR REPLACE SEQUENCE {_sequence(database, name)}")
    if any(each.type.name == "timestamp" for each in columns):
        session.ask(f"CREATE SEQUENCE IF NOT EXISTS {named(database.name)}.dbo.dbts START 2001")
    session.ask(f"CREATE TABLE {target} ({', '.join(listed)})")
    undo = session.server.catalog.add(database, name, tuple(columns), key)
    if session.depth:
        session.undo.append(undo)


def _drop(session: Session, action: DropTable, sink: Sink) -> None:
    for parts in action.tables:
        try:
            database, table = session.server.catalog.table(parts, session.database.name)
        except TdsError:
            if action.if_exists:
                continue
            raise error(3701, "drop", ".".join(parts), state=5) from None
        session.before_writing(database, table.name)
        session.ask(f"DROP TABLE {session.server.catalog.stored_name(database, table)}")
        undo = session.server.catalog.remove(database, table.name)
        if session.depth:
            session.undo.append(undo)
            session.dropped.append((database, table.name.casefold()))
        else:
            database.dropped.discard(table.name.casefold())
    sink.done()


def _select_into(session: Session, query: Query, body: Select, sink: Sink) -> None:
    context = session.context()
    inner = replace(query, body=replace(body, into=()))
    compiled = compile_query(inner, context, None)
    if any(each.name is None or not each.name for each in compiled.columns):
        raise error(1038)
    database, name = _free_name(session, body.into)
    session.before_reading(context)
    columns = [Column(each.name or "", _storable(each.type), each.nullable) for each in compiled.columns]
    _make(session, database, name, columns, ())
    target = session.server.catalog.stored_name(database, name)
    found = session.ask(f"INSERT INTO {target} SELECT * FROM ({compiled.sql})")
    session.row_count = int(found[0][0]) if found else 0
    sink.done(session.row_count, command=_SELECT)


def _storable(kind: SqlType) -> SqlType:
    return declare("nvarchar", (128,)) if kind.name == "sysname" else kind


__all__ = ["Compound", "run", "stored"]
