"""A project with channels that do as they are told, over either sessions database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.alerts import channels, notifier
from dwhctl.alerts.delivery import Delivery, send_due
from dwhctl.alerts.digest import AlertFailure, Item, ItemStatus, Outcome, Stop
from dwhctl.alerts.message import Message, Receipt
from dwhctl.alerts.outbox import Listed, Outbox
from dwhctl.project.loads import Shard
from dwhctl.project.model import Alert, EmailAlert, Project
from dwhctl.sessions import SessionStore
from tests.integration.sessions_kit import DAY, START, Place
from tests.unit.projects import a_load, a_project

SHARDS = tuple(f"shard_{number:03}" for number in range(150))
COMMAND = "dwhctl load --date today"


def an_alert(name: str = "chat", when: tuple[Any, ...] = ("one_failed",), **keys: Any) -> EmailAlert:
    """A channel."""
    return EmailAlert(name=name, when=when, host="localhost", sender="a@b.c", to=("d@e.f",), **keys)


@dataclass
class Post:
    """What all channels were given, and what they answer: an error to raise, else a receipt."""

    sent: list[tuple[str, Message]] = field(default_factory=list)
    answers: list[Exception | BaseException | Receipt] = field(default_factory=list)

    def open(self, project: Project, alert: Alert) -> FakeChannel:
        return FakeChannel(self, alert.name)

    def subjects(self) -> list[str]:
        return [message.subject for _, message in self.sent]

    @property
    def last(self) -> str:
        return self.sent[-1][1].text


@dataclass
class FakeChannel:
    post: Post
    name: str
    address: str = "nowhere"

    def send(self, message: Message) -> Receipt:
        answer = self.post.answers.pop(0) if self.post.answers else Receipt("message 1")
        if isinstance(answer, BaseException):
            raise answer
        self.post.sent.append((self.name, message))
        return answer


@dataclass
class Desk:
    """A project, its sessions and its post."""

    project: Project
    place: Place
    store: SessionStore
    post: Post

    def tell(self, *items: Iterable[Item], send: bool = True, **keys: Any) -> list[Delivery]:
        """Tell of a run over these items."""
        all_items = tuple(item for group in items for item in group)
        outcome = Outcome(command=COMMAND, run_id="run", items=all_items, began=START, **keys)
        written = notifier.write(self.project, self.store, outcome)
        return send_due(self.project, self.store, written) if send else []

    def send(self) -> list[Delivery]:
        """What a run sends that has nothing to tell itself."""
        return send_due(self.project, self.store)

    def rows(self) -> list[Listed]:
        """The outbox, oldest first."""
        return Outbox(self.store).newest(1000)[::-1]

    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    def change(self, sql: str) -> None:
        """What another program does to the tables, or the time."""
        self.place.rows(sql)

    def pass_time(self, duration: timedelta) -> None:
        """Let everything in the tables be so much older."""
        seconds = int(duration.total_seconds())
        for table, columns in (
            ("dwhctl_alerts", ("created", "not_before", "lease_until")),
            ("dwhctl_alert_failures", ("told_at",)),
        ):
            for column in columns:
                if self.place.dialect == "sqlite":
                    earlier = f"strftime('%Y-%m-%d %H:%M:%f000+00:00', {column}, '-{seconds} seconds')"
                else:
                    earlier = f"{column} - interval '{seconds} seconds'"
                self.change(f"UPDATE {table} SET {column} = {earlier} WHERE {column} IS NOT NULL")

    def with_alerts(self, *alerts: Alert) -> Desk:
        """The same with other channels."""
        return replace(self, project=replace(self.project, alerts={one.name: one for one in alerts}))


def a_desk(place: Place, root: Path, monkeypatch: pytest.MonkeyPatch, *alerts: Alert) -> Desk:
    """A desk with channels; by default one for failures."""
    post = Post()
    monkeypatch.setattr(channels, "open_channel", post.open)
    shards = tuple(Shard(name, name, "server_0", "UTC") for name in SHARDS)
    project = a_project(
        root,
        loads={name: a_load(name=name) for name in ("orders", "calls")},
        shard_groups={"cities": shards},
        alerts={one.name: one for one in alerts or (an_alert(),)},
    )
    project = replace(project, connections={**project.connections, "sessions": place.connection})
    return Desk(project, place, place.store(), post)


def with_shards(project: Project, *names: str) -> Project:
    """The project with these shards alone."""
    shards = tuple(Shard(name, name, "server_0", "UTC") for name in names)
    return replace(project, shard_groups={"cities": shards})


def slices(
    status: ItemStatus, *shards: str, error: str = "ConnectError", day: date = DAY, work: str = "orders"
) -> list[Item]:
    """Slices that all ended so; the connection is told by the error."""
    failure = (
        AlertFailure(f"server_of_{error}", error, f"{error} it is\nand more") if status == "failed" else None
    )
    return [Item("load", work, shard, day, status, failure) for shard in shards]


def stopped(error: str, passing: bool = False, command: str = COMMAND) -> Outcome:
    """A command that did not come to its work."""
    stop = Stop(command, AlertFailure("", error, f"{error}: so it is"), passing=passing)
    return Outcome(command=command, stops=(stop,), completed=False)
