"""`verify` finds what was done to the warehouse by hand, and names it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dwhctl.runtime.fanout import FanOut, RemoteCheck
from dwhctl.sessions import open_store
from dwhctl.sessions.values import Closing, NewSession, State
from dwhctl.verify.checks import SourceCheck
from dwhctl.verify.findings import SliceComparison
from dwhctl.verify.run import VerifyReport, VerifyRequest, verify
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.servers.base import Fault
from tests.support.faulty import postgres_sessions
from tests.support.projects import DAY, Sandbox
from tests.support.wire import Wire, a_wire, needs_faults

BEFORE = DAY - timedelta(days=1)
KEYS = 'retries = 0\nretry_delay = "1s"\nverify_columns = ["customer", "amount"]'
MSSQL = {"mssql_0": ["abakan", "achinsk"], "mssql_1": ["chita"]}
Found = list[tuple[str, date | None, str, str | None, str | None]]


SHARDS = ["copied", "moved", "other", "some", "values"]


@pytest.fixture(params=["duckdb", "wire"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    """Shards with ten orders on each of two days, loaded."""
    if request.param == "wire":
        with a_wire(tmp_path, {"mssql_0": SHARDS[:2], "mssql_1": SHARDS[2:]}, load_keys=KEYS) as wire:
            yield filled(wire)
        return
    sandbox = Sandbox(tmp_path, {"server_0": SHARDS[:2], "server_1": SHARDS[2:]}, load_keys=KEYS)
    yield filled(sandbox.write())


def filled(ground: Sandbox) -> Sandbox:
    ground.fill(10, [BEFORE, DAY])
    assert not ground.load(BEFORE, DAY).failed
    return ground


def verified(ground: Sandbox, *days: date, **keys: Any) -> VerifyReport:
    return verify(ground.project(), VerifyRequest(days=days or (BEFORE, DAY), **keys))


def found(report: VerifyReport) -> Found:
    """Shard, day, check and both values of everything that was found, in a fixed order."""
    rows = [
        (one.shard, one.day, each.check.value, each.source, each.warehouse)
        for one in report.results
        for each in one.findings
    ]
    return sorted(rows, key=lambda row: (row[0], str(row[1]), row[2]))


def key_of(ground: Sandbox, shard: str, day: date, number: int) -> int:
    """The id of an order of that shard and day."""
    rows = ground.warehouse(
        f"SELECT id FROM stage.orders WHERE etl_source = '{shard}' AND start_time >= '{day}'"
        f" AND start_time < '{day + timedelta(days=1)}' ORDER BY id"
    )
    return int(rows[number][0])


def details(report: VerifyReport) -> str:
    return " | ".join(each.detail or "" for one in report.results for each in one.findings)


def columns_of(
    report: VerifyReport, shard: str
) -> list[tuple[date | None, str | None, int | None, str | None]]:
    """Day, column, rows and key of what differs in the shard's values."""
    return [
        (one.day, each.column, each.rows, each.key)
        for one in report.results
        for each in one.findings
        if one.shard == shard and each.column is not None
    ]


def test_what_was_done_by_hand_is_found_and_named(ground: Sandbox) -> None:
    report = verified(ground)
    assert found(report) == []
    assert (report.is_fine, [one.rows for one in report.results]) == (True, [10] * 2 * len(SHARDS))
    ids = {(shard, day): key_of(ground, shard, day, 4) for shard in SHARDS for day in (BEFORE, DAY)}

    def row(shard: str, day: date) -> str:
        return f"etl_source = '{shard}' AND id = {ids[shard, day]}"

    columns = "etl_source, etl_id, hash_id, id, customer, amount"
    ground.change_warehouse(
        f"INSERT INTO stage.orders ({columns}, start_time) SELECT {columns}, CAST('{BEFORE} 10:00:00' AS TIMESTAMP)"
        f" FROM stage.orders WHERE {row('copied', DAY)}",
        f"UPDATE stage.orders SET start_time = '{BEFORE} 10:00:00' WHERE {row('moved', DAY)}",
        f"INSERT INTO stage.orders ({columns}, start_time) SELECT {columns}, start_time"
        f" FROM stage.orders WHERE {row('some', BEFORE)}",
        f"DELETE FROM stage.orders WHERE {row('some', DAY)}",
        f"UPDATE stage.orders SET etl_id = 4711 WHERE {row('other', BEFORE)}",
        f"UPDATE stage.orders SET id = id + 500 WHERE {row('other', DAY)}",
        f"UPDATE stage.orders SET customer = '' WHERE {row('values', BEFORE)}",
        f"UPDATE stage.orders SET amount = amount + 1 WHERE {row('values', DAY)}",
    )
    report = verified(ground)
    assert not report.is_fine
    rows = found(report)
    checksums = [one for one in rows if one[2].endswith("checksum")]
    assert [one[:3] for one in checksums] == [
        ("other", DAY, "key_checksum"),
    ]
    assert all(source != warehouse for *_, source, warehouse in checksums)
    changed = [one for one in rows if one[2] == "values"]
    others = [one for one in rows if one not in (*checksums, *changed) and one[2] != "largest_key"]
    assert others == [
        ("copied", BEFORE, "keys_in_other_slices", None, "1"), ("copied", BEFORE, "rows", "10", "11"),
        ("copied", DAY, "keys_in_other_slices", None, "1"),
        ("moved", BEFORE, "rows", "10", "11"), ("moved", DAY, "rows", "10", "9"),
        ("other", BEFORE, "rows_of_no_session", None, "1"),
        ("some", BEFORE, "doubled_keys", None, "1"), ("some", BEFORE, "rows", "10", "11"),
        ("some", DAY, "rows", "10", "9"),
    ]  # fmt: skip
    assert columns_of(report, "values") == [
        (BEFORE, "customer", 1, f"id={ids['values', BEFORE]}"), (DAY, "amount", 1, f"id={ids['values', DAY]}"),
    ]  # fmt: skip
    assert next(one[4] for one in changed) == "''"
    assert all(source != warehouse for *_, source, warehouse in changed)
    # What came from the later day has the largest key of the day on which it now stands.
    assert {one[:2] for one in rows if one[2] == "largest_key"} == {
        ("copied", BEFORE), ("moved", BEFORE), ("other", DAY),
    }  # fmt: skip
    largest = key_of(ground, "values", DAY, 9)
    assert ("other", DAY, "largest_key", f"id={largest}", f"id={ids['other', DAY] + 500}") in rows
    assert f"such as id = {ids['some', BEFORE]}" in details(report)
    assert f"only in the source: id = {ids['some', DAY]}" in details(report)
    assert (
        f"only in the source: id = {ids['other', DAY]}; only in"
        f" {ground.project().loads['orders'].table}: id = {ids['other', DAY] + 500}"
    ) in details(report)
    assert "etl_id 4711" in details(report)
    _incomplete_slices_are_no_differences(ground)
    _rows_without_a_day_are_counted(ground)
    # Loading the days again puts it right.
    assert not ground.load(BEFORE, DAY).failed
    assert verified(ground).is_fine


def _incomplete_slices_are_no_differences(ground: Sandbox) -> None:
    later = DAY + timedelta(days=1)
    report = verified(ground, later, shards=("moved",))
    assert found(report) == [("moved", later, "incomplete", None, None)]
    assert details(report) == "never loaded"
    assert report.is_fine


def _rows_without_a_day_are_counted(ground: Sandbox) -> None:
    table = "dbo.Orders" if isinstance(ground, Wire) else "orders"
    ground.in_shard("values", f"INSERT INTO {table} (id, amount) VALUES (999999, 1)")
    assert [one for one in found(verified(ground, DAY, shards=("values",))) if one[1] is None] == [
        ("values", None, "rows_in_no_slice", "1", None)
    ]
    # Who knows of them can say so.
    ground.put("sql/orders/extract.sql", f"{ground.extract.rstrip()} AND start_time IS NOT NULL\n")


def test_with_sessions_in_postgresql(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    sandbox = Sandbox(tmp_path, {"server_0": ["abakan"]}, load_keys=KEYS)
    sandbox.sessions = postgres_sessions(postgres_server, postgres_database)
    filled(sandbox.write())
    assert verified(sandbox).is_fine
    sandbox.change_warehouse(
        f"DELETE FROM stage.orders WHERE id = {key_of(sandbox, 'abakan', BEFORE, 4)}",
        f"UPDATE stage.orders SET etl_id = 4711 WHERE id = {key_of(sandbox, 'abakan', DAY, 4)}",
    )
    assert found(verified(sandbox, BEFORE, DAY, DAY + timedelta(days=1))) == [
        ("abakan", BEFORE, "rows", "10", "9"), ("abakan", DAY, "rows_of_no_session", None, "1"),
        ("abakan", DAY + timedelta(days=1), "incomplete", None, None),
    ]  # fmt: skip


# On the embedded default alone


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a loaded project."""
    return filled(Sandbox(tmp_path_factory.mktemp("loaded"), load_keys=KEYS).write()).root


@pytest.fixture
def sandbox(loaded: Path, tmp_path: Path) -> Sandbox:
    """A copy of it."""
    return Sandbox(shutil.copytree(loaded, tmp_path / "project"), load_keys=KEYS)


def test_the_command(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    done = sandbox.run("verify", "-s", str(BEFORE), "-e", str(DAY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "6 slices: 6 equal (60 rows)\n", "")
    sandbox.change_warehouse("DELETE FROM stage.orders WHERE etl_source = 'chita' AND id = 12")
    content = sandbox.warehouse_file.read_bytes()

    def ran(*arguments: str) -> tuple[int, str, str]:
        code = dwh("verify", "--date", str(DAY), *arguments, "--project", str(sandbox.root))
        return (code, *capsys.readouterr())

    code, out, err = ran("orders", "--format", "json")
    assert json.loads(out) == [
        {"load": "orders", "shard": "chita", "day": str(DAY), "check": "rows", "source": "10", "warehouse": "9",
         "detail": "only in the source: id = 12", "column": None, "rows": None, "key": None}
    ]  # fmt: skip
    assert (code, err) == (1, "3 slices: 2 equal (20 rows), 1 different\n")
    assert sandbox.warehouse_file.read_bytes() == content
    _, out, _ = ran("-v")
    assert [line.split(maxsplit=2) for line in out.splitlines()[1:3]] == [
        ["orders", "equal", f"abakan, achinsk x {DAY} (2 slices, 20 rows)"],
        ["orders", "rows", f"chita {DAY}: 10 / 9; only in the source: id = 12"],
    ]
    code, out, _ = ran("--shard", "a*", "--format", "csv")
    assert (code, out) == (0, "load,shard,day,check,source,warehouse,detail,column,rows,key\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either --date D, or both"),
        (("--date", "2020-07-14", "-s", "2020-07-14"), "either --date D, or both"),
        (("-s", "2020-07-14"), "either --date D, or both"),
        (("-s", "2020-07-14", "-e", "2020-07-13"), "lies before"),
        (("--date", "2999-01-01"), "lies in the future"),
        (("nothing", "--date", "2020-07-14"), "no load 'nothing'"),
        (("--date", "2020-07-14", "--shard", "x*"), "no shard matches"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = Sandbox(tmp_path).write()
    assert dwh("verify", *arguments, "--project", str(sandbox.root)) == 2
    assert words in capsys.readouterr().err


def test_before_any_run_everything_is_incomplete_and_nothing_is_made(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    before = sorted(tmp_path.rglob("*"))
    report = verified(sandbox, DAY)
    assert [each.check.value for one in report.results for each in one.findings] == ["incomplete"] * 3
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shard_that_is_gone_costs_its_own_slices(sandbox: Sandbox) -> None:
    sandbox.shard_file("chita").unlink()
    report = verified(sandbox)
    assert [row[:3] for row in found(report)] == [
        ("chita", BEFORE, "not_compared"),
        ("chita", DAY, "not_compared"),
    ]
    assert "there is no file" in details(report)
    assert not report.is_fine


def test_a_day_that_was_loaded_before_its_end_is_incomplete(sandbox: Sandbox) -> None:
    today = datetime.now(ZoneInfo(sandbox.timezone)).date()
    assert not sandbox.load(today).failed
    report = verified(sandbox, today)
    assert details(report) == " | ".join(["last loaded before its day was over"] * 3)
    assert report.is_fine


def test_a_float_is_refused_by_name(sandbox: Sandbox) -> None:
    sandbox.change_warehouse("ALTER TABLE stage.orders ALTER amount TYPE DOUBLE")
    report = verified(sandbox, DAY)
    assert {row[2] for row in found(report)} == {"not_compared"}
    assert "column amount is DOUBLE" in details(report)


def test_a_load_without_days_is_compared_whole(sandbox: Sandbox) -> None:
    sandbox.put("config/loads/orders.toml", (sandbox.root / "config/loads/orders.toml").read_text().replace(
        'slice_by = "start_time"\n', ""))  # fmt: skip
    sandbox.put("sql/orders/extract.sql", "SELECT id, customer, amount, start_time FROM orders\n")
    assert not sandbox.load(DAY).failed
    assert [one.rows for one in verified(sandbox, DAY + timedelta(days=3)).results] == [20] * 3
    sandbox.change_warehouse("DELETE FROM stage.orders WHERE etl_source = 'chita' AND id = 12")
    assert [row[:3] + row[3:] for row in found(verified(sandbox, DAY))] == [
        ("chita", DAY, "rows", "20", "19")
    ]


def test_an_extract_of_another_form_says_that_it_hides_rows(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "start_time >= :start AND start_time < :end"
    other = "start_time BETWEEN :start AND :end - INTERVAL 1 SECOND"
    sandbox.put("sql/orders/extract.sql", sandbox.extract.replace(known, other))
    assert dwh("verify", "--date", str(DAY), "--project", str(sandbox.root)) == 0
    assert capsys.readouterr().err.count("rows without a day were not looked for") == 1


def reloading(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Between the look at the sources and that at the warehouse, change a source and load the day again."""
    done: list[int] = []
    run = FanOut.run

    def asked(self: FanOut, checks: Iterable[RemoteCheck[object]]) -> None:
        everything = list(checks)
        sources = [one for one in everything if isinstance(one, SourceCheck)]
        run(self, sources)
        if sources and len(done) < times:
            done.append(1)
            sandbox.in_shard(
                "chita", f"INSERT INTO orders VALUES ({900 + len(done)}, 'x', 1, '{DAY} 12:00:00')"
            )
            assert not sandbox.load(DAY).failed
        run(self, [one for one in everything if one not in sources])

    monkeypatch.setattr(FanOut, "run", asked)
    return done


def test_a_key_on_two_days_is_no_finding_while_one_of_them_is_loaded(sandbox: Sandbox) -> None:
    sandbox.change_warehouse(
        f"INSERT INTO stage.orders BY NAME SELECT * REPLACE (TIMESTAMP '{BEFORE} 10:00:00' AS start_time)"
        f" FROM stage.orders WHERE etl_source = 'chita' AND id = {key_of(sandbox, 'chita', DAY, 4)}"
    )
    assert [row[2] for row in found(verified(sandbox, DAY))] == ["keys_in_other_slices"]
    now = datetime.now(UTC)
    with open_store(sandbox.project().sessions) as store:
        (id_,) = store.open([NewSession("run", "orders", "chita", BEFORE, 1, "token", now)])
        assert found(verified(sandbox, DAY)) == []
        store.close([Closing(id_, State.FAILED, now)])
    assert [row[2] for row in found(verified(sandbox, DAY))] == ["keys_in_other_slices"]


def test_a_complete_slice_is_compared_whatever_became_of_its_reload(sandbox: Sandbox) -> None:
    """A running reload may publish at any moment, so a difference beside it proves nothing."""
    now = datetime.now(UTC)
    with open_store(sandbox.project().sessions) as store:
        (id_,) = store.open([NewSession("run", "orders", "chita", DAY, 1, "token", now)])
        assert found(verified(sandbox, DAY)) == []
        sandbox.in_shard("chita", f"INSERT INTO orders VALUES (900, 'x', 1, '{DAY} 12:00:00')")
        assert [row[:3] for row in found(verified(sandbox, DAY))] == [("chita", DAY, "not_compared")]
        store.close([Closing(id_, State.FAILED, now)])
    assert {row[2] for row in found(verified(sandbox, DAY))} == {"rows", "largest_key"}


def test_a_slice_that_is_loaded_meanwhile_is_looked_at_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = reloading(sandbox, monkeypatch, times=1)
    report = verified(sandbox, DAY)
    assert done == [1]
    assert found(report) == []
    assert [one.rows for one in report.results if one.shard == "chita"] == [11]


def test_a_slice_that_is_loaded_all_the_time_is_not_called_different(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloading(sandbox, monkeypatch, times=9)
    report = verified(sandbox, DAY)
    assert [row[:3] for row in found(report)] == [("chita", DAY, "not_compared")]
    assert "loaded during each comparison" in details(report)


# Over the wire alone


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with a_wire(
        tmp_path, MSSQL, load_keys=KEYS + '\ntimeout = "3s"', source_keys='connect_timeout = "2s"'
    ) as wire:
        filled(wire)
        yield wire


def of(verdicts: list[SliceComparison], shard: str) -> list[str]:
    return [each.check.value for one in verdicts if one.shard == shard for each in one.findings]


@needs_faults
def test_a_dead_server_costs_its_own_slices(wire: Wire) -> None:
    wire.own_sources["mssql_0"].kill()
    started = time.monotonic()
    report = verified(wire)
    assert time.monotonic() - started < 30
    assert of(report.results, "abakan") == of(report.results, "achinsk") == ["not_compared"] * 2
    assert of(report.results, "chita") == []
    assert "mssql_0" in details(report)


@needs_faults
def test_a_warehouse_that_is_down_is_the_reason_for_all(wire: Wire) -> None:
    assert wire.dwh is not None
    wire.dwh.kill()
    report = verified(wire)
    wire.dwh.revive()
    assert [row[2] for row in found(report)] == ["not_compared"] * 6
    assert "warehouse" in details(report)
    assert not report.is_fine
    assert verified(wire).is_fine


@needs_faults
def test_a_refused_login_is_tried_once(wire: Wire) -> None:
    server = wire.own_sources["mssql_0"]
    server.faults.add(Fault("refuse_login"))
    before = server.logins
    report = verified(wire)
    # One for the shard's database, and one that tells a missing database from a refused login.
    assert server.logins - before <= 2
    assert of(report.results, "abakan") == of(report.results, "achinsk") == ["not_compared"] * 2


@needs_faults
def test_a_server_that_is_silent_is_not_waited_for_without_end(wire: Wire) -> None:
    file = wire.root / "config/loads/orders.toml"
    before = file.read_text()
    file.write_text(before.replace('timeout = "3s"', 'timeout = "1s"'))
    wire.own_sources["mssql_1"].faults.add(Fault("hang_query", statement="HASHBYTES"))
    started = time.monotonic()
    report = verified(wire, DAY)
    file.write_text(before)
    assert time.monotonic() - started < 30
    assert of(report.results, "chita") == ["not_compared"]
    assert of(report.results, "abakan") == []


@needs_faults
def test_a_sql_server_without_utf8_says_so(wire: Wire) -> None:
    words = "Invalid collation 'Latin1_General_100_BIN2_UTF8'."
    wire.own_sources["mssql_1"].faults.add(Fault("error", statement="BIN2_UTF8", error=(448, 16, words)))
    assert "2019 and newer can" in details(verified(wire, DAY, shards=("chita",)))


@needs_faults
def test_only_reads_travel(wire: Wire) -> None:
    assert wire.dwh is not None
    for server in wire.own_servers:
        server.forget()
    assert verified(wire).is_fine
    sent = [one.sql.strip() for server in wire.own_servers for one in server.statements]
    allowed = ("SELECT", "WITH", "SET ", "EXEC sp_describe_first_result_set", "use [", "BEGIN TRAN")
    assert [sql for sql in sent if not sql.startswith(allowed)] == []


@needs_faults
def test_ctrl_c_ends_it(wire: Wire) -> None:
    wire.put(
        "config/loads/orders.toml", (wire.root / "config/loads/orders.toml").read_text().replace("3s", "60s")
    )
    server = wire.own_sources["mssql_1"]
    fault = server.faults.add(Fault("hang_query", statement="HASHBYTES"))
    process = wire.start("verify", "--date", str(DAY))
    until = time.monotonic() + 30
    while not fault.struck and time.monotonic() < until:
        time.sleep(0.05)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "Error: interrupted\n")
    assert time.monotonic() - started < 10
