"""`config check --online`: what is wrong with the databases is told before a load meets it, one line each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Never

import pytest

from dwhctl.check.online import OnlineCheck
from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A project whose warehouse has been loaded once."""
    sandbox = Sandbox(tmp_path).write().fill()
    assert sandbox.load().failed == 0
    return sandbox


def check(sandbox: Sandbox) -> tuple[int, list[str], list[str]]:
    """Run the check; give its exit code, its lines and its warnings."""
    done = sandbox.run("config", "check", "--online")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_a_project_without_fault(sandbox: Sandbox) -> None:
    code, lines, warnings = check(sandbox)
    assert (code, warnings) == (0, [])
    assert "the configuration is right" in lines[0]
    assert sandbox.target_rows() == sandbox.source_rows([DAY])
    assert list((sandbox.root / "state" / "staging").glob("*/*")) == []


def test_drift_is_one_line_for_each_shard(sandbox: Sandbox) -> None:
    sandbox.put("sql/orders/extract.sql", sandbox.extract.replace("id, customer, amount, start_time", "*"))
    sandbox.in_shard("abakan", "ALTER TABLE orders ADD COLUMN note VARCHAR")
    sandbox.in_shard("chita", "ALTER TABLE orders DROP COLUMN amount")
    code, lines, _ = check(sandbox)
    assert code == 1
    assert lines == [
        "abakan: orders: column note (VARCHAR) is new at the source",
        "chita: orders: column amount is missing at the source",
    ]


def test_a_column_that_no_slice_is_split_by(sandbox: Sandbox) -> None:
    sandbox.load_keys += '\nsplit = 2\nsplit_by = "customer"'
    sandbox.write()
    code, lines, _ = check(sandbox)
    assert code == 1
    assert "orders: split_by column customer is VARCHAR; a slice is split by whole numbers" in lines[0]


def test_what_verify_cannot_compare_is_wrong(sandbox: Sandbox) -> None:
    """Loads go on, and verify would be the first to report it."""
    keys = sandbox.load_keys
    for column, why in {"amuont": "stage.orders has no column amuont, which is in the load's verify_columns",
                        "amount": "column amount is DOUBLE, and no two systems write a float"}.items():  # fmt: skip
        sandbox.load_keys = f'{keys}\nverify_columns = ["{column}"]'
        sandbox.write()
        sandbox.change_warehouse("ALTER TABLE stage.orders ALTER amount TYPE DOUBLE")
        findings = [(one.what, one.wrong) for one in OnlineCheck(sandbox.project()).findings()]
        assert [wrong for what, wrong in findings if f"verify cannot compare it: {why}" in what] == [True]


def test_a_column_that_will_be_added_is_a_note(sandbox: Sandbox) -> None:
    sandbox.load_keys += '\non_new_column = "add"'
    sandbox.write()
    sandbox.put("sql/orders/extract.sql", sandbox.extract.replace("id, customer, amount, start_time", "*"))
    for shard in ("abakan", "chita"):
        sandbox.in_shard(shard, "ALTER TABLE orders ADD COLUMN note VARCHAR")
    code, lines, warnings = check(sandbox)
    assert (code, warnings) == (0, [])
    assert lines[0] == (
        "Note: orders: warehouse: column note (VARCHAR) is new in abakan, chita; the next load adds it to stage.orders"
    )
    assert sandbox.load().failed == 0
    assert "note" in [row[0] for row in sandbox.warehouse("DESCRIBE stage.orders")]
    assert "Note" not in check(sandbox)[1][0]


def test_a_missing_table_and_a_missing_database(sandbox: Sandbox) -> None:
    sandbox.in_shard("abakan", "DROP TABLE orders")
    sandbox.shard_file("achinsk").unlink()
    code, lines, _ = check(sandbox)
    assert code == 1
    assert [line.partition(":")[0] for line in lines] == ["abakan", "achinsk"]
    assert "orders" in lines[0]
    assert str(sandbox.shard_file("achinsk")) in lines[1]


def test_a_server_that_is_gone_is_one_line(sandbox: Sandbox) -> None:
    shutil.rmtree(sandbox.root / "servers" / "server_0")
    code, lines, _ = check(sandbox)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("server_0: ")


def test_a_table_that_the_first_load_makes_is_no_fault(tmp_path: Path) -> None:
    code, _, warnings = check(Sandbox(tmp_path).write().fill())
    assert code == 0
    assert len(warnings) == 1
    assert "the first load makes the table" in warnings[0]
    assert "sessions" not in warnings[0]
    assert ".;" not in warnings[0]


def test_a_table_without_the_rows_that_the_sessions_have(sandbox: Sandbox) -> None:
    """A load with another table: gaps and --only-missing go by the sessions, and say that nothing is missing."""
    assert not sandbox.load().failed
    file = sandbox.root / "config/loads/orders.toml"
    file.write_text(file.read_text().replace("stage.orders", "stage.orders_v2"))
    sandbox.put("sql/orders/create.sql", sandbox.create.replace("stage.orders", "stage.orders_v2"))
    for made in (False, True):
        if made:
            sandbox.change_warehouse(
                *sandbox.create.replace("stage.orders", "stage.orders_v2").split(";")[:2]
            )
        code, _, warnings = check(sandbox)
        assert code == 0
        [warning] = [line for line in warnings if "orders: warehouse: " in line]
        assert "The sessions have its slices as loaded" in warning
        assert f"dwhctl backfill orders -s D -e yesterday --project {sandbox.root}" in warning


def test_a_table_without_the_service_fields(sandbox: Sandbox) -> None:
    sandbox.put("sql/orders/create.sql", "SELECT 1;")
    sandbox.warehouse_file.unlink()
    other = Sandbox(sandbox.root, create="CREATE SCHEMA stage; CREATE TABLE stage.orders (id BIGINT)").write()
    other.load()
    code, lines, _ = check(other)
    assert code == 1
    assert "has no column etl_source" in lines[0]


def test_a_database_in_no_shard_group_is_named(sandbox: Sandbox) -> None:
    new = sandbox.shard_file("abakan").with_name("omsk.duckdb")
    shutil.copy(sandbox.shard_file("abakan"), new)
    sandbox.shard_file("abakan").with_name("notes.txt").write_text("not a database")
    expected = "Warning: server_0: database omsk has what the load orders reads, but is in no shard group"
    code, _, warnings = check(sandbox)
    assert (code, warnings) == (0, [expected])
    done = sandbox.run("connections", "test")
    assert (done.returncode, done.stderr.splitlines()) == (0, [expected])


def _break(_: object) -> Never:
    raise NameError("name 'lost' is not defined")


@pytest.mark.parametrize(
    ("broken", "wheres"),
    [
        ("_try_extract", ["all 3 shards"]),
        ("_try_ready", ["all 3 shards"]),
        ("_ungrouped", ["server_0", "server_1"]),
    ],
)
def test_a_defect_in_a_check_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    wheres: list[str],
) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    monkeypatch.setattr(OnlineCheck, broken, lambda *_, **__: _break(_))
    assert dwh("config", "check", "--online", "--project", sandbox.root) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{where}: a defect in dwhctl: NameError: name 'lost' is not defined" for where in wheres
    ]


def test_a_defect_in_the_search_for_databases_fails_the_connection_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    monkeypatch.setattr(OnlineCheck, "_ungrouped", lambda *_: _break(_))
    assert dwh("connections", "test", "--project", sandbox.root) == 1
    shown = capsys.readouterr()
    assert "abakan" in shown.out
    assert "Error: server_0: a defect in dwhctl: NameError: name 'lost' is not defined" in shown.err
