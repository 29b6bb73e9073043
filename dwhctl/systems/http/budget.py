"""The rate limit of a connection, and how long its server wants no request, over all processes of the state folder.

A file has the calls of the last window. A call is counted from before it is sent until a window after its answer began:
whenever the server counts it, there are never more than the limit in any window. A call whose process died without an
answer counts until a window after another process saw that.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from dwhctl.core.errors import SourceBusyError, SourceError
from dwhctl.core.files import inside, open_for_update
from dwhctl.core.waiting import waited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from threading import Event

    from dwhctl.systems.http.keys import RateLimit

#: The folder of the state folder that holds the files.
RATES = "rates"
_POLL_SECONDS = 0.5
#: A server that wants no request for longer is left to the retries of the load, so that no worker is held.
MOST_HELD_SECONDS = 120.0
#: A server that says it wants to be left alone for longer is asked again after a day.
MOST_HOLD_SECONDS = 86_400.0


class _State(TypedDict):
    #: When the calls' answers began, by the clock of the machine.
    done: list[float]
    #: Calls that wait for their answer: when they began and in which process.
    open: list[tuple[float, int]]
    #: Nothing is sent before this time.
    hold_until: float


class Budget:
    """The calls of one connection. `give_up` ends every wait; so does `most_wait`, in seconds."""

    def __init__(
        self,
        name: str,
        limit: RateLimit | None,
        state_dir: Path | None,
        answer_seconds: float,
        give_up: Event,
        most_wait: float = math.inf,
    ) -> None:
        self._name = name
        self._limit = limit
        self._longest = answer_seconds
        self._give_up = give_up
        self._most_wait = most_wait
        self._file = _open(state_dir, name)

    def begin(self) -> tuple[float, int]:
        """Wait until a call may be sent, and count it. Raise SourceBusyError when that takes too long."""
        began = time.monotonic()
        with waited(self._most_wait) as waiting:
            while True:
                with self._locked() as state:
                    now = time.time()
                    pause, held = self._pause(state, now)
                    if pause <= 0:
                        call = (now, os.getpid())
                        if self._limit is not None:
                            state["open"].append(call)
                        return call
                self._refuse_long_wait(time.monotonic() - began, pause, held=held)
                what = "the server's Retry-After" if held else "rate_limit"
                waiting.note(lambda what=what: f"connection {self._name}: {what}")  # type: ignore[misc]
                if self._give_up.wait(min(pause, _POLL_SECONDS)):
                    raise SourceError("interrupted")

    def _refuse_long_wait(self, spent: float, pause: float, *, held: bool) -> None:
        where = f"connection {self._name}"
        if held and spent + pause > min(MOST_HELD_SECONDS, self._most_wait):
            raise SourceBusyError(f"{where}: the server wants no request for another {pause:.0f} s")
        if spent > self._most_wait:
            raise SourceBusyError(f"{where}: rate_limit let no request pass for {self._most_wait:.0f} s")

    def end(self, call: tuple[float, int]) -> None:
        """Count the call from now on, when its answer has begun or it is known to have failed."""
        if self._limit is None:
            return
        with self._locked() as state:
            if call in state["open"]:
                state["open"].remove(call)
            state["done"].append(time.time())

    def hold(self, seconds: float) -> None:
        """Let no process send anything over this connection for so long."""
        with self._locked() as state:
            until = time.time() + min(max(seconds, 0.0), MOST_HOLD_SECONDS)
            state["hold_until"] = max(state["hold_until"], until)

    def close(self) -> None:
        self._file.close()

    def _pause(self, state: _State, now: float) -> tuple[float, bool]:
        """Return how long to wait at least, and whether that is what the server wants."""
        state["hold_until"] = min(state["hold_until"], now + MOST_HOLD_SECONDS)
        if (held := state["hold_until"] - now) > 0:
            return held, True
        if self._limit is None:
            return 0.0, False
        calls, seconds = self._limit
        self._settle(state, now)
        state["done"] = sorted(each for each in state["done"] if each > now - seconds)
        over = len(state["done"]) + len(state["open"]) - calls
        if over < 0:
            return 0.0, False
        if over < len(state["done"]):
            return max(state["done"][over] + seconds - now, 0.001), False
        return _POLL_SECONDS / 10, False

    def _settle(self, state: _State, now: float) -> None:
        """Count calls whose process has died or that are too old, and leave out times of a clock that was put back."""
        waiting: list[tuple[float, int]] = []
        for began, pid in state["open"]:
            if _is_alive(pid) and now - self._longest - 60 < began <= now:
                waiting.append((began, pid))
            else:
                state["done"].append(now)
        state["open"] = waiting
        state["done"] = [min(ended, now) for ended in state["done"]]

    @contextmanager
    def _locked(self) -> Iterator[_State]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._file.seek(0)
            before = self._file.read()
            state = _read(before)
            yield state
            octets = json.dumps(state).encode()
            self._file.seek(0)
            # After a kill before the next line the text is followed by blanks, not by the end of the one before.
            self._file.write(octets.ljust(len(before)))
            self._file.truncate(len(octets))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _open(state_dir: Path | None, name: str) -> BinaryIO:
    if state_dir is None:
        return tempfile.TemporaryFile(buffering=0)
    try:
        (state_dir / RATES).mkdir(parents=True, exist_ok=True)
        return open_for_update(inside(state_dir / RATES, f"{name}.json"))
    except OSError as error:
        raise SourceError(
            f"connection {name}: {state_dir / RATES} cannot be written, and without it the rate limit does not hold:"
            f" {error.strerror}"
        ) from error


def _read(octets: bytes) -> _State:
    """Read the file; one that a kill or another version left unreadable begins anew, for a window."""
    try:
        found: dict[str, Any] = json.loads(octets)
        return {
            "done": [float(each) for each in found["done"]],
            "open": [(float(began), int(pid)) for began, pid in found["open"]],
            "hold_until": float(found["hold_until"]),
        }
    except (ValueError, KeyError, TypeError):
        return {"done": [], "open": [], "hold_until": 0.0}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
