"""The rows of a COPY from PostgreSQL on their way from the driver's thread, without a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from dwhctl.systems.postgres.source import _BLOCK_BYTES, _CopyOut


class Client:
    """A connection whose COPY is a function that is given `write`."""

    timeout = 2.0

    def __init__(self, send: Callable[[Callable[[Any], object]], object]) -> None:
        self._send = send

    def copy_out(self, _sql: str, file: Any) -> None:
        self._send(file.write)

    def sever(self) -> None: ...


def copy_of(send: Callable[[Callable[[Any], object]], object]) -> _CopyOut:
    client: Any = Client(send)
    return _CopyOut(client, "COPY")


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
