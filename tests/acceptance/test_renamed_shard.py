"""A renamed shard doubles its rows, and a closed one keeps its: `verify` and the online check tell the two apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from dwhctl.check.online import CheckFinding, OnlineCheck
from dwhctl.monitor.coverage import SliceStatus, cover, find_gaps, sliced_tasks
from dwhctl.runtime.plan import LoadRequest, candidates
from dwhctl.sessions import open_store
from dwhctl.verify.findings import Check
from dwhctl.verify.run import VerifyReport, VerifyRequest, verify
from tests.support.projects import DAY, Sandbox
from tests.support.wire import Wire, a_wire

NEXT = DAY + timedelta(days=1)
KEYS = f"retries = 0\nstart_date = {DAY}"


@pytest.fixture(params=["duckdb", "wire"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    """Two shards with ten orders on each of two days, loaded."""
    if request.param == "wire":
        with a_wire(tmp_path, {"mssql_0": ["abakan", "chita"]}, load_keys=KEYS) as wire:
            yield loaded(wire)
        return
    yield loaded(Sandbox(tmp_path, {"server_0": ["abakan", "chita"]}, load_keys=KEYS).write())


def loaded(ground: Sandbox) -> Sandbox:
    ground.fill(days=[DAY, NEXT])
    assert not ground.load(DAY, NEXT).failed
    return ground


def entry(ground: Sandbox, shard: str, written: str) -> None:
    """Write a shard in other words into the configuration."""
    path = ground.root / "config/dwhctl.toml"
    text = path.read_text()
    database = ground.prefix + shard if isinstance(ground, Wire) else shard
    for old in (f'{{ name = "{shard}", database = "{database}" }}', f"'{shard}'", f'"{shard}"'):
        if old in text:
            path.write_text(text.replace(old, written.replace("DATABASE", database), 1))
            return
    raise AssertionError(text)


def unknown(report: VerifyReport) -> list[tuple[str, date | None, str | None]]:
    found = [
        (one, each) for one in report.results for each in one.findings if each.check is Check.UNKNOWN_SOURCE
    ]
    for _, each in found:
        assert "DELETE FROM" in str(each.detail)
    return [(one.shard, one.day, each.warehouse) for one, each in found]


def wrong(ground: Sandbox) -> list[CheckFinding]:
    return [one for one in OnlineCheck(ground.project()).findings() if one.wrong]


def test_a_renamed_shard_is_found_until_its_old_name_is_back(ground: Sandbox) -> None:
    entry(ground, "abakan", '{ name = "abakan_2", database = "DATABASE" }')
    assert not ground.load(DAY).failed

    report = verify(ground.project(), VerifyRequest(days=(DAY,)))

    # All its rows, whatever the days that were asked for.
    assert unknown(report) == [("abakan", None, "20")]
    assert not report.is_fine
    [finding] = wrong(ground)
    for part in ("20 rows", "abakan", 'name = "abakan"', "until", "DELETE FROM", "etl_source = 'abakan'"):
        assert part in finding.what, finding.what
    # Only of the shards that were asked for.
    assert unknown(verify(ground.project(), VerifyRequest(days=(DAY,), shards=("chita",)))) == []
    assert unknown(verify(ground.project(), VerifyRequest(days=(DAY,), shards=("a*",)))) != []

    path = ground.root / "config/dwhctl.toml"
    path.write_text(path.read_text().replace('name = "abakan_2"', 'name = "abakan"'))
    assert unknown(verify(ground.project(), VerifyRequest(days=(DAY,)))) == [("abakan_2", None, "10")]


def test_rows_without_a_source_are_found_too(ground: Sandbox) -> None:
    table = f"{ground.schema}.orders" if isinstance(ground, Wire) else "stage.orders"
    ground.change_warehouse(
        f"INSERT INTO {table} (id, etl_source, etl_id, hash_id) VALUES (1, 'it''s', 0, 0)"
    )
    report = verify(ground.project(), VerifyRequest(days=(DAY,)))
    assert unknown(report) == [("it's", None, "1")]
    [found] = [one for one in report.results if one.shard == "it's"]
    # No shard can have that name.
    assert found.findings[0].detail is not None
    assert "etl_source = 'it''s'" in found.findings[0].detail
    assert "until" not in found.findings[0].detail


def test_a_closed_shard_is_known_and_nothing_is_expected_of_it(ground: Sandbox) -> None:
    """`until` is the last day: that day is expected, and none after it."""
    after = NEXT + timedelta(days=1)
    entry(ground, "abakan", f'{{ name = "abakan", database = "DATABASE", until = {NEXT} }}')
    project = ground.project()
    plan = candidates(project, LoadRequest(days=(DAY, NEXT, after)))
    assert [one.slice.day for one in plan.slices if one.shard.name == "abakan"] == [DAY, NEXT]
    assert (plan.before_start, plan.after_end) == (0, 1)
    assert verify(project, VerifyRequest(days=(DAY, NEXT))).is_fine
    assert wrong(ground) == []
    with open_store(project.sessions) as store:
        tasks = sliced_tasks(project, (), ("abakan",))
        now = datetime.now(project.zone)  # a success that starts after it would complete no day
        coverage = cover(project, store, tasks, (DAY, NEXT, after), now)
    assert [cell.status for cell in coverage.rows[0].cells] == [
        SliceStatus.LOADED,
        SliceStatus.LOADED,
        SliceStatus.AFTER_END,
    ]
    assert find_gaps(coverage) == []


def test_on_the_command_line(tmp_path: Path) -> None:
    sandbox = loaded(Sandbox(tmp_path, {"server_0": ["abakan", "chita"]}, load_keys=KEYS).write())
    entry(sandbox, "abakan", '{ name = "abakan_2", database = "abakan" }')
    done = sandbox.run("verify", "--date", str(DAY), "--format", "json")
    assert done.returncode == 1
    [row] = [one for one in json.loads(done.stdout) if one["check"] == "unknown_source"]
    assert (row["load"], row["shard"], row["day"], row["warehouse"]) == ("orders", "abakan", None, "20")
    assert "1 unknown etl_source (20 rows)" in done.stderr
