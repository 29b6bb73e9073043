"""`adopt` takes what another tool loaded as complete, slice by slice, where it equals the source, and nothing else."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import LockHeldError, UsageError
from dwhctl.monitor.coverage import find_gaps, look_back, sliced_tasks
from dwhctl.runtime.locks import work_name
from dwhctl.sessions import Session, State, open_store
from dwhctl.sessions.history import read_durations, read_runs
from dwhctl.verify import adopt as adopting
from dwhctl.verify.adopt import AdoptReport, AdoptRequest, adopt, plan_adoption
from dwhctl.verify.run import VerifyRequest, verify
from tests.cli_support import dwh
from tests.integration.sessions_kit import SEVEN_POSTGRES, SEVEN_SQLITE
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, flocked, held_locks, postgres_sessions, wait_for_end
from tests.support.projects import DAY, Sandbox
from tests.support.wire import a_wire

BEFORE = DAY - timedelta(days=1)
EMPTY = DAY + timedelta(days=1)
KEYS = f'retries = 0\nretry_delay = "1s"\nstart_date = {BEFORE}\nverify_columns = ["customer", "amount"]'
SHARDS = ["abakan", "achinsk", "chita"]
#: The ids that Airflow's sessions table has handed out: far above those of dwhctl's first sessions.
THEIRS = 5_000


#: The columns in the tutorial's order; Airflow's etl_id may be NULL.
TABLE = (
    "CREATE TABLE stage.orders (id INT8, start_time TIMESTAMP, customer VARCHAR(400), amount NUMERIC(18, 2),"
    " etl_source VARCHAR(200), etl_id INT8, hash_id INT8)"
)


def airflow_loads(ground: Sandbox, days: tuple[date, ...]) -> None:
    """Fill the warehouse as the DAG did: its own etl_ids, a hash_id that dwhctl never makes."""
    rows = []
    for number, (shard, id_, customer, amount, start) in enumerate(ground.source_rows(days)):
        who = "NULL" if customer is None else f"'{customer}'"
        etl_id = "NULL" if number == 0 else THEIRS + number % 7
        rows.append(f"('{shard}', {etl_id}, {number}, {id_}, {who}, {amount}, '{start}')")
    names = "etl_source, etl_id, hash_id, id, customer, amount, start_time"
    inserts = [f"INSERT INTO stage.orders ({names}) VALUES {row}" for row in rows]
    ground.change_warehouse("CREATE SCHEMA IF NOT EXISTS stage", TABLE, *inserts)


OLD_ROW = (
    "INSERT INTO sessions (task_name, started, successful, loaded_rows)"
    " VALUES ('abakan', '2020-07-14 01:00:00+00:00', TRUE, 10)"
)


@pytest.fixture(params=["duckdb", "wire"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    """Two days of orders that Airflow has loaded, with its seven-column sessions table; by wire, in PostgreSQL."""
    if request.param == "wire":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database: str = request.getfixturevalue("postgres_database")
        server.run(SEVEN_POSTGRES, database)
        server.run(OLD_ROW, database)
        servers = {"mssql_0": SHARDS[:2], "mssql_1": SHARDS[2:]}
        sessions = postgres_sessions(server, database)
        with a_wire(tmp_path, servers, load_keys=KEYS, sessions=sessions) as wire:
            yield filled(wire)
        return
    yield filled(embedded(tmp_path))


def embedded(root: Path) -> Sandbox:
    servers = {"server_0": SHARDS[:2], "server_1": SHARDS[2:]}
    return Sandbox(root, servers, load_keys=KEYS).write()


def filled(ground: Sandbox) -> Sandbox:
    ground.fill(10, [BEFORE, DAY])
    (ground.root / "state").mkdir(exist_ok=True)
    if 'type = "sqlite"' in ground.sessions:
        with closing(sqlite3.connect(ground.root / "state/sessions.sqlite")) as link, link:
            link.execute(SEVEN_SQLITE)
            link.execute(OLD_ROW)
    airflow_loads(ground, (BEFORE, DAY))
    return ground


def adopted(ground: Sandbox, *days: date, **keys: Any) -> AdoptReport:
    request = AdoptRequest("orders", days or (BEFORE, DAY, EMPTY), **keys)
    return adopt(ground.project(), request, lambda _event: None)


def gaps(ground: Sandbox, *days: date) -> int:
    project = ground.project()
    tasks = sliced_tasks(project, (), ())
    return len(find_gaps(look_back(project, tasks, days or (BEFORE, DAY, EMPTY), datetime.now(UTC))))


def found(report: AdoptReport) -> list[tuple[str, date | None, list[str]]]:
    return [(one.shard, one.day, [each.check.value for each in one.findings]) for one in report.differing]


def damage(ground: Sandbox) -> None:
    """A row twice, another value, a row that is missing: each costs its own slice only."""
    names = "etl_source, etl_id, hash_id, id, customer, amount, start_time"
    ids = {
        shard: ground.warehouse(
            f"SELECT max(id) FROM stage.orders WHERE etl_source = '{shard}' AND start_time >= '{DAY}'"
        )[0][0]
        for shard in SHARDS
    }
    ground.change_warehouse(
        f"INSERT INTO stage.orders ({names}) SELECT {names} FROM stage.orders"
        f" WHERE etl_source = 'abakan' AND id = {ids['abakan']}",
        f"DELETE FROM stage.orders WHERE etl_source = 'abakan' AND id = {ids['abakan'] - 1}",
        f"UPDATE stage.orders SET amount = amount + 1 WHERE etl_source = 'achinsk' AND id = {ids['achinsk']}",
        f"DELETE FROM stage.orders WHERE etl_source = 'chita' AND id = {ids['chita']}",
    )


def test_what_equals_the_source_is_complete_and_what_differs_is_listed(ground: Sandbox) -> None:
    damage(ground)
    rows = ground.warehouse("SELECT etl_source, etl_id, hash_id, id FROM stage.orders ORDER BY 1, 4, 2, 3")
    assert gaps(ground) == len(SHARDS)
    report = adopted(ground)
    # The doubled key makes up for the missing row: the numbers of rows are equal.
    assert sorted(shard for shard, _, _ in found(report)) == SHARDS
    assert {day for _, day, _ in found(report)} == {DAY}
    checks = {shard: names for shard, _, names in found(report)}
    assert "doubled_keys" in checks["abakan"]
    assert "value_checksum" in checks["achinsk"]
    assert "rows" in checks["chita"]
    assert (report.adopted, report.empty, report.rows) == (3, 3, 30)
    # No row was touched.
    assert rows == ground.warehouse(
        "SELECT etl_source, etl_id, hash_id, id FROM stage.orders ORDER BY 1, 4, 2, 3"
    )
    sessions = ground.sessions_newest_first()
    assert {one.comment for one in sessions} == {
        "adopted: 10 rows equal to the source",
        "adopted: no rows at the source, none in the warehouse",
    }
    assert {(one.day, one.state, one.loaded_rows, one.successful) for one in sessions} == {
        (BEFORE, State.LOADED, 10, True),
        (EMPTY, State.SKIPPED, 0, True),
    }
    assert {one.run_id for one in sessions} == {report.run_id}
    # Its own row is as it was, and no id of dwhctl is that of one of its rows in the warehouse.
    with open_store(ground.project().sessions) as store:
        assert store.read("looking for the last id", "prune_window", {"after": 0, "end": 1, "size": 9}) == [
            (1, 1)
        ]
    assert min(one.id for one in sessions) > THEIRS + 6
    assert gaps(ground) == len(SHARDS)
    assert gaps(ground, BEFORE, EMPTY) == 0
    # verify accepts Airflow's etl_ids there, and the days that were not adopted are not complete.
    checked = verify(ground.project(), VerifyRequest(days=(BEFORE, DAY, EMPTY)))
    assert checked.is_fine
    assert sum(one.is_equal for one in checked.results) == 2 * len(SHARDS)
    _the_days_that_differ_are_loaded(ground)


def _the_days_that_differ_are_loaded(ground: Sandbox) -> None:
    loaded = ground.load(BEFORE, DAY, EMPTY, only_missing=True)
    assert (loaded.loaded, loaded.failed) == (len(SHARDS), 0)
    assert ground.target_rows() == ground.source_rows()
    assert verify(ground.project(), VerifyRequest(days=(BEFORE, DAY, EMPTY))).is_fine
    again = adopted(ground)
    assert (again.plan.slices, again.plan.complete) == ((), 9)
    # Of a slice that dwhctl has loaded since, only its own rows are accepted again.
    assert not ground.load(BEFORE).failed
    ground.change_warehouse(
        f"UPDATE stage.orders SET etl_id = {THEIRS} WHERE etl_source = 'chita' AND start_time < '{DAY}'"
    )
    checked = verify(ground.project(), VerifyRequest(days=(BEFORE,)))
    assert [each.check.value for one in checked.results for each in one.findings] == ["rows_of_no_session"]


@pytest.fixture
def simple(tmp_path: Path) -> Sandbox:
    """The embedded ground, alone."""
    return filled(embedded(tmp_path))


def test_an_adopted_slice_takes_no_time_in_any_average(simple: Sandbox) -> None:
    # Of the newest day one shard is left to adopt: the duration of the last run is that of the others.
    assert not simple.load(EMPTY, shards=("a*",)).failed
    before = _what_is_averaged(simple)
    report = adopted(simple)
    assert not report.differing
    assert _what_is_averaged(simple) == before
    with open_store(simple.project().sessions) as store:
        # Of two runs that began in one second, either may be the newest.
        [run] = [one for one in read_runs(store, 2) if one.run_id == report.run_id]
        assert (run.slices, run.loaded, run.skipped, run.rows) == (7, 6, 1, 60)
        assert not store.unfinished_runs()
        # Folded into the daily sums it counts as loaded, in no time.
        ids = [one.id for one in store.recent(100) if one.attempt == 0]
        assert store.prune(ids) == 7
    with closing(sqlite3.connect(simple.root / "state/sessions.sqlite")) as link:
        sums = link.execute(
            "SELECT sum(loaded), sum(skipped), sum(loaded_rows), sum(seconds) FROM dwhctl_days"
        )
        assert sums.fetchall() == [(6, 1, 60, 0.0)]


def _what_is_averaged(ground: Sandbox) -> tuple[object, ...]:
    from dwhctl.monitor.metrics import metrics_text
    from dwhctl.runtime.plan import LoadRequest, candidates, past_of

    project = ground.project()
    plan = candidates(project, LoadRequest((EMPTY,)))
    text = metrics_text(project, EMPTY)
    seconds = [line for line in text.splitlines() if line.startswith("dwhctl_duration_seconds{")]
    assert [line.endswith(" 0.0") for line in seconds] == [False]
    with open_store(project.sessions) as store:
        return past_of(store, plan), read_durations(store, datetime(2020, 1, 1, tzinfo=UTC)), seconds


def test_ids_go_on_above_those_of_the_adopted_rows(tmp_path: Path) -> None:
    ground = embedded(tmp_path).fill(10, [BEFORE, DAY])
    # The sessions table is in use: its ids are low, and no run has looked at Airflow's table.
    (tmp_path / "state").mkdir()
    ground.change_warehouse("CREATE SCHEMA stage", TABLE)
    assert not ground.load(BEFORE).failed
    assert max(one.id for one in ground.sessions_newest_first()) < THEIRS
    ground.change_warehouse("DROP TABLE stage.orders")
    airflow_loads(ground, (BEFORE, DAY))
    assert not adopted(ground, DAY).differing
    assert min(one.id for one in ground.sessions_newest_first() if one.day == DAY) > THEIRS + 6


def test_only_days_that_are_over_are_adopted(simple: Sandbox) -> None:
    noon = datetime(2020, 7, 14, 12, tzinfo=UTC)
    with pytest.raises(UsageError, match=r"the day 2020-07-14 of load orders is not over in .*-e 2020-07-13"):
        plan_adoption(simple.project(), AdoptRequest("orders", (BEFORE, DAY)), noon)
    with pytest.raises(UsageError, match="adopt it when it is"):
        plan_adoption(simple.project(), AdoptRequest("orders", (DAY,)), noon)
    # Days before the start_date are left out, as a backfill leaves them out.
    plan = plan_adoption(simple.project(), AdoptRequest("orders", (BEFORE - timedelta(days=1), BEFORE)), noon)
    assert (len(plan.slices), plan.before_start) == (3, 3)


def test_a_day_that_is_being_loaded_is_locked(simple: Sandbox) -> None:
    name = work_name(simple.project().loads["orders"], DAY)
    with (
        flocked(simple.root / f"state/locks/work/{name}.lock"),
        pytest.raises(LockHeldError, match="--wait 10m"),
    ):
        adopted(simple, DAY, wait=timedelta(seconds=0.1))
    assert not adopted(simple, DAY).differing


def test_a_shard_that_is_down_costs_its_own_slices(simple: Sandbox) -> None:
    simple.shard_file("chita").unlink()
    report = adopted(simple, DAY)
    assert found(report) == [("chita", DAY, ["not_compared"])]
    assert report.adopted == 2


def test_rows_under_other_names_differ_and_are_named(simple: Sandbox) -> None:
    simple.change_warehouse("UPDATE stage.orders SET etl_source = 'Chita' WHERE etl_source = 'chita'")
    report = adopted(simple, DAY)
    assert [one[0] for one in found(report)] == ["chita"]
    assert [(one.shard, one.findings[0].check.value) for one in report.of_no_slice] == [
        ("Chita", "unknown_source")
    ]


def test_a_load_without_days_is_adopted_whole(tmp_path: Path) -> None:
    extract = "SELECT id, customer, amount, start_time FROM orders"
    simple = Sandbox(tmp_path, {"server_0": SHARDS}, load_keys="retries = 0", extract=extract).write()
    text = (tmp_path / "config/loads/orders.toml").read_text()
    simple.put("config/loads/orders.toml", text.replace('slice_by = "start_time"\n', ""))
    filled(simple)
    report = adopted(simple, DAY)
    assert (report.adopted, report.rows, report.differing) == (3, 60, [])
    assert verify(simple.project(), VerifyRequest(days=(EMPTY,))).is_fine
    assert adopted(simple, EMPTY).plan.complete == 3


def test_the_command_says_what_to_load_and_a_dry_run_writes_nothing(
    simple: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    (simple.root / "state/sessions.sqlite").unlink()
    damage(simple)
    words = ("adopt", "orders", "-s", str(BEFORE), "-e", str(EMPTY), "--project", str(simple.root))
    assert dwh(*words, "--dry-run") == 1
    text = "9 slices: 6 {} (30 rows), 3 of them empty on both sides, 3 different"
    assert text.format("would be adopted") in capsys.readouterr().out
    assert not (simple.root / "state/sessions.sqlite").exists()
    assert not (simple.root / "state/locks").exists()
    assert dwh(*words) == 1
    out = capsys.readouterr().out
    fill = f"dwhctl backfill orders -s {DAY} -e {DAY} --only-missing"
    assert f"  {fill} --project {simple.root}\n" in out
    assert text.format("adopted") in out
    assert dwh(*words, "--format", "json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert {(one["shard"], one["day"], one["command"]) for one in rows} == {
        (shard, str(DAY), f"{fill} --shard {shard} --project {simple.root}") for shard in SHARDS
    }
    assert not simple.load(DAY).failed
    capsys.readouterr()
    assert dwh(*words) == 0
    assert capsys.readouterr().out == "nothing to adopt; left out: 9 complete\n"
    assert dwh("adopt", "orders", "-s", "today", "-e", "today", "--project", str(simple.root)) == 2
    assert "is not over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        pytest.param("adopt.compared", 0, marks=pytest.mark.long),
        pytest.param("sessions.adopt.begin", 0, marks=pytest.mark.long),
        ("sessions.adopt.commit", 0),
        pytest.param("sessions.adopt.done", 9, marks=pytest.mark.long),
    ],
)
def test_a_killed_adopt_leaves_whole_batches_and_goes_on(
    simple: Sandbox, tmp_path_factory: pytest.TempPathFactory, point: str, kept: int
) -> None:
    faults = Faults(tmp_path_factory.mktemp("faults") / "log").at(point, "kill")
    process = simple.start("adopt", "orders", "-s", str(BEFORE), "-e", str(EMPTY), env=faults.env())
    wait_for_end(process)
    assert (process.returncode, faults.count(point)) == (-signal.SIGKILL, 1)
    with open_store(simple.project().sessions) as store:
        assert len(store.recent(100)) == kept
        assert store.unfinished_runs() == []
    report = adopted(simple)
    assert (report.adopted + report.empty, report.plan.complete, report.differing) == (9 - kept, kept, [])
    assert gaps(simple) == 0
    assert len(simple.sessions_newest_first()) == 9
    assert not held_locks(simple.root / "state")


def test_batches_are_whole_days_and_each_is_kept(simple: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "BATCH_SLICES", 4)
    reached: list[str] = []

    def stop(point: str) -> None:
        reached.append(point)
        if reached.count("adopt.compared") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("dwhctl.core.faults.handler", stop)
    with pytest.raises(KeyboardInterrupt):
        adopted(simple)
    sessions: list[Session] = simple.sessions_newest_first()
    assert {one.day for one in sessions} == {BEFORE}
    assert len(sessions) == 3
    monkeypatch.setattr("dwhctl.core.faults.handler", None)
    report = adopted(simple)
    assert (len(report.plan.slices), report.plan.complete, report.adopted) == (6, 3, 3)
