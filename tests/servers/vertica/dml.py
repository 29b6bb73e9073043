"""INSERT, UPDATE and DELETE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import duckdb
from sqlglot import exp

from tests.servers.vertica.catalog import Column, Table
from tests.servers.vertica.dialect import parse, plain
from tests.servers.vertica.kinds import ENGINE_DIGITS, Kind
from tests.servers.vertica.lexer import Sql
from tests.servers.vertica.problems import MARK, VerticaError, duplicate_key, unsupported
from tests.servers.vertica.rewrite import Rewriter
from tests.servers.vertica.store import View, Work, quote

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session


def atomically(session: Session, run: Callable[[], int]) -> int:
    """Run engine statements as one: all of them or none. Meets others' rows: tries again."""
    connection = session.connection
    for attempt in range(10):
        connection.execute("BEGIN TRANSACTION")
        try:
            count = run()
            connection.execute("COMMIT")
        except duckdb.TransactionException:
            _abandon(connection)
            if attempt == 9:
                raise
        except BaseException:
            _abandon(connection)
            raise
        else:
            return count
    raise AssertionError


def _abandon(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:
        # The failed COMMIT has ended it.
        return


def insert(session: Session, sql: Sql) -> None:
    """INSERT INTO ... VALUES or SELECT."""
    tree = _parse(sql, exp.Insert)
    assert isinstance(tree, exp.Insert)
    target = tree.this
    node = target.this if isinstance(target, exp.Schema) else target
    table = _table(session, node, "INSERT")
    named = [each.name for each in target.expressions] if isinstance(target, exp.Schema) else []
    columns = [table.column(name) for name in named] or list(table.columns)
    session.lock(table, "I")
    lock_key(session, table)
    work = session.begin()
    with session.server.store.statement(work) as visible:
        rewriter = Rewriter(session, visible)
        try:
            source = rewriter.tree(tree.expression)
            command = insert_command(session, table, columns, source.sql, work.number, rewriter)
            count = atomically(session, lambda: _insert(session, table, work, command, visible))
        finally:
            rewriter.close()
    session.put_count("INSERT", count)


def _insert(session: Session, table: Table, work: Work, command: str, visible: View) -> int:
    count = session.server.store.execute(session.connection, command)
    check_key(session, table, visible)
    if count:
        work.inserted[table.number] = table
    return count


def insert_command(
    session: Session, table: Table, columns: list[Column], source: str, number: int, rewriter: Rewriter
) -> str:
    """The engine's INSERT of a query's rows, with the checks of the columns' types."""
    names = [f"c{index}" for index in range(len(columns))]
    values = [coerce(column, f"q.{name}") for column, name in zip(columns, names, strict=True)]
    given = {column.name.casefold() for column in columns}
    into = [quote(column.name) for column in columns]
    for column in table.columns:
        if column.name.casefold() not in given and (column.default or column.identity):
            into.append(quote(column.name))
            values.append(default(column, table, rewriter))
    return (
        f"INSERT INTO {table.engine_name} ({', '.join(into)}, __ins) "
        f"SELECT {', '.join(values)}, {number} FROM ({source}) AS q({', '.join(names)})"
    )


def default(column: Column, table: Table, rewriter: Rewriter) -> str:
    """The value of a column that a statement does not give."""
    if column.identity:
        return f"nextval('{table.engine_name}_identity')"
    return coerce(column, f"({rewriter.expression(parse(f'SELECT {column.default}').expressions[0])})")


def coerce(column: Column, value: str) -> str:
    """SQL that turns a value into the column's type, or fails as the original does."""
    kind = column.kind
    if kind.is_text:
        text = f"CAST({value} AS VARCHAR)"
        return _short(f"rtrim({text}, ' ')" if kind.name == "char" else text, "strlen", kind)
    if kind.is_binary:
        return _short(f"to_octets({value})", "octet_length", kind)
    if kind.span:
        number = f"vertica_interval(CAST({value} AS VARCHAR), '{kind.span}', {kind.precision or 0})"
        return f"{'to_months' if kind.name == 'intervalym' else 'to_span'}({number})"
    if kind.name == "timetz":
        precision = 6 if kind.precision is None else kind.precision
        return f"vertica_timetz(CAST({value} AS VARCHAR), {precision}, current_setting('TimeZone'))"
    if kind.precision is not None and kind.name in ("time", "timestamp", "timestamptz"):
        return f"rounded_{kind.name}(CAST({value} AS {kind.engine}), {kind.precision})"
    if kind.name == "int":
        whole = f"CAST({value} AS BIGINT)"
        failure = _error("22003", 5411, "'Value exceeds range of type int8'")
        return f"CASE WHEN {whole} = -9223372036854775808 THEN CAST({failure} AS BIGINT) ELSE {whole} END"
    if kind.name == "numeric" and (kind.precision or 0) > ENGINE_DIGITS:
        return f"CAST({value} AS VARCHAR)"
    return f"CAST({value} AS {kind.engine})"


def _short(value: str, measure: str, kind: Kind) -> str:
    failure = _error(
        "22001", 8682, f"'String of ' || {measure}({value}) || ' octets is too long for type {kind.shown}'"
    )
    return (
        f"CASE WHEN {measure}({value}) > {kind.length} THEN CAST({failure} AS {kind.engine}) ELSE {value} END"
    )


def _error(sqlstate: str, code: int, said: str) -> str:
    return f"error('{MARK}|{sqlstate}|{code}|' || {said})"


def lock_key(session: Session, table: Table) -> None:
    """Wait for the lock that makes loads into a table with an enabled primary key take turns."""
    if table.key is not None and table.key.enabled:
        session.lock(table, "IV")


def check_key(session: Session, table: Table, visible: View) -> None:
    """Enforce an enabled primary key; `visible` was taken under its lock."""
    key = table.key
    if key is None or not key.enabled:
        return
    names = ", ".join(quote(each) for each in key.columns)
    found = session.connection.execute(
        f"SELECT {names} FROM {table.engine_name} AS v WHERE {visible.condition('v')} "
        f"GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if found is not None:
        # A violation ends the lock of the validation (docs: "Constraint Enforcement and Locking").
        session.server.locks.release_one(session.number, table.full_name, "IV")
        shown = ",".join(f"{name}={value}" for name, value in zip(key.columns, found, strict=True))
        raise duplicate_key(shown, f"{table.full_name}.{key.name}")


def delete(session: Session, sql: Sql) -> None:
    """DELETE FROM ... [WHERE]."""
    tree = _parse(sql, exp.Delete)
    if tree.args.get("using"):
        raise unsupported("DELETE ... USING")
    table = _table(session, tree.this, "DELETE")
    session.lock(table, "X")
    work = session.begin()
    alias = quote(tree.this.alias or table.name)
    with session.server.store.statement(work) as visible:
        rewriter = Rewriter(session, visible)
        try:
            command = _mark(table, alias, work.number, visible, tree.args.get("where"), rewriter)
            count = atomically(session, lambda: _deleted(session, table, work, command))
        finally:
            rewriter.close()
    session.put_count("DELETE", count)


def _mark(
    table: Table, alias: str, number: int, visible: View, where: exp.Expr | None, rewriter: Rewriter
) -> str:
    condition = visible.condition(alias)
    if where is not None:
        condition += f" AND {rewriter.expression(where.this)}"
    return f"UPDATE {table.engine_name} AS {alias} SET __del = {number} WHERE {condition}"


def _deleted(session: Session, table: Table, work: Work, command: str) -> int:
    count = session.server.store.execute(session.connection, command)
    if count:
        work.deleted[table.number] = table
    return count


def update(session: Session, sql: Sql) -> None:
    """UPDATE ... SET ... [WHERE]: the old row is deleted, a new one made."""
    tree = _parse(sql, exp.Update)
    if tree.args.get("from_") or tree.args.get("from"):
        raise unsupported("UPDATE ... FROM")
    table = _table(session, tree.this, "UPDATE")
    session.lock(table, "X")
    work = session.begin()
    store = session.server.store
    alias = quote(tree.this.alias or table.name)
    with store.statement(work) as visible:
        old = store.number_for(work)
        rewriter = Rewriter(session, visible)
        try:
            marked = _mark(table, alias, old, visible, tree.args.get("where"), rewriter)
            renewed = _renewed(table, alias, old, work.number, tree.expressions, rewriter)

            def run() -> int:
                count = _deleted(session, table, work, marked)
                if count:
                    store.execute(session.connection, renewed)
                    work.inserted[table.number] = table
                    check_key(session, table, visible)
                return count

            count = atomically(session, run)
        finally:
            rewriter.close()
    session.put_count("UPDATE", count)


def _renewed(
    table: Table, alias: str, old: int, new: int, changes: list[exp.Expr], rewriter: Rewriter
) -> str:
    changed = {table.column(each.this.name).name: each.expression for each in changes}
    values = [
        coerce(column, rewriter.expression(changed[column.name]))
        if column.name in changed
        else quote(column.name)
        for column in table.columns
    ]
    names = ", ".join(quote(column.name) for column in table.columns)
    return (
        f"INSERT INTO {table.engine_name} ({names}, __ins) SELECT {', '.join(values)}, {new} "
        f"FROM {table.engine_name} AS {alias} WHERE {alias}.__del = {old}"
    )


def _parse(sql: Sql, kind: type[exp.Expr]) -> exp.Expr:
    tree = parse(plain(sql))
    if not isinstance(tree, kind):
        raise unsupported("This statement")
    if isinstance(tree, exp.Insert) and tree.expression is None:
        raise VerticaError("42601", 4856, "Syntax error at end of input")
    return tree


def _table(session: Session, node: exp.Expr, privilege: str) -> Table:
    path = (node.text("db"), node.name) if node.text("db") else (node.name,)
    table = session.server.catalog.table(path)
    session.server.catalog.check(session.user, privilege, table)
    return table
