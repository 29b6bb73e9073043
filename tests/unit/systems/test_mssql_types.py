"""SQL Server's type table."""

from __future__ import annotations

import re
import subprocess
import sys

import pyarrow as pa
import pytest

from dwhctl.core.columns import Kind
from dwhctl.core.errors import QueryError
from dwhctl.systems.duckdb import client as duckdb_types
from dwhctl.systems.mssql import sql as mssql_types
from dwhctl.systems.mssql.sql import TYPES, ResultColumn, declared_columns, literal, quote
from dwhctl.systems.postgres import types as postgres_types
from dwhctl.systems.postgres.types import AnswerColumn, source_columns

#: sys.types of SQL Server 2025, and the words by which sp_describe_first_result_set and people call them besides.
SERVER_TYPES = (
    "image", "text", "uniqueidentifier", "date", "time", "datetime2", "datetimeoffset", "tinyint",
    "smallint", "int", "smalldatetime", "real", "money", "datetime", "float", "sql_variant", "ntext", "bit",
    "decimal", "numeric", "smallmoney", "bigint", "hierarchyid", "geometry", "geography", "varbinary",
    "varchar", "binary", "char", "timestamp", "nvarchar", "nchar", "xml", "sysname", "json", "vector",
    "rowversion", "cursor", "table",
)  # fmt: skip


def test_every_type_of_the_server_is_mapped_or_refused() -> None:
    assert sorted(row.name for row in TYPES) == sorted(SERVER_TYPES)
    assert all(row.note for row in TYPES)


@pytest.mark.parametrize(
    ("declared", "kind", "arrow", "octets"),
    [
        ("bigint", Kind.INTEGER, pa.int64(), None),
        ("tinyint", Kind.INTEGER, pa.uint8(), None),
        ("bit", Kind.BOOLEAN, pa.bool_(), None),
        ("decimal(38,10)", Kind.DECIMAL, pa.decimal128(38, 10), None),
        ("numeric(5,0)", Kind.DECIMAL, pa.decimal128(5, 0), None),
        ("decimal(9, 2)", Kind.DECIMAL, pa.decimal128(9, 2), None),
        ("money", Kind.DECIMAL, pa.decimal128(19, 4), None),
        ("smallmoney", Kind.DECIMAL, pa.decimal128(10, 4), None),
        ("float", Kind.FLOAT, pa.float64(), None),
        ("real", Kind.FLOAT, pa.float32(), None),
        ("time(7)", Kind.TIME, pa.time64("us"), None),
        ("datetime2(3)", Kind.TIMESTAMP, pa.timestamp("us"), None),
        ("datetimeoffset(7)", Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC"), None),
        ("nvarchar(50)", Kind.TEXT, pa.string(), 150),
        ("nvarchar(max)", Kind.TEXT, pa.string(), None),
        ("char(3)", Kind.TEXT, pa.string(), 9),
        ("sysname", Kind.TEXT, pa.string(), 384),
        ("ntext", Kind.TEXT, pa.string(), None),
        ("uniqueidentifier", Kind.UUID, pa.string(), None),
        ("varbinary(10)", Kind.BINARY, pa.binary(), 10),
        ("timestamp", Kind.BINARY, pa.binary(), 8),
    ],
)
def test_a_declared_type(declared: str, kind: Kind, arrow: pa.DataType, octets: int | None) -> None:
    (column,) = declared_columns([ResultColumn("v", declared, nullable=False)])
    assert (column.kind, column.type, column.octets) == (kind, arrow, octets)
    assert (column.name, column.declared, column.nullable) == ("v", declared, False)


@pytest.mark.parametrize("row", [row for row in TYPES if row.kind is None], ids=lambda row: row.name)
def test_a_refused_type_is_named_with_its_remedy(row: object) -> None:
    with pytest.raises(
        QueryError, match=r"^column odd: SQL Server's type \w+ would not arrive as it is; CAST"
    ):
        declared_columns([ResultColumn("odd", row.name)])  # type: ignore[attr-defined]


def test_an_assemblys_own_type_is_refused() -> None:
    with pytest.raises(QueryError, match=r"column odd: .* type Point would .* CAST\(odd\.ToString\(\) AS"):
        declared_columns([ResultColumn("odd", None, own_type="Point")])


def test_a_column_without_a_name_is_refused_by_its_number() -> None:
    for name in (None, ""):
        with pytest.raises(QueryError, match=r"^column 2 of the extract has no name"):
            declared_columns([ResultColumn("id", "int"), ResultColumn(name, "int")])


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(QueryError, match=r"^column ID occurs twice"):
        declared_columns([ResultColumn("id", "int"), ResultColumn("ID", "int")])


def test_quoting() -> None:
    assert quote("dbo.Or]ders") == "[dbo.Or]]ders]"
    assert literal("it's") == "N'it''s'"


def test_the_table_needs_neither_driver_nor_pyarrow() -> None:
    code = "import sys, dwhctl.systems.mssql.sql; print(sorted({'pymssql', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_remedy_quotes_a_name_that_needs_it() -> None:
    with pytest.raises(QueryError, match=re.escape("CAST([odd ]] name] AS nvarchar(4000))")):
        declared_columns([ResultColumn("odd ] name", "hierarchyid")])
    with pytest.raises(QueryError, match=re.escape('CAST("oddName" AS text)')):
        source_columns([AnswerColumn("oddName", "integer[]")])


def test_a_remedy_keeps_the_columns_name() -> None:
    """Without `AS` DuckDB's column was `CAST(v AS VARCHAR)`, PostgreSQL's `extract`, and SQL Server's had no name."""
    with pytest.raises(QueryError, match=re.escape('extract: CAST("oddName" AS VARCHAR) AS "oddName"')):
        duckdb_types.declared_columns(["oddName"], ["INTERVAL"])
    with pytest.raises(QueryError, match=re.escape("EXTRACT(EPOCH FROM v)::numeric(20,6) AS v")):
        source_columns([AnswerColumn("v", "interval")])
    with pytest.raises(QueryError, match=re.escape("CAST(v.STAsText() AS nvarchar(max)) AS v")):
        declared_columns([ResultColumn("v", "geometry")])
    types = [one for system in (duckdb_types, postgres_types, mssql_types) for one in system.source_types()]
    refused = [one for one in types if one.column is None]
    assert [one.name for one in refused if " AS {column}" not in one.note] == ["cursor", "table"]
