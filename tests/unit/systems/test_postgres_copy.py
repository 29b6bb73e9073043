"""The rows of a COPY from PostgreSQL on their way from the driver's thread, without a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from random import Random
from typing import Any

import psycopg2
import pytest

from dwhctl.systems.postgres import copy_out
from dwhctl.systems.postgres.copy_out import _BLOCK_BYTES, CopyOut
from dwhctl.systems.postgres.errors import ServerError


class Client:
    """A connection whose COPY is a function that is given `write`."""

    timeout = 2.0
    is_plain = False

    def __init__(self, send: Callable[[Callable[[Any], object]], object]) -> None:
        self._send = send

    def copy_out(self, _sql: str, file: Any) -> None:
        self._send(file.write)

    def sever(self) -> None: ...


def copy_of(send: Callable[[Callable[[Any], object]], object]) -> CopyOut:
    client: Any = Client(send)
    return CopyOut(client, "COPY")


@pytest.mark.parametrize("short", [0, 1, 31, 500])
def test_long_rows_are_handed_over_one_by_one(short: int) -> None:
    """32 rows of 70 MB were one block of more bytes than Arrow parses; and several blocks are held at a time."""
    rows = [b"x\n"] * short + [b"y" * 2**20 + b"\n"] * 40 + [b"z\n"]

    def send(write: Callable[[Any], object]) -> None:
        for row in rows:
            write(row)

    with closing(copy_of(send)) as copy:
        blocks = list(copy.blocks())
        copy.check()
    assert b"".join(blocks) == b"".join(rows)
    assert max(map(len, blocks)) < _BLOCK_BYTES + 2**21


def test_the_rows_before_an_error_are_handed_over() -> None:
    def send(write: Callable[[Any], object]) -> None:
        write(b"1\n")
        raise ValueError("lost")

    with closing(copy_of(send)) as copy:
        assert list(copy.blocks()) == [b"1\n"]
        with pytest.raises(ValueError, match="lost"):
            copy.check()


def test_an_error_while_rows_are_taken_is_raised_and_not_waited_for() -> None:
    """As when the memory ends: the reader waited until its time was over, or for ever."""

    def send(write: Callable[[Any], object]) -> None:
        for _ in range(100):
            write("a text, which is not joined with octets")

    with closing(copy_of(send)) as copy:
        assert list(copy.blocks()) == []
        with pytest.raises(TypeError):
            copy.check()


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


BEGIN = message(b"H", b"\0\0\1\0\0")
READY = message(b"Z", b"I")
TERMINATED = message(b"E", b"SFATAL\0C57P01\0Mterminating connection\0\0")


def end(rows: int) -> bytes:
    return message(b"c") + message(b"C", b"COPY %d\0" % rows) + READY


class PlainClient:
    """A connection without TLS; on the other end of its socket is a server that sends `pieces`, and then ends."""

    timeout = 2.0
    is_plain = True

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._own, server = socket.socketpair()
        # As libpq does.
        self._own.setblocking(False)
        self.sent = b""
        threading.Thread(target=self._serve, args=(server, pieces), daemon=True).start()

    def _serve(self, server: socket.socket, pieces: Iterable[bytes]) -> None:
        with server:
            self.sent = server.recv(100)
            try:
                for piece in pieces:
                    server.sendall(piece)
            except OSError:
                pass

    def copy_out_plain(self, _sql: str, read: Callable[[socket.socket], None]) -> None:
        read(self._own)

    def sever(self) -> None:
        self._own.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._own.close()


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def framed(rows: Sequence[bytes]) -> list[bytes]:
    return [b"0000," + row for row in rows]


@contextmanager
def plain(*pieces: bytes) -> Iterator[tuple[CopyOut, PlainClient]]:
    client = PlainClient(pieces)
    with closing(client), closing(CopyOut(client, "COPY")) as copy:  # type: ignore[arg-type]
        yield copy, client


def taken(copy: CopyOut) -> bytes:
    return b"".join(bytes(block) for block in copy.blocks())


#: Texts that look like a row's end and the next one's header; lengths whose octets do.
ODD_ROWS = [
    b"\n",
    b"1\n",
    b'"a\nd"\n',
    b'"\nd\x01\x02\x03\x04d\n"\n',
    b'"\nZ"\n',
    *(b"x" * (length - 5) + b"\n" for length in (0x0A, 0x0D, 0x22, 0x2C, 0x64, 0x0A0A, 0x0A64)),
    b"y" * (0x0A6400 - 5) + b"\n",
    b"y" * (0x0A640A - 5) + b"\n",
]


@pytest.mark.parametrize("size", [1, 3, 4096, 2**30])
def test_a_socket_is_read_to_the_end_of_the_answer(size: int) -> None:
    rows = ODD_ROWS[: -2 if size < 100 else None] * 3
    stream = BEGIN + b"".join(message(b"d", row) for row in rows) + end(len(rows))
    with plain(*cut(stream, size)) as (copy, client):
        assert taken(copy) == b"".join(framed(rows))
        copy.check()
    assert client.sent == message(b"Q", b"COPY\0")


@pytest.mark.parametrize("seed", range(30))
def test_any_rows_in_any_pieces(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_out, "_BLOCK_BYTES", 500)
    random = Random(seed)
    rows = [
        bytes(random.choices(b'\n\rd"EZc,x\1', k=random.choice((0, 1, 9, 90, 480, 900)))) + b"\n"
        for _ in range(400)
    ]
    notice = message(b"N", b"SNOTICE\0Mhello\0\0")
    data = b"".join(message(b"d", row) + notice * (random.random() < 0.1) for row in rows)
    pieces = list(cut(BEGIN + data + end(len(rows)), random.choice((7, 100, 499, 505, 5000))))
    with plain(*pieces) as (copy, _):
        assert taken(copy) == b"".join(framed(rows))
        copy.check()


def test_a_row_of_sixteen_mebibytes() -> None:
    """The first octet of its length is not zero."""
    rows = [b"1\n", b"z" * 2**24 + b"\n", b"2\n"]
    with plain(BEGIN, *(message(b"d", row) for row in rows), end(3)) as (copy, _):
        assert taken(copy) == b"".join(framed(rows))
        copy.check()


def test_the_rows_before_the_servers_error_are_handed_over() -> None:
    error = message(b"E", b"SERROR\0C22012\0Mdivision by zero\0P8\0WSQL function\0\0")
    with plain(BEGIN, message(b"d", b"1\n"), error, message(b"Z", b"I")) as (copy, _):
        assert taken(copy) == b"0000,1\n"
        with pytest.raises(psycopg2.DatabaseError, match="division by zero") as caught:
            copy.check()
    assert (caught.value.pgcode, caught.value.diag.statement_position) == ("22012", "8")
    assert caught.value.diag.context == "SQL function"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([BEGIN, message(b"d", b"1\n")], "server closed the connection unexpectedly"),
        ([BEGIN, message(b"d", b"1\n") + message(b"d", b"2\n")[:6]], "closed the connection"),
        ([BEGIN, message(b"d", b"1\n"), TERMINATED], "terminating connection"),
        ([BEGIN, message(b"d", b"1\n"), message(b"T", b"\0\0")], "type 84 came"),
        ([BEGIN, message(b"d", b"1\n"), b"d\0\0\0\0d\0\0\0\0"], "a message of 0 octets"),
        ([BEGIN, message(b"d", b"1\n"), READY], "without saying that it is complete"),
        ([BEGIN, message(b"d", b"1\n"), end(2)], "counts 2 rows, and 1 came"),
        ([BEGIN, message(b"d", b"1\n"), b"d\xff\xff\xff\xff"], "a message of 4294967295 octets"),
    ],
)
def test_an_answer_that_ends_early_is_an_error(pieces: list[bytes], text: str) -> None:
    with plain(*pieces) as (copy, _):
        assert taken(copy) == b"0000,1\n"
        with pytest.raises(psycopg2.DatabaseError, match=text):
            copy.check()


def test_a_block_stays_as_it_is_until_the_next_one_is_asked_for() -> None:
    """The thread fills other buffers meanwhile."""
    rows = [b"%01000d\n" % number for number in range(30_000)]
    with plain(BEGIN, b"".join(message(b"d", row) for row in rows), end(30_000)) as (copy, _):
        blocks = copy.blocks()
        first = next(blocks)
        copied = bytes(first)
        threading.Event().wait(0.3)
        assert bytes(first) == copied
        assert copied + b"".join(map(bytes, blocks)) == b"".join(framed(rows))


#: What a server may send of its own accord when it is idle: a changed setting, and that it is shut down.
CHANGED = message(b"S", b"in_hot_standby\0off\0")


@pytest.mark.parametrize("later", [CHANGED, TERMINATED, message(b"A", bytes(4) + b"channel\0\0")])
@pytest.mark.parametrize("size", [1, 40, 2**30])
def test_messages_right_after_the_answer_are_read_to_their_end(later: bytes, size: int) -> None:
    """The rest was waited for until the time was over; half of a message was left for libpq."""
    released = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield from cut(BEGIN + message(b"d", b"1\n") + end(1)[:-6], size)
        yield READY + later[:7]
        yield from cut(later[7:], size)
        released.wait(5)

    client = PlainClient(pieces())
    with closing(client), closing(CopyOut(client, "COPY")) as copy:  # type: ignore[arg-type]
        assert taken(copy) == b"0000,1\n"
        copy.check()
        with pytest.raises(BlockingIOError):
            client._own.recv(1)
        released.set()


@pytest.mark.parametrize("status", [b"I", b"T", b"E"])
def test_the_answer_ends_in_each_state_of_the_session(status: bytes) -> None:
    """Within a transaction its end was waited for until the time was over."""
    released = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield BEGIN + message(b"d", b"1\n") + end(1)[:-1] + status
        released.wait(5)

    client = PlainClient(pieces())
    with closing(client), closing(CopyOut(client, "COPY")) as copy:  # type: ignore[arg-type]
        assert taken(copy) == b"0000,1\n"
        copy.check()
        released.set()


def test_an_answer_that_is_cut_anywhere_is_an_error() -> None:
    """At each octet the connection ends, or is reset: no part of the rows passes for all of them."""
    whole = BEGIN + b"".join(message(b"d", row) for row in (b"1\n", b'"a\nd"\n', b"3\n")) + end(3)
    for length in range(len(whole)):
        with plain(whole[:length]) as (copy, _):
            assert b'0000,1\n0000,"a\nd"\n0000,3\n'.startswith(taken(copy))
            with pytest.raises(psycopg2.OperationalError):
                copy.check()


def test_the_servers_reason_is_read_before_a_reset_connection_is_given_up() -> None:
    """Such as the end of an idle session, which the server reports before the statement arrives."""
    own, server = socket.socketpair()
    own.setblocking(False)
    server.sendall(TERMINATED)
    server.close()
    client = PlainClient([])
    client._own.close()
    client._own = own
    with closing(client), closing(CopyOut(client, "COPY")) as copy:  # type: ignore[arg-type]
        assert taken(copy) == b""
        with pytest.raises(psycopg2.DatabaseError, match="terminating connection"):
            copy.check()


@pytest.mark.parametrize(
    ("fields", "is_fatal"),
    [
        (b"SFATAL\0VFATAL\0C40001\0", True),
        (b"S\xd0\xa4\0VPANIC\0C25P04\0", True),
        (b"SFATAL\0C57014\0", True),
        (b"SERROR\0VERROR\0C57014\0", False),
    ],
)
def test_an_error_that_ends_the_session_is_recognized(fields: bytes, is_fatal: bool) -> None:
    """A conflict with recovery has the code of a serialization failure; the connection was kept open."""
    assert ServerError(fields + b"Mwords\0\0").is_fatal is is_fatal
