"""Prepared statements: what vertica-python uses with `use_prepared_statements`."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb

from tests.servers.vertica import wire
from tests.servers.vertica.kinds import INT, MOST_OCTETS, Kind
from tests.servers.vertica.lexer import Reader, Sql, split
from tests.servers.vertica.problems import VerticaError, from_duckdb
from tests.servers.vertica.rewrite import Rewriter
from tests.servers.vertica.wire import Shown

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

_TEXT = Kind("varchar", MOST_OCTETS)
_COUNTING = ("INSERT", "UPDATE", "DELETE")


@dataclass
class Prepared:
    """A statement and its places for values."""

    sql: Sql
    kinds: list[Kind]

    def bound(self, values: list[str | None]) -> Sql:
        """The statement with values in its places."""
        pieces: list[str] = []
        at = 0
        for token, value, kind in zip(self._places(), values, self.kinds, strict=True):
            pieces += [self.sql.text[at : token[0]], _literal(value, kind)]
            at = token[1]
        return split("".join([*pieces, self.sql.text[at:]]))[0]

    def _places(self) -> list[tuple[int, int]]:
        return [(t.start, t.end) for t in self.sql.tokens if t.kind == "op" and t.value == "?"]

    @property
    def places(self) -> int:
        """How many values it takes."""
        return len(self._places())


def _literal(value: str | None, kind: Kind) -> str:
    if value is None:
        return "NULL"
    quoted = "'" + value.replace("'", "''") + "'"
    # A text is made into the column's type as a literal is.
    as_text = kind.is_text or kind.is_binary or kind.engine in ("VARCHAR", "INTERVAL")
    return quoted if as_text else f"{quoted}::{kind.shown}"


@dataclass
class Extended:
    """The extended protocol of one session. After an error it takes nothing until Sync."""

    session: Session
    failed: bool = False
    _statements: dict[str, Prepared | None] = field(default_factory=dict)
    _bound: dict[str, Sql | None] = field(default_factory=dict)

    def handle(self, kind: bytes, body: bytes) -> None:
        """A message that is not of the simple protocol."""
        if kind == b"S":
            self.failed = False
            self.session.put(wire.ready(self.session.work is not None))
            self.session.flush()
            return
        if kind == b"H":
            self.session.flush()
            return
        if self.failed:
            return
        try:
            self._handle(kind, body)
        except VerticaError as problem:
            self.failed = True
            self.session.put(wire.error(problem))
            self.session.flush()

    def _handle(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            self._statements[name.decode()] = self._parse(rest.partition(b"\0")[0].decode())
            self.session.put(wire.message(b"1"))
        elif kind == b"D":
            self._describe(body[1:].rstrip(b"\0").decode())
        elif kind == b"B":
            self._bind(body)
            self.session.put(wire.message(b"2"))
        elif kind == b"E":
            sql = self._bound.get(body.partition(b"\0")[0].decode())
            if sql is not None:
                self.session.simple(sql, described=True)
        elif kind == b"C":
            self._statements.pop(body[1:].rstrip(b"\0").decode(), None)
            self.session.put(wire.message(b"3"))
        else:
            raise VerticaError("08P01", 5167, f"Unexpected message type {kind!r}")

    def _parse(self, text: str) -> Prepared | None:
        statements = split(text)
        if len(statements) > 1:
            raise VerticaError("42601", 2602, "Cannot insert multiple commands into a prepared statement")
        if not statements:
            return None
        sql = statements[0]
        prepared = Prepared(sql, [])
        prepared.kinds = self._parameter_kinds(sql, prepared.places)
        return prepared

    def _parameter_kinds(self, sql: Sql, places: int) -> list[Kind]:
        """The columns' types for INSERT INTO t (...) VALUES (?, ...), else text."""
        if sql.word(0) == "INSERT":
            reader = Reader(sql)
            reader.expect("INSERT", "INTO")
            table = self.session.server.catalog.table(reader.path())
            names = [column.name for column in table.columns]
            if reader.op("("):
                names = [reader.name()]
                while reader.op(","):
                    names.append(reader.name())
                reader.expect_op(")")
            if reader.words("VALUES") and len(names) == places:
                return [table.column(name).kind for name in names]
        return [_TEXT] * places

    def _describe(self, name: str) -> None:
        if name not in self._statements:
            raise VerticaError("26000", 4449, f'Prepared statement "{name}" does not exist')
        prepared = self._statements[name]
        tag = prepared.sql.word(0) if prepared is not None else ""
        self.session.put(wire.parameter_description(prepared.kinds if prepared is not None else []))
        if prepared is not None and tag in ("SELECT", "WITH"):
            self.session.put(wire.row_description(self._columns(prepared), self.session.binary))
        elif tag == "SHOW":
            text = Kind("varchar", MOST_OCTETS)
            columns = [Shown("name", text), Shown("setting", text)]
            self.session.put(wire.row_description(columns, self.session.binary))
        elif tag in _COUNTING:
            self.session.put(wire.row_description([Shown("OUTPUT", INT)], self.session.binary))
        else:
            self.session.put(wire.message(b"n"))
        self.session.put(wire.command_description(tag))

    def _columns(self, prepared: Prepared) -> list[Shown]:
        from tests.servers.vertica.statements import shown

        session = self.session
        with session.server.store.statement(session.work) as visible:
            rewriter = Rewriter(session, visible)
            try:
                query = rewriter.query(prepared.bound([None] * prepared.places))
                return shown(session.connection.sql(query.sql), query)
            except duckdb.Error as error:
                raise from_duckdb(error) from None
            finally:
                rewriter.close()

    def _bind(self, body: bytes) -> None:
        portal, _, rest = body.partition(b"\0")
        name, _, rest = rest.partition(b"\0")
        prepared = self._statements.get(name.decode())
        values = _values(rest)
        if prepared is not None and len(values) != prepared.places:
            raise VerticaError("08P01", 2267, "Bind message supplies another number of parameters")
        self._bound[portal.decode()] = prepared.bound(values) if prepared is not None else None


def _values(rest: bytes) -> list[str | None]:
    """Of a Bind: formats (none), the number of values, their types, then each with its length."""
    at = 2
    (count,) = struct.unpack_from("!H", rest, at)
    at += 2 + 4 * count
    values: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", rest, at)
        at += 4
        values.append(None if size < 0 else rest[at : at + size].decode())
        at += max(size, 0)
    return values
