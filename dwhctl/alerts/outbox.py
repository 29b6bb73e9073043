"""The outbox: every digest is a row before it is sent, and says what became of it.

States: `queued` (to be sent), `sending` (somebody has it in hand until its lease ends), `sent`, `unknown` (sent, and
the answer is lost: sent once more, marked), `refused` (sent again after a while), `given_up` (it could not be sent for
days), `superseded` (never sent: a later digest says what is so now, or nothing of it is).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.digest import Digest
from dwhctl.sessions.cells import as_number

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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
