"""Waits: work with a time limit or ahead, loops that poll, their announcement to the user, retries, and signals."""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import TYPE_CHECKING, TypeVar, cast

from msgspec import Struct

from dwhctl.core.errors import ExitCode, Interrupted

if TYPE_CHECKING:
    from datetime import timedelta
    from types import FrameType

    from tenacity import RetryCallState


Result = TypeVar("Result")


def within(seconds: float, work: Callable[[], Result], give_up: Callable[[], None] | None = None) -> Result:
    """Do the work; raise TimeoutError when it takes longer than `seconds`, which may be infinite.

    Call `give_up` then, which should make the work end.

    It runs in a thread of its own: name resolution has no timeout and ignores signals, and an answer that comes byte by
    byte exceeds no timeout of a single read. A signal that raises in the caller ends the wait as well.
    """
    from concurrent import futures  # not at start-up

    future: futures.Future[Result] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="bounded", daemon=True).start()
    in_time = False
    try:
        in_time = bool(futures.wait([future], seconds if math.isfinite(seconds) else None).done)
    finally:
        if not in_time and give_up is not None:
            give_up()  # which may end the work with an error of its own
    if not in_time:
        raise TimeoutError
    return future.result()


def interruptible(work: Callable[[], Result], give_up: Callable[[], None] | None = None) -> Result:
    """Do the work of a library in C, which goes on waiting after a signal: the main thread lets another one do it.

    In a process that handles none, such as a worker, it does it itself: a thread takes longer than a statement.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and any(callable(signal.getsignal(number)) for number in ENDING_SIGNALS):
        return within(math.inf, work, give_up)
    return work()


class Waiting(Struct, frozen=True):
    """The process waits for what `text` says; an empty text: this wait is over."""

    key: int
    text: str = ""


_Announce = Callable[[Waiting], None]
#: When the first line of a wait comes; the next ones come ever more rarely.
_FIRST_SECONDS = 1.0
_NEXT_SECONDS = 30.0
_RAREST_SECONDS = 600.0
_keys = count(1)
#: Waits happen deep inside engines and databases, in every thread: their listeners are global.
_listeners: list[_Announce] = []


@contextmanager
def announced(listen: _Announce) -> Iterator[None]:
    """Pass every wait that begins, goes on or ends in the block to `listen`, in the thread that waits."""
    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)


class Wait:
    """One wait in a loop that polls: announced after `first` seconds, then rarely. `most` is its time limit."""

    def __init__(self, most: float | None = None, first: float = _FIRST_SECONDS) -> None:
        self._most = most if most is not None and math.isfinite(most) else None
        self._key = next(_keys)
        self._began: float | None = None
        self._first = self._next = first
        self._is_announced = False

    def note(self, what: Callable[[], str]) -> None:
        """Announce that the wait goes on, for what `what` returns; it is called only when a line is due."""
        now = time.monotonic()
        self._began = self._began if self._began is not None else now
        passed = now - self._began
        if passed < self._next or not _listeners:
            return
        self._next = passed + min(max(_NEXT_SECONDS, passed), _RAREST_SECONDS)
        up_to = f", up to {_rounded(self._most)}" if self._most is not None else ""
        so_far = f" ({_rounded(passed)} so far)" if self._is_announced else ""
        self._is_announced = True
        _listeners[-1](Waiting(self._key, f"waiting for {what()}{up_to}{so_far}"))

    def end(self) -> None:
        """Announce that the wait is over. Idempotent; the next `note` begins a new one."""
        if self._is_announced and _listeners:
            _listeners[-1](Waiting(self._key))
        self._began, self._next, self._is_announced = None, self._first, False


@contextmanager
def waited(most: float | None = None) -> Iterator[Wait]:
    """Yield a wait that ends with the block."""
    wait = Wait(most)
    try:
        yield wait
    finally:
        wait.end()


def poll(
    attempt: Callable[[], Result], seconds: float, pause: float | Callable[[], float], what: Callable[[], str]
) -> Result:
    """Call `attempt` until it returns something true, for at most so many seconds; return its last result.

    The wait is announced: `what` says for what.
    """
    first = attempt()
    if first:
        return first  # as nearly always: hundreds of locks are taken at the start of a run
    from tenacity import Retrying, retry_if_not_result, stop_after_delay, stop_never

    results = chain((first,), iter(attempt, object()))

    def seconds_to_sleep(state: RetryCallState) -> float:
        left = seconds - (state.seconds_since_start or 0.0)
        return max(0.0, min(pause() if callable(pause) else pause, left))

    with waited(seconds) as wait:
        return Retrying(
            retry=retry_if_not_result(bool),
            stop=stop_after_delay(seconds) if math.isfinite(seconds) else stop_never,
            wait=seconds_to_sleep,
            before_sleep=lambda _: wait.note(what),
            retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
        )(lambda: next(results))


_LONGEST_RETRY_SECONDS = 600.0


def retry_seconds(delay: timedelta, failures: int) -> float:
    """Return the wait after so many failures: `delay` doubled each time, ten minutes at most, a fifth more or less."""
    base = delay.total_seconds() * 2.0 ** (failures - 1)
    return min(base, _LONGEST_RETRY_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret


def _rounded(seconds: float) -> str:
    whole = max(round(seconds), 1)
    for unit, size in (("h", 3600), ("m", 60)):
        if whole >= size and whole % size == 0:
            return f"{whole // size} {unit}"
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s"


_EXIT_CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.TERMINATED,  # its terminal was closed
}
#: The signals that end a command.
ENDING_SIGNALS = frozenset(_EXIT_CODES)


class Signals:
    """A signal calls `listener` when there is one, else it raises Interrupted in the main thread.

    `received` is the exit code of the last signal.
    """

    def __init__(self) -> None:
        self.listener: Callable[[ExitCode], None] | None = None
        self.received: ExitCode | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGHUP:
            # A shell passes it on and ends, after which the system sends it again.
            signal.signal(number, signal.SIG_IGN)
        code = _EXIT_CODES[signal.Signals(number)]
        self.received = code
        if self.listener is None:
            raise Interrupted(code)
        self.listener(code)


@contextmanager
def caught_signals(numbers: Collection[signal.Signals] = ENDING_SIGNALS) -> Iterator[Signals]:
    """Catch these signals in the block (in the main thread, where Python delivers them).

    SIGHUP stays ignored for a command that nohup started, and is ignored after the first one.
    """
    signals = Signals()
    before = {
        number: signal.signal(number, signals.handle)
        for number in numbers
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield signals
    except Exception as error:
        if signals.received is None or signals.listener is not None:
            raise
        # A library may raise an error of its own in the place of the one that it was interrupted by, as DuckDB does.
        raise Interrupted(signals.received) from error
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == signals.handle:
                signal.signal(number, handler)


@contextmanager
def delayed_signals() -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP at the end of the block: an import may ignore the exception of a handler.

    Only the main thread handles signals; elsewhere this does nothing.
    """
    came: list[int] = []
    handled = ENDING_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in handled
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


_END = object()
_Item = TypeVar("_Item")


def ahead(items: Iterator[_Item], most: int = 1, *, after: int = 0) -> Generator[_Item]:
    """Yield the items, while a thread makes up to `most` of the next ones.

    The first `after` items are made when they are asked for: where there are no more, no thread is started.
    Close it: then nothing of `items` runs any more. An error of `items` is raised in the place of its item.
    """
    for _ in range(after):
        if (item := next(items, _END)) is _END:
            return
        yield cast("_Item", item)
    from concurrent.futures import ThreadPoolExecutor  # not at start-up

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        following = deque(thread.submit(next, items, _END) for _ in range(most))
        try:
            while (item := following.popleft().result()) is not _END:
                following.append(thread.submit(next, items, _END))
                yield cast("_Item", item)
        finally:
            # The first may be running; its end is waited for.
            for future in list(following)[1:]:
                future.cancel()
