"""What is news to a channel, and what has recovered: pure rules over sets of facts.

A fact is one shard that fails for one reason on one day. A channel remembers the facts that it was told, or will be.
News is any other fact: a new load, shard, day, connection or error class, or one that the channel refused to take.
Fewer facts are no news, and a shard that comes and goes within what was told is none either. What is unchanged is told
again after a while. The facts of one reason and day have recovered when all their shards are well: that is told once,
and then they are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta


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
class Verdict:
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
) -> Verdict:
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
    return Verdict(
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
