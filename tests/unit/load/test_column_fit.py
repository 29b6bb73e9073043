"""Declared sizes of a source's columns against the target's: which values a load would refuse."""

from __future__ import annotations

import pytest

from dwhctl.core.columns import Column
from dwhctl.load.column_fit import misfits
from dwhctl.systems.duckdb import client as duckdb
from dwhctl.systems.duckdb.target import DuckdbTarget
from dwhctl.systems.mssql import sql as mssql
from dwhctl.systems.vertica import types as vertica_types

CYRILLIC, UTF8 = "Cyrillic_General_CI_AS", "Latin1_General_100_CI_AS_SC_UTF8"


def of_mssql(declared: str, *, nullable: bool = True, collation: str = CYRILLIC) -> Column:
    """A column of SQL Server."""
    return mssql.column(mssql.ResultColumn("x", declared, nullable, collation=collation))


def into_vertica(source: Column, declared: str, *, nullable: bool = True) -> list[tuple[bool, str]]:
    """Compare it with a column of Vertica: whether all values are refused, and what is said after the types."""
    target = vertica_types.column("x", declared, nullable=nullable)
    assert target is not None
    found = misfits([source], [target], vertica_types.declaration, slice_by=None, declares_null=True)
    return [(one.certain, one.what.partition("in the target: ")[2]) for one in found]


@pytest.mark.parametrize(
    ("source", "target", "why", "remedy"),
    [
        ("uniqueidentifier", "varchar(32)", "each is a text of 36 characters", "VARCHAR(36)"),
        ("char(50)", "varchar(40)", "each has 50 octets or more", "VARCHAR(150)"),
        ("nchar(50)", "char(40)", "each has 50 octets or more", "VARCHAR(150)"),
        ("binary(16)", "varbinary(8)", "each has 16 octets or more", "VARBINARY(16)"),
        ("rowversion", "varbinary(4)", "each has 8 octets or more", "VARBINARY(8)"),
    ],
)
def test_no_value_fits(source: str, target: str, why: str, remedy: str) -> None:
    [(certain, text)] = into_vertica(of_mssql(source), target)
    assert certain
    assert text == f"{why}, so every value would be refused; make it {remedy}"


@pytest.mark.parametrize(
    ("source", "target", "why", "remedy"),
    [
        ("varchar(50)", "varchar(40)", "a value of more than 40 octets", "VARCHAR(150)"),
        ("varchar(36)", "varchar(36)", "a value of more than 36 octets", "VARCHAR(108)"),
        ("nvarchar(20)", "varchar(59)", "a value of more than 59 octets", "VARCHAR(60)"),
        ("nvarchar(max)", "varchar(65000)", "there is no limit at the source", "LONG VARCHAR(1048576)"),
        ("nchar(10)", "char(30)", "a value that ends in a blank", "VARCHAR(30)"),
        ("varbinary(16)", "varbinary(8)", "a value of more than 8 octets", "VARBINARY(16)"),
        ("varbinary(8)", "binary(8)", "a value of fewer than 8 octets", "VARBINARY(8)"),
        ("decimal(18,4)", "numeric(9,2)", "7 digits before the point or 2 digits after", "NUMERIC(18,4)"),
        ("money", "numeric(18,2)", "a value with more than 2 digits after the point", "NUMERIC(20,4)"),
        ("bigint", "numeric(10,2)", "a value with more than 8 digits before the point", "NUMERIC(21,2)"),
        ("datetime2(7)", "timestamp(3)", "a value finer than milliseconds", "TIMESTAMP"),
        ("datetime", "timestamp(0)", "a value finer than whole seconds", "TIMESTAMP"),
        ("datetimeoffset(7)", "timestamptz(3)", "a value finer than milliseconds", "TIMESTAMPTZ"),
        ("time(4)", "time(3)", "a value finer than milliseconds", "TIME"),
    ],
)
def test_it_depends_on_the_values(source: str, target: str, why: str, remedy: str) -> None:
    [(certain, text)] = into_vertica(of_mssql(source), target)
    assert not certain
    assert why in text
    assert "would be refused" in text
    assert text.endswith(f"; make it {remedy}")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("uniqueidentifier", "varchar(36)"),
        ("uniqueidentifier", "char(36)"),
        ("uniqueidentifier", "uuid"),
        ("nvarchar(20)", "varchar(60)"),
        ("nvarchar(max)", "boolean"),  # another kind: `compare` refuses it
        ("binary(8)", "binary(8)"),
        ("timestamp", "binary(8)"),
        ("bigint", "int"),
        ("bigint", "numeric(21,2)"),
        ("money", "numeric(19,4)"),
        ("datetime2(7)", "timestamp"),  # the documented exception: the seventh digit is cut
        ("time(7)", "time(6)"),
        ("datetime2(3)", "timestamp(3)"),
        ("datetime", "timestamp(3)"),
        ("smalldatetime", "timestamp(0)"),
        ("date", "timestamp(0)"),
        ("real", "float"),
    ],
)
def test_every_value_fits(source: str, target: str) -> None:
    assert into_vertica(of_mssql(source), target) == []


def test_utf8_of_the_source_counts_octets() -> None:
    assert into_vertica(of_mssql("varchar(36)", collation=UTF8), "varchar(36)") == []
    # An nvarchar is UTF-16, whatever its collation.
    assert len(into_vertica(of_mssql("nvarchar(36)", collation=UTF8), "varchar(36)")) == 1


def test_null_into_not_null() -> None:
    target = vertica_types.column("x", "int", nullable=False)
    assert target is not None

    def found(nullable: bool, slice_by: str | None = None, declares_null: bool = True) -> list[str]:
        sources = [of_mssql("int", nullable=nullable)]
        return [
            one.what
            for one in misfits(
                sources, [target], vertica_types.declaration, slice_by=slice_by, declares_null=declares_null
            )
        ]

    [text] = found(True)
    assert text == (
        "column x may be NULL at the source and is NOT NULL in the target: a row without a value would be refused;"
        " allow NULL in the target, or write COALESCE(x, ...) AS x into the extract"
    )
    assert found(False) == []
    assert found(True, slice_by="X") == []  # a row without it is in no slice
    assert found(True, declares_null=False) == []


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("BIGINT", "INTEGER", "below -2147483648 or above 2147483647 would be refused; make it BIGINT"),
        ("UTINYINT", "TINYINT", "below -128 or above 127 would be refused; make it UTINYINT"),
        ("TIMESTAMP_NS", "TIMESTAMP", "finer than microseconds would be refused; make it TIMESTAMP_NS"),
        ("TIMESTAMP", "TIMESTAMP_NS", "after 2262-04-11 would be refused; make it TIMESTAMP"),
        ("DECIMAL(38, 0)", "DECIMAL(10, 2)", "CAST it in the extract to what DECIMAL(10, 2) holds"),
        ("VARCHAR", "VARCHAR", None),
        ("INTEGER", "BIGINT", None),
        ("DECIMAL(9, 2)", "DECIMAL(18, 4)", None),
    ],
)
def test_duckdb(source: str, target: str, said: str | None) -> None:
    found = duckdb.column("x", source), duckdb.column("x", target)
    assert found[0] is not None
    assert found[1] is not None
    warehouse = DuckdbTarget.__new__(DuckdbTarget)  # its types need no file
    texts = [
        one.what
        for one in misfits([found[0]], [found[1]], warehouse.declaration, slice_by=None, declares_null=False)
    ]
    assert len(texts) == (said is not None)
    assert all(text.endswith(said or "") for text in texts)
