"""Days over clock changes: rows on every half hour, loaded by every kind of column, counted by hand.

The day of 23 hours, that of 25, the one without a midnight and the one with two hold exactly their rows.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.support.clocks import HALF_HOUR, half_hours, zones_and_days
from tests.support.projects import Sandbox, days_from

ONE_DAY = timedelta(days=1)
#: A clock that was never changed in these years, in which a column may be held too.
FIXED = "Asia/Kolkata"
#: Each load's column, its type and what the configuration says that it holds.
LOADS = {
    "utc": ("TIMESTAMP", "UTC"),
    "fixed": ("TIMESTAMP", FIXED),
    "wall": ("TIMESTAMP", "wall"),
    "zoned_utc": ("TIMESTAMPTZ", "UTC"),
    "zoned_fixed": ("TIMESTAMPTZ", FIXED),
    "zoned_own": ("TIMESTAMPTZ", "OWN"),
    "zoned_wall": ("TIMESTAMPTZ", "wall"),
}


def held(at: datetime, kind: str, holds: str, zone: str) -> str:
    """The instant as the column holds it, in SQL."""
    if kind == "TIMESTAMPTZ":
        return f"TIMESTAMPTZ '{at.isoformat()}'"
    clock = ZoneInfo(zone if holds == "wall" else holds)
    return f"TIMESTAMP '{at.astimezone(clock).replace(tzinfo=None)}'"


def a_project(root: Path, zone: str, instants: list[datetime]) -> Sandbox:
    """One shard with a table for each load, the number of the half hour as its key."""
    sandbox = Sandbox(root, {"server_0": ["abakan"]}, timezone=zone).write()
    (root / "config" / "loads" / "orders.toml").unlink()
    for name, (kind, holds) in LOADS.items():
        rows = ", ".join(f"({number}, {held(at, kind, holds, zone)})" for number, at in enumerate(instants))
        sandbox.in_shard(
            "abakan", f"CREATE TABLE {name} (id BIGINT, moment {kind})", f"INSERT INTO {name} VALUES {rows}"
        )
        sandbox.put(
            f"sql/{name}.sql", f"SELECT id, moment FROM {name} WHERE moment >= :start AND moment < :end\n"
        )
        sandbox.put(
            f"sql/create_{name}.sql",
            f"CREATE SCHEMA IF NOT EXISTS stage; CREATE TABLE IF NOT EXISTS stage.{name} (id BIGINT, moment {kind},"
            " etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT);",
        )
        sandbox.put(
            f"config/loads/{name}.toml",
            f'shards = "cities"\nextract = "{name}.sql"\ntarget = "warehouse"\ntable = "stage.{name}"\nretries = 0\n'
            f'create = "create_{name}.sql"\nkey = ["id"]\nslice_by = "moment"\n'
            f'slice_zone = "{zone if holds == "OWN" else holds}"\n',
        )
    return sandbox


def check(root: Path, zone: str, changed: date) -> None:
    """Load the day of the change and its neighbours; the middle one twice."""
    days = days_from(changed - ONE_DAY, 3)
    instants = half_hours(days[0], days[-1])
    clock = ZoneInfo(zone)
    shown = {number: at.astimezone(clock).date() for number, at in enumerate(instants)}
    wanted = {number: day for number, day in shown.items() if day in days}
    sandbox = a_project(root, zone, instants)
    for asked in (days, [changed]):
        report = sandbox.load(*asked)
        assert (report.failed, report.stopped) == (0, None)
    day_of = {one.id: one.day for one in sandbox.sessions_newest_first()}
    for name in LOADS:
        found = sandbox.warehouse(f"SELECT id, etl_id FROM stage.{name}")
        assert len(found) == len(wanted), name
        assert {number: day_of[etl_id] for number, etl_id in found} == wanted, name


@pytest.mark.parametrize(
    ("zone", "changed", "hours"),
    [
        ("America/New_York", date(2013, 3, 10), 23),
        pytest.param("America/New_York", date(2013, 11, 3), 25, marks=pytest.mark.long),
        ("America/Havana", date(2020, 11, 1), 25),  # two midnights
        pytest.param("America/Sao_Paulo", date(2018, 11, 4), 23, marks=pytest.mark.long),  # no midnight
        pytest.param("Australia/Lord_Howe", date(2021, 4, 4), 24.5, marks=pytest.mark.long),
    ],
)
def test_a_day_of_a_clock_change_holds_its_rows(
    tmp_path: Path, zone: str, changed: date, hours: float
) -> None:
    clock = ZoneInfo(zone)
    shown = [at for at in half_hours(changed, changed) if at.astimezone(clock).date() == changed]
    assert len(shown) * HALF_HOUR == timedelta(hours=hours)
    check(tmp_path, zone, changed)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=zones_and_days())
@example(("Asia/Beirut", date(2022, 10, 30)))
@example(("America/Asuncion", date(2015, 3, 22)))
def test_every_change_of_every_zone(tmp_path_factory: pytest.TempPathFactory, one: tuple[str, date]) -> None:
    check(tmp_path_factory.mktemp("zone"), *one)
