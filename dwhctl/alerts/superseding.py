"""Which undelivered digests are outdated by what a run found: the new digest takes their place.

A digest that a channel refused, or that waits for the network, may be sent hours later. It must not tell as news what
a later run knows better. What was to be told to have recovered is carried over: nothing else says it again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dwhctl.alerts.digest import Digest, Recovery
from dwhctl.alerts.outbox import AlertState, Undelivered

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date

    from dwhctl.alerts.facts import Fact, Memory
    from dwhctl.alerts.rules import Decision
    from dwhctl.project.model import Alert

#: Stands for the row of the new digest, which is not written yet.
_NEW_ROW = -1


def outdated(
    alert: Alert, decision: Decision, memory: Memory, rows: Sequence[Undelivered]
) -> list[Undelivered]:
    """Return the rows, the oldest first, that are outdated: the new digest has all that they tell, or it is over.

    Of a message without failures that was refused it is the next one of the same command.
    """
    told = _told(decision)
    found = []
    for row in rows:
        facts = {fact for fact, one in memory.items() if one.alert_id == row.id}
        if facts:
            is_outdated = _all_known(
                alert, row, facts, told, decision.forget, is_repetition=told <= set(memory)
            )
        else:
            is_outdated = row.state is AlertState.REFUSED and _is_next(decision.digest, row.digest)
        if is_outdated:
            found.append(row)
    return found


def _all_known(
    alert: Alert,
    row: Undelivered,
    facts: set[Fact],
    told: set[Fact],
    over: Collection[Fact],
    *,
    is_repetition: bool,
) -> bool:
    if row.state is AlertState.REFUSED:
        return _not_told(facts, told) <= set(over)
    # What only waits for the network is sent late, and what comes later as well; but not the same twice.
    return facts <= told and is_repetition and "all_done" not in alert.when


def _not_told(facts: Collection[Fact], told: Collection[Fact]) -> set[Fact]:
    """Return the facts that a digest has neither for their day nor for a later one: it says since when that lasts."""
    newest: dict[Fact, date] = {}
    for fact in told:
        if fact.day is not None:
            newest[fact.undated] = max(fact.day, newest.get(fact.undated, fact.day))
    return {
        fact
        for fact in facts
        if fact not in told and (fact.day is None or newest.get(fact.undated, fact.day) <= fact.day)
    }


def _is_next(new: Digest | None, old: Digest | None) -> bool:
    return new is not None and (old is None or old.command == new.command)


def with_recoveries(decision: Decision, old: Sequence[Undelivered]) -> Digest | None:
    """Return the digest with the recoveries of those that it takes the place of; one of these alone if need be."""
    failing = {(fact.work, fact.shard) for fact in _told(decision)}
    digests = [row.digest for row in old if row.digest is not None]
    kept = [left for one in digests for item in one.recoveries if (left := _still_so(item, failing))]
    if not kept:
        return decision.digest
    if decision.digest is None:
        last = digests[-1]
        empty = replace(last, subject="recovered", reasons=(), done=0, total=0, look=None, remark=None)
        return replace(empty, recoveries=_merged(kept))
    return replace(decision.digest, recoveries=_merged([*kept, *decision.digest.recoveries]))


def _told(decision: Decision) -> set[Fact]:
    if decision.digest is None:
        return set()
    return {fact for fact, one in decision.memory(_NEW_ROW).items() if one.alert_id == _NEW_ROW}


def _still_so(item: Recovery, failing: Collection[tuple[str, str]]) -> Recovery | None:
    if not item.shards:
        return None if (item.work, "") in failing else item
    shards = tuple(shard for shard in item.shards if (item.work, shard) not in failing)
    return replace(item, shards=shards) if shards else None


def _merged(items: Sequence[Recovery]) -> tuple[Recovery, ...]:
    shards: dict[str, set[str]] = {}
    for item in items:
        shards.setdefault(item.work, set()).update(item.shards)
    return tuple(Recovery(work, tuple(sorted(names))) for work, names in sorted(shards.items()))
