"""`config check --online` compares widths, precisions and NOT NULL, and says once what is the same in many shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from dwhctl.check.online import OnlineCheck
from tests.support.projects import Sandbox
from tests.support.wire import Wire, a_wire, needs_faults

CITIES = {f"mssql_{n}": [f"city_{n}_{i:02}" for i in range(50)] for n in range(3)}
ORDERS = (
    "CREATE TABLE dbo.Orders (id UNIQUEIDENTIFIER NOT NULL, customer NVARCHAR(20), code VARCHAR(50) NOT NULL,"
    " amount DECIMAL(18, 4), start_time DATETIME2(7))"
)
CREATE = """\
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.orders (
    etl_source VARCHAR(9) NOT NULL, etl_id INT NOT NULL, hash_id INT NOT NULL,
    id VARCHAR(32) NOT NULL, customer VARCHAR(20) NOT NULL, code VARCHAR(40), amount NUMERIC(9, 2),
    start_time TIMESTAMP NOT NULL, note VARCHAR(10) DEFAULT '-' NOT NULL
);
"""
EXTRACT = """\
SELECT id, customer, code, amount, start_time, '-' AS note FROM dbo.Orders
WHERE start_time >= :start AND start_time < :end
"""


@pytest.fixture
def machines() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def a_project(
    machines: ExitStack, root: Path, servers: Mapping[str, Sequence[str]], extract: str = EXTRACT
) -> Wire:
    """A project whose warehouse table is there, and narrower than the sources."""
    wire = machines.enter_context(a_wire(root, servers, create=CREATE, extract=extract))
    for shard in wire.shards():
        wire.in_shard(shard, "DROP TABLE dbo.Orders", ORDERS)
    create = CREATE.replace("{schema}", wire.schema)
    wire.change_warehouse(*(one for one in create.split(";") if one.strip()))
    return wire


def found(project: Sandbox) -> tuple[list[str], list[str]]:
    """Look, and return what is wrong and the warnings."""
    wrong, warnings = list[str](), list[str]()
    for finding in OnlineCheck(project.project()).findings():
        (wrong if finding.wrong else warnings).append(f"{finding.where}: {finding.what}")
    return wrong, warnings


def every(shards: int, column: str, source: str, target: str, why: str) -> str:
    """What is said of all shards."""
    where = f"all {shards} shards: orders: column {column}"
    return f"{where} is {source} at the source and {target} in the target: {why}"


@needs_faults
def test_150_shards_are_one_line_for_each_column(tmp_path: Path, machines: ExitStack) -> None:
    wire = a_project(machines, tmp_path, CITIES)
    wrong, warnings = found(wire)
    assert wrong == [
        every(150, "id", "uniqueidentifier", "varchar(32)", "each is a text of 36 characters, so every value would be"
              " refused; make it VARCHAR(36)"),
    ]  # fmt: skip
    refused = "would be refused"
    assert warnings == [
        every(150, "customer", "nvarchar(20)", "varchar(20)", f"a value of more than 20 octets {refused} (there may be"
              " 60); make it VARCHAR(60)"),
        ("all 150 shards: orders: column customer may be NULL at the source and is NOT NULL in the target: a row"
         f" without a value {refused}; allow NULL in the target, or write COALESCE(customer, ...) AS customer into the"
         " extract"),
        every(150, "code", "varchar(50)", "varchar(40)", f"a value of more than 40 octets {refused} (there may be"
              " 150); make it VARCHAR(150)"),
        every(150, "amount", "decimal(18,4)", "numeric(9,2)", "a value with more than 7 digits before the point or 2"
              f" digits after the point {refused}; make it NUMERIC(18,4)"),
    ]  # fmt: skip
    other = ORDERS.replace("id UNIQUEIDENTIFIER", "id CHAR(32)").replace("VARCHAR(50)", "VARCHAR(60)")
    wire.in_shard("city_1_07", "DROP TABLE dbo.Orders", other)
    wrong, warnings = found(wire)
    assert [line.partition(" is ")[0] for line in wrong] == ["149 of 150 shards: orders: column id"]
    of_code = [line.partition(" at ")[0] for line in warnings if "column code" in line]
    assert of_code == [
        "149 of 150 shards: orders: column code is varchar(50)",
        "city_1_07: orders: column code is varchar(60)",
    ]
    [of_id] = [line for line in warnings if "column id" in line]
    assert of_id.startswith("city_1_07: orders: column id is char(32) at the source")


@needs_faults
def test_what_the_command_says_and_its_exit_code(tmp_path: Path, machines: ExitStack) -> None:
    """A NOT NULL column that the extract lacks, whatever its default: a load refuses that as well."""
    extract = EXTRACT.replace(", '-' AS note", "").replace("id,", "CAST(id AS CHAR(36)) AS id,")
    wire = a_project(machines, tmp_path, {"mssql_0": ["abakan", "achinsk"]}, extract)
    done = wire.run("config", "check", "--online")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    why = "each has 36 octets or more, so every value would be refused; make it VARCHAR(108)"
    assert lines == [
        every(2, "id", "char(36)", "varchar(32)", why),
        "all 2 shards: orders: column note is missing at the source",
    ]
    warnings = [line for line in done.stderr.splitlines() if "column" in line]
    assert len(warnings) == 5
    assert all(line.startswith("Warning: all 2 shards: orders: column ") for line in warnings)


@needs_faults
def test_a_load_refuses_what_was_announced(tmp_path: Path, machines: ExitStack) -> None:
    wire = a_project(machines, tmp_path, {"mssql_0": ["abakan"]})
    wire.in_shard(
        "abakan",
        "INSERT INTO dbo.Orders VALUES (NEWID(), N'a', 'a', 1, CAST('2020-07-14T01:00:00' AS DATETIME2(7)))",
    )
    report = wire.load()
    assert report.failed == 1
    [wrong], _ = found(wire)
    assert "column id is uniqueidentifier at the source and varchar(32) in the target" in wrong


@needs_faults
def test_a_shard_whose_name_etl_source_does_not_hold(tmp_path: Path, machines: ExitStack) -> None:
    wire = a_project(machines, tmp_path, {"mssql_0": ["abakan", "petropavlovsk"]})
    wrong, _ = found(wire)
    assert wrong[0] == (
        "orders: warehouse: stage.orders.etl_source is varchar(9), too short for the names of the shards"
        " petropavlovsk: make it VARCHAR(13)"
    )


def test_files_of_duckdb(tmp_path: Path) -> None:
    """DuckDB has no widths of texts, and a query's columns have no NOT NULL there."""
    sandbox = Sandbox(tmp_path)
    sandbox.create = sandbox.create.replace("   id BIGINT", "   id INTEGER NOT NULL").replace(
        "(18, 2)", "(9, 2)"
    )
    sandbox.create = sandbox.create.replace("start_time TIMESTAMP", "start_time TIMESTAMP_S")
    sandbox.write().fill()
    assert sandbox.load().failed == 0
    wrong, warnings = found(sandbox)
    assert wrong == []
    assert warnings == [
        every(3, "id", "BIGINT", "INTEGER", "a value below -2147483648 or above 2147483647 would be refused;"
              " make it BIGINT"),
        every(3, "amount", "DECIMAL(18,2)", "DECIMAL(9,2)", "a value with more than 7 digits before the point would be"
              " refused; make it DECIMAL(18, 2)"),
        every(3, "start_time", "TIMESTAMP", "TIMESTAMP_S", "a value finer than whole seconds would be refused;"
              " make it TIMESTAMP"),
    ]  # fmt: skip
