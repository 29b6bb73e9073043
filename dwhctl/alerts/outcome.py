"""The outcome of a run: what the rules of the alerts judge, whatever kind of work it did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from dwhctl.alerts.digest import RunKind

#: How far a piece of work is at the end of its run; `left` was not come to.
Ending = Literal["done", "failed", "left"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something failed. `connection` is the one to blame; `message` holds no secret; `remedy` is a command.

    `advice` says what to do before it, or `try again`. `of_work`: the load itself is at fault, on every connection
    alike. `lines` are the last ones that the run's log has of it, without secrets.
    """

    connection: str
    error_class: str
    message: str
    remedy: str = ""
    advice: str = ""
    of_work: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of a run's work: a slice of a load, or (without a shard) the refresh of a report."""

    kind: Literal["load", "report"]
    work: str
    shard: str = ""
    day: date | None = None
    ending: Ending = "done"
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """What kept a command from its work: a broken configuration, a held lock, a lost database, a death.

    `passing` is of a thing that has happened and is over, as a death: there is no recovery to tell of. `works` names
    the loads and reports that the command was for; empty when nobody knows.
    """

    command: str
    trouble: Trouble
    passing: bool = False
    works: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one invocation of a command; `began` is when it started.

    `completed`: the command came to its end, so that what once stopped it is over. `missing` names shards that a
    refreshed report does without. `missed`: the items' troubles are missed deadlines. `look` is the command that
    shows more.
    """

    command: str
    kind: RunKind = RunKind.LOAD
    run_id: str | None = None
    items: tuple[Item, ...] = ()
    stops: tuple[Stop, ...] = ()
    completed: bool = True
    missed: bool = False
    missing: tuple[str, ...] = ()
    look: str | None = None
    began: datetime | None = None

    @property
    def routine(self) -> bool:
        """Whether the command runs every few minutes: no channel is notified that it ran, or failed again."""
        return self.kind is RunKind.WATCH
