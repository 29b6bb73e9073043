"""Loading a day again changes nothing but etl_id, any number of times; with sessions in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
import random
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.sessions.values import State
from dwhctl.verify.run import VerifyRequest, verify
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, wait_for_end
from tests.support.projects import DAY, Sandbox

NEXT_DAY = DAY + timedelta(days=1)
#: What a row is without etl_id, hash_id included.
FINGERPRINT = (
    "SELECT count(*), bit_xor(hash(id, customer, amount, start_time, etl_source, hash_id)),"
    " sum(hash(id, customer, amount, start_time, etl_source, hash_id)) FROM stage.orders"
)
TIMES = 4


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def sessions(request: pytest.FixtureRequest) -> str:
    """The keys of the sessions' connection."""
    if request.param == "sqlite":
        return 'type = "sqlite"\npath = "state/sessions.sqlite"'
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database: str = request.getfixturevalue("postgres_database")
    password = "" if server.password is None else f'\npassword = "{server.password}"'
    return (
        f'type = "postgres"\nhost = "{server.host}"\nport = {server.port}\nuser = "{server.user}"\n'
        f'database = "{database}"{password}'
    )


@pytest.fixture
def project(tmp_path: Path, sessions: str) -> Sandbox:
    """A project with two days of orders."""
    return Sandbox(tmp_path, sessions=sessions).write().fill(50, days=[DAY, NEXT_DAY])


def fingerprint(project: Sandbox) -> list[tuple[Any, ...]]:
    """Hash what the warehouse holds, all but etl_id."""
    return project.warehouse(FINGERPRINT)


def etl_ids(project: Sandbox) -> set[int]:
    """Give the sessions that the rows name."""
    return {etl_id for (etl_id,) in project.warehouse("SELECT DISTINCT etl_id FROM stage.orders")}


def test_again_and_again_only_etl_id_changes(project: Sandbox) -> None:
    project.load()
    first, ids = fingerprint(project), etl_ids(project)

    for _ in range(TIMES):
        report = project.load()
        assert (report.loaded, report.failed) == (3, 0)
        assert fingerprint(project) == first
        assert project.target_rows() == project.source_rows([DAY])
        newer = etl_ids(project)
        assert min(newer) > max(ids)
        ids = newer

    assert len(ids) == len(project.shards())
    sessions = project.sessions_newest_first()
    assert [one.state for one in sessions] == [State.LOADED] * 3 * (TIMES + 1)
    assert {one.id for one in sessions[:3]} == ids


@pytest.mark.long
def test_again_in_worker_processes(project: Sandbox) -> None:
    project.load(DAY, NEXT_DAY)
    first = fingerprint(project)

    done = project.run("load", "--date", str(NEXT_DAY), "--lookback", "1", "--jobs", "2")
    assert done.returncode == 0, done.stderr

    assert fingerprint(project) == first
    assert len(etl_ids(project)) == 2 * len(project.shards())


@pytest.mark.long
def test_the_order_of_the_source_does_not_matter(project: Sandbox) -> None:
    project.load(DAY, NEXT_DAY)
    first = fingerprint(project)

    for seed in range(3):
        for shard in project.shards():
            project.in_shard(
                shard,
                f"CREATE TABLE shuffled AS SELECT * FROM orders ORDER BY hash(id, {random.Random(seed).random()})",
                "DROP TABLE orders",
                "ALTER TABLE shuffled RENAME TO orders",
            )
        project.load(DAY, NEXT_DAY)
        assert fingerprint(project) == first


def test_a_row_keeps_its_hash_id_whatever_happens_around_it(project: Sandbox) -> None:
    project.load()
    kept = "SELECT etl_source, id, hash_id FROM stage.orders WHERE id % 2 = 1 ORDER BY ALL"
    first = project.warehouse(kept)

    for shard in project.shards():
        project.in_shard(
            shard,
            "DELETE FROM orders WHERE id % 2 = 0",
            "UPDATE orders SET customer = 'другой', amount = -amount",
        )
    project.load(allow_shrink=True)

    assert project.warehouse(kept) == first
    assert project.target_rows() == project.source_rows([DAY])
    assert len(first) == len(project.target_rows())


def test_a_reload_of_one_shard_leaves_the_others_alone(project: Sandbox) -> None:
    project.load(DAY, NEXT_DAY)
    others = (
        f"SELECT * FROM stage.orders WHERE etl_source <> 'chita' OR start_time >= '{NEXT_DAY}' ORDER BY ALL"
    )
    before, first = project.warehouse(others), fingerprint(project)

    project.load(shards=("chita",))

    assert project.warehouse(others) == before
    assert fingerprint(project) == first


@pytest.mark.parametrize("newest_first", [True, False])
def test_rows_moved_to_another_day_are_right_when_both_are_loaded(
    project: Sandbox, newest_first: bool
) -> None:
    days = [NEXT_DAY, DAY] if newest_first else [DAY, NEXT_DAY]
    project.load(*days)
    for shard in project.shards():
        for number, step, days_rows in ((0, "+", f"< '{NEXT_DAY}'"), (1, "-", f">= '{NEXT_DAY}'")):
            project.in_shard(
                shard,
                f"UPDATE orders SET start_time = start_time {step} INTERVAL 1 DAY"
                f" WHERE id % 5 = {number} AND start_time {days_rows}",
            )
    assert project.target_rows() != project.source_rows()

    report = project.load(*days)

    assert report.failed == 0
    assert project.target_rows() == project.source_rows()
    moved = fingerprint(project)
    project.load(*days)
    assert fingerprint(project) == moved


def test_a_day_emptied_at_the_source_is_emptied(project: Sandbox) -> None:
    project.load(DAY, NEXT_DAY)
    project.in_shard("chita", f"DELETE FROM orders WHERE start_time < '{NEXT_DAY}'")

    report = project.load(allow_shrink=True)

    assert (report.loaded, report.skipped, report.failed) == (2, 1, 0)
    assert project.target_rows() == project.source_rows()


@pytest.mark.long
def test_days_one_by_one_or_together_are_the_same(project: Sandbox) -> None:
    project.load(DAY)
    project.load(NEXT_DAY)
    apart = fingerprint(project)

    project.load(DAY, NEXT_DAY, jobs=1)

    assert fingerprint(project) == apart
    assert project.target_rows() == project.source_rows()


def test_an_interrupted_reload_leaves_good_days_complete(
    project: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.load(DAY, NEXT_DAY)
    rows = project.target_rows()
    range_ = ("orders", "-s", str(DAY), "-e", str(NEXT_DAY))
    faults = Faults(tmp_path / "log").at("stage.extract", "pause", nth=2, until=99)
    reload = project.start("backfill", *range_, env=faults.env())
    faults.wait_for("stage.extract", nth=2)
    reload.send_signal(signal.SIGINT)
    wait_for_end(reload)
    assert reload.returncode == 130
    failed = [one for one in project.sessions_newest_first() if one.state is State.FAILED]
    assert failed
    place = ("--project", project.root)
    assert dwh("report", "gaps", *range_[1:], "--exit-code", *place) == 0
    capsys.readouterr()
    assert dwh("backfill", *range_, "--only-missing", "--dry-run", *place) == 0
    assert "nothing to load; left out: 6 complete" in capsys.readouterr().out
    assert dwh("report", "grid", "--days", "3660", "--format", "json", *place) == 0
    cells = json.loads(capsys.readouterr().out)
    signs = {(cell["shard"], cell["day"]) for cell in cells if cell["state"] == "reload_failed"}
    assert signs == {(one.shard, str(one.day)) for one in failed}
    assert project.target_rows() == rows
    assert [one.is_equal for one in verify(project.project(), VerifyRequest((DAY, NEXT_DAY))).results] == [
        True
    ] * 6
