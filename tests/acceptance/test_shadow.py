"""Shadow runs: a load into another table for a while, beside the load's own runs and never taken for one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.cli.common.options import Settings
from dwhctl.cli.common.summary import show_summary
from dwhctl.core.errors import LockHeldError, UsageError
from dwhctl.load.run import plan_load, run_load
from dwhctl.project.names import with_shadow
from dwhctl.runtime.events import RunResult
from dwhctl.runtime.failures import retry_slices
from dwhctl.runtime.plan import LoadRequest
from dwhctl.sessions import State
from tests.support.faulty import Faults, flocked, held_locks, wait_for_end
from tests.support.projects import CREATE, DAY, Sandbox
from tests.support.wire import CREATE as WIRE_CREATE
from tests.support.wire import a_wire

SHADOW = "stage.orders_new"
NAME = f"orders@{SHADOW}"
OWN_LOAD = ("load", "orders", "--date", str(DAY))
SHADOW_LOAD = (*OWN_LOAD, "--table", SHADOW)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Three shards, and a `create` that goes by load.table."""
    create = CREATE.replace("stage.orders (", "{{ load.table }} (")
    return Sandbox(tmp_path, create=create).write().fill(5)


def shadow_load(sandbox: Sandbox, table: str = SHADOW, load: str = "orders", **options: object) -> RunResult:
    """Load DAY into another table, in this process."""
    project, loads = with_shadow(sandbox.project(), [load], table)
    wanted: dict[str, Any] = {"days": (DAY,), "inline": True, **options}
    request = LoadRequest(loads=loads, **wanted)
    return run_load(project, request, lambda event: None)


def shadow_rows(sandbox: Sandbox) -> list[tuple[object, ...]]:
    """What the other table holds, in the form of `source_rows`."""
    rows = sandbox.warehouse(f"SELECT etl_source, id, customer, amount, start_time FROM {SHADOW}")
    return sorted(rows, key=lambda row: (row[0], row[1]))


def test_a_shadow_run_fills_its_table_and_leaves_the_load_alone(sandbox: Sandbox) -> None:
    sandbox.load()
    before = sandbox.warehouse("SELECT * FROM stage.orders ORDER BY ALL")
    done = sandbox.run(
        "backfill", "orders", "-s", str(DAY), "-e", str(DAY), "--table", SHADOW.upper(), "--inline"
    )
    assert done.returncode == 0, done.stderr
    assert "3 slices loaded" in done.stdout
    assert shadow_rows(sandbox) == sandbox.source_rows()
    assert sandbox.warehouse("SELECT * FROM stage.orders ORDER BY ALL") == before
    ids = sandbox.warehouse(f"SELECT etl_id FROM stage.orders INTERSECT SELECT etl_id FROM {SHADOW}")
    assert ids == []
    tasks = {session.task_name for session in sandbox.sessions_newest_first() if session.load == NAME}
    assert tasks == {f"{NAME}__{shard}" for shard in sandbox.shards()}


def test_the_days_of_a_shadow_run_are_not_the_loads_own(sandbox: Sandbox) -> None:
    shadow_load(sandbox)
    own = plan_load(sandbox.project(), LoadRequest(days=(DAY,), only_missing=True))
    assert len(own.slices) == 3
    project, loads = with_shadow(sandbox.project(), ["orders"], SHADOW)
    assert not plan_load(project, LoadRequest(days=(DAY,), loads=loads, only_missing=True)).slices
    sandbox.load()
    assert sandbox.target_rows() == shadow_rows(sandbox) == sandbox.source_rows()


def test_both_may_run_on_one_day_at_once_but_not_two_shadow_runs(sandbox: Sandbox) -> None:
    locks = sandbox.project().state_dir / "locks"
    shadow_load(sandbox)
    names = {path.name: path for path in locks.rglob("*.lock")}
    with flocked(names[f"{NAME}.{DAY}.lock"]):
        assert sandbox.load().failed == 0
        with pytest.raises(LockHeldError, match=NAME):
            shadow_load(sandbox)
    with flocked(next(locks.rglob(f"orders.{DAY}.lock"))):
        assert shadow_load(sandbox).failed == 0


def test_a_shrinking_source_is_compared_with_the_shadows_own_table(sandbox: Sandbox) -> None:
    sandbox.fill(200, shards=["abakan"])
    shadow_load(sandbox)
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id >= 20")
    assert sandbox.load().failed == 0
    report = shadow_load(sandbox)
    (failed,) = report.failures
    assert failed.failure.error_class == "ShrunkSourceError"
    wanted = f"dwhctl load orders --table {SHADOW} --date {DAY} --shard abakan"
    assert f"{wanted} --allow-shrink" in failed.failure.message
    assert retry_slices([(failed.load, failed.shard, failed.day)]) == wanted
    assert shadow_load(sandbox, allow_shrink=True).failed == 0
    assert shadow_rows(sandbox) == sandbox.source_rows()


@pytest.mark.parametrize(
    "point", ["publish.committed", pytest.param("publish.commit", marks=pytest.mark.long)]
)
def test_a_killed_shadow_run_is_put_right_by_any_run(sandbox: Sandbox, tmp_path: Path, point: str) -> None:
    shadow_load(sandbox)
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1")
    process = sandbox.start(*SHADOW_LOAD, "--inline", env=Faults(tmp_path / "log").at(point, "kill").env())
    wait_for_end(process)
    assert process.returncode == -9
    sandbox.load()
    newest: dict[str, State] = {}
    for session in sandbox.sessions_newest_first():
        newest.setdefault(session.task_name, session.state)
    stands = State.LOADED if point == "publish.committed" else State.ABANDONED
    assert stands in {newest[f"{NAME}__{shard}"] for shard in sandbox.shards()}
    assert State.RUNNING not in newest.values()
    assert sandbox.target_rows() == sandbox.source_rows()
    shadow_load(sandbox)
    assert shadow_rows(sandbox) == sandbox.source_rows()
    assert held_locks(sandbox.project().state_dir) == []


def test_etl_ids_go_on_above_those_of_an_older_shadow_table(sandbox: Sandbox) -> None:
    shadow_load(sandbox)
    (highest,) = sandbox.warehouse(f"SELECT max(etl_id) + 1000 FROM {SHADOW}")[0]
    sandbox.load()  # the sessions table is in use, and knows nothing of the next table
    sandbox.change_warehouse(
        f"CREATE TABLE stage.older AS SELECT * REPLACE (etl_id + 1000 AS etl_id) FROM {SHADOW}"
    )
    shadow_load(sandbox, "stage.older")
    (lowest,) = sandbox.warehouse("SELECT min(etl_id) FROM stage.older")[0]
    assert lowest > highest


def add_load(sandbox: Sandbox) -> None:
    """Write a second load of the same shards, into stage.copies."""
    text = (sandbox.root / "config/loads/orders.toml").read_text()
    sandbox.put("config/loads/copies.toml", text.replace("stage.orders", "stage.copies"))


@pytest.mark.parametrize(
    ("loads", "table", "words"),
    [
        ([], SHADOW, "needs one load"),
        (["orders", "copies"], SHADOW, "needs one load"),
        (["order"], SHADOW, "did you mean 'orders'"),
        (["orders"], "orders_new", "not a table with its schema"),
        (["orders"], "Stage.Orders", "own table: leave --table out"),
        (["orders"], "stage.COPIES", "is the target of load 'copies'"),
        (["orders"], "stage.a__b", "separates load and shard"),
        (["orders"], "stage.a_", "without a '_' at its end"),
        (["orders"], f"stage.{'a' * 190}", "choose a shorter table"),
    ],
)
def test_what_cannot_be_a_shadow_runs_table_is_refused(
    sandbox: Sandbox, loads: list[str], table: str, words: str
) -> None:
    add_load(sandbox)
    with pytest.raises(UsageError, match=words):
        with_shadow(sandbox.project(), loads, table)


def test_a_create_that_does_not_go_by_the_table_is_refused_with_the_remedy(sandbox: Sandbox) -> None:
    sandbox.put("sql/orders/create.sql", CREATE)
    done = sandbox.run(*SHADOW_LOAD)
    assert done.returncode == 2
    assert "sql/orders/create.sql" in done.stderr
    assert "CREATE TABLE IF NOT EXISTS {{ load.table }} (" in done.stderr


def test_a_table_of_another_loads_shadow_run_is_refused(sandbox: Sandbox) -> None:
    add_load(sandbox)
    shadow_load(sandbox)
    with pytest.raises(UsageError, match="shadow runs of the load 'orders' went into it"):
        shadow_load(sandbox, load="copies")
    assert shadow_rows(sandbox) == sandbox.source_rows()


def test_a_day_that_only_fails_in_the_shadow_says_how_to_try_again(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in sandbox.shards():
        sandbox.in_shard(shard, "ALTER TABLE orders DROP amount")
    second = DAY - timedelta(days=1)
    show_summary(shadow_load(sandbox, days=(DAY, second), retries=0), Settings())
    again = f"dwhctl backfill orders --table {SHADOW} -s {second} -e {DAY}"
    assert f"correct sql/orders/extract.sql (line 1), then: {again}" in capsys.readouterr().out


@pytest.mark.long
def test_a_shadow_run_over_the_wire(tmp_path: Path) -> None:
    create = WIRE_CREATE.replace("{schema}.orders (", "{{ load.table }} (")
    with a_wire(tmp_path, {"mssql_0": ["abakan", "achinsk"]}, create=create) as wire:
        wire.fill(5)
        wire.load()
        before = wire.target_rows()
        done = wire.run("load", "orders", "--date", str(DAY), "--table", f"{wire.schema}.orders_new")
        assert done.returncode == 0, done.stderr
        assert wire.target_rows("orders_new") == wire.target_rows() == before == wire.source_rows()
        assert wire.staging_tables() == []
