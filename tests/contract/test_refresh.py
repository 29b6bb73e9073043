"""Every target replaces a table as dwhctl/systems/base/target.py says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.core.columns import Kind
from dwhctl.core.errors import AttemptError, TargetRefusedError
from dwhctl.project.connections import Connection
from dwhctl.project.names import RowSource
from dwhctl.systems.base.target import Target
from tests.contract.kits import TARGETS, TargetKit

TIMEOUT = timedelta(seconds=30)
TABLE, VIEW = "stage.report", RowSource("stage.report_view")


@dataclass
class Place:
    """A warehouse with stage.rows (1, 2, 3), a view of it, and a report that holds 9."""

    kit: TargetKit
    target: Target
    connection: Connection

    def held(self, columns: str = "id") -> list[tuple[str | None, ...]]:
        """What the report holds, as others see it."""
        return self.kit.texts(self.connection, f"SELECT {columns} FROM {TABLE} ORDER BY id")

    def replace(
        self, source: RowSource = VIEW, *, commit: bool = True, then: Callable[[], object] = int
    ) -> int:
        """Refresh as a run does."""
        with self.target.refresh(TABLE, source, TIMEOUT) as refresh:
            columns = refresh.columns()
            refresh.delete()
            names = {one.name for one in columns.source}
            rows = refresh.insert([one.name for one in columns.table if one.name in names])
            then()
            if commit:
                refresh.commit()
        return rows


@pytest.fixture(params=TARGETS, ids=lambda kit: kit.name)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A warehouse of each kind."""
    kit: TargetKit = request.param
    connection = kit.connection(tmp_path)
    target = kit.open(connection, tmp_path)
    columns = kit.columns(id=Kind.INTEGER, note=Kind.TEXT)
    target.run_statements(
        [
            "CREATE SCHEMA IF NOT EXISTS stage",
            f"CREATE TABLE stage.rows ({columns})",
            *(f"INSERT INTO stage.rows VALUES ({n}, {kit.text(f'n{n}')})" for n in (1, 2, 3)),
            f"CREATE TABLE {TABLE} (note {kit.words[Kind.TEXT]}, id {kit.words[Kind.INTEGER]}, noted INT DEFAULT 5)",
            f"INSERT INTO {TABLE} (id, note) VALUES (9, {kit.text('old')})",
            "CREATE VIEW stage.report_view AS SELECT id, note FROM stage.rows",
        ]
    )
    return Place(kit, target, connection)


def test_the_rows_are_replaced_by_name(place: Place) -> None:
    assert place.replace() == 3
    assert place.held("id, note, noted") == [(str(n), f"n{n}", "5") for n in (1, 2, 3)]


def test_the_columns_of_both_sides_are_told(place: Place) -> None:
    with place.target.refresh(TABLE, VIEW, TIMEOUT) as refresh:
        columns = refresh.columns()
    assert [one.name for one in columns.source] == ["id", "note"]
    assert [one.name for one in columns.table] == ["note", "id", "noted"]
    kinds = {one.name: one.known.kind for one in (*columns.source, *columns.table) if one.known is not None}
    assert kinds == {"id": Kind.INTEGER, "note": Kind.TEXT, "noted": Kind.INTEGER}
    assert columns.filled == {"noted"}
    assert place.held() == [("9",)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, note FROM stage.rows WHERE id < 3 -- a comment; with a semicolon",
        "WITH chosen AS (SELECT id, note FROM stage.rows WHERE id < 3) SELECT note, id FROM chosen ORDER BY id DESC",
    ],
)
def test_a_query_is_a_source(place: Place, query: str) -> None:
    assert place.replace(RowSource(query, is_query=True)) == 2
    assert place.held() == [("1",), ("2",)]


def test_no_rows_are_rows_too(place: Place) -> None:
    assert place.replace(RowSource("SELECT id, note FROM stage.rows WHERE id > 3", is_query=True)) == 0
    assert place.held() == []


def test_without_a_commit_the_old_rows_stand(place: Place) -> None:
    assert place.replace(commit=False) == 3
    assert place.held() == [("9",)]


def fail() -> None:
    raise ZeroDivisionError


def test_an_error_after_the_insert_leaves_the_old_rows(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        place.replace(then=fail)
    assert place.held() == [("9",)]
    assert place.replace() == 3


def test_a_value_that_does_not_fit_is_refused_and_leaves_the_old_rows(place: Place) -> None:
    odd = RowSource(
        "SELECT id, note, CASE WHEN id = 3 THEN note ELSE '7' END AS noted FROM stage.rows", is_query=True
    )
    with pytest.raises(TargetRefusedError):
        place.replace(odd)
    place.target.settle()
    assert place.held() == [("9",)]
    assert place.replace() == 3


@pytest.mark.parametrize("missing", ["source", "table"])
def test_what_is_not_there_is_refused(place: Place, missing: str) -> None:
    table, source = (TABLE, RowSource("stage.nowhere")) if missing == "source" else ("stage.nowhere", VIEW)
    with pytest.raises(TargetRefusedError), place.target.refresh(table, source, TIMEOUT) as refresh:
        refresh.insert([one.name for one in refresh.columns().source])
    assert place.held() == [("9",)]


def test_an_interrupt_ends_a_long_statement_and_the_old_rows_stand(place: Place) -> None:
    joins = " ".join(f"CROSS JOIN stage.rows r{n}" for n in range(21))
    long = RowSource(f"SELECT COUNT(*) AS id, MAX(r0.note) AS note FROM stage.rows r {joins}", is_query=True)
    ended = threading.Event()

    def interrupt_until_it_ends() -> None:
        # As a run does: the first may come before the statement.
        while not ended.wait(0.5):
            place.target.interrupt()

    interrupts = threading.Thread(target=interrupt_until_it_ends)
    interrupts.start()
    started = time.monotonic()
    with pytest.raises(AttemptError):
        place.replace(long)
    ended.set()
    interrupts.join()
    place.target.settle()
    assert time.monotonic() - started < 10
    assert place.held() == [("9",)]
    place.target = place.kit.open(place.connection, Path())
    assert place.replace() == 3
