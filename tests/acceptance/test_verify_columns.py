"""`verify` says by column what differs: the tool that cut texts to 32 characters, doubled keys, NULL."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.core.errors import QueryError, TargetError
from dwhctl.project.query import Query
from dwhctl.systems.base.fingerprint import Dialect, Measure, Write
from dwhctl.systems.duckdb.source import DuckdbSource
from dwhctl.systems.duckdb.target import DuckdbInspection
from dwhctl.verify import row_differences, tables
from dwhctl.verify.findings import Check, SliceFinding
from dwhctl.verify.row_differences import Case
from dwhctl.verify.run import VerifyReport, VerifyRequest, verify, verify_against
from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox
from tests.support.wire import a_wire

OLD = "stage.orders_old"
BEFORE = DAY - timedelta(days=1)
KEYS = 'retries = 0\nretry_delay = "1s"\nverify_columns = ["customer", "amount"]'
TEXT = "a" * 36
#: The other tool's column is a VARCHAR(32): its COPY cut what was longer.
COPY = (
    f"CREATE TABLE {OLD} AS SELECT etl_source, id, CAST(substr(customer, 1, 32) AS VARCHAR) AS customer, amount,"
    " start_time FROM stage.orders"
)
Ran = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project with two loaded days; every text has 36 characters, and 32 in the other table."""
    sandbox = Sandbox(tmp_path_factory.mktemp("loaded"), load_keys=KEYS).write()
    sandbox.fill(10, [BEFORE, DAY])
    for shard in ("abakan", "achinsk", "chita"):
        sandbox.in_shard(shard, f"UPDATE orders SET customer = '{TEXT}'")
    assert not sandbox.load(BEFORE, DAY).failed
    sandbox.change_warehouse(COPY)
    return sandbox.root


@pytest.fixture
def sandbox(loaded: Path, tmp_path: Path) -> Sandbox:
    return Sandbox(shutil.copytree(loaded, tmp_path / "project"), load_keys=KEYS)


@pytest.fixture
def ran(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> Ran:
    def ran(*arguments: str) -> tuple[int, str, str]:
        days = ("-s", str(BEFORE), "-e", str(DAY))
        code = dwh("verify", "orders", "--against", OLD, *arguments, *days, "--project", str(sandbox.root))
        return (code, *capsys.readouterr())

    return ran


def compared(ground: Sandbox, table: str = OLD) -> VerifyReport:
    return verify_against(ground.project(), VerifyRequest(days=(BEFORE, DAY), loads=("orders",)), table)


def found(report: VerifyReport) -> list[SliceFinding]:
    return [each for one in report.results for each in one.findings]


def whole(ground: Sandbox) -> None:
    ground.change_warehouse(f"UPDATE {OLD} SET customer = '{TEXT}'")


def test_cut_texts_are_one_line(ran: Ran) -> None:
    code, out, _ = ran()
    assert code == 1
    [line] = out.splitlines()[1:-1]
    assert " ".join(line.split(maxsplit=2)) == (
        "orders values customer: 6 slices, 60 rows, e.g. id=3: 'aaaaaaaaaaaaaaaaaaaa…' (36) /"
        f" 'aaaaaaaaaaaaaaaaaaaa…' (32) (abakan {BEFORE}); abakan, achinsk, chita x {BEFORE}..07-14"
    )
    assert "checksum" not in out


def test_json_and_csv_have_a_row_for_each_slice(ran: Ran) -> None:
    rows = json.loads(ran("--format", "json")[1])
    shown = "'aaaaaaaaaaaaaaaaaaaa…'"
    assert len(rows) == 6
    assert rows[-1] == {
        "load": "orders", "shard": "chita", "day": str(DAY), "check": "values", "table": f"{shown} (36)",
        "against": f"{shown} (32)", "detail": None, "column": "customer", "rows": 10, "key": "id=19",
    }  # fmt: skip
    as_csv = list(csv.DictReader(io.StringIO(ran("--format", "csv")[1])))
    assert as_csv == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in rows
    ]


def test_null_against_a_value_and_blanks_at_the_end(sandbox: Sandbox) -> None:
    whole(sandbox)
    sandbox.change_warehouse(
        f"UPDATE {OLD} SET amount = NULL WHERE etl_source = 'chita' AND id IN (3, 5)",
        "UPDATE stage.orders SET customer = NULL WHERE etl_source = 'chita' AND id = 13",
        f"UPDATE {OLD} SET customer = NULL WHERE etl_source = 'chita' AND id = 13",
        "UPDATE stage.orders SET customer = 'x' WHERE etl_source = 'abakan' AND id = 13",
        f"UPDATE {OLD} SET customer = 'x ' WHERE etl_source = 'abakan' AND id = 13",
        "UPDATE stage.orders SET customer = '' WHERE etl_source = 'achinsk' AND id = 13",
        f"UPDATE {OLD} SET customer = NULL WHERE etl_source = 'achinsk' AND id = 13",
    )
    listed = [(one.column, one.rows, one.key, one.source, one.warehouse) for one in found(compared(sandbox))]
    assert sorted(listed, key=str) == [
        ("amount", 2, "id=3", "'3.03'", "NULL"),
        ("customer", 1, "id=13", "''", "NULL"),
        ("customer", 1, "id=13", "'x'", "'x '"),
    ]


def test_doubled_keys_are_no_difference_of_checksums(sandbox: Sandbox) -> None:
    whole(sandbox)
    sandbox.change_warehouse(
        f"INSERT INTO {OLD} SELECT * FROM {OLD} WHERE etl_source = 'abakan' AND id IN (3, 4)",
        # As many rows: another key stands for the one that is there twice.
        f"UPDATE {OLD} SET id = 6 WHERE etl_source = 'chita' AND id = 7",
    )
    first, second, third, fourth = found(compared(sandbox))
    assert (first.check, first.source, first.warehouse) == (Check.ROWS, "10", "12")
    assert second == SliceFinding(Check.DUPLICATE_KEYS, "0", "2", f"in {OLD}, such as id = 3")
    assert (third.check, third.detail) == (Check.KEY_CHECKSUM, "only in stage.orders: id = 7")
    assert fourth == SliceFinding(Check.DUPLICATE_KEYS, "0", "1", f"in {OLD}, such as id = 6")


def test_keys_that_both_have_twice_are_told_when_their_values_differ(sandbox: Sandbox) -> None:
    whole(sandbox)
    for table in ("stage.orders", OLD):
        sandbox.change_warehouse(
            f"INSERT INTO {table} SELECT * FROM {table} WHERE etl_source = 'abakan' AND id = 3"
        )
    assert found(compared(sandbox)) == []
    sandbox.change_warehouse(f"UPDATE {OLD} SET amount = 1 WHERE etl_source = 'abakan' AND id = 3")
    detail = f"in stage.orders, such as id = 3; in {OLD}, such as id = 3"
    assert found(compared(sandbox)) == [SliceFinding(Check.DUPLICATE_KEYS, "1", "1", detail)]


def test_missing_slices_are_a_range(sandbox: Sandbox, ran: Ran) -> None:
    whole(sandbox)
    sandbox.change_warehouse(
        f"DELETE FROM {OLD} WHERE etl_source <> 'chita'",
        f"DELETE FROM stage.orders WHERE etl_source = 'chita' AND start_time >= '{DAY}'",
    )
    code, out, _ = ran()
    assert (code, [line.split(maxsplit=2)[1:] for line in out.splitlines()[1:-1]]) == (1, [
        ["missing", f"missing in {OLD}: abakan, achinsk x {BEFORE}..07-14 (4 slices, 40 rows)"],
        ["missing", f"missing in stage.orders: chita {DAY} (1 slice, 10 rows)"],
    ])  # fmt: skip
    assert "id=None" not in out


def test_an_explanation_that_fails_leaves_the_findings(
    sandbox: Sandbox, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise TargetError("no memory for this join")

    monkeypatch.setattr(DuckdbInspection, "contrasts", fails)
    rows = [line.split(maxsplit=2)[1:] for line in ran()[1].splitlines()[1:-1]]
    assert [check for check, _ in rows] == ["value_checksum"]
    assert rows[0][1].startswith(
        f"abakan, achinsk, chita x {BEFORE}..07-14 (6 slices), e.g. abakan {BEFORE}: "
    )
    assert rows[0][1].endswith("which rows differ was not found: no memory for this join")


def test_slices_are_looked_into_in_batches(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    contrasts = DuckdbInspection.contrasts

    def counted(self: DuckdbInspection, slices: list[object], *others: object) -> object:
        asked.append(len(slices))
        return contrasts(self, slices, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(DuckdbInspection, "contrasts", counted)
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 40)
    report = compared(sandbox)
    assert (sum(one.rows or 0 for one in found(report)), asked) == (60, [2, 1, 2, 1])


def test_values_are_shown_and_nowhere_else(sandbox: Sandbox, ran: Ran) -> None:
    sandbox.change_warehouse(f"UPDATE {OLD} SET customer = 'Ivan' || chr(27) || '[31m' WHERE id = 10")
    out = ran("--verbose")[1]
    assert "'aaaaaaaa" in out
    assert "\x1b" not in out
    state = [
        path for path in (sandbox.root / "state").rglob("*") if path.is_file() and path.suffix != ".duckdb"
    ]
    assert any(path.name == "sessions.sqlite" for path in state)
    for value in (b"Ivan", b"aaaaaaaa"):
        assert [path for path in state if value in path.read_bytes()] == []


def test_over_the_wire(tmp_path: Path) -> None:
    servers = {"mssql_0": ["abakan", "chita"]}
    with a_wire(tmp_path, servers, load_keys=KEYS) as wire:
        wire.fill(10, [BEFORE, DAY])
        assert not wire.load(BEFORE, DAY).failed
        old, first = f"{wire.schema}.orders_old", DAY.toordinal() * 1_000_000
        columns = "etl_source, id, customer, amount, start_time"
        wire.change_warehouse(
            f"UPDATE {wire.schema}.orders SET customer = '{TEXT}'",
            f"CREATE TABLE {old} (etl_source VARCHAR(80), id INT, customer VARCHAR(32), amount NUMERIC(18, 2),"
            " start_time TIMESTAMP)",
            f"INSERT INTO {old} ({columns}) SELECT etl_source, id, '{TEXT[:32]}', amount, start_time"
            f" FROM {wire.schema}.orders WHERE start_time >= '{DAY}' OR etl_source = 'chita'",
            f"UPDATE {old} SET amount = NULL WHERE etl_source = 'abakan' AND id = {first + 3}",
            f"INSERT INTO {old} ({columns}) SELECT {columns} FROM {old}"
            f" WHERE etl_source = 'chita' AND id = {first + 5}",
        )
        report = compared(wire, old)
        rows = [
            (one.shard, each.check.value, each.column, each.rows)
            for one in report.results
            for each in one.findings
            if one.day == DAY
        ]
        assert rows == [
            ("abakan", "values", "customer", 10), ("abakan", "values", "amount", 1), ("chita", "rows", None, None),
            ("chita", "doubled_keys", None, None), ("chita", "values", "customer", 9),
        ]  # fmt: skip
        amount = next(one for one in found(report) if one.column == "amount")
        assert (amount.key, amount.warehouse) == (f"id={first + 3}", "NULL")
        assert [one.rows for one in found(report) if one.check is Check.MISSING] == [10]


# Source against warehouse


def verified(ground: Sandbox) -> VerifyReport:
    return verify(ground.project(), VerifyRequest(days=(BEFORE, DAY)))


def cut(ground: Sandbox) -> None:
    """Cut the warehouse's texts, as the other tool did."""
    ground.change_warehouse("UPDATE stage.orders SET customer = substr(customer, 1, 32)")


def test_source_and_warehouse_by_column(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    cut(sandbox)
    sandbox.change_warehouse(
        "UPDATE stage.orders SET amount = NULL WHERE etl_source = 'chita' AND id IN (3, 5)",
        f"DELETE FROM stage.orders WHERE etl_source = 'abakan' AND start_time < '{DAY}'",
        "DELETE FROM stage.orders WHERE etl_source = 'achinsk' AND id = 4",
    )
    arguments = ("-s", str(BEFORE), "-e", str(DAY), "--project", str(sandbox.root))
    assert dwh("verify", *arguments) == 1
    out = capsys.readouterr().out
    assert "checksum" not in out
    lines = [line.split(maxsplit=2)[1:] for line in out.splitlines()[1:-1]]
    assert lines[0] == ["missing", f"missing in stage.orders: abakan {BEFORE} (1 slice, 10 rows)"]
    assert lines[2][1].startswith("customer: 5 slices, 49 rows, e.g. id=")
    assert "'aaaaaaaaaaaaaaaaaaaa…' (36) / 'aaaaaaaaaaaaaaaaaaaa…' (32)" in lines[2][1]
    assert lines[1] == ["rows", f"achinsk {BEFORE}: 10 / 9; only in the source: id = 4"]
    amount = lines[3][1]
    assert amount.startswith("amount: 1 slice, 2 rows, e.g. id=")
    assert amount.endswith(f" / NULL (chita {BEFORE})")


def test_rows_are_counted_only_where_all_that_differ_were_read(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_differences, "_BUCKET_ROWS", 2)
    assert found(verified(sandbox)) == []
    sandbox.change_warehouse(
        "UPDATE stage.orders SET amount = amount + 1 WHERE etl_source = 'chita' AND id = 13",
    )
    assert [(one.column, one.rows, one.key) for one in found(verified(sandbox))] == [("amount", 1, "id=13")]
    cut(sandbox)
    monkeypatch.setattr(row_differences, "_ROWS_READ", 4)
    report = found(verified(sandbox))
    assert {(one.column, one.rows) for one in report} == {("customer", None), ("amount", None)}
    assert all(one.key is not None for one in report if one.column == "customer")
    # Nothing fits: the columns are known by their checksums, and no example.
    monkeypatch.setattr(row_differences, "_ROWS_READ", 0)
    assert {(one.column, one.key) for one in found(verified(sandbox))} == {
        ("customer", None),
        ("amount", None),
    }


def test_a_slice_that_is_not_looked_into_says_so(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(sandbox)
    monkeypatch.setattr(row_differences, "MOST_SLICES", 4)
    report = verified(sandbox)
    looked_into = [(one.shard, one.day) for one in report.results if one.has(Check.VALUES)]
    # One of each shard before a second one.
    assert (len(looked_into), len({shard for shard, _ in looked_into})) == (4, 3)
    left = [one for one in found(report) if one.check is Check.VALUE_CHECKSUM]
    assert {one.detail for one in left} == {
        "of customer, amount; which rows differ was looked for in 4 slices of the load only"
    }


def test_a_source_that_fails_in_the_explanation_leaves_the_findings(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = DuckdbSource.measured

    def fails(self: DuckdbSource, query: Query, measure: Measure, write: Write) -> object:
        if write is not Dialect.fingerprint:
            raise QueryError("no memory for this")
        return measured(self, query, measure, write)

    cut(sandbox)
    monkeypatch.setattr(DuckdbSource, "measured", fails)
    assert {(one.check, one.detail) for one in found(verified(sandbox))} == {
        (Check.VALUE_CHECKSUM, "of customer, amount; which rows differ was not found: no memory for this")
    }


def test_a_look_does_not_grow_with_the_slices() -> None:
    cases = [Case(None, None, 10_000_000) for _ in range(30)]  # type: ignore[arg-type]
    batches = list(row_differences.case_batches(cases))
    assert max(map(len, batches)) == 2
    assert [case for batch in batches for case in batch] == cases
    assert len(list(row_differences.case_batches([Case(None, None, 40) for _ in range(30)]))) == 1  # type: ignore[arg-type]
