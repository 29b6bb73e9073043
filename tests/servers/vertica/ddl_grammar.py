"""The grammar of CREATE TABLE and ALTER TABLE, as far as it is known here; what it does not know is a syntax error."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.servers.vertica.catalog import Column, Key
from tests.servers.vertica.kinds import INT, read_kind
from tests.servers.vertica.lexer import Reader
from tests.servers.vertica.problems import missing_column


@dataclass
class TableText:
    """A CREATE TABLE as it was written."""

    path: tuple[str, ...]
    unless_exists: bool
    temporary: bool = False
    columns: list[Column] = field(default_factory=list)
    key: Key | None = None
    partition: str | None = None
    like: tuple[str, ...] | None = None
    query: str | None = None
    names: list[str] = field(default_factory=list)


def unless_exists(reader: Reader) -> bool:
    """Take IF NOT EXISTS."""
    return reader.words("IF", "NOT", "EXISTS")


def read_table(reader: Reader, *, temporary: bool) -> TableText:
    """What follows CREATE [TEMPORARY] TABLE."""
    skip = unless_exists(reader)
    text = TableText(reader.path(), skip, temporary)
    if reader.words("LIKE"):
        text.like = reader.path()
        if reader.any_word("INCLUDING", "EXCLUDING"):
            reader.expect("PROJECTIONS")
        _tail(reader, text)
    elif reader.words("AS"):
        text.query = reader.rest()
    else:
        _body(reader, text)
        _tail(reader, text)
        if reader.words("AS"):
            text.query = reader.rest()
    if not reader.ended():
        raise reader.fail()
    return text


def _body(reader: Reader, text: TableText) -> None:
    reader.expect_op("(")
    while True:
        if not _table_constraint(reader, text):
            _element(reader, text)
        if not reader.op(","):
            break
    reader.expect_op(")")
    for name in text.key.columns if text.key else ():
        column = next((each for each in text.columns if each.name.casefold() == name.casefold()), None)
        if column is None:
            raise missing_column(name)
        # A column of a primary key is NOT NULL by that (docs: "Primary Keys").
        column.nullable = False


def _element(reader: Reader, text: TableText) -> None:
    name = reader.name()
    token = reader.token
    if token is None or (token.kind == "op" and token.value in ",)"):
        # Only names: the list of CREATE TABLE (a, b) AS SELECT.
        text.names.append(name)
        return
    text.columns.append(read_column(reader, name, text))


def read_column(reader: Reader, name: str, text: TableText | None = None) -> Column:
    """A column's type and constraints."""
    if reader.any_word("IDENTITY", "AUTO_INCREMENT"):
        column = Column(name, INT, identity=True)
        if (token := reader.token) is not None and token.value == "(":
            reader.skip_group()
    else:
        column = Column(name, read_kind(reader))
    while _column_option(reader, column, text):
        pass
    return column


def _column_option(reader: Reader, column: Column, text: TableText | None) -> bool:
    constraint = reader.name() if reader.words("CONSTRAINT") else None
    if reader.words("NOT", "NULL"):
        column.nullable = False
    elif reader.words("NULL"):
        column.nullable = True
    elif reader.words("DEFAULT") or reader.words("DEFAULT", "USING"):
        column.default = reader.until("NOT", "NULL", "PRIMARY", "CONSTRAINT", "ENCODING", "UNIQUE", "CHECK")
    elif reader.words("PRIMARY", "KEY") and text is not None:
        text.key = Key(constraint or "C_PRIMARY", (column.name,), _enabled(reader))
    elif reader.words("UNIQUE"):
        _enabled(reader)
    elif reader.words("CHECK"):
        reader.skip_group()
    elif reader.words("ENCODING"):
        reader.name()
    elif reader.words("ACCESSRANK"):
        reader.number()
    elif constraint is not None:
        raise reader.fail()
    else:
        return False
    return True


def _enabled(reader: Reader) -> bool:
    # What is not said follows EnableNewPrimaryKeysByDefault, which is 0.
    return reader.any_word("ENABLED", "DISABLED") == "ENABLED"


def _table_constraint(reader: Reader, text: TableText) -> bool:
    start = reader.at
    name = reader.name() if reader.words("CONSTRAINT") else "C_PRIMARY"
    if reader.words("PRIMARY", "KEY"):
        text.key = Key(name, tuple(_names(reader)), _enabled(reader))
        return True
    if reader.words("UNIQUE"):
        _names(reader)
        _enabled(reader)
        return True
    if reader.words("FOREIGN", "KEY"):
        _names(reader)
        reader.expect("REFERENCES")
        reader.path()
        if (token := reader.token) is not None and token.value == "(":
            _names(reader)
        return True
    if reader.words("CHECK"):
        reader.skip_group()
        _enabled(reader)
        return True
    reader.at = start
    return False


def _names(reader: Reader) -> list[str]:
    reader.expect_op("(")
    names = [reader.name()]
    while reader.op(","):
        names.append(reader.name())
    reader.expect_op(")")
    return names


_CLAUSES = (
    "SEGMENTED",
    "UNSEGMENTED",
    "PARTITION",
    "KSAFE",
    "ENCODED",
    "INCLUDE",
    "EXCLUDE",
    "AS",
    "GROUP",
    "ORDER",
)


def _tail(reader: Reader, text: TableText) -> None:
    """ORDER BY, segmentation, partitions: they say how rows are stored."""
    while not reader.ended():
        if reader.words("ORDER", "BY"):
            while True:
                reader.until(*_CLAUSES)
                if not reader.op(","):
                    break
        elif reader.words("SEGMENTED", "BY"):
            reader.until("ALL", "NODES")
            _nodes(reader)
        elif reader.words("UNSEGMENTED"):
            _nodes(reader)
        elif reader.words("PARTITION", "BY"):
            text.partition = reader.until(*_CLAUSES, "ACTIVEPARTITIONCOUNT")
        elif reader.words("GROUP", "BY"):
            # How partition values are grouped into containers; each value has one of its own here.
            reader.until(*_CLAUSES, "ACTIVEPARTITIONCOUNT")
        elif reader.words("ACTIVEPARTITIONCOUNT"):
            reader.number()
        elif reader.words("KSAFE"):
            if (token := reader.token) is not None and token.kind == "number":
                reader.number()
        elif reader.words("ON", "COMMIT"):
            reader.any_word("PRESERVE", "DELETE")
            reader.expect("ROWS")
        elif reader.words("INCLUDE") or reader.words("EXCLUDE"):
            reader.words("SCHEMA")
            reader.expect("PRIVILEGES")
        else:
            return


def _nodes(reader: Reader) -> None:
    reader.expect("ALL", "NODES")
    if reader.words("OFFSET"):
        reader.number()
