"""What is news to a channel, and what has recovered: pure rules over sets of facts.

A fact is one shard that fails for one reason on one day. A channel remembers the facts that it was told, or will be.
News is any other fact: a new load, shard, day, connection or error class, or one that the channel refused to take.
Fewer facts are no news, and a shard that comes and goes within what was told is none either. What is unchanged is told
again after a while. The facts of one reason and day have recovered when all their shards are well: that is told once,
and then they are forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dwhctl.core.files import append, read_text, write_whole


@dataclass(frozen=True, slots=True)
class Fact:
    """`work` is the load or report, or a command that was stopped; a report and a command have no shard.

    `day` is the date of the slice or report; a command and a missed deadline have none.
    """

    work: str
    connection: str
    error_class: str
    shard: str = ""
    day: date | None = None

    @property
    def task(self) -> tuple[str, str]:
        """What is well or not."""
        return self.work, self.shard

    @property
    def reason(self) -> tuple[str, str, str, date | None]:
        """What parts one group of shards from another."""
        return self.work, self.connection, self.error_class, self.day

    @property
    def undated(self) -> Fact:
        """Return the same on no day."""
        return replace(self, day=None)


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel was told of a fact, and when. `well`: its shard is well by now, and others of its reason not.

    `newest`: no later day of the task is well, so a later day that succeeds shows that the task is well; else only the
    same day does.

    `heard`: the channel took a message with it. `waits`: such a message waits to be sent. Neither holds when the
    channel refused the message. `alert_id` is the outbox's row, None without an outbox.
    """

    at: datetime
    newest: bool = True
    well: bool = False
    alert_id: int | None = None
    heard: bool = True
    waits: bool = True

    @property
    def counts(self) -> bool:
        """Whether the channel was told, or will be."""
        return self.heard or self.waits


Memory = Mapping[Fact, Told]
#: What fails in this run, and whether no later day of its task is well (see Told).
Failing = Mapping[Fact, bool]
#: Days on which a task succeeded in this run; None stands for work without days.
GoodDays = Mapping[tuple[str, str], frozenset[date | None]]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What a run means for a channel: facts that are news, told and due again, recovered; and what stays in memory.

    `heard` are those of the recovered that the channel was told, or will be. `memory` is what the channel remembers if
    nothing is told now, with how the facts stand today.
    """

    news: frozenset[Fact]
    due: frozenset[Fact]
    recovered: frozenset[Fact]
    heard: frozenset[Fact]
    memory: Memory


def judge(
    memory: Memory,
    failing: Failing,
    good: GoodDays,
    *,
    now: datetime,
    repeat_after: timedelta,
) -> StateChange:
    """Compare what a channel was told with what came of a run."""
    bad: dict[tuple[str, str], set[date | None]] = {}
    for fact in failing:
        bad.setdefault(fact.task, set()).add(fact.day)
    after = {
        fact: replace(told, newest=failing[fact], well=False)
        if fact in failing
        else _updated(fact, told, bad.get(fact.task, set()), good.get(fact.task, frozenset()))
        for fact, told in memory.items()
    }
    over = _recovered_reasons(after)
    # A shard that is told to be well is well for every reason that it once failed for.
    over_tasks = {fact.task for fact in over}
    recovered = frozenset(fact for fact, told in after.items() if told.well and fact.task in over_tasks)
    return StateChange(
        news=frozenset(fact for fact in failing if fact not in after or not after[fact].counts),
        due=frozenset(fact for fact in failing if fact in after and after[fact].at <= now - repeat_after),
        recovered=recovered,
        heard=frozenset(fact for fact in recovered if memory[fact].counts),
        memory={fact: told for fact, told in after.items() if fact not in recovered},
    )


def remember(memory: Memory, failing: Failing, *, now: datetime, alert_id: int | None) -> dict[Fact, Told]:
    """Give the memory after all that fails was told."""
    told = {
        fact: Told(
            now,
            newest=newest,
            alert_id=alert_id,
            heard=alert_id is None or (fact in memory and memory[fact].heard),
        )
        for fact, newest in failing.items()
    }
    return {**memory, **told}


def without_unknown(memory: Memory, is_known: Callable[[Fact], bool], oldest: datetime) -> dict[Fact, Told]:
    """Drop what can never recover: its shard or load is gone, or it was not told again for a long time."""
    return {fact: told for fact, told in memory.items() if is_known(fact) and told.at >= oldest}


def _updated(fact: Fact, told: Told, bad: Collection[date | None], good: Collection[date | None]) -> Told:
    """Give what is known of a fact that this run did not find, from the days on which its task failed and succeeded."""
    if fact.day in bad or None in bad:
        return replace(told, well=False)
    if any(None in (day, fact.day) or day == fact.day for day in good):
        return replace(told, well=True)
    # A task that fails on another day shows nothing of this one.
    return replace(told, well=True) if told.newest and not bad and _has_later(fact, good) else told


def _has_later(fact: Fact, days: Iterable[date | None]) -> bool:
    return any(day is not None and fact.day is not None and day > fact.day for day in days)


def _recovered_reasons(memory: Memory) -> set[Fact]:
    by_reason: dict[tuple[str, str, str, date | None], list[Fact]] = {}
    for fact in memory:
        by_reason.setdefault(fact.reason, []).append(fact)
    return {fact for facts in by_reason.values() if all(memory[one].well for one in facts) for fact in facts}


class HeldInARow:
    """How often in a row a command has found its lock held."""

    def __init__(self, state_dir: Path, command: str) -> None:
        self._file = state_dir / "alerts" / f"held-{_name(command)}"

    def add(self) -> int:
        """Count one more, and give the count."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # A byte for each: to append is one step, so that nothing is read, added and written back.
        return append(self._file, b".")

    def clear(self) -> None:
        """The command got its locks."""
        with suppress(OSError):
            self._file.unlink()


class ToldDirectly:
    """What channels were told without the sessions database; it takes this over when it is back."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "alerts"

    def of(self, channel: str, command: str) -> dict[Fact, Told]:
        """Give what a channel was told at the end of the command."""
        return {fact: told for name, fact, told in _read(self._path(command)) if name == channel}

    def remember(self, channel: str, command: str, memory: Memory) -> None:
        """Write what the channel was told, in place of what it was told before."""
        path = self._path(command)
        others = [row for row in _read(path) if row[0] != channel]
        rows = [*others, *((channel, fact, told) for fact, told in memory.items())]
        if not rows:
            path.unlink(missing_ok=True)
            return
        text = json.dumps([_row(*row) for row in rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)

    def all(self) -> dict[Path, list[tuple[str, Fact, Told]]]:
        """Give everything, by the file in which it stands."""
        return {path: _read(path) for path in sorted(self._folder.glob("told-*.json"))}

    def _path(self, command: str) -> Path:
        return self._folder / f"told-{_name(command)}.json"


class Refusals:
    """When a channel last refused a message that was sent without the sessions database, and what it answered."""

    def __init__(self, state_dir: Path, channel: str) -> None:
        self._file = state_dir / "alerts" / f"refused-{_name(channel)}.json"

    def since(self, earliest: datetime) -> str | None:
        """Return the answer of a refusal after that moment; None when there was none."""
        try:
            content = json.loads(read_text(self._file, follow=False))
            at = datetime.fromisoformat(content["at"]).astimezone(UTC)
            return str(content["answer"]) if at > earliest else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def keep(self, answer: str | None, now: datetime) -> None:
        """Write a refusal down; None clears it. A state folder that cannot be written keeps nothing."""
        with suppress(OSError):
            if answer is None:
                self._file.unlink(missing_ok=True)
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"at": now.isoformat(), "answer": answer}))


def _name(command: str) -> str:
    return hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _row(channel: str, fact: Fact, told: Told) -> dict[str, Any]:
    when = {"at": told.at.isoformat(), "day": fact.day and fact.day.isoformat(), "newest": told.newest}
    return {"channel": channel, **asdict(fact), **when}


def _read(path: Path) -> list[tuple[str, Fact, Told]]:
    """Read a file; one that is gone, or that something else has spoilt, holds nothing."""
    try:
        return [_told(row) for row in json.loads(read_text(path, follow=False))]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []


def _told(row: Mapping[str, Any]) -> tuple[str, Fact, Told]:
    texts = [row[name] for name in ("channel", "work", "connection", "error_class", "shard")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a fact is made of texts")
    day = date.fromisoformat(row["day"]) if row["day"] else None
    at = datetime.fromisoformat(row["at"]).astimezone(UTC)
    return texts[0], Fact(texts[1], texts[2], texts[3], texts[4], day), Told(at, newest=bool(row["newest"]))
