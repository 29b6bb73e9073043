"""Work that may hang, with an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class _Outcome(Generic[Result]):
    result: Result | None = None
    error: Exception | None = None
    done: bool = False


def within(seconds: float, work: Callable[[], Result], give_up: Callable[[], None] | None = None) -> Result:
    """Do the work; raise TimeoutError when it takes longer. Call `give_up` then, which should make the work end.

    It runs in a thread of its own: name resolution has no timeout and hears no signal, and an answer of single bytes
    keeps every timeout of a single read. A signal that raises in the caller ends the wait as well.
    """
    outcome: _Outcome[Result] = _Outcome()

    def run() -> None:
        try:
            outcome.result = work()
        except Exception as error:
            outcome.error = error
        outcome.done = True

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    in_time = False
    try:
        thread.join(seconds)
        in_time = outcome.done
    finally:
        if not in_time and give_up is not None:
            give_up()
    if not in_time:
        raise TimeoutError
    if outcome.error is not None:
        raise outcome.error
    return outcome.result  # type: ignore[return-value]
