"""The outbox: every digest is a row before it is sent, with what became of it.

States: `queued` (to be sent), `sending` (claimed by a run until its lease ends), `sent`, `unknown` (sent, without an
answer: sent once more, marked), `refused` (sent again after a while), `given_up` (it could not be sent for days),
`superseded` (never sent: a later digest has its failures, or these are over).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from pydantic import TypeAdapter

from dwhctl.alerts.digest import Digest, Recovery, merged
from dwhctl.alerts.rules import Decision
from dwhctl.alerts.state import AlertState, FailureKey
from dwhctl.project.model import Alert
from dwhctl.sessions import SessionStore
from dwhctl.sessions.store import Execute
from dwhctl.sessions.values import as_number

#: Longer than sending a message takes: a run that holds a row after that is dead, or hangs.
LEASE = timedelta(minutes=10)
_READING = "reading the outbox"


class DeliveryState(StrEnum):
    """What became of a digest."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    GIVEN_UP = "given_up"
    SUPERSEDED = "superseded"


class Queued(NamedTuple):
    """A row that waits to be sent; its digest as JSON."""

    id: int
    created: datetime
    channel: str
    subject: str
    digest: str


class Undelivered(NamedTuple):
    """A row that was not delivered, and that no run has claimed."""

    id: int
    state: DeliveryState
    digest: Digest | None


class Listed(NamedTuple):
    """A row of the listing."""

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
    """What became of an attempt to send. `retry_after`: the pause that the channel asks for."""

    state: DeliveryState
    answer: str
    retry_after: timedelta | None = None


def put(
    execute: Execute, channel: str, subject: str, digest: Digest, old: Sequence[Undelivered], now: datetime
) -> int:
    """Write a digest as a row to be sent, in place of the newest of the old ones, and return its id."""
    values = {
        "created": now,
        "run_id": digest.run_id,
        "kind": digest.subject,
        "subject": subject,
        "digest": as_json(digest),
    }
    for row in reversed(old):
        if execute("alerts_replace", {"id": row.id, **values}):  # else another run has claimed it
            return row.id
    [(row_id,)] = execute("alerts_queue", {"channel": channel, **values})
    return int(row_id)


def undelivered(execute: Execute, channel: str) -> list[Undelivered]:
    """Return the channel's rows that a later digest may replace, the oldest first."""
    found = []
    for row_id, state, text in execute("alerts_undelivered", {"channel": channel}):
        digest = None
        with suppress(ValueError):
            digest = from_json(text)
        found.append(Undelivered(row_id, DeliveryState(state), digest))
    return found


class Outbox:
    """The rows, over an open sessions database."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def channels_due(self) -> list[str]:
        rows = self._store.read(_READING, "alerts_due_channels", {"now": datetime.now(UTC)})
        return [channel for (channel,) in rows]

    def due(self, channel: str, limit: int) -> list[Queued]:
        """Return the rows of a channel to be sent now, the oldest first."""
        values = {"channel": channel, "now": datetime.now(UTC), "limit": limit}
        return [Queued(*row) for row in self._store.read(_READING, "alerts_due", values)]

    def claim(self, row: Queued, claim: str) -> int | None:
        """Claim a row; None when another run has. Return how often it was sent before without an answer."""
        now = datetime.now(UTC)
        values = {"id": row.id, "claim": claim, "now": now, "lease_until": now + LEASE}
        with self._store.transaction("claiming an alert", "alert") as execute:
            found = execute("alerts_claim", values)
        return (as_number(found[0][0]) or 0) if found else None

    def settle(self, row: Queued, claim: str, result: Result) -> None:
        """Write what became of a claimed row."""
        now = datetime.now(UTC)
        values = {
            "id": row.id,
            "claim": claim,
            "state": result.state.value,
            "answer": result.answer,
            "sent_at": now if result.state is DeliveryState.SENT else None,
            "not_before": now + result.retry_after if result.retry_after else None,
            "doubt": int(result.state is DeliveryState.UNKNOWN),
        }
        with self._store.transaction("settling an alert", "alert") as execute:
            execute("alerts_settle", values)
            if result.state in (DeliveryState.SENT, DeliveryState.UNKNOWN):
                execute("alerts_heard", {"id": row.id})

    def refusal(self, channel: str) -> tuple[str, str] | None:
        """Return subject and answer of what the channel refused within the pause; None without a refusal."""
        values = {"channel": channel, "now": datetime.now(UTC)}
        rows = self._store.read(_READING, "alerts_refusal", values)
        return (rows[0][0], rows[0][1] or "") if rows else None

    def newest(self, limit: int, *, only_open: bool = False) -> list[Listed]:
        """Return the rows, the newest first; `only_open`: those that may not have arrived, and still matter."""
        values = {"limit": limit, "everything": int(not only_open)}
        return [Listed(*row) for row in self._store.read(_READING, "alerts_newest", values)]


def as_json(digest: Digest) -> str:
    """Return a digest as text that every database holds."""
    return json.dumps(asdict(digest), default=date.isoformat)


def from_json(text: str) -> Digest:
    """Read a digest. Raise ValueError when another version of dwhctl wrote it otherwise."""
    return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[Digest]:
    return TypeAdapter(Digest)


def outdated(
    alert: Alert, decision: Decision, state: AlertState, rows: Sequence[Undelivered]
) -> list[Undelivered]:
    """Return the rows, the oldest first, that are outdated: the new digest has all their failures, or these are over.

    A message without failures that was refused is outdated by the next one of the same command.
    """
    reported, new = set(decision.reported), decision.digest
    is_repetition = reported <= set(state)

    def is_outdated(row: Undelivered) -> bool:
        keys = {key for key, notified in state.items() if notified.alert_id == row.id}
        is_refused = row.state is DeliveryState.REFUSED
        if not keys:
            is_next = new is not None and (row.digest is None or row.digest.command == new.command)
            return is_refused and is_next
        if is_refused:
            return _not_reported(keys, reported) <= decision.forget
        # What only waits for the network is sent late, and what comes later as well; but not the same twice.
        return keys <= reported and is_repetition and "all_done" not in alert.when

    return [row for row in rows if is_outdated(row)]


def _not_reported(keys: Collection[FailureKey], reported: Collection[FailureKey]) -> set[FailureKey]:
    """Return the failures that a digest has neither for their day nor for a later one: it says since when they last."""
    newest: dict[FailureKey, date] = {}
    for key in reported:
        if key.day is not None:
            newest[key.undated] = max(key.day, newest.get(key.undated, key.day))
    return {
        key
        for key in keys
        if key not in reported and (key.day is None or newest.get(key.undated, key.day) <= key.day)
    }


def with_recoveries(decision: Decision, old: Sequence[Undelivered]) -> Digest | None:
    """Return the digest with the recoveries of those that it replaces; without a new one a digest of these alone."""
    failing = {key.task for key in decision.reported}
    digests = [row.digest for row in old if row.digest is not None]
    kept = [left for digest in digests for item in digest.recoveries if (left := _still_so(item, failing))]
    if not kept:
        return decision.digest
    if decision.digest is not None:
        return replace(decision.digest, recoveries=merged([*kept, *decision.digest.recoveries]))
    return replace(
        digests[-1],
        subject="recovered",
        recoveries=merged(kept),
        reasons=(),
        done=0,
        total=0,
        look=None,
        remark=None,
    )


def _still_so(item: Recovery, failing: Collection[tuple[str, str]]) -> Recovery | None:
    if not item.shards:
        return None if (item.work, "") in failing else item
    shards = tuple(shard for shard in item.shards if (item.work, shard) not in failing)
    return replace(item, shards=shards) if shards else None
