"""Which values a narrower Vertica column would change: the conditions, evaluated by another engine."""

from __future__ import annotations

import duckdb
import pytest

from dwhctl.systems.vertica import types as types
from dwhctl.systems.vertica.types import would_change


@pytest.mark.parametrize(
    ("source", "table", "fits", "changes"),
    [
        ("timestamp", "timestamp(0)", "TIMESTAMP '2020-07-14 01:02:03'", "TIMESTAMP '2020-07-14 01:02:03.5'"),
        ("timestamp", "timestamp(3)", "TIMESTAMP '2020-07-14 01:02:03.125'", "TIMESTAMP '2020-07-14 01:02:03.0001'"),
        ("time", "time(0)", "TIME '01:02:03'", "TIME '01:02:03.000001'"),
        ("timestamptz", "timestamptz(0)", "TIMESTAMPTZ '2020-07-14 01:02:03Z'", "TIMESTAMPTZ '1969-07-14 01:02:03.5Z'"),
        ("varchar(20)", "varchar(3)", "'abc'", "'abcd'"),
        ("varchar(20)", "varchar(3)", "NULL", "'да'"),
        ("varchar(20)", "char(3)", "'ab'", "'ab '"),
        ("varbinary(20)", "binary(2)", "'ab'::BLOB", "'a'::BLOB"),
        ("numeric(18,4)", "numeric(4,2)", "-99.99", "100.00"),
        ("numeric(18,4)", "numeric(4,2)", "-1.10", "-1.101"),
        ("numeric(38,0)", "integer", "9223372036854775807", "-92233720368547758080"),
        ("integer", "numeric(3,0)", "-999", "1000"),
    ],
)  # fmt: skip
def test_a_value_that_would_change_is_found(source: str, table: str, fits: str, changes: str) -> None:
    pair = [types.column("v", declared) for declared in (source, table)]
    assert pair[0] is not None
    assert pair[1] is not None
    # Octets, not characters, as in Vertica.
    condition = would_change("v", pair[0], pair[1]).replace("OCTET_LENGTH(", "octets(")
    with duckdb.connect() as db:
        db.execute("CREATE MACRO octets(x) AS length(hex(x)) // 2")
        for value, expected in ((fits, False), (changes, True)):
            assert (
                bool(db.execute(f"SELECT {condition} FROM (SELECT {value} AS v)").fetchall()[0][0])
                is expected
            )
