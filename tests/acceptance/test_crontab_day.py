"""Days of cron on a frozen clock: `0 */6 * * *  dwhctl load --date today --lookback 1`, while the sources change."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine

from dwhctl.core.errors import ExitCode
from dwhctl.sessions import open_store
from dwhctl.sessions.values import is_complete
from tests.cli_support import dwh
from tests.support.projects import ORDERS, Sandbox, days_from

MOSCOW = ZoneInfo("Europe/Moscow")
#: Three clocks: the project's own, one that is six hours ahead of it, one that is an hour behind.
ZONES = {"moscow": "Europe/Moscow", "chita": "Asia/Chita", "kaliningrad": "Europe/Kaliningrad"}
FIRST = date(2020, 7, 13)
DAYS = days_from(FIRST, 3)
CRON = ("load", "--date", "today", "--lookback", "1")


def moscow(day: date, hour: float) -> datetime:
    """Give the instant at which it is this hour of the day in Moscow."""
    return datetime.combine(day, time(), MOSCOW) + timedelta(hours=hour)


def fire_times(days: Iterable[date]) -> list[datetime]:
    """Give the instants of `0 */6 * * *` on these days."""
    return [moscow(day, hour) for day in days for hour in (0, 6, 12, 18)]


def last_chance(day: date) -> datetime:
    """Give the instant of the last firing that looks at a day: the next day's last."""
    return moscow(day + timedelta(days=1), 18)


@dataclass
class Source:
    """A shard that lives: orders come, also late ones; are corrected, moved to another day and deleted."""

    sandbox: Sandbox
    shard: str
    late_until: timedelta = timedelta(days=10)
    orders: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    next_id: int = 0
    _statements: list[str] = field(default_factory=list)

    def live(self, start: datetime, end: datetime, chance: random.Random) -> None:
        """Let the time from `start` to `end` pass."""
        moments = sorted(start + (end - start) * chance.random() for _ in range(16))
        for at in moments:
            self._happen(at.astimezone(ZoneInfo(ZONES[self.shard])).replace(tzinfo=None), at, chance)
        self._write()

    def _happen(self, clock: datetime, at: datetime, chance: random.Random) -> None:
        what = chance.random()
        open_orders = [key for key, row in self.orders.items() if self._may_change(row[3].date(), at)]
        if what < 0.5 or not open_orders:
            self._add(clock.replace(microsecond=0), chance)
        elif what < 0.65 and self._may_change(clock.date() - timedelta(days=1), at):
            self._add(_some_time(clock.date() - timedelta(days=1), chance), chance)  # told of late
        elif what < 0.8:
            key = chance.choice(open_orders)
            self._put(key, "corrected", chance, self.orders[key][3])
        elif what < 0.9:
            self._put(chance.choice(open_orders), "moved", chance, clock.replace(microsecond=0))
        else:
            self._delete(chance.choice(open_orders))

    def _may_change(self, day: date, at: datetime) -> bool:
        over = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(ZONES[self.shard]))
        return at <= min(last_chance(day), over + self.late_until)

    def _add(self, clock: datetime, chance: random.Random) -> None:
        self._put(self.next_id, "new", chance, clock)
        self.next_id += 1

    def _put(self, key: int, text: str, chance: random.Random, clock: datetime) -> None:
        amount = f"{chance.randrange(10_000_000) / 100:.2f}"
        self._delete(key)
        self.orders[key] = (key, text, amount, clock)
        self._statements.append(f"INSERT INTO orders VALUES ({key}, '{text}', {amount}, '{clock}')")

    def _delete(self, key: int) -> None:
        if self.orders.pop(key, None) is not None:
            self._statements.append(f"DELETE FROM orders WHERE id = {key}")

    def _write(self) -> None:
        self.sandbox.in_shard(self.shard, "BEGIN", *self._statements, "COMMIT")
        self._statements = []


@pytest.fixture
def project(tmp_path: Path) -> Sandbox:
    """A project of one server with a shard in each zone, empty so far."""
    sandbox = Sandbox(
        tmp_path, {"server_0": list(ZONES)}, load_keys="retries = 0\nstart_date = 2020-07-12"
    ).write()
    file = tmp_path / "config" / "dwhctl.toml"
    entries = ", ".join(
        f'{{ name = "{name}", database = "{name}", zone = "{zone}" }}' for name, zone in ZONES.items()
    )
    text = file.read_text()
    assert f"server_0 = {list(ZONES)!r}" in text
    file.write_text(text.replace(f"server_0 = {list(ZONES)!r}", f"server_0 = [{entries}]"))
    for shard in ZONES:
        sandbox.in_shard(shard, ORDERS)
    return sandbox


def sources_of(project: Sandbox, **options: Any) -> list[Source]:
    """Give the shards, alive."""
    return [Source(project, shard, **options) for shard in ZONES]


def fire(project: Sandbox, at: datetime, *command: str) -> int:
    """Run cron's command at this moment, in this process."""
    with time_machine.travel(at, tick=False):
        return dwh(*command, "--inline", "--project", project.root)


def live_and_fire(
    project: Sandbox, sources: list[Source], fires: Iterable[datetime], chance: random.Random
) -> None:
    """Let the sources live up to each fire time and then the command of cron run."""
    for at in fires:
        for source in sources:
            source.live(at - timedelta(hours=6), at, chance)
        assert fire(project, at, *CRON) == ExitCode.DONE


def complete_days(project: Sandbox, first: date, last: date) -> dict[str, set[date]]:
    """Give the complete days of each shard, by the sessions."""
    read = project.project()
    ends = {
        (shard.name, day): datetime.combine(day + timedelta(days=1), time(), shard.zoneinfo).astimezone(UTC)
        for shard in read.shards_of(read.loads["orders"])
        for day in days_from(first, (last - first).days + 1)
    }
    with open_store(read.sessions) as store:
        sessions = store.last_sessions("orders", first, last)
    complete: dict[str, set[date]] = {shard: set() for shard in ZONES}
    for one in sessions:
        if is_complete(one, ends[one.shard, one.day]):
            complete[one.shard].add(one.day)
    return complete


def test_three_days_of_cron(project: Sandbox) -> None:
    sources, chance = sources_of(project), random.Random(1)

    for at in fire_times(DAYS):
        live_and_fire(project, sources, [at], chance)
        # Chita's clock is in tomorrow from 18:00 on: those rows are not asked for before tomorrow.
        asked = [day for day in days_from(FIRST - timedelta(days=1), 4) if day <= at.date()]
        assert project.target_rows() == project.source_rows(asked)

    # At the last firing, 18:00 of the third day, everything stands in the warehouse: nothing has come since.
    assert project.target_rows() == project.source_rows()
    assert {row[2] for row in project.target_rows()} == {"new", "corrected", "moved"}
    past = days_from(FIRST - timedelta(days=1), 3)
    # Chita's third day ended at 18:00 in Moscow, at the very moment of the last firing.
    expected = {"moscow": set(past), "kaliningrad": set(past), "chita": {*past, DAYS[2]}}
    assert complete_days(project, past[0], DAYS[-1]) == expected
    check_nothing_is_missing(project, moscow(DAYS[2], 18.5))


def check_nothing_is_missing(project: Sandbox, at: datetime) -> None:
    """Check that only the missing of complete days is nothing at all."""
    seen = len(project.sessions_newest_first())
    held = project.warehouse("SELECT * FROM stage.orders ORDER BY ALL")

    command = ("load", "--date", "yesterday", "--lookback", "1", "--only-missing")
    assert fire(project, at, *command) == ExitCode.DONE

    assert len(project.sessions_newest_first()) == seen
    assert project.warehouse("SELECT * FROM stage.orders ORDER BY ALL") == held


def test_a_day_loaded_before_its_end_is_not_complete(project: Sandbox) -> None:
    live_and_fire(project, sources_of(project), fire_times([FIRST]), random.Random(4))

    # Midnight of the 14th in Moscow has not come; in Kaliningrad the 12th ended at 01:00, before the firing at 06:00.
    day_before = FIRST - timedelta(days=1)
    assert complete_days(project, day_before, FIRST) == {
        "moscow": {day_before},
        "kaliningrad": {day_before},
        "chita": {day_before, FIRST},
    }
    assert fire(project, moscow(DAYS[1], 0), *CRON) == ExitCode.DONE
    assert complete_days(project, FIRST, FIRST) == {"moscow": {FIRST}, "kaliningrad": set(), "chita": {FIRST}}
    assert fire(project, moscow(DAYS[1], 6), *CRON) == ExitCode.DONE
    assert complete_days(project, FIRST, FIRST) == {shard: {FIRST} for shard in ZONES}


@pytest.mark.long
def test_only_missing_catches_up_after_missed_firings(project: Sandbox) -> None:
    """The machine was down from the night to the 14th until the morning of the 16th."""
    # What comes late to a complete day, only a reload without --only-missing sees.
    sources = sources_of(project, late_until=timedelta(0))
    up = [*fire_times([FIRST]), moscow(DAYS[1], 0)]
    chance = random.Random(5)
    live_and_fire(project, sources, up, chance)
    again = moscow(date(2020, 7, 16), 8)
    for source in sources:
        for hour in range(0, 56, 8):
            source.live(moscow(DAYS[1], hour), moscow(DAYS[1], hour + 8), chance)
    seen = len(project.sessions_newest_first())

    assert (
        fire(project, again, "load", "--date", "today", "--lookback", "4", "--only-missing") == ExitCode.DONE
    )

    past = days_from(FIRST - timedelta(days=1), 4)
    assert project.target_rows() == project.source_rows()
    assert complete_days(project, past[0], past[-1]) == {shard: set(past) for shard in ZONES}
    new = project.sessions_newest_first()[:-seen]
    loaded = {(one.shard, one.day) for one in new}
    assert len(loaded) == len(new)
    assert loaded == {
        *((shard, day) for shard in ZONES for day in days_from(DAYS[1], 3)),
        # At midnight in Moscow its 13th had an hour to go.
        ("kaliningrad", FIRST),
    }


def _some_time(day: date, chance: random.Random) -> datetime:
    return datetime.combine(day, time()) + timedelta(seconds=chance.randrange(86_400))
