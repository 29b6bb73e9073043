"""The extract of the rows that no slice takes."""

from __future__ import annotations

from datetime import datetime

import pytest

from dwhctl.project.query import Query
from dwhctl.verify.checks import without_slice

_BINDS = {"start": datetime.fromisoformat("2020-07-14"), "end": datetime.fromisoformat("2020-07-15")}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT id FROM t WHERE d >= :start AND d < :end", "SELECT id FROM t WHERE d IS NULL"),
        ("SELECT id FROM t WHERE t.d>=:start and T.D<:end AND x = 1", "SELECT id FROM t WHERE t.d IS NULL AND x = 1"),
        ('SELECT 1 FROM t WHERE x AND ("a b".[c d] >= :start\n  AND "a b".[c d] < :end)',
         'SELECT 1 FROM t WHERE x AND ("a b".[c d] IS NULL)'),
        ("SELECT ':start' FROM t /* :end */ WHERE d >= :start AND d < :end",
         "SELECT ':start' FROM t /* :end */ WHERE d IS NULL"),
    ],
)  # fmt: skip
def test_the_condition_is_turned_round(sql: str, expected: str) -> None:
    assert without_slice(Query(sql, _BINDS, "d")) == Query(expected, {}, "d")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM t",
        "SELECT id FROM t WHERE d BETWEEN :start AND :end",
        "SELECT id FROM t WHERE d >= :start AND e < :end",
        "SELECT id FROM t WHERE d > :start AND d < :end",
        "SELECT id FROM t WHERE d >= :start AND d <= :end",
        "SELECT id FROM t WHERE d < :end AND d >= :start",
        "SELECT id FROM t WHERE CAST(d AS date) >= :start AND CAST(d AS date) < :end",
        "SELECT id FROM t WHERE a + d >= :start AND d < :end",
        "SELECT id FROM t WHERE NOT d >= :start AND d < :end",
        "SELECT id FROM t WHERE d >= :start AND d < :end UNION SELECT id FROM u WHERE d >= :start AND d < :end",
        "SELECT id FROM t WHERE d >= :start OR d < :end",
    ],
)
def test_another_form_is_left_alone(sql: str) -> None:
    assert without_slice(Query(sql, _BINDS, "d")) is None
