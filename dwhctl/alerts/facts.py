"""What is news to a channel, and what has recovered: pure rules over sets of facts.

A fact is one shard that fails for one reason. A channel remembers the facts that it was told, or will be. News is any
other fact: a new load, shard, connection or error class, or one that the channel refused to take. Fewer facts are no
news, and a shard that comes and goes within what was told is none either. What is unchanged is told again after a
while. The facts of one reason have recovered when all their shards are well: that is told once, and then they are
forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """`work` is the load or report, or a command that was stopped; a report and a command have no shard."""

    work: str
    connection: str
    error_class: str
    shard: str = ""

    @property
    def task(self) -> tuple[str, str]:
        """What is well or not."""
        return self.work, self.shard

    @property
    def reason(self) -> tuple[str, str, str]:
        """What parts one group of shards from another."""
        return self.work, self.connection, self.error_class


@dataclass(frozen=True, slots=True)
class Failing:
    """How a fact stands after a run. `day` is the newest day that fails.

    `newest`: that day is the newest one of its task at all, so a later day that succeeds shows that the task is well;
    else only the same day does.
    """

    day: date | None = None
    newest: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel was told of a fact, and when. `well`: its shard is well by now, and others of its reason not.

    `heard`: the channel took a message with it. `waits`: such a message waits to be sent. Neither holds when the
    channel refused the message. `alert_id` is the outbox's row, None without an outbox.
    """

    at: datetime
    day: date | None = None
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
    failing: Mapping[Fact, Failing],
    good: GoodDays,
    *,
    now: datetime,
    repeat_after: timedelta,
) -> Verdict:
    """Compare what a channel was told with what came of a run."""
    bad_tasks = {fact.task for fact in failing}
    after = {
        fact: _updated(told, failing.get(fact), fact.task in bad_tasks, good.get(fact.task, frozenset()))
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


def remember(
    memory: Memory, failing: Mapping[Fact, Failing], *, now: datetime, alert_id: int | None
) -> dict[Fact, Told]:
    """Give the memory after all that fails was told."""
    told = {
        fact: Told(
            now,
            one.day,
            newest=one.newest,
            alert_id=alert_id,
            heard=alert_id is None or (fact in memory and memory[fact].heard),
        )
        for fact, one in failing.items()
    }
    return {**memory, **told}


def without_unknown(memory: Memory, is_known: Callable[[Fact], bool], oldest: datetime) -> dict[Fact, Told]:
    """Drop what can never recover: its shard or load is gone, or it was not told again for a long time."""
    return {fact: told for fact, told in memory.items() if is_known(fact) and told.at >= oldest}


def _updated(told: Told, failing: Failing | None, task_is_bad: bool, good: frozenset[date | None]) -> Told:
    if failing is not None:
        return replace(told, day=failing.day, newest=failing.newest, well=False)
    if task_is_bad:
        return replace(told, well=False)
    return replace(told, well=True) if _shows_well(told, good) else told


def _shows_well(told: Told, good: Iterable[date | None]) -> bool:
    return any(
        told.day is None or day is None or day == told.day or (told.newest and day > told.day) for day in good
    )


def _recovered_reasons(memory: Memory) -> set[Fact]:
    by_reason: dict[tuple[str, str, str], list[Fact]] = {}
    for fact in memory:
        by_reason.setdefault(fact.reason, []).append(fact)
    return {fact for facts in by_reason.values() if all(memory[one].well for one in facts) for fact in facts}
