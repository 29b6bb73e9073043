"""Ctrl-C and SIGTERM: stop within seconds, in order."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dwhctl.errors import ExitCode, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Signals:
    """What a signal does now: call `listener` when there is one, else raise Interrupted in the main thread.

    `received` is the exit code of the last signal.
    """

    def __init__(self) -> None:
        self.listener: Callable[[ExitCode], None] | None = None
        self.received: ExitCode | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        code = _EXIT_CODES[signal.Signals(number)]
        self.received = code
        if self.listener is None:
            raise Interrupted(code)
        self.listener(code)


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Catch SIGINT and SIGTERM in the block (in the main thread, where Python delivers them)."""
    signals = Signals()
    before = {number: signal.signal(number, signals.handle) for number in _EXIT_CODES}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
