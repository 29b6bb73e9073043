"""CREATE, ALTER, DROP, TRUNCATE, GRANT and REVOKE. They commit the open transaction; TRUNCATE even if it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlglot import exp

from tests.servers.vertica import security, wire
from tests.servers.vertica.catalog import Column, Grant, Key, Table, User, View
from tests.servers.vertica.ddl_grammar import TableText, read_column, read_table, unless_exists
from tests.servers.vertica.dialect import generate, parse, plain
from tests.servers.vertica.dml import atomically, default, insert_command
from tests.servers.vertica.kinds import MOST_OCTETS, Kind, read_kind
from tests.servers.vertica.lexer import Reader, Sql, split
from tests.servers.vertica.problems import (
    VerticaError,
    denied_relation,
    denied_schema,
    duplicate_object,
    missing_schema,
    too_wide_for,
    unsupported,
    wrong_conversion,
)
from tests.servers.vertica.rewrite import Rewriter
from tests.servers.vertica.store import quote

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session


def execute(session: Session, sql: Sql) -> None:
    """Run a definition."""
    reader = Reader(sql)
    for words, run in (*security.STATEMENTS, *_STATEMENTS):
        if reader.words(*words):
            if (words, run) in security.STATEMENTS and not session.user.superuser:
                raise VerticaError("42501", 4366, "Permission denied")
            if words[0] not in ("GRANT", "REVOKE"):
                session.commit()
            try:
                run(session, reader)
            finally:
                session.commit()
            session.put(wire.complete(" ".join(words[:2])))
            return
    raise reader.fail()


def _skip(session: Session, reader: Reader) -> None:
    reader.rest()


def _notice(session: Session, name: str, *, missing: bool) -> None:
    session.put(
        wire.notice(4185, f"Nothing was dropped: {name} does not exist")
        if missing
        else wire.notice(4214, f'Object "{name}" already exists; nothing was done')
    )


def _create_schema(session: Session, reader: Reader) -> None:
    skip = unless_exists(reader)
    name = reader.path()[-1]
    catalog = session.server.catalog
    with catalog.change:
        if catalog.has_schema(name) and skip:
            _notice(session, name, missing=False)
            return
        if not session.user.superuser:
            raise VerticaError("42501", 4366, f"Permission denied for database {session.server.database}")
        catalog.add_schema(name, session.user.name)


def _drop_schema(session: Session, reader: Reader) -> None:
    skip = reader.words("IF", "EXISTS")
    name = reader.path()[-1]
    cascade = reader.any_word("CASCADE", "RESTRICT") == "CASCADE"
    catalog = session.server.catalog
    if not catalog.has_schema(name):
        if not skip:
            raise missing_schema(name)
        _notice(session, name, missing=True)
        return
    if not catalog.may_use(session.user, name, "DROP"):
        raise denied_schema(name)
    everything: list[Table | View] = [*catalog.tables(), *catalog.views()]
    inside = [each for each in everything if each.schema.casefold() == name.casefold()]
    if inside and not cascade:
        raise VerticaError("2BV01", 3128, f"DROP failed due to dependencies: schema {name} is not empty")
    for each in inside:
        _drop(session, each)
    catalog.drop_schema(name)


def _create_table(session: Session, reader: Reader) -> None:
    _make_table(session, read_table(reader, temporary=False))


def _make_table(session: Session, text: TableText) -> None:
    catalog = session.server.catalog
    schema = catalog.schema_of(text.path)
    with catalog.change:
        if catalog.find((schema, text.path[-1])) is not None:
            if not text.unless_exists:
                raise duplicate_object(text.path[-1])
            _notice(session, text.path[-1], missing=False)
            return
        catalog.check_create(session.user, schema)
        table = _table(session, schema, text)
        session.server.store.create(table)
        if any(column.identity for column in table.columns):
            session.server.store.change(f"CREATE SEQUENCE {table.engine_name}_identity")
        catalog.add(table)
    if text.query is not None:
        _fill(session, table, text.query)


def _table(session: Session, schema: str, text: TableText) -> Table:
    catalog = session.server.catalog
    name = text.path[-1]
    if text.like is not None:
        model = catalog.table(text.like)
        catalog.check(session.user, "SELECT", model)
        columns = [Column(c.name, c.kind, c.nullable, c.default, c.identity) for c in model.columns]
        key = None if model.key is None else Key(model.key.name, model.key.columns, model.key.enabled)
        partition = text.partition or model.partition
    else:
        columns = text.columns if text.query is None else _query_columns(session, text)
        key, partition = text.key, text.partition
    _check_names(columns)
    _check_size(columns)
    made = Table(catalog.next_number(), schema, name, columns, session.user.name, key)
    made.partition = partition and _partition(partition, name)
    made.projection = f"{schema}.{name}_super"
    return made


def _check_names(columns: list[Column]) -> None:
    seen: set[str] = set()
    for column in columns:
        if column.name.casefold() in seen:
            raise VerticaError("42701", 3145, f'Duplicate column "{column.name}"')
        seen.add(column.name.casefold())


#: Older than 24.1; since then a row may be longer. docs: SQLSTATE 54011, "System limits"
_MOST_ROW_OCTETS, _MOST_COLUMNS = 32_768_000, 9_800


def _check_size(columns: list[Column], *, added: bool = False) -> None:
    octets, count = sum(each.kind.octets for each in columns), len(columns)
    if octets > _MOST_ROW_OCTETS:
        size = f"MaxRowSize ({_MOST_ROW_OCTETS})"
        if added:
            raise VerticaError("54011", 2118, f"Adding column causes row size ({octets}) to exceed {size}")
        raise VerticaError("54011", 4630, f"Row size exceeds MaxRowSize: {octets} > {_MOST_ROW_OCTETS}")
    if count > _MOST_COLUMNS:
        words = f"A table/projection/view can only have up to {_MOST_COLUMNS} columns"
        raise VerticaError("54011", 2106, f"{words} -- this create statement has {count}")


def _partition(expression: str, table: str) -> str:
    tree = parse(plain(split(f"SELECT {expression} FROM {table}")[0])).expressions[0]
    for column in tree.find_all(exp.Column):
        column.set("table", None)
    return generate(tree)


def _query_columns(session: Session, text: TableText) -> list[Column]:
    from tests.servers.vertica.statements import shown

    assert text.query is not None
    with session.server.store.statement(None) as visible:
        rewriter = Rewriter(session, visible)
        try:
            query = rewriter.query(split(text.query)[0])
            columns = shown(session.connection.sql(query.sql), query)
        finally:
            rewriter.close()
    names = text.names or [each.name for each in columns]
    return [
        Column(name, Kind("varchar", MOST_OCTETS) if each.kind.name == "unknown" else each.kind)
        for name, each in zip(names, columns, strict=True)
    ]


def _fill(session: Session, table: Table, query: str) -> None:
    work = session.begin()
    with session.server.store.statement(work) as visible:
        rewriter = Rewriter(session, visible)
        try:
            source = rewriter.query(split(query)[0])
            command = insert_command(session, table, table.columns, source.sql, work.number, rewriter)
            count = atomically(session, lambda: session.server.store.execute(session.connection, command))
        finally:
            rewriter.close()
    if count:
        work.inserted[table.number] = table


def _create_view(session: Session, reader: Reader) -> None:
    _make_view(session, reader, replace=False)


def _replace_view(session: Session, reader: Reader) -> None:
    _make_view(session, reader, replace=True)


def _make_view(session: Session, reader: Reader, *, replace: bool) -> None:
    path = reader.path()
    reader.expect("AS")
    text = reader.rest()
    catalog = session.server.catalog
    schema = catalog.schema_of(path)
    catalog.check_create(session.user, schema)
    query = plain(split(text)[0])
    with session.server.store.statement(None) as visible:
        rewriter = Rewriter(session, visible)
        try:
            session.connection.sql(rewriter.tree(parse(query)).sql)
        finally:
            rewriter.close()
    with catalog.change:
        old = catalog.find((schema, path[-1]))
        if replace and isinstance(old, View):
            old.sql = query
            return
        catalog.add(View(catalog.next_number(), schema, path[-1], query, session.user.name))


def _drop_table(session: Session, reader: Reader) -> None:
    skip = reader.words("IF", "EXISTS")
    catalog = session.server.catalog
    while True:
        path = reader.path()
        found = catalog.find(path)
        if found is None and skip:
            _notice(session, ".".join(path), missing=True)
        else:
            table = catalog.table(path)
            _check_owner(session, table)
            session.lock(table, "O")
            _drop(session, table)
        if not reader.op(","):
            break
    reader.any_word("CASCADE", "RESTRICT")


def _check_owner(session: Session, relation: Table | View) -> None:
    if not session.user.superuser and relation.owner.casefold() != session.user.name.casefold():
        raise denied_relation(relation.name)


def _drop(session: Session, relation: Table | View) -> None:
    if isinstance(relation, Table):
        session.lock(relation, "O")
        session.server.catalog.drop(relation)
        session.server.store.change(f"DROP TABLE {relation.engine_name}")
    else:
        session.server.catalog.drop(relation)


def _drop_view(session: Session, reader: Reader) -> None:
    skip = reader.words("IF", "EXISTS")
    path = reader.path()
    if skip and session.server.catalog.find(path) is None:
        _notice(session, ".".join(path), missing=True)
        return
    view = session.server.catalog.relation(path)
    _check_owner(session, view)
    _drop(session, view)


def _truncate(session: Session, reader: Reader) -> None:
    table = session.server.catalog.table(reader.path())
    session.server.catalog.check(session.user, "TRUNCATE", table)
    session.lock(table, "O")
    session.server.store.execute(session.connection, f"DELETE FROM {table.engine_name}")
    table.containers.clear()
    table.delete_vectors = 0


def _alter_table(session: Session, reader: Reader) -> None:
    table = session.server.catalog.table(reader.path())
    _check_owner(session, table)
    if reader.words("ADD", "COLUMN"):
        _add_column(session, table, reader)
    elif reader.words("DROP", "COLUMN"):
        session.lock(table, "O")
        column = table.column(reader.name())
        reader.any_word("CASCADE", "RESTRICT")
        session.server.store.change(f"ALTER TABLE {table.engine_name} DROP COLUMN {quote(column.name)}")
        table.columns.remove(column)
    elif reader.words("RENAME", "TO"):
        session.lock(table, "O")
        new = reader.name()
        with session.server.catalog.change:
            session.server.catalog.drop(table)
            table.name = new
            session.server.catalog.add(table)
    elif reader.words("OWNER", "TO"):
        table.owner = reader.name()
    elif reader.words("ALTER", "COLUMN"):
        column = table.column(reader.name())
        for word in ("SET", "DATA", "TYPE"):
            reader.expect(word)
        _change_kind(session, table, column, read_kind(reader))
    else:
        raise unsupported("This ALTER TABLE")


def _change_kind(session: Session, table: Table, column: Column, kind: Kind) -> None:
    """Change the width of a text column; a narrower one only where every stored value fits it."""
    if table.key is not None and column.name.casefold() in map(str.casefold, table.key.columns):
        raise wrong_conversion(column.name, column.kind.shown, kind.shown)
    if not {column.kind.name, kind.name} <= {"varchar", "long varchar"}:
        raise wrong_conversion(column.name, column.kind.shown, kind.shown)
    session.lock(table, "O")
    [(longest,)] = session.connection.execute(
        f"SELECT coalesce(max(strlen({quote(column.name)})), 0) FROM {table.engine_name}"
    ).fetchall()
    if longest > (kind.length or 0):
        raise too_wide_for(column.name, kind.shown)
    column.kind = kind


def _add_column(session: Session, table: Table, reader: Reader) -> None:
    skip = unless_exists(reader)
    name = reader.name()
    column = read_column(reader, name)
    session.lock(table, "O")
    if any(each.name.casefold() == name.casefold() for each in table.columns):
        if skip:
            _notice(session, name, missing=False)
            return
        raise VerticaError("42701", 2623, f'Column "{name}" already exists')
    _check_size([*table.columns, column], added=True)
    store = session.server.store
    store.change(f"ALTER TABLE {table.engine_name} ADD COLUMN {quote(name)} {column.kind.engine}")
    if column.default is not None:
        with store.statement(None) as visible:
            value = default(column, table, Rewriter(session, visible))
        store.change(f"UPDATE {table.engine_name} SET {quote(name)} = {value}")
    table.columns.append(column)


def _grant(session: Session, reader: Reader) -> None:
    with session.server.catalog.change:
        for each in _grants(session, reader, "TO"):
            if each not in session.server.catalog.grants:
                session.server.catalog.grants.append(each)


def _revoke(session: Session, reader: Reader) -> None:
    with session.server.catalog.change:
        gone = _grants(session, reader, "FROM")
        catalog = session.server.catalog
        catalog.grants = [each for each in catalog.grants if each not in gone]


def _grants(session: Session, reader: Reader, direction: str) -> list[Grant]:
    privileges = [reader.name().upper()]
    while reader.op(","):
        privileges.append(reader.name().upper())
    reader.words("PRIVILEGES")
    reader.expect("ON")
    catalog = session.server.catalog
    if reader.words("SCHEMA"):
        kind, on, every = "SCHEMA", reader.path()[-1], ["USAGE", "CREATE"]
        if not catalog.has_schema(on):
            raise missing_schema(on)
    else:
        reader.words("TABLE")
        kind, every = "TABLE", ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES"]
        relation = catalog.relation(reader.path())
        _check_owner(session, relation)
        on = relation.full_name
    reader.expect(direction)
    grantee = reader.name().casefold()
    if grantee != "public" and grantee not in catalog.users:
        raise VerticaError("42704", 4673, f'User "{grantee}" does not exist')
    if "ALL" in privileges:
        privileges = every
    return [Grant(grantee, each, on.casefold(), kind, session.user.name) for each in privileges]


def _create_user(session: Session, reader: Reader) -> None:
    name = reader.name()
    password = reader.string() if reader.words("IDENTIFIED", "BY") else ""
    if not session.user.superuser:
        raise VerticaError("42501", 4366, "Permission denied")
    if name.casefold() in session.server.catalog.users:
        raise duplicate_object(name)
    session.server.catalog.add_user(User(name, password))


_STATEMENTS: tuple[tuple[tuple[str, ...], Callable[[Session, Reader], None]], ...] = (
    (("CREATE", "SCHEMA"), _create_schema),
    (("DROP", "SCHEMA"), _drop_schema),
    (("CREATE", "TABLE"), _create_table),
    (("CREATE", "VIEW"), _create_view),
    (("CREATE", "OR", "REPLACE", "VIEW"), _replace_view),
    (("CREATE", "USER"), _create_user),
    (("DROP", "TABLE"), _drop_table),
    (("DROP", "VIEW"), _drop_view),
    (("TRUNCATE", "TABLE"), _truncate),
    (("ALTER", "TABLE"), _alter_table),
    (("GRANT",), _grant),
    (("REVOKE",), _revoke),
    (("COMMENT", "ON"), _skip),
)
