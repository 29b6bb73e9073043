"""How a run shows what it does while it works, on stderr: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Self

from dwhctl.cli.output import about, counted, one_line, shown_seconds, tell
from dwhctl.cli.tally import Tally, running_shards, state_in_words
from dwhctl.runs.events import Event, Notice, RunStarted, SliceClosed
from dwhctl.runs.failing import reason_of
from dwhctl.sessions.values import State
from dwhctl.times import shown_time
from dwhctl.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwhctl.cli.options import Settings
    from dwhctl.runs.events import Listener

HEARTBEAT_SECONDS = 30.0
_NAMED_SHARDS = 3


def open_progress(settings: Settings) -> AbstractContextManager[Listener]:
    """Give the progress that fits where stderr goes."""
    if settings.quiet:
        return nullcontext(_ignore)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from dwhctl.cli.live import LiveProgress

        return LiveProgress(verbose=settings.verbose)
    return PlainProgress(verbose=settings.verbose)


def _ignore(_event: Event) -> None:
    pass


class PlainProgress:
    """Timestamped lines: the start, what failed or is tried again, a sign of life, the end."""

    def __init__(
        self, *, verbose: bool = False, write: Callable[[str], None] = tell, every: float = HEARTBEAT_SECONDS
    ) -> None:
        self._verbose = verbose
        self._write = write
        self._every = every
        self._tally = Tally()
        self._started = False
        self._shown: Counter[tuple[object, ...]] = Counter()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self._ended.set()
        self._heart.join()
        if kind is None and self._started:
            every = self._tally.all()
            self._line(f"{'finished' if every.done >= every.total else 'ended early'}: {self._state()}")

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        self._tally.take(event)
        if isinstance(event, RunStarted):
            self._started = bool(event.plan.slices)
            if self._started:
                self._line(_start_line(event))
        elif isinstance(event, Notice | Waiting) and event.text:
            self._line(one_line(event.text))
        elif isinstance(event, SliceClosed) and self._is_shown(event):
            self._line(closed_line(event))

    def _is_shown(self, event: SliceClosed) -> bool:
        """Tell whether an end has a line: without --verbose the first failure of each reason."""
        if self._verbose or event.failure is None:
            return self._verbose
        key = (*reason_of(event.load, event.connection, event.failure), event.state, event.attempt)
        self._shown[key] += 1
        return self._shown[key] == 1

    def _more(self) -> str:
        """Say how many failures had no line of their own."""
        hidden = sum(count - 1 for key, count in list(self._shown.items()) if State.UP_FOR_RETRY not in key)
        return f" ({hidden:,} more like those above; -v shows each)" if hidden else ""

    def _beat(self) -> None:
        while not self._ended.wait(self._every):
            if self._started:
                self._line(f"working: {self._state(time_left(self._tally))}")

    def _state(self, left: str = "") -> str:
        every = self._tally.all()
        parts = [
            f"{every.done:,} of {counted(every.total, 'slice')}",
            f"{every.failed:,} failed{self._more()}",
        ]
        parts += [words] if (words := state_in_words(every)) else []
        parts.append(counted(every.rows, "row"))
        if (rate := self._tally.rate(every.rows)) is not None:
            parts.append(f"{rate:,} rows/s")
        names = running_shards(every, _NAMED_SHARDS)
        return f"{', '.join(parts)}, {shown_seconds(self._tally.seconds())}{left}" + (
            f": {names}" if names else ""
        )

    def _line(self, text: str) -> None:
        self._write(f"{shown_time()} {text}")


def _start_line(event: RunStarted) -> str:
    slices = event.plan.slices
    days = sorted({one.slice.day for one in slices})
    loads = counted(len({one.load.name for one in slices}), "load")
    servers = counted(len({one.shard.connection for one in slices}), "server")
    span = "" if not days else f", {days[0]}" if len(days) == 1 else f", {days[0]} to {days[-1]}"
    return f"started: {counted(len(slices), 'slice')} of {loads} from {servers}{span}; run {event.run_id}"


def time_left(tally: Tally) -> str:
    """Say about how long the run still takes; nothing when that cannot be told yet."""
    seconds = tally.remaining()
    return "" if seconds is None else f", about {about(seconds)} left"


def closed_line(event: SliceClosed) -> str:
    """Say in one line how an attempt at a slice ended."""
    what = f"{event.load} {event.shard} {event.day} (from {event.connection})"
    took = shown_seconds(event.seconds)
    if event.failure is None:
        return f"{event.state.value}: {what}: {counted(event.rows, 'row')} in {took}"
    reason = one_line(f"{event.failure.error_class}: {event.failure.message}")
    # A slice that no worker has seen took no time.
    after = f" after {took}" if event.seconds else ""
    ended = f"attempt {event.attempt} failed{after}: {reason}"
    if event.state is State.UP_FOR_RETRY:
        again = f" at {shown_time(event.retry_at)}" if event.retry_at else ""
        return f"will retry{again}: {what}: {ended}"
    return f"{'in doubt' if event.state is State.RUNNING else 'failed'}: {what}: {ended}"
