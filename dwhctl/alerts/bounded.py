"""Work over the network with an end: no resolver, server or proxy holds a run longer than was agreed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a channel waits, in seconds: to connect, for each answer, for all of a message, when told to wait."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 30.0
    longest_wait: float = 60.0


class Departure:
    """Whether a message is on its way: settled once between the thread that sends it and the one that gives it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False

    def begin(self) -> None:
        """The message goes out now; TimeoutError when it was given up."""
        with self._lock:
            if self._given_up:
                raise TimeoutError
            self._begun = True

    def give_up(self) -> bool:
        """The message goes out no more; whether it had begun to."""
        with self._lock:
            self._given_up = True
            return self._begun


@dataclass(slots=True)
class _Outcome(Generic[Result]):
    result: Result | None = None
    error: Exception | None = None
    done: bool = False


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Do the work; raise TimeoutError when it takes longer, and leave it to itself.

    It runs in a thread of its own: name resolution knows no timeout, and an answer of single bytes meets every one.
    """
    outcome: _Outcome[Result] = _Outcome()

    def run() -> None:
        try:
            outcome.result = work()
        except Exception as error:
            outcome.error = error
        outcome.done = True

    thread = threading.Thread(target=run, name="alert", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome.done:
        raise TimeoutError
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[return-value]
