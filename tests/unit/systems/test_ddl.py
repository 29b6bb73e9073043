"""The table that a load without a `create` makes, and what no load can have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import QueryError, SchemaDriftError, TargetRefusedError
from dwhctl.load.cast import compare
from dwhctl.systems.base.ddl import NewTable, new_table
from dwhctl.systems.base.system import System
from dwhctl.systems.clickhouse.types import create_table as in_clickhouse
from dwhctl.systems.duckdb.client import declaration as in_duckdb
from dwhctl.systems.mssql.sql import ResultColumn, column
from dwhctl.systems.postgres import types as postgres_types
from dwhctl.systems.postgres.system import SYSTEM as POSTGRES
from dwhctl.systems.postgres.types import create_table as in_postgres
from dwhctl.systems.vertica.system import SYSTEM as VERTICA
from dwhctl.systems.vertica.types import LONG_OCTETS, create_table

ID = Column("ID", Kind.INTEGER, pa.int64(), "bigint")
DAY = Column("StartTime", Kind.TIMESTAMP, pa.timestamp("us"), "datetime2(3)")


def texts(count: int, declared: str = "nvarchar(max)") -> list[Column]:
    return [column(ResultColumn(f"t{number}", declared)) for number in range(count)]


def lengths(columns: Sequence[Column], key: Sequence[str] = ("id",)) -> list[int]:
    """The lengths in Vertica of the columns after the service fields."""
    sql = create_table(new_table("stage.t", columns, key, None))[-1]
    return [int(octets) for octets in re.findall(r'"t\d+" (?:LONG )?VAR(?:CHAR|BINARY)\((\d+)\)', sql)]


def test_the_statements_for_vertica() -> None:
    name = column(ResultColumn("name", "nvarchar(50)"))
    price = column(ResultColumn("price", "decimal(12,2)", nullable=False))
    schema, table = create_table(new_table("stage.orders", [ID, name, price, DAY], ["id"], "starttime"))
    assert schema == 'CREATE SCHEMA IF NOT EXISTS "stage"'
    assert table == (
        'CREATE TABLE IF NOT EXISTS "stage"."orders" (\n'
        '    "etl_source" VARCHAR(200) NOT NULL,\n'
        '    "etl_id" INTEGER NOT NULL,\n'
        '    "hash_id" INTEGER NOT NULL,\n'
        '    "ID" INTEGER NOT NULL,\n'
        '    "name" VARCHAR(150),\n'
        '    "price" NUMERIC(12,2) NOT NULL,\n'
        '    "StartTime" TIMESTAMP NOT NULL\n'
        ')\nORDER BY "etl_source", "StartTime"\nSEGMENTED BY HASH("hash_id") ALL NODES'
    )
    [alone] = create_table(new_table("orders", [ID], ["id"], None))
    assert '"orders"' in alone
    assert 'ORDER BY "etl_source"\n' in alone


@pytest.mark.parametrize(
    ("make", "name", "problem"),
    [
        (in_postgres, "Xmin", "a system column of this name; write ... AS another"),
        (in_clickhouse, "a\\b", "a backslash in a column's name"),
        (in_clickhouse, "_partition_id", "a column of its own of this name"),
    ],
)
def test_names_that_a_system_would_change_or_keeps_for_itself_are_refused(
    make: Callable[[NewTable], list[str]], name: str, problem: str
) -> None:
    column = Column(name, Kind.INTEGER, pa.int64(), "bigint")
    with pytest.raises(TargetRefusedError, match=f"column {re.escape(name)}: .*{re.escape(problem)}"):
        make(new_table("stage.t", [ID, column], ["id"], None))


def test_the_column_of_staging_tables_is_dwhctls_own() -> None:
    column = Column("dwhctl_token", Kind.TEXT, pa.string(), "text")
    with pytest.raises(QueryError, match="column dwhctl_token is dwhctl's own"):
        new_table("stage.t", [ID, column], ["id"], None)
    with pytest.raises(SchemaDriftError, match="column dwhctl_token is dwhctl's own"):
        compare([ID, column], [ID], fill_missing=True)


def test_columns_without_a_length_share_verticas_row() -> None:
    assert lengths([ID, *texts(3)]) == [2**20] * 3
    wide = lengths([ID, *texts(60)])
    assert len(set(wide)) == 1
    assert LONG_OCTETS * 0.9 < sum(wide) < LONG_OCTETS
    beside = lengths([ID, *texts(1, "varbinary(8000)"), *texts(60)[1:]])
    assert beside[0] == 8000
    assert sum(beside) < LONG_OCTETS
    # Vertica does not group and join by LONG VARCHAR.
    assert lengths(texts(2), ["t0"]) == [1000, 2**20]


def test_every_column_without_a_place_is_in_the_error() -> None:
    wide = [Column(name, Kind.DECIMAL, pa.decimal256(76, 2), "numeric(76,2)") for name in ("a", "b")]
    with pytest.raises(TargetRefusedError, match=r"^column a: no DuckDB type .*; column b: no DuckDB type"):
        new_table("t", [ID, *wide], ["id"], None).columns_sql(in_duckdb)


@pytest.mark.parametrize(
    ("columns", "key", "slice_by", "words"),
    [
        ([ID], ["id", "code"], "day", "the extract has no column code, day"),
        ([ID, Column("etl_ID", Kind.TEXT, pa.string(), "text")], ["id"], None, "column etl_ID is dwhctl's own"),
        ([Column("f", Kind.FLOAT, pa.float64(), "float")], ["f"], None, "key column f is float: a float cannot"),
        ([ID], ["id"], "id", "slice_by column ID is bigint, not a date or time"),
    ],
)  # fmt: skip
def test_columns_that_no_load_can_have_make_no_table(
    columns: list[Column], key: list[str], slice_by: str | None, words: str
) -> None:
    with pytest.raises(QueryError, match=re.escape(words)):
        new_table("stage.t", columns, key, slice_by)


@pytest.mark.parametrize(
    ("make", "most"), [(create_table, 128), (postgres_types.create_table, 63)], ids=["vertica", "postgres"]
)
def test_a_name_that_the_warehouse_would_cut_or_refuse(
    make: Callable[[NewTable], list[str]], most: int
) -> None:
    def table(name: str) -> NewTable:
        return new_table("stage.t", [ID, column(ResultColumn(name, "int"))], ["id"], None)

    fits = "я" * (most // 2)
    assert f'"{fits}"' in "".join(make(table(fits)))
    with pytest.raises(TargetRefusedError, match=f"its name has {2 * (most // 2) + 2} octets.* takes {most}"):
        make(table(fits + "я"))


@pytest.mark.parametrize(("system", "most"), [(VERTICA, 128), (POSTGRES, 63)], ids=["vertica", "postgres"])
def test_the_octets_of_both_parts_of_a_tables_name_count(system: System[Any], most: int) -> None:
    assert system.table_problem(None, f"{'s' * most}.{'t' * most}") is None
    assert system.table_problem(None, f"{'s' * (most - 1)}.{'я' * (most - 2)}") is not None
