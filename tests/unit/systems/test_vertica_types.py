"""Vertica's types, both ways, and what its names and errors become."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import vertica_python
from vertica_python.errors import QueryError
from vertica_python.vertica import messages

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    LoginRefusedError,
    TargetBusyError,
    TargetError,
    TargetRefusedError,
)
from dwhctl.core.secrets import MASKED, remember
from dwhctl.core.sql import literal, quote_name
from dwhctl.load.cast import constraints
from dwhctl.systems.base.fingerprint import Measure
from dwhctl.systems.base.staging import literals, staging_prefix
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.vertica import client as vertica
from dwhctl.systems.vertica.catalog import (
    TableName,
    _declared,
    connect_error,
    rejection,
    staging_table,
    translate_error,
)
from dwhctl.systems.vertica.target import check_octets
from dwhctl.systems.vertica.types import column, declaration

TYPES: tuple[tuple[str, Kind, pa.DataType], ...] = (
    ("int", Kind.INTEGER, pa.int64()),
    ("numeric(18,2)", Kind.DECIMAL, pa.decimal128(18, 2)),
    ("numeric(38,38)", Kind.DECIMAL, pa.decimal128(38, 38)),
    ("numeric(39,0)", Kind.DECIMAL, pa.decimal256(39, 0)),
    ("numeric(76,76)", Kind.DECIMAL, pa.decimal256(76, 76)),
    ("float", Kind.FLOAT, pa.float64()),
    ("boolean", Kind.BOOLEAN, pa.bool_()),
    ("uuid", Kind.UUID, pa.string()),
    ("varchar(80)", Kind.TEXT, pa.string()),
    ("char(10)", Kind.TEXT, pa.string()),
    ("long varchar(1048576)", Kind.TEXT, pa.string()),
    ("varbinary(80)", Kind.BINARY, pa.binary()),
    ("binary(16)", Kind.BINARY, pa.binary()),
    ("long varbinary(100000)", Kind.BINARY, pa.binary()),
    ("date", Kind.DATE, pa.date32()),
    ("time", Kind.TIME, pa.time64("us")),
    ("time(3)", Kind.TIME, pa.time32("ms")),
    ("time(0)", Kind.TIME, pa.time32("s")),
    ("timestamp", Kind.TIMESTAMP, pa.timestamp("us")),
    ("timestamp(3)", Kind.TIMESTAMP, pa.timestamp("ms")),
    ("timestamp(0)", Kind.TIMESTAMP, pa.timestamp("s")),
    ("timestamptz", Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC")),
    ("timestamptz(0)", Kind.TIMESTAMPTZ, pa.timestamp("s", tz="UTC")),
)


@pytest.mark.parametrize(("declared", "kind", "type_"), TYPES)
def test_a_type_is_known_and_a_new_column_of_it_is_the_same(
    declared: str, kind: Kind, type_: pa.DataType
) -> None:
    described = column("v", declared, nullable=False)
    assert described is not None
    assert (described.kind, described.type, described.nullable) == (kind, type_, False)
    again = column("v", declaration(described).lower())
    assert again is not None
    assert (again.kind, again.type, again.octets) == (kind, type_, described.octets)
    assert list(constraints(described)) is not None


@pytest.mark.parametrize(
    "declared",
    ["interval day to second", "interval", "timetz", "array[int8]", "set[int8]", "row(int)", "map<int,int>",
     "geometry(100)", "geography", "numeric(77,0)", "timestamp(4)", "time(1)", "raw stuff", ""],
)  # fmt: skip
def test_a_type_without_a_place_is_none(declared: str) -> None:
    assert column("v", declared) is None


def test_what_a_column_holds_is_said() -> None:
    integer, text, char, day = (column("v", one) for one in ("int", "varchar(7)", "char(3)", "date"))
    assert integer
    assert text
    assert char
    assert day
    assert (integer.least, integer.most) == (-(2**63) + 1, 2**63 - 1)
    assert (text.octets, text.padded) == (7, False)
    assert (char.octets, char.padded) == (3, True)
    assert (day.least, day.most) == (date.min, date.max)


@pytest.mark.parametrize(
    ("kind", "type_", "declared", "octets", "wanted"),
    [
        (Kind.TEXT, pa.string(), "nvarchar(50)", None, "VARCHAR(200)"),
        (Kind.TEXT, pa.string(), "nvarchar(4000)", None, "VARCHAR(16000)"),
        (Kind.TEXT, pa.string(), "varchar(8000)", None, "VARCHAR(32000)"),
        (Kind.TEXT, pa.string(), "nvarchar(20000)", None, "LONG VARCHAR(80000)"),
        (Kind.TEXT, pa.string(), "nvarchar(max)", None, "LONG VARCHAR(1048576)"),
        (Kind.TEXT, pa.string(), "anything", 65_000, "VARCHAR(65000)"),
        (Kind.TEXT, pa.string(), "anything", 65_001, "LONG VARCHAR(65001)"),
        (Kind.TEXT, pa.string(), "anything", 2**31, "LONG VARCHAR(32000000)"),
        (Kind.BINARY, pa.binary(), "varbinary(max)", None, "LONG VARBINARY(1048576)"),
        (Kind.BINARY, pa.binary(), "varbinary(10)", 10, "VARBINARY(10)"),
        (Kind.INTEGER, pa.int8(), "tinyint", None, "INTEGER"),
        (Kind.INTEGER, pa.uint64(), "UBIGINT", None, "NUMERIC(20,0)"),
        (Kind.DECIMAL, pa.decimal128(19, 4), "money", None, "NUMERIC(19,4)"),
        (Kind.FLOAT, pa.float32(), "real", None, "FLOAT"),
        (Kind.TIMESTAMP, pa.timestamp("ns"), "TIMESTAMP_NS", None, "TIMESTAMP"),
    ],
)
def test_a_new_column_holds_what_the_source_holds(
    kind: Kind, type_: pa.DataType, declared: str, octets: int | None, wanted: str
) -> None:
    assert declaration(Column("v", kind, type_, declared, octets=octets)) == wanted


# Names


def test_tables_are_found_by_schema_and_name() -> None:
    assert TableName.of("orders") == TableName("public", "orders")
    assert TableName.of("db.stage.orders") == TableName("stage", "orders")
    assert TableName.of('st"age.o').sql == '"st""age"."o"'


@pytest.mark.parametrize("name", ["orders.20200714.3", "o" * 300 + ".20200714.1", "Duplicates name; --"])
def test_a_staging_tables_name_is_valid_and_belongs_to_its_run(name: str) -> None:
    run = "20200714T101112-0a1b2c3d"
    table = staging_table(StagingGroup(run, name, "stage.orders"), None)
    assert table.schema == "stage"
    assert len(table.table) <= 128
    assert table.table.isascii()
    assert table.table == table.table.lower()
    assert table.table.replace("_", "").isalnum()
    assert table.table.startswith(staging_prefix(run))
    assert not table.table.startswith(staging_prefix(run[:-1]))
    assert staging_table(StagingGroup(run, name, "stage.orders"), "Else").schema == "Else"


def test_long_names_of_groups_do_not_meet() -> None:
    names = {staging_table(StagingGroup("run", "o" * 300 + f".{n}", "t"), None).table for n in range(20)}
    assert len(names) == 20


# Errors


def a_query_error(sqlstate: str, message: str = "no") -> QueryError:
    response = messages.ErrorResponse(
        b"".join(
            key + text.encode() + b"\0"
            for key, text in ((b"S", "ERROR"), (b"C", sqlstate), (b"M", message), (b"V", "1234"))
        )
        + b"\0"
    )
    return QueryError.from_error_response(response, "SELECT 'a secret of the statement'")


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("55V03", TargetBusyError),
        ("42601", TargetRefusedError),
        ("3F000", TargetRefusedError),
        ("42V01", TargetRefusedError),
        ("42703", TargetRefusedError),
        ("42501", TargetRefusedError),
        ("22007", TargetRefusedError),
        ("23505", TargetRefusedError),
        ("0A000", TargetRefusedError),
        ("53000", TargetError),
        ("53200", TargetError),
        ("57014", TargetError),
        ("57V01", TargetError),
        ("08006", TargetError),
        ("V1001", TargetError),
        ("XX000", TargetError),
        ("", TargetError),
    ],
)
def test_an_error_means_what_its_sqlstate_says(sqlstate: str, kind: type[AttemptError]) -> None:
    found = translate_error(a_query_error(sqlstate, "no\n  such thing"))
    assert type(found) is kind
    assert str(found).startswith("no such thing (")
    assert "1234" in str(found)
    assert "secret" not in str(found)


def test_a_rejected_row_is_named_without_its_value() -> None:
    error = AttemptError()
    message = "COPY: Input record 41 has been rejected (Invalid integer format '17x' for column 2 (id))"
    error.__cause__ = a_query_error("22V04", message)
    assert rejection(error) == (41, "Invalid integer format ... for column 2 (id)")
    error.__cause__ = a_query_error("42601", message)
    assert rejection(error) is None


def test_who_is_at_fault_at_the_door() -> None:
    refused = a_query_error("28000", "Invalid username or password").error_response
    for refusal, kind in (
        (refused, LoginRefusedError),
        (a_query_error("53300", "New session rejected due to limit").error_response, ConnectError),
        (a_query_error("3D000", "Database no does not exist").error_response, TargetRefusedError),
        (None, ConnectError),
    ):
        found = connect_error(ConnectionResetError(104, "Connection reset"), refusal, "dwh:5433", "dwh")
        assert type(found) is kind
        assert "dwh:5433" in str(found)
        assert getattr(found, "connection", "dwh") == "dwh"


def test_no_secret_gets_into_an_error() -> None:
    remember("Sehr_geheim_77")
    assert MASKED in str(translate_error(a_query_error("42601", "near Sehr_geheim_77")))
    found = connect_error(ValueError("Sehr_geheim_77"), None, "dwh:5433", "dwh")
    assert "Sehr_geheim_77" not in str(found)


# The driver


def test_the_driver_still_calls_what_is_overridden() -> None:
    """vertica-python 1.4.0; a new version is looked at when this fails."""
    ours = {
        name
        for name in vars(vertica._Wire)
        if not name.startswith("_") and callable(vars(vertica._Wire)[name])
    }
    assert ours == {
        "establish_socket_connection", "enable_ssl", "read_message", "reset_values", "cancel", "close",
        "close_socket", "write",
    }  # fmt: skip
    for name in ours:
        assert callable(getattr(vertica_python.Connection, name))
    source = SimpleNamespace(**vars(vertica_python.Connection))
    assert "establish_socket_connection" in _names(source._socket)
    assert "enable_ssl" in _names(source._socket)
    assert "write" in _names(vertica_python.vertica.cursor.Cursor._send_copy_data)
    assert "notice_handler" in str(source.handle_asynchronous_message.__code__.co_consts)


def _names(function: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = function.__code__.co_names
    return names


def test_literals_and_names_cannot_be_left() -> None:
    assert literal("it's \\ so") == "'it''s \\ so'"
    assert quote_name('a"b.c') == '"a""b.c"'
    assert literals(["a", "b'"]) == "'a', 'b'''"


def test_a_set_using_column_is_left_to_vertica() -> None:
    """REFRESH_COLUMNS fills it; a statement that gives it a value is refused. DEFAULT USING may be written."""
    rows = [
        {"column_name": name, "data_type": "int", "column_default": default, "column_set_using": using}
        for name, default, using in (
            ("id", "", ""),
            ("city", "", "(SELECT 1)"),
            ("region", "(SELECT 1)", "(SELECT 1)"),
            ("day", "1", ""),
        )
    ]
    assert [name for name, _, _ in _declared(rows)] == ["id", "region", "day"]


@pytest.mark.parametrize("is_key", [False, True])
def test_texts_that_are_too_long_to_be_hashed_have_a_remedy_that_there_is(is_key: bool) -> None:
    wide = Column("code", Kind.TEXT, pa.string(), "varchar(65000)", octets=65_000)
    other = Column("note", Kind.TEXT, pa.string(), "varchar(10000)", octets=10_000)
    measure = Measure((wide,), (other,)) if is_key else Measure((other,), (wide,))
    remedy = "make it a shorter VARCHAR" if is_key else "leave it out of verify_columns"
    with pytest.raises(TargetRefusedError, match=f"column code is .*; {remedy}"):
        check_octets(measure)
