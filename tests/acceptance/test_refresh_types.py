"""`refresh-reports` changes no value in silence: types are compared as in a load, narrowed values are checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dwhctl.check.online import CheckFinding, OnlineCheck
from tests.support.reports import KEYS, Place, a_place

OLD = [("old",)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    with ExitStack() as stack:
        yield {
            system: stack.enter_context(a_place(system, tmp_path_factory.mktemp(system)))
            for system in ("duckdb", "vertica")
        }


@pytest.fixture(params=["duckdb", "vertica"])
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Place:
    found: Place = places[request.param]
    return found


def a_report(place: Place, source: str, declared: str, *, query: str = "SELECT * FROM stage.given") -> None:
    """A report with the old row and one column `amount` beside it; its source gives `amount` as `source`."""
    place.execute(
        "CREATE SCHEMA IF NOT EXISTS reports",
        "DROP TABLE IF EXISTS reports.money",
        "DROP TABLE IF EXISTS stage.given",
        f"CREATE TABLE reports.money (word VARCHAR(80), amount {declared})",
        "INSERT INTO reports.money (word) VALUES ('old')",
        f"CREATE TABLE stage.given (word VARCHAR(80), amount {source})",
        "INSERT INTO stage.given (word) VALUES (NULL)",
    )
    place.put({"money": f'{KEYS}\nsource = "{query}"'}, creates=False)


def refused(place: Place, *words: str) -> None:
    """The refresh fails, permanently, with these words, and the old row stays."""
    [closed] = place.refresh("money").closed
    assert closed.failure is not None, place.sandbox.warehouse("SELECT * FROM reports.money")
    assert closed.failure.error_class in ("SchemaDriftError", "ValueRefusedError")
    assert closed.failure.permanent
    for word in ("amount", *words):
        assert word.lower() in closed.failure.message.lower(), closed.failure.message
    assert place.sandbox.warehouse("SELECT word FROM reports.money") == OLD
    assert place.sessions("money")[-1].state == "failed"


def findings(place: Place) -> list[CheckFinding]:
    """What `config check --online` finds wrong with the report."""
    found = list(OnlineCheck(place.sandbox.project()).findings())
    return [one for one in found if one.wrong and one.where.startswith("money")]


@pytest.mark.parametrize(
    ("source", "declared"),
    [
        ("NUMERIC(18,2)", "INTEGER"),
        ("FLOAT", "NUMERIC(18,2)"),
        ("NUMERIC(18,2)", "FLOAT"),
        ("VARCHAR(20)", "INTEGER"),
        ("TIMESTAMP", "DATE"),
        ("TIMESTAMP", "VARCHAR(80)"),
    ],
)
def test_another_kind_is_refused_with_the_column_and_both_types(
    place: Place, source: str, declared: str
) -> None:
    """Also where every value that is there would fit: nothing is there here but NULL."""
    a_report(place, source, declared)
    words = {"NUMERIC(18,2)": ("decimal(18,2)", "numeric(18,2)"), "INTEGER": ("int",)}
    refused(place, "in the source and", "CAST")
    [finding] = findings(place)
    for declaration in (source, declared):
        names = words.get(declaration, (declaration.partition("(")[0].lower(),))
        assert any(
            f"is {name}" in finding.what.lower() or f"and {name}" in finding.what.lower() for name in names
        )


CASES = [
    ("NUMERIC(18,4)", "NUMERIC(18,2)", "15093923.1601", "15093923.16"),
    ("NUMERIC(18,2)", "NUMERIC(6,2)", "12345.00", "1234.00"),
    ("NUMERIC(18,0)", "INTEGER", None, "15093923"),
    ("INTEGER", "NUMERIC(6,2)", "12345", "1234"),
]
DUCKDB_CASES = [
    ("BIGINT", "SMALLINT", "40000", "4000"),
    ("HUGEINT", "BIGINT", "9223372036854775808", "9223372036854775807"),
    ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP '2020-07-14 00:00:00.5'", "TIMESTAMP '2020-07-14 00:00:00'"),
    ("TIMESTAMP_NS", "TIMESTAMP", "'2020-07-14 00:00:00.000000001'", "'2020-07-14 00:00:00.000001'"),
]
VERTICA_CASES = [
    ("VARCHAR(20)", "VARCHAR(3)", "'abcd'", "'abc'"),
    ("VARCHAR(20)", "CHAR(3)", "'ab '", "'abc'"),
]


@pytest.mark.parametrize(
    ("system", "source", "declared", "wrong", "right"),
    [
        *(("duckdb", *case) for case in CASES + DUCKDB_CASES),
        *(("vertica", *case) for case in CASES + VERTICA_CASES),
    ],
)
def test_a_value_that_would_change_is_refused_and_one_that_fits_is_not(
    system: str, source: str, declared: str, wrong: str | None, right: str, places: dict[str, Place]
) -> None:
    place = places[system]
    a_report(place, source, declared)
    place.execute(f"INSERT INTO stage.given (word, amount) VALUES ('bad', {right})")
    if wrong is not None:
        place.execute(f"UPDATE stage.given SET amount = {wrong} WHERE word = 'bad'")
        refused(place, wrong.partition(" '")[2].strip("'") or wrong.strip("'"), "CAST")
        place.execute(f"UPDATE stage.given SET amount = {right} WHERE word = 'bad'")
    assert not place.refresh("money").failures
    assert place.sandbox.warehouse(
        f"SELECT COUNT(*), COUNT(amount), COUNT(CASE WHEN amount = {right} THEN 1 END) FROM reports.money"
    ) == [(2, 1, 1)]
    assert findings(place) == []


def test_the_case_of_the_issue(place: Place) -> None:
    """A sum with two decimals into an INTEGER; rounding that is written down is nobody's surprise."""
    a_report(
        place,
        "NUMERIC(18,2)",
        "INTEGER",
        query="SELECT MAX(word) AS word, SUM(amount) AS amount FROM stage.given",
    )
    place.execute("INSERT INTO stage.given (word, amount) VALUES ('bad', 15093923.16)")
    refused(place, "CAST")
    explicit = "SELECT MAX(word) AS word, CAST(SUM(amount) AS INTEGER) AS amount FROM stage.given"
    place.put({"money": f'{KEYS}\nsource = "{explicit}"'}, creates=False)
    assert not place.refresh("money").failures
    assert place.sandbox.warehouse("SELECT amount FROM reports.money") == [(15093923,)]


def test_a_row_that_the_source_leaves_out_is_not_checked(place: Place) -> None:
    a_report(
        place,
        "NUMERIC(18,4)",
        "NUMERIC(18,2)",
        query="SELECT * FROM stage.given WHERE amount = 1 OR word IS NULL",
    )
    place.execute("INSERT INTO stage.given (word, amount) VALUES ('left out', 1.2345), ('taken', 1)")
    assert not place.refresh("money").failures
    assert place.sandbox.warehouse("SELECT COUNT(*), MAX(amount) FROM reports.money") == [(2, 1)]


def test_an_untyped_null_fits_every_column(place: Place) -> None:
    a_report(place, "INTEGER", "NUMERIC(18,2)", query="SELECT word, NULL AS amount FROM stage.given")
    assert not place.refresh("money").failures
