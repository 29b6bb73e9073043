"""Run a COPY ... TO STDOUT, and hand over its rows in blocks: after the first in a thread, which a queue holds back.

    server ──▶ socket ──▶ headers of messages become a field ──▶ blocks        no TLS: many rows at a time
    server ──▶ libpq, psycopg2: a call for each row ──────────▶ blocks        TLS

A row is a message of PostgreSQL's protocol. libpq hands it over alone, and psycopg2 calls a function with it: of short
rows this takes as long as to parse them. Where the socket carries the protocol as it is, the bytes are read from there.
Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import queue
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg2

from dwhctl.core.errors import SourceError
from dwhctl.systems.postgres.errors import ServerError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Iterator, Sequence

    from dwhctl.systems.postgres.copy_client import CopyClient

#: About how much is parsed at a time, and how many times as much is read ahead.
_BLOCK_BYTES, _BLOCKS = 4 * 2**20, 2
#: Rows that are put together before their size is looked at, and the size of one that ends them.
_ROWS_AT_ONCE = 32
_LONG_ROW = _BLOCK_BYTES // _ROWS_AT_ONCE
#: The server sends 8 KiB at a time. To be woken up for each costs both sides more than a pause, which a few rows do not
#: need.
_PAUSE_SECONDS, _FEW_BYTES = 0.0001, 2**16
#: How long the end of a COPY that was shut down is waited for.
_END_SECONDS, _POLL_SECONDS = 5.0, 0.02

Octets = np.ndarray[Any, np.dtype[np.uint8]]

#: A message begins with its type and its length, the type not counted, in four octets.
_HEADER = 5
_LEAST_LENGTH, _MOST_LENGTH = 4, 2**30
_DATA, _ERROR, _COMPLETE, _READY = ord("d"), ord("E"), ord("C"), ord("Z")
_READY_HEADER = b"Z\0\0\0\5"
#: A server may send a message of its own at once after the answer.
_LAST_OCTETS = 1024
#: CopyOutResponse, CopyDone, NoticeResponse, ParameterStatus, NotificationResponse.
_PASSED_OVER = frozenset(b"HcNSA")
#: Eight octets from a message's begin on, as a number: how many bits are not the header's, and how many the length.
_UNUSED_BITS, _LENGTH_BITS = np.uint64(24), np.uint64(32)
#: The header of a row, and of a row whose length's first octet is not zero.
_ROW, _LONG = np.uint64(_DATA << 32), np.uint64((_DATA << 32) + 2**24)
_SHORTEST = _ROW + np.uint64(_LEAST_LENGTH)
_FIRST = np.zeros(1, np.int64)
_LINE_END, _COMMA, _FIELD = ord("\n"), ord(","), int.from_bytes(b"0000")


class CopyOut:
    """A COPY ... TO STDOUT (FORMAT csv): it is begun, and a thread reads on when there is more than one block.

    `framed` says whether each row has one field more, before the others.
    """

    def __init__(self, client: CopyClient, sql: str) -> None:
        self._client = client
        self._sql = sql
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.framed = client.is_plain
        self._rows: _Rows | _SocketRows
        if not self.framed:
            self._rows = rows = _Rows()
            self._read_on(lambda: self._copy(rows))
            return
        self._rows = plain = _SocketRows()
        self._run(lambda: client.copy_out_plain(sql, lambda made: plain.begin(made, sql, client.timeout)))
        if not plain.is_ended and self._failure is None:
            self._read_on(lambda: client.copy_out_plain(sql, plain.go_on))

    def _read_on(self, work: Callable[[], None]) -> None:
        def run() -> None:
            self._run(work)
            self._rows.blocks.put(b"")

        self._thread = threading.Thread(target=run, name="copy", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error

    def _copy(self, rows: _Rows) -> None:
        try:
            self._client.copy_out(self._sql, rows)
        finally:
            # Those before an error too; after an error of their own they have ended.
            with suppress(StopIteration):
                rows.end()

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield whole rows, about a block at a time; those that came before an error too. Raise SourceError.

        A block is valid until the next one is asked for.
        """
        yield from self._rows.first
        while self._thread is not None and (block := self._block()):
            yield block

    def _block(self) -> bytes | memoryview:
        limit = self._client.timeout
        while True:
            before = self._rows.arrivals
            try:
                return self._rows.blocks.get(timeout=limit)
            except queue.Empty:
                if self._rows.arrivals == before:
                    self._client.sever()
                    raise _no_answer(limit) from None

    def check(self) -> None:
        """Raise the error that ended the COPY, if any."""
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the COPY: one that still runs ends with its connection. Idempotent."""
        if self._thread is None:
            return
        if self._rows.has_reader and self._thread.is_alive():
            self._client.sever()
        self._rows.has_reader = False
        until = time.monotonic() + _END_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            # The thread may wait for room.
            with suppress(queue.Empty):
                self._rows.blocks.get(timeout=_POLL_SECONDS)


class _Rows:
    """The file that a COPY ... TO STDOUT writes into: another thread takes its `blocks`, and it waits for that.

    psycopg2 calls `write` with each row, a whole one, millions of times: so it is a generator's own method, which costs
    half of what a buffered file's does.
    """

    def __init__(self) -> None:
        self.first: Sequence[bytes | memoryview] = ()
        self.blocks: queue.Queue[bytes | memoryview] = queue.Queue(_BLOCKS)
        self.has_reader = True
        #: It changes when rows come.
        self.arrivals = 0
        taken = self._taken()
        next(taken)
        self.write = taken.send

    def _taken(self) -> Generator[None, bytes]:
        while True:
            block: list[bytes] = []
            size = 0
            while size < _BLOCK_BYTES:
                rows: list[bytes] = []
                add = rows.append
                for _ in range(_ROWS_AT_ONCE):
                    add(row := (yield))
                    if len(row) > _LONG_ROW:
                        break
                if not self.has_reader:
                    raise BrokenPipeError
                self.arrivals += 1
                block.append(b"".join(rows))
                size += len(block[-1])
                if not block[-1]:
                    break
            if size:
                self.blocks.put(b"".join(block))

    def end(self) -> None:
        """Hand over the rows that are left."""
        # Empty rows: they fill up the rows that are taken together, and then end the block.
        for _ in range(2 * _ROWS_AT_ONCE):
            self.write(b"")


class _SocketRows:
    """Reads the answer to a COPY ... TO STDOUT from a socket, and hands over whole rows with their headers as a field.

    `first` are the blocks of the first buffer, `blocks` those of the others. Buffers take turns: when the oldest is
    filled anew, later blocks are in the queue and at the reader.
    """

    def __init__(self) -> None:
        self.first: list[bytes | memoryview] = []
        self.blocks: queue.Queue[bytes | memoryview] = queue.Queue(_BLOCKS)
        self.has_reader = True
        self.is_ended = False
        #: It changes when octets come.
        self.arrivals = 0
        self._hand_over: Callable[[bytes | memoryview], None] = self.first.append
        self._spare = deque(_buffer(_BLOCK_BYTES) for _ in range(_BLOCKS + 1))
        self._buffer = _buffer(_BLOCK_BYTES)
        self._filled = 0
        self._error: ServerError | None = None
        self._count = 0
        self._is_complete = self._is_ready = False

    def begin(self, made: socket.socket, sql: str, limit: float | None) -> None:
        """Send the statement and read the answer, to its end or until the first buffer is full.

        Raise psycopg2.Error: the server's, or that it is gone; SourceError when nothing came for `limit` seconds.
        The connection is idle: libpq has read all that came before, and nothing is left for it to read afterwards.
        """
        text = sql.encode() + b"\0"
        # A server that has closed the connection may have sent its reason before.
        with suppress(psycopg2.OperationalError):
            _send(made, b"Q" + (len(text) + 4).to_bytes(4, "big") + text, limit)
        while not self.is_ended and not self.first:
            self._receive(made, limit)

    def go_on(self, made: socket.socket) -> None:
        """Read the answer to its end; the reader limits the time. Raise psycopg2.Error."""
        self._hand_over = self.blocks.put
        while not self.is_ended:
            self._receive(made, None)

    def _receive(self, made: socket.socket, limit: float | None) -> None:
        pause = _PAUSE_SECONDS if self._filled > _FEW_BYTES else 0.0
        room = self._buffer[self._filled : -_HEADER].data
        try:
            received = _until_ready(made, select.POLLIN, made.recv_into, room, limit, pause)
        except psycopg2.OperationalError as error:
            self._take()
            raise self._error or error from None
        self.is_ended = self._has_ended(received)
        if self.is_ended and self._error is not None:
            raise self._error
        if self.is_ended and not self._is_complete:
            raise psycopg2.OperationalError("the server ended the COPY without saying that it is complete")

    def _has_ended(self, received: int) -> bool:
        if not self.has_reader:
            raise BrokenPipeError
        self.arrivals += 1
        self._filled += received
        if received and self._filled < len(self._buffer) - _HEADER:
            last = self._buffer[max(0, self._filled - _LAST_OCTETS) : self._filled]
            if _READY_HEADER not in last.tobytes() and not self._is_ready:
                return False
        ended = self._take() or (self._is_ready and not received)
        if not received and not ended:
            raise self._error or psycopg2.OperationalError("server closed the connection unexpectedly")
        return ended

    def _take(self) -> bool:
        """Take the messages that are whole. Return whether the answer has ended, and nothing is left after it."""
        start, handed = 0, False
        while not self._is_ready or start < self._filled:
            if (end := self._rows_end(start)) > start:
                self._hand_over(self._buffer[start:end].data)
                start, handed = end, True
            size = self._size(start)
            if start + size > self._filled:
                self._keep(start, size, handed)
                return False
            kind = int(self._buffer[start])
            if kind != _DATA:
                self._control(kind, self._buffer[start + _HEADER : start + size].tobytes())
                start += size
        return True

    def _size(self, start: int) -> int:
        """Return the octets of the message; as long as its header is not whole, those of the header."""
        if self._filled - start < _HEADER:
            return _HEADER
        length = int.from_bytes(self._buffer[start + 1 : start + _HEADER].tobytes(), "big")
        if not _LEAST_LENGTH <= length <= _MOST_LENGTH:
            raise psycopg2.OperationalError(f"the server sent a message of {length} octets")
        return length + 1

    def _rows_end(self, start: int) -> int:
        """Return the end of the whole rows from `start` on, and write a field over their headers.

        A message begins after the end of a line. So may a line within a text, but no text has an octet that is zero as
        a length has; and the lengths then say which of them are messages.
        """
        size = self._filled - start
        if size < _HEADER:
            return start
        data = self._buffer[start : self._filled]
        starts = np.flatnonzero(data[:-_HEADER] == _LINE_END)
        starts += 1
        starts = np.concatenate([_FIRST, starts])
        # The type and the length are five of eight octets; after the last message some are the buffer's.
        heads = np.ndarray(size - _HEADER + 1, ">u8", self._buffer, start, (1,))[starts].astype(np.uint64)
        heads >>= _UNUSED_BITS
        is_row = (heads >= _SHORTEST) & (heads < _LONG)
        is_row[0] = heads[0] >= _SHORTEST and heads[0] >> _LENGTH_BITS == _DATA
        if not is_row.all():
            starts, heads = starts[is_row], heads[is_row]
        ends = starts + (heads - _ROW).astype(np.int64) + 1
        is_next = np.concatenate([starts[:1] == 0, ends[:-1] == starts[1:]]) & (ends <= size)
        count = len(starts) if is_next.all() else int(is_next.argmin())
        if not count:
            return start
        self._count += count
        starts = starts[:count]
        np.ndarray(size - _HEADER + 1, "<u4", self._buffer, start, (1,))[starts] = _FIELD
        data[starts + _HEADER - 1] = _COMMA
        return start + int(ends[count - 1])

    def _keep(self, start: int, size: int, handed: bool) -> None:
        """Go on with the message that is not whole: in the next buffer, where rows of this one were handed over."""
        rest = self._buffer[start : self._filled]
        following = self._buffer
        if handed or size > len(following) - _HEADER:
            following = _buffer(size) if size > _BLOCK_BYTES else self._spare.popleft()
            if len(self._buffer) == _BLOCK_BYTES + _HEADER:
                (self._spare.append if handed else self._spare.appendleft)(self._buffer)
        following[: len(rest)] = rest
        self._buffer, self._filled = following, len(rest)

    def _control(self, kind: int, body: bytes) -> None:
        if kind == _READY:
            self._is_ready = True
        elif kind == _ERROR and not self._is_ready:
            self._error = ServerError(body)
        elif kind == _COMPLETE:
            self._is_complete = True
            rows = body.rstrip(b"\0").rpartition(b" ")[2]
            if rows.isdigit() and int(rows) != self._count:
                raise psycopg2.OperationalError(
                    f"the server counts {int(rows):,} rows, and {self._count:,} came"
                )
        elif kind != _ERROR and kind not in _PASSED_OVER:
            raise psycopg2.OperationalError(f"a message of type {kind} came from the server in place of rows")

    def end(self) -> None:
        """Do nothing: rows are handed over as they come."""


def _buffer(size: int) -> Octets:
    """Return a buffer for so many octets; those after them are read, and not used."""
    return np.empty(size + _HEADER, np.uint8)


def _send(made: socket.socket, data: bytes, limit: float | None) -> None:
    left = memoryview(data)
    while left:
        left = left[_until_ready(made, select.POLLOUT, made.send, left, limit) :]


def _until_ready(
    made: socket.socket,
    event: int,
    call: Callable[[Any], int],
    data: memoryview,
    limit: float | None,
    pause: float = 0.0,
) -> int:
    """Call until the socket, which libpq has set not to block, is ready; its shutdown ends the wait.

    With a `pause` there is more in it then. Raise SourceError when it is not ready within `limit` seconds.
    """
    while True:
        try:
            return call(data)
        except BlockingIOError:
            ready = select.poll()
            ready.register(made, event)
            if not ready.poll(None if limit is None else 1000 * limit):
                raise _no_answer(limit) from None
            if pause:
                time.sleep(pause)
        except OSError as error:
            raise psycopg2.OperationalError(f"the connection failed: {error.strerror or error}") from error


def _no_answer(limit: float | None) -> SourceError:
    return SourceError(f"no answer for {limit:g} s; the connection is closed")
