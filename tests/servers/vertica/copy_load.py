"""COPY ... FROM STDIN and FROM LOCAL, from the lock to the answer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from tests.servers.base import Fault
from tests.servers.vertica import wire
from tests.servers.vertica.catalog import Column, Table
from tests.servers.vertica.copy_fast import Cutter, FastReader, arrow_type
from tests.servers.vertica.copy_grammar import Copy, Item, read_copy
from tests.servers.vertica.copy_records import Record, Records, fitted
from tests.servers.vertica.copy_rejected import save_rejected
from tests.servers.vertica.copy_values import Field, Reject, convert
from tests.servers.vertica.dialect import parse, plain
from tests.servers.vertica.dml import check_key, coerce, default, lock_key
from tests.servers.vertica.kinds import INT
from tests.servers.vertica.lexer import Sql, split
from tests.servers.vertica.problems import (
    VerticaError,
    copy_rejected,
    too_many_rejected,
)
from tests.servers.vertica.rewrite import Rewriter
from tests.servers.vertica.store import quote
from tests.servers.vertica.wire import Shown

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

#: Input that is read at once, octets.
_PIECE = 1 << 22
#: Records that the exact parser hands on at once.
_ROWS = 20_000
_STAGED = "copied"


def copy(session: Session, sql: Sql, waiting: Fault | None) -> None:
    """Run a COPY; `waiting` strikes after so many octets of data."""
    written = read_copy(sql)
    catalog = session.server.catalog
    table = catalog.table(written.path)
    catalog.check(session.user, "INSERT", table)
    fields = _fields(written, table)
    session.lock(table, "I")
    load = (_Counted if session.server.counts_rows else _Load)(session, written, table, fields)
    try:
        if written.local:
            _receive_local(session, load, waiting)
        else:
            session.put(wire.copy_in(len(fields)))
            session.flush()
            _receive(session, load, waiting)
        load.finish()
    except BaseException:
        load.undo()
        raise
    session.accepted, session.rejected = load.accepted, len(load.rejected)
    if written.rejected_table is not None:
        save_rejected(session, written.rejected_table, load.rejected)
    if not written.no_commit:
        session.commit(sql.text)
    if written.local:
        session.put(wire.message(b"c"))
        session.put_number(load.accepted)
    session.put(wire.complete("COPY"))


def _receive_local(session: Session, load: _Load, waiting: Fault | None) -> None:
    """Take the client's files one after the other, or its STDIN; each ends a batch."""
    written = load.written
    session.put_columns([Shown("Rows Loaded", INT)])
    session.put(wire.verify_files(written))
    session.flush()
    files = _verified(session)
    if not written.files:
        session.put(wire.copy_in(len(load.fields)))
        session.flush()
        _receive(session, load, waiting)
    for name in files:
        load.file = name
        session.put(wire.load_file(name))
        session.flush()
        _receive(session, load, waiting, until=b"j")


def _verified(session: Session) -> list[str]:
    """The files that the client will send."""
    kind, body = wire.read(session.link)
    if kind == b"e":
        raise _refused_by_client(body)
    if kind != b"F":
        raise VerticaError("08P01", 5167, f"Unexpected message type {kind!r} instead of VerifiedFiles")
    wide = session.protocol >= wire.PROTOCOL
    (count,) = struct.unpack_from("!I" if wide else "!H", body)
    at = 4 if wide else 2
    names: list[str] = []
    for _ in range(count):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        # The size of the file follows.
        at = end + 1 + 8
    return names


def _refused_by_client(body: bytes) -> VerticaError:
    said = body.rstrip(b"\0").rpartition(b"\0")[2].decode(errors="replace")
    return VerticaError("57014", 2036, f"COPY failed, the client says: {said}")


def _end_batch(session: Session, load: _Load) -> None:
    """The end of a file: what was rejected in it goes to the client."""
    written, first = load.written, len(load.rejected) - load.end_file()
    rejected = load.rejected[first:]
    if rejected and written.rejected_file:
        content = b"".join(raw + b"\n" for _, raw, _ in rejected)
        session.put(wire.write_file(written.rejected_file, content))
    if rejected and written.exceptions_file:
        lines = [
            f"COPY: Input record {row} has been rejected ({reason}). This record was record {row} from {load.file}\n"
            for row, _, reason in rejected
        ]
        session.put(wire.write_file(written.exceptions_file, "".join(lines).encode()))
    if rejected and written.return_rejected:
        session.put(wire.write_file("", b"".join(struct.pack("<Q", row) for row, _, _ in rejected)))
    session.put(wire.message(b"J"))
    session.flush()


def _receive(session: Session, load: _Load, waiting: Fault | None, *, until: bytes = b"c") -> None:
    """Take the data; after a failure what still comes is read and thrown away, as the client reads no answer before."""
    failure: VerticaError | None = None
    received = 0
    while True:
        kind, body = wire.read(session.link)
        session.check()
        if kind == b"d":
            received += len(body)
            if failure is None:
                try:
                    if waiting is not None and received >= waiting.after_bytes:
                        struck, waiting = waiting, None
                        session.strike(struck)
                    load.feed(body)
                except VerticaError as error:
                    failure = error
        elif kind == b"j" and load.written.local:
            if failure is None:
                failure = load.failure_of_file()
            _end_batch(session, load)
            if failure is not None:
                raise failure
            if until == b"j":
                return
        elif kind == b"c":
            if failure is not None:
                raise failure
            return
        elif kind == b"e":
            raise _refused_by_client(body)
        elif kind == b"f":
            said = body.rstrip(b"\0").decode(errors="replace")
            raise VerticaError("57014", 2036, f"COPY from stdin failed: {said}")
        elif kind not in (b"H", b"S"):
            raise VerticaError("08P01", 5167, f"Unexpected message type {kind!r} during COPY from stdin")


def _fields(written: Copy, table: Table) -> list[Field]:
    """What the input holds: all columns of the table, or the listed ones that are not computed."""
    if not written.listed:
        options = {item.name.casefold(): item for item in written.items}
        written.items = [options.get(each.name.casefold(), Item(each.name)) for each in table.columns]
    read = written.read_items()
    if not read:
        raise VerticaError(
            "42601",
            2156,
            "All columns are evaluated by expressions. At least one column should be read from input",
        )
    return [_field(number, item, written, table) for number, item in enumerate(read, 1)]


def _field(number: int, item: Item, written: Copy, table: Table) -> Field:
    column = None if item.filler is not None else table.column(item.name)
    kind = item.filler if column is None else column.kind
    assert kind is not None
    return Field(
        number,
        item.name,
        kind,
        nullable=column is None or column.nullable,
        enforce_length=item.enforce_length or written.enforce_length,
        format=item.format,
        null=item.null,
    )


class _Load:
    """The rows of one COPY on their way into the table."""

    def __init__(self, session: Session, written: Copy, table: Table, fields: Sequence[Field]) -> None:
        self.accepted = 0
        self.rejected: list[tuple[int, bytes, str]] = []
        self.file = "STDIN"
        self.written = written
        self.fields = fields
        self._session = session
        self._written = written
        self._table = table
        self._fields = fields
        self._zone = ZoneInfo(session.zone)
        self._buffer = bytearray()
        self._records = Records(written.format)
        self._cutter = Cutter(written.format)
        self._fast = FastReader(written, fields, session.zone)
        self._seen = 0
        self._rejected_before = 0
        self._rows: list[list[object]] = []
        self._work = session.begin()
        self._number = session.server.store.number_for(self._work)
        self._command = self._insert_command()

    def feed(self, data: bytes) -> None:
        """Take a piece of the input."""
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            self._parse(final=False)

    def failure_of_file(self) -> VerticaError | None:
        """Parse what is left of a file; the error where one ends the statement."""
        try:
            self._parse(final=True)
        except VerticaError as error:
            return error
        return None

    def end_file(self) -> int:
        """Records are counted anew for the next file; how many of this one were rejected."""
        self._seen = 0
        self._records.ended = False
        self._buffer.clear()
        count, self._rejected_before = len(self.rejected) - self._rejected_before, len(self.rejected)
        return count

    def finish(self) -> None:
        """The input is over: load what is left, check what is to be checked."""
        self._parse(final=True)
        self._flush()
        if self._table.key is not None and self._table.key.enabled:
            lock_key(self._session, self._table)
            with self._session.server.store.statement(self._work) as visible:
                check_key(self._session, self._table, visible)
        if self.accepted:
            self._work.inserted[self._table.number] = self._table

    def undo(self) -> None:
        """Take back what was loaded."""
        session = self._session
        if self._number in self._work.numbers:
            session.server.store.undo(self._work, self._table, self._number, session.connection)

    def _parse(self, *, final: bool) -> None:
        if self._records.ended:
            self._buffer.clear()
            return
        buffer = bytes(self._buffer)
        used = self._parse_fast(buffer)
        if used < len(buffer) and (used == 0 or final):
            used += self._parse_exactly(buffer[used:], final=final)
        del self._buffer[:used]

    def _parse_fast(self, buffer: bytes) -> int:
        if not self._fast.usable or self._written.trailing_nulls or self._seen < self._written.skip:
            return 0
        end = self._cutter.cut(buffer)
        rows = self._fast.read(buffer[:end]) if end else None
        if rows is None:
            return 0
        self._flush()
        self._seen += rows.num_rows
        self._insert(rows)
        return end

    def _parse_exactly(self, buffer: bytes, *, final: bool) -> int:
        for record in self._records.take(buffer, final=final):
            self._seen += 1
            if record is not None and self._seen > self._written.skip:
                self._take(record)
                if len(self._rows) >= _ROWS:
                    self._flush()
        return self._records.used

    def _take(self, record: Record) -> None:
        try:
            texts = fitted(record, len(self._fields), trailing_nulls=self._written.trailing_nulls)
            row = [
                convert(field, None if text is not None and text == field.null else text, self._zone)
                for field, text in zip(self._fields, texts, strict=True)
            ]
        except Reject as reject:
            self._reject(record, str(reject))
        else:
            self._rows.append(row)

    def _reject(self, record: Record, reason: str) -> None:
        if self._written.abort_on_error:
            raise copy_rejected(self._seen, reason)
        self.rejected.append((self._seen, record.raw, reason))
        if self._written.reject_max and len(self.rejected) >= self._written.reject_max:
            raise too_many_rejected(self._written.reject_max)

    def _flush(self) -> None:
        if not self._rows:
            return
        arrays = [
            pa.array([row[index] for row in self._rows], arrow_type(field.kind))
            for index, field in enumerate(self._fields)
        ]
        self._rows = []
        self._insert(pa.Table.from_arrays(arrays, names=[str(index) for index in range(len(arrays))]))

    def _insert(self, rows: Any) -> None:
        connection = self._session.connection
        connection.register(_STAGED, rows)
        try:
            self.accepted += self._session.server.store.execute(connection, self._command)
        finally:
            connection.unregister(_STAGED)

    def _insert_command(self) -> str:
        """Read fields go in as they are, checked already; computed ones through the checks of an INSERT."""
        into: list[str] = []
        values: list[str] = []
        with self._session.server.store.statement(self._work) as visible:
            rewriter = Rewriter(self._session, visible)
            for column in self._table.columns:
                value = self._value(column, rewriter)
                if value is not None:
                    into.append(quote(column.name))
                    values.append(value)
        fields = ", ".join(
            f"{quote(str(index))} AS {quote(field.column)}" for index, field in enumerate(self._fields)
        )
        return (
            f"INSERT INTO {self._table.engine_name} ({', '.join(into)}, __ins) SELECT {', '.join(values)}, "
            f"{self._number} FROM (SELECT {fields} FROM {_STAGED}) AS v"
        )

    def _value(self, column: Column, rewriter: Rewriter) -> str | None:
        for field, item in zip(self._fields, self._written.read_items(), strict=True):
            if item.filler is None and item.name.casefold() == column.name.casefold():
                cast = "" if field.kind.name not in ("uuid", "timestamptz") else f"::{field.kind.engine}"
                return f"v.{quote(field.column)}{cast}"
        for item in self._written.items:
            if item.expression is not None and item.name.casefold() == column.name.casefold():
                tree = parse(plain(split(f"SELECT {item.expression}")[0])).expressions[0]
                return coerce(column, rewriter.expression(tree))
        if column.default or column.identity:
            return default(column, self._table, rewriter)
        return None


class _Counted(_Load):
    """Stores the first row as often as there are lines, for benchmarks: parsing takes no time from the client.

    No text may have a line break.
    """

    _lines = 0
    _is_one = False

    def feed(self, data: bytes) -> None:
        self._lines += data.count(b"\n")
        if self._is_one:
            return
        self._buffer += data
        end = self._buffer.find(b"\n") + 1
        if end:
            self._is_one = True
            del self._buffer[end:]

    def finish(self) -> None:
        self._command += f" CROSS JOIN range({self._lines})"
        super().finish()
