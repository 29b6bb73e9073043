"""What a channel knows of the failures, and what of a run is new to it: rules over sets, and files without a database.

The alert state of a channel maps each failure that it was notified of to how that was. New is any other failure: a new
load, shard, day, connection or error class, or one in a message that the channel refused. Fewer failures are not new,
nor is a shard that fails again among those notified. Unchanged failures are due again after a while. Failures of one
reason and day have recovered when all their shards have: the channel is notified once, then they are forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from dwhctl.core.files import append, read_text, write_whole


@dataclass(frozen=True, slots=True)
class FailureKey:
    """One shard that fails for one reason on one day.

    `work` is the load or report, or a command that was stopped; a report and a command have no shard. `day` is the date
    of the slice or report; a command and a missed deadline have none.
    """

    work: str
    connection: str
    error_class: str
    shard: str = ""
    day: date | None = None

    @property
    def task(self) -> tuple[str, str]:
        """What fails or succeeds."""
        return self.work, self.shard

    @property
    def reason(self) -> tuple[str, str, str, date | None]:
        """What a group of shards has in common."""
        return self.work, self.connection, self.error_class, self.day

    @property
    def undated(self) -> FailureKey:
        """The same on no day."""
        return replace(self, day=None)


@dataclass(frozen=True, slots=True)
class Notified:
    """When a channel was notified of a failure, and how.

    `recovered`: the shard succeeded since, and others of its reason did not.
    `newest`: no later day of the task succeeded, so that a later success shows a recovery; else only the same day does.
    `delivered`: the channel took a message with it. `pending`: such a message waits to be sent. Neither holds when the
    channel refused the message. `alert_id` is the outbox's row, None without an outbox.
    """

    at: datetime
    newest: bool = True
    recovered: bool = False
    alert_id: int | None = None
    delivered: bool = True
    pending: bool = True

    @property
    def counts(self) -> bool:
        """Whether the channel was notified, or will be."""
        return self.delivered or self.pending


AlertState = Mapping[FailureKey, Notified]
#: What fails in this run, and whether no later day of its task succeeded (see Notified).
Failing = Mapping[FailureKey, bool]
#: Days on which a task succeeded in this run; None is that of work without days.
GoodDays = Mapping[tuple[str, str], frozenset[date | None]]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What a run means for a channel: failures that are new, due again, recovered, and the state afterwards.

    `announced` are those of the recovered that the channel was notified of, or will be. `state` is without any
    notification of this run.
    """

    new: frozenset[FailureKey]
    due: frozenset[FailureKey]
    recovered: frozenset[FailureKey]
    announced: frozenset[FailureKey]
    state: AlertState


def deduplicate(
    state: AlertState, failing: Failing, good: GoodDays, *, now: datetime, repeat_after: timedelta
) -> StateChange:
    """Compare what a channel was notified of with the result of a run."""
    bad: dict[tuple[str, str], set[date | None]] = {}
    for key in failing:
        bad.setdefault(key.task, set()).add(key.day)
    after = {
        key: replace(
            notified,
            newest=failing.get(key, notified.newest),
            recovered=key not in failing
            and _has_recovered(key, notified, bad.get(key.task, ()), good.get(key.task, ())),
        )
        for key, notified in state.items()
    }
    still_failing = {key.reason for key, notified in after.items() if not notified.recovered}
    # A shard that is announced as recovered is so for every reason that it once failed for.
    over = {key.task for key in after if key.reason not in still_failing}
    recovered = frozenset(key for key, notified in after.items() if notified.recovered and key.task in over)
    return StateChange(
        new=frozenset(key for key in failing if key not in after or not after[key].counts),
        due=frozenset(key for key in failing if key in after and after[key].at <= now - repeat_after),
        recovered=recovered,
        announced=frozenset(key for key in recovered if state[key].counts),
        state={key: notified for key, notified in after.items() if key not in recovered},
    )


def _has_recovered(
    key: FailureKey, notified: Notified, bad: Collection[date | None], good: Collection[date | None]
) -> bool:
    """Return whether a failure is over that this run did not find; its task failed and succeeded on these days."""
    if key.day in bad or None in bad:
        return False
    if key.day in good or None in good or (good and key.day is None):
        return True
    # A task that fails on another day shows nothing of this one.
    is_later = any(day is not None and key.day is not None and day > key.day for day in good)
    return notified.recovered or (notified.newest and not bad and is_later)


def with_notified(
    state: AlertState, failing: Failing, *, now: datetime, alert_id: int | None
) -> dict[FailureKey, Notified]:
    """Return the state after a message with all that fails."""
    notified = {
        key: Notified(
            now,
            newest=newest,
            alert_id=alert_id,
            delivered=alert_id is None or (key in state and state[key].delivered),
        )
        for key, newest in failing.items()
    }
    return {**state, **notified}


def without_unknown(
    state: AlertState, is_known: Callable[[FailureKey], bool], oldest: datetime
) -> dict[FailureKey, Notified]:
    """Drop what can never recover: its shard or load is gone, or its last message is old."""
    return {key: notified for key, notified in state.items() if is_known(key) and notified.at >= oldest}


class HeldInARow:
    """How often in a row a command has found its lock held."""

    def __init__(self, state_dir: Path, command: str) -> None:
        self._file = state_dir / "alerts" / f"held-{_hash(command)}"

    def add(self) -> int:
        """Count one more, and return the count."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # A byte for each: to append is one step, so that nothing is read, added and written back.
        return append(self._file, b".")

    def clear(self) -> None:
        """Start again from 0, for the command got its locks."""
        with suppress(OSError):
            self._file.unlink()


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


class LocalState:
    """Alert states and refusals in files, while there is no sessions database; it takes the states over later."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "alerts"

    def read(self, channel: str, command: str) -> dict[FailureKey, Notified]:
        """Return what a channel was notified of at the end of the command."""
        return {
            key: notified for name, key, notified in _rows(self._path("told", command)) if name == channel
        }

    def write(self, channel: str, command: str, state: AlertState) -> None:
        """Write the state of the channel in place of the last one. Raise OSError."""
        path = self._path("told", command)
        others = (row for row in _rows(path) if row[0] != channel)
        rows = (*others, *((channel, *item) for item in state.items()))
        content = [
            {"channel": name, **asdict(key), "at": notified.at, "newest": notified.newest}
            for name, key, notified in rows
        ]
        self._write(path, content)

    def all(self) -> dict[Path, list[tuple[str, FailureKey, Notified]]]:
        return {path: _rows(path) for path in sorted(self._folder.glob("told-*.json"))}

    def refusal(self, channel: str, earliest: datetime) -> str | None:
        """Return the answer of the channel's last refusal after that moment; None when there was none."""
        try:
            content = json.loads(read_text(self._path("refused", channel), follow=False))
            at = datetime.fromisoformat(content["at"]).astimezone(UTC)
            return str(content["answer"]) if at > earliest else None
        except _UNREADABLE:
            return None

    def write_refusal(self, channel: str, answer: str | None, now: datetime) -> None:
        """Write a refusal; None clears it. A state folder that cannot be written keeps nothing."""
        with suppress(OSError):
            self._write(
                self._path("refused", channel), {"at": now, "answer": answer} if answer is not None else None
            )

    def _write(self, path: Path, content: object) -> None:
        if not content:
            path.unlink(missing_ok=True)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, default=lambda value: value.isoformat()))

    def _path(self, kind: Literal["told", "refused"], name: str) -> Path:
        return self._folder / f"{kind}-{_hash(name)}.json"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _rows(path: Path) -> list[tuple[str, FailureKey, Notified]]:
    try:
        return [_parsed(row) for row in json.loads(read_text(path, follow=False))]
    except _UNREADABLE:
        return []


def _parsed(row: Mapping[str, Any]) -> tuple[str, FailureKey, Notified]:
    channel, work, connection, error_class, shard = texts = [
        row[name] for name in ("channel", "work", "connection", "error_class", "shard")
    ]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("the parts of a failure are texts")
    day = date.fromisoformat(row["day"]) if row["day"] else None
    at = datetime.fromisoformat(row["at"]).astimezone(UTC)
    key = FailureKey(work, connection, error_class, shard, day)
    return channel, key, Notified(at, newest=bool(row["newest"]))
