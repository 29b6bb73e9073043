"""`verify --against` compares a load's table with one that another tool filled."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import UsageError
from dwhctl.systems.duckdb import client as engine
from dwhctl.verify.findings import Check
from dwhctl.verify.run import VerifyReport, VerifyRequest, verify_against
from dwhctl.verify.tables import measures_of
from tests.cli_support import dwh
from tests.support.projects import CREATE, DAY, Sandbox
from tests.support.wire import a_wire

OLD = "stage.orders_old"
SHADOW = "stage.orders_new"
BEFORE = DAY - timedelta(days=1)
KEYS = 'retries = 0\nretry_delay = "1s"\nverify_columns = ["customer", "amount"]'
#: As the other tool's table is: neither etl_id nor hash_id, names in another case, a wider decimal for the id.
COPY = (
    f'CREATE TABLE {OLD} AS SELECT etl_source, CAST(id AS DECIMAL(20, 2)) AS "ID", customer, amount,'
    ' start_time AS "Start_Time" FROM stage.orders'
)
Found = list[tuple[str, str, str, str | None, str | None]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project with two loaded days, and the other table with the same rows."""
    create = CREATE.replace("stage.orders (", "{{ load.table }} (")
    sandbox = Sandbox(tmp_path_factory.mktemp("loaded"), load_keys=KEYS, create=create).write()
    sandbox.fill(10, [BEFORE, DAY])
    assert not sandbox.load(BEFORE, DAY).failed
    sandbox.change_warehouse(COPY)
    return sandbox.root


@pytest.fixture
def sandbox(loaded: Path, tmp_path: Path) -> Sandbox:
    """A copy of it, in which no source is left to ask."""
    sandbox = Sandbox(shutil.copytree(loaded, tmp_path / "project"), load_keys=KEYS)
    shutil.rmtree(sandbox.root / "servers")
    return sandbox


def compared(ground: Sandbox, table: str = OLD, shards: tuple[str, ...] = ()) -> VerifyReport:
    request = VerifyRequest(days=(BEFORE, DAY), loads=("orders",), shards=shards)
    return verify_against(ground.project(), request, table)


def found(report: VerifyReport) -> Found:
    return [
        (one.shard, str(one.day), each.check.value, each.source, each.warehouse)
        for one in report.results
        for each in one.findings
    ]


def details(report: VerifyReport) -> list[str]:
    return [each.detail for one in report.results for each in one.findings if each.detail]


def test_the_same_rows_are_equal(sandbox: Sandbox) -> None:
    report = compared(sandbox)
    assert (found(report), [one.rows for one in report.results]) == ([], [10] * 6)


def test_rows_missing_on_either_side_and_changed_ones_are_named(sandbox: Sandbox) -> None:
    sandbox.change_warehouse(
        f"DELETE FROM {OLD} WHERE etl_source = 'abakan' AND id IN (3, 4)",
        f"INSERT INTO {OLD} SELECT 'achinsk', id, NULL, 1, TIMESTAMP '{DAY} 05:00:00' FROM range(100, 107) AS t (id)",
        f"UPDATE {OLD} SET amount = amount + 1 WHERE etl_source = 'chita' AND id = 3",
        f"UPDATE {OLD} SET id = 99.5 WHERE etl_source = 'chita' AND id = 14",
    )
    report = compared(sandbox)
    assert not report.is_fine
    rows = found(report)
    checksums = [one for one in rows if one[2].endswith("checksum")]
    assert [one[:3] for one in checksums] == [
        ("chita", str(DAY), "key_checksum"),
    ]  # fmt: skip
    assert all(ours != theirs for *_, ours, theirs in checksums)
    assert [one for one in rows if one not in checksums] == [
        ("abakan", str(BEFORE), "rows", "10", "8"), ("chita", str(BEFORE), "values", "'3.03'", "'4.03'"),
        ("achinsk", str(DAY), "rows", "10", "17"),
        ("achinsk", str(DAY), "largest_key", "id=19", "id=106"),
        ("chita", str(DAY), "largest_key", "id=19", "id=99.5"),
    ]  # fmt: skip
    assert details(report) == [
        "only in stage.orders: id = 3 and 4",
        f"only in {OLD}: id = 100 and 101 and 102 and more", f"only in stage.orders: id = 14; only in {OLD}: id = 99.5",
    ]  # fmt: skip


def test_shards_of_the_other_table_alone_are_told(sandbox: Sandbox) -> None:
    sandbox.change_warehouse(
        f"INSERT INTO {OLD} SELECT * REPLACE ('Abakan' AS etl_source) FROM {OLD}"
        f" WHERE etl_source = 'abakan' AND start_time >= '{DAY}' AND id > 12",
        f"INSERT INTO {OLD} SELECT * REPLACE (NULL AS etl_source) FROM {OLD} WHERE etl_source = 'abakan' AND id = 1",
    )
    report = compared(sandbox)
    assert found(report) == [
        ("", str(BEFORE), "shard_only_there", "0", "1"), ("Abakan", str(DAY), "shard_only_there", "0", "7"),
    ]  # fmt: skip
    assert not report.is_fine
    assert compared(sandbox, shards=("ch*",)).is_fine
    # What stands in both, though no shard of the load any more, is no difference.
    sandbox.change_warehouse(
        "INSERT INTO stage.orders BY NAME SELECT * FROM " + OLD + " WHERE etl_source = 'Abakan'"
    )
    assert [one[0] for one in found(compared(sandbox))] == [""]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE {} DROP id", r"has no column id \(a column of the key\)"),
        ("ALTER TABLE {} DROP etl_source", r"has no column etl_source \(the shard's name\)"),
        ("ALTER TABLE {} DROP start_time", r"has no column start_time \(the column slice_by\)"),
        ("ALTER TABLE {} DROP amount", r"has no column amount \(a column of verify_columns\)"),
        ("ALTER TABLE {} ALTER amount TYPE DOUBLE", r"column amount is DECIMAL\(18,2\) in stage.orders and DOUBLE in"),
        ("ALTER TABLE {} ALTER id TYPE DATE USING DATE '2020-07-14'", "column id is BIGINT in stage.orders and DATE"),
        ("ALTER TABLE {} ALTER start_time TYPE VARCHAR", "start_time is VARCHAR; it must be a date or a timestamp"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_compared_is_refused_by_name(
    sandbox: Sandbox, change: str, problem: str
) -> None:
    sandbox.change_warehouse(change.format(OLD))
    with pytest.raises(UsageError, match=problem) as refused:
        compared(sandbox)
    assert OLD in str(refused.value)


def test_keys_of_other_kinds_are_compared_in_their_text(sandbox: Sandbox) -> None:
    sandbox.change_warehouse(
        f"ALTER TABLE {OLD} ALTER id TYPE VARCHAR USING CAST(CAST(id AS BIGINT) AS VARCHAR)"
    )
    assert compared(sandbox).is_fine
    sandbox.change_warehouse(f"UPDATE {OLD} SET id = '9a' WHERE etl_source = 'chita' AND id = '9'")
    report = compared(sandbox)
    assert [one[:2] + one[3:] for one in found(report) if one[2] == "largest_key"] == [
        ("chita", str(BEFORE), "id=9", "id=9a")
    ]
    assert f"only in stage.orders: id = 9; only in {OLD}: id = 9a" in details(report)


def test_a_slice_that_is_loaded_meanwhile_is_looked_at_again(loaded: Path, tmp_path: Path) -> None:
    ground = Sandbox(shutil.copytree(loaded, tmp_path / "whole"))
    ground.change_warehouse(f"DELETE FROM {OLD} WHERE etl_source = 'chita' AND id = 15")
    looks: list[str] = []

    def loads_until(most: int) -> VerifyReport:
        def listen(said: str) -> None:
            looks.append(said)
            if len(looks) <= most:
                assert not ground.load(DAY, shards=("chita",)).failed

        looks.clear()
        return verify_against(ground.project(), VerifyRequest((DAY,), ("orders",)), OLD, listen)

    assert found(loads_until(1)) == [("chita", str(DAY), "rows", "10", "9")]
    assert [said[:18] for said in looks] == ["comparing 3 slices", "comparing 1 slices"]
    assert found(loads_until(3)) == [("chita", str(DAY), "not_compared", None, None)]


def test_a_table_that_goes_away_meanwhile_is_no_difference(sandbox: Sandbox) -> None:
    def drop(_: str) -> None:
        sandbox.change_warehouse(f"DROP TABLE IF EXISTS {OLD}")

    report = verify_against(sandbox.project(), VerifyRequest((DAY,), ("orders",)), OLD, drop)
    assert {one[2] for one in found(report)} == {"not_compared"}
    assert not report.is_fine
    assert "orders_old" in details(report)[0]


def test_a_shadow_run_against_the_loads_own_table(sandbox: Sandbox, loaded: Path, tmp_path: Path) -> None:
    ground = Sandbox(shutil.copytree(loaded, tmp_path / "whole"))
    ground.in_shard("abakan", "DELETE FROM orders WHERE id = 15")
    shadow = ("--table", SHADOW.upper(), "--date", str(DAY), "--project", str(ground.root))
    assert dwh("load", "orders", "--shard", "a*", "--inline", "--quiet", *shadow) == 0
    done = ground.run("verify", "orders", "--against", "stage.orders", *shadow[:4], "--format", "json")
    assert done.returncode == 1, done.stderr
    name = f"orders@{SHADOW}"
    where, nothing = {"load": name, "day": str(DAY)}, {"column": None, "rows": None, "key": None}
    assert json.loads(done.stdout) == [
        {**where, "shard": "abakan", "check": "rows", "table": "9", "against": "10",
         "detail": "only in stage.orders: id = 15", **nothing},
        {**where, "shard": "chita", "check": "incomplete", "table": None, "against": None, "detail": "never loaded",
         **nothing},
    ]  # fmt: skip
    assert done.stderr == "3 slices: 1 equal (10 rows), 1 different, 1 incomplete\n"


def test_the_command(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    def ran(*arguments: str) -> tuple[int, str, str]:
        code = dwh("verify", *arguments, "--date", str(DAY), "--project", str(sandbox.root))
        return (code, *capsys.readouterr())

    content = sandbox.warehouse_file.read_bytes()
    assert ran("orders", "--against", OLD.upper()) == (0, "3 slices: 3 equal (30 rows)\n", "")
    assert sandbox.warehouse_file.read_bytes() == content
    code, _, err = ran("orders", "--against", "stage.nothing")
    assert (code, "nothing" in err, "Traceback" in err) == (1, True, False)
    for arguments, problem in (
        (("--against", OLD), "name it: verify NAME --against"),
        (("order", "--against", OLD), "there is no load 'order'"),
        (("orders", "--against", "old"), "'old' is not a table with its schema"),
        (("orders", "--against", "Stage.Orders"), "name the other one"),
        (("orders", "--against", SHADOW, "--table", SHADOW), "name the other one"),
        (("orders", "--table", SHADOW), "give --against too"),
    ):
        code, _, err = ran(*arguments)
        assert (code, problem in err) == (2, True), err


def test_without_sessions_nothing_is_compared(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write()
    assert {one[2] for one in found(compared(sandbox))} == {"incomplete"}


def test_a_decimal_key_has_the_order_of_numbers(sandbox: Sandbox) -> None:
    load = sandbox.project().loads["orders"]
    names = {"id": "BIGINT", "customer": "VARCHAR", "amount": "DECIMAL(18,2)"}
    names |= {"etl_source": "VARCHAR", "start_time": "TIMESTAMP"}
    ours = [column for column in (engine.column(*one) for one in names.items()) if column is not None]
    for declared, as_text in (
        ("DECIMAL(9,0)", set()),
        ("VARCHAR", {"id"}),
        ("BIGINT", set()),
        ("BOOLEAN", {"id"}),
    ):
        other = engine.column("id", declared)
        assert other is not None
        own, theirs = measures_of(load, ours, OLD, [other, *ours[1:]])
        assert theirs.as_text == own.as_text == as_text
    assert ours[0].kind is Kind.INTEGER


def test_a_padded_etl_source_is_refused(sandbox: Sandbox) -> None:
    """Every slice was missing in a table with the same rows."""
    load = sandbox.project().loads["orders"]
    types = {"id": "BIGINT", "customer": "VARCHAR", "amount": "DECIMAL(18,2)", "start_time": "TIMESTAMP"}
    ours = [one for one in (engine.column(*one) for one in types.items()) if one is not None]
    shard = Column("etl_source", Kind.TEXT, pa.string(), "character(20)", padded=True)
    with pytest.raises(UsageError, match=r"etl_source is character\(20\), .* name a view with RTRIM"):
        measures_of(load, [*ours, shard], OLD, [*ours, shard])


def test_over_the_wire(tmp_path: Path) -> None:
    servers = {"mssql_0": ["abakan", "chita"]}
    with a_wire(tmp_path, servers, load_keys=KEYS) as wire:
        wire.fill(10, [BEFORE, DAY])
        assert not wire.load(BEFORE, DAY).failed
        old, first = f"{wire.schema}.orders_old", DAY.toordinal() * 1_000_000
        columns = "etl_source, id, customer, amount, start_time"
        wire.change_warehouse(
            f"CREATE TABLE {old} (etl_source VARCHAR(80), ID VARCHAR(20), customer VARCHAR(400), amount NUMERIC(12, 4),"
            " start_time TIMESTAMP)",
            f"INSERT INTO {old} ({columns}) SELECT etl_source, CAST(id AS VARCHAR(20)), customer, amount, start_time"
            f" FROM {wire.schema}.orders",
        )
        assert compared(wire, old).is_fine
        wire.change_warehouse(
            f"DELETE FROM {old} WHERE etl_source = 'abakan' AND id = '{first + 3}'",
            f"UPDATE {old} SET amount = amount + 1 WHERE etl_source = 'chita' AND id = '{first + 3}'",
            f"INSERT INTO {old} ({columns}) SELECT 'omsk', id, customer, amount, start_time FROM {old}"
            f" WHERE etl_source = 'chita' AND id = '{first + 3}'",
        )
        report = compared(wire, old)
        assert [one[:3] for one in found(report)] == [
            ("abakan", str(DAY), "rows"), ("chita", str(DAY), "values"), ("omsk", str(DAY), "shard_only_there"),
        ]  # fmt: skip
        assert details(report)[0] == f"only in {wire.schema}.orders: id = {first + 3}"
        [changed] = [each for one in report.results for each in one.findings if each.check is Check.VALUES]
        assert (changed.column, changed.rows, changed.key) == ("amount", 1, f"id={first + 3}")
        wire.change_warehouse(f"ALTER TABLE {old} DROP COLUMN ID")
        with pytest.raises(UsageError, match=r"orders_old has no column id \(a column of the key\)"):
            compared(wire, old)
