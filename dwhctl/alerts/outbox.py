"""The outbox: every digest is a row before it is sent, and says what became of it.

States: `queued` (to be sent), `sending` (somebody has it in hand until its lease ends), `sent`, `unknown` (sent, and
the answer is lost: sent once more, marked), `refused` (sent again after a while), `given_up` (it could not be sent for
days), `superseded` (never sent: a later digest says what is so now, or nothing of it is).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.digest import Digest, Recovery
from dwhctl.sessions.values import as_number

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pydantic import TypeAdapter

    from dwhctl.alerts.rules import Decision
    from dwhctl.alerts.state import Fact, Memory
    from dwhctl.project.model import Alert
    from dwhctl.sessions import SessionStore
    from dwhctl.sessions.store import Execute


#: Longer than a message may take to be sent: who holds a row after that is dead, or hangs.
LEASE = timedelta(minutes=10)


class AlertState(StrEnum):
    """What became of a digest."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Queued:
    """A row that waits to be sent; its digest as JSON."""

    id: int
    created: datetime
    channel: str
    subject: str
    digest: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A row that no channel has taken, and that nobody has in hand."""

    id: int
    state: AlertState
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A row as people look at it."""

    id: int
    created: datetime
    channel: str
    subject: str
    state: str
    answer: str | None
    attempts: int
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt to send. `retry_after`: how long the channel wants to be left alone."""

    state: AlertState
    answer: str
    retry_after: timedelta | None = None


def queue(execute: Execute, channel: str, subject: str, digest: Digest, now: datetime) -> int:
    """Write a digest as a row to be sent, within a transaction, and give its id."""
    [(row_id,)] = execute("alerts_queue", {"channel": channel, **_values(subject, digest, now)})
    return int(row_id)


def replace_row(execute: Execute, row_id: int, subject: str, digest: Digest, now: datetime) -> bool:
    """Write a digest in the place of one that was not delivered. Return False when another run has that in hand now."""
    return bool(execute("alerts_replace", {"id": row_id, **_values(subject, digest, now)}))


def _values(subject: str, digest: Digest, now: datetime) -> dict[str, object]:
    return {
        "created": now,
        "run_id": digest.run_id,
        "kind": digest.subject,
        "subject": subject,
        "digest": as_json(digest),
    }


def undelivered(execute: Execute, channel: str) -> list[Undelivered]:
    """Return the channel's rows that a later digest may take the place of, the oldest first."""
    rows = execute("alerts_undelivered", {"channel": channel})
    return [Undelivered(row_id, AlertState(state), _digest_or_none(text)) for row_id, state, text in rows]


def _digest_or_none(text: str) -> Digest | None:
    try:
        return from_json(text)
    except ValueError:
        return None


def supersede(execute: Execute, row_id: int) -> None:
    """Take a row that was not delivered out of what is to be sent."""
    execute("alerts_supersede", {"id": row_id})


class Outbox:
    """The rows, over an open sessions database."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def channels_due(self) -> list[str]:
        """Name the channels that something is to be sent to now."""
        rows = self._store.read("reading the outbox", "alerts_due_channels", {"now": datetime.now(UTC)})
        return [channel for (channel,) in rows]

    def due(self, channel: str, limit: int) -> list[Queued]:
        """Give the rows of a channel to be sent now, the oldest first."""
        values = {"channel": channel, "now": datetime.now(UTC), "limit": limit}
        rows = self._store.read("reading the outbox", "alerts_due", values)
        return [Queued(*row) for row in rows]

    def claim(self, row: Queued, claim: str) -> int | None:
        """Take a row in hand; None when another has it. Gives how often it was sent before without an answer."""
        now = datetime.now(UTC)
        values = {"id": row.id, "claim": claim, "now": now, "lease_until": now + LEASE}
        with self._store.transaction("taking an alert in hand", "alert") as execute:
            found = execute("alerts_claim", values)
        return (as_number(found[0][0]) or 0) if found else None

    def settle(self, row: Queued, claim: str, result: Result) -> None:
        """Write what became of a row that is in hand."""
        now = datetime.now(UTC)
        values = {
            "id": row.id,
            "claim": claim,
            "state": result.state.value,
            "answer": result.answer,
            "sent_at": now if result.state is AlertState.SENT else None,
            "not_before": now + result.retry_after if result.retry_after else None,
            "doubt": int(result.state is AlertState.UNKNOWN),
        }
        with self._store.transaction("settling an alert", "alert") as execute:
            execute("alerts_settle", values)
            if result.state in (AlertState.SENT, AlertState.UNKNOWN):
                execute("alerts_heard", {"id": row.id})

    def refusal(self, channel: str) -> tuple[str, str] | None:
        """Return subject and answer of what the channel refused within the pause; None when it did not."""
        rows = self._store.read(
            "reading the outbox", "alerts_refusal", {"channel": channel, "now": datetime.now(UTC)}
        )
        return (rows[0][0], rows[0][1] or "") if rows else None

    def newest(self, limit: int, *, only_open: bool = False) -> list[Listed]:
        """Give the rows, the newest first; `only_open`: those that did not surely arrive, and still matter."""
        values = {"limit": limit, "everything": int(not only_open)}
        rows = self._store.read("reading the outbox", "alerts_newest", values)
        return [Listed(*row) for row in rows]


def as_json(digest: Digest) -> str:
    """Write a digest as text that every database holds."""
    return json.dumps(asdict(digest), default=_day_text)


def _day_text(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a digest holds no {type(value).__name__}")


def from_json(text: str) -> Digest:
    """Read a digest back. Raise ValueError when another version of dwhctl wrote it otherwise."""
    return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[Digest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Digest)


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
