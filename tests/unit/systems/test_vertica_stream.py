"""The stream that COPY reads: when it ends, and what it tells whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.systems.base.staging import BatchStream
from dwhctl.systems.vertica.client import VerticaClient
from dwhctl.systems.vertica.staging import CopyEncoder
from dwhctl.systems.vertica.system import VerticaConnection

COLUMNS = [Column("id", Kind.INTEGER, pa.int64(), "int")]


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    for number in range(rows):
        yield pa.record_batch({"id": [number]})


def test_it_gives_the_rows_and_counts_them() -> None:
    stream = BatchStream(batches(3), CopyEncoder(COLUMNS, "t"), lambda: False)
    assert b"".join(iter(lambda: stream.read(10), b"")) == b"0|'t'\n1|'t'\n2|'t'\n"
    assert (stream.rows, stream.bytes, stream.stopped, stream.failure) == (3, 18, False, None)


def test_it_ends_when_the_server_has_refused() -> None:
    refused = iter([False, True])
    stream = BatchStream(batches(100), CopyEncoder(COLUMNS, "t"), lambda: next(refused))
    assert stream.read(10) == b"0|'t'\n"
    assert stream.read(10) == b""
    assert stream.stopped


def test_the_driver_is_not_told_what_went_wrong() -> None:
    problem = ValueError("the secret value 17")

    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(1)
        raise problem

    stream = BatchStream(broken(), CopyEncoder(COLUMNS, "t"), lambda: False)
    assert stream.read(10)
    with pytest.raises(RuntimeError) as caught:
        stream.read(10)
    assert "secret" not in str(caught.value)
    assert stream.failure is problem
    assert problem.__cause__ is None


@pytest.mark.parametrize(("sent", "refused"), [(b"", False), (b"N\0\0\0\4", False), (b"E\0\0\0\4", True)])
def test_a_look_ahead_takes_nothing_away(sent: bytes, refused: bool) -> None:
    connection = VerticaConnection(name="dwh", host="dwh", user="dwh", database="dwh")
    session = VerticaClient(connection, "label", timedelta(seconds=5))
    assert not session.has_refused()
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.settimeout(5)
        session.socket = ours
        theirs.sendall(sent)
        for _ in range(2):
            assert session.has_refused() is refused
        if sent:
            assert ours.recv(10) == sent
