"""What is looked at before data moves: the targets' tables, and what this version can read."""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import ConfigError, TargetBusyError, TargetError, TargetRefusedError
from dwhctl.load.run import plan_load
from dwhctl.project.connections import SYSTEMS, Connection
from dwhctl.project.read import read_project
from dwhctl.runtime.events import Notice
from dwhctl.runtime.plan import LoadRequest, Plan
from dwhctl.runtime.prepare import describe_targets, targets_of
from dwhctl.runtime.slots import Slots
from dwhctl.systems.base.staging import Described
from tests.support.projects import CREATE, DAY, Sandbox
from tests.unit.projects import a_load, a_project
from tests.unit.runs_kit import FakeTarget, planned


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("etl_source VARCHAR", "etl_source BIGINT", "etl_source is BIGINT"),
        ("etl_id BIGINT", "etl_id VARCHAR", "etl_id is VARCHAR"),
        ("hash_id BIGINT", "hash_id VARCHAR", "hash_id is VARCHAR"),
        ("hash_id BIGINT", "hash_id INTEGER", "hash_id is INTEGER"),
        (", hash_id BIGINT", "", "no column hash_id"),
    ],
)
def test_service_fields_are_checked(tmp_path: Path, right: str, wrong: str, named: str) -> None:
    assert right in CREATE
    report = Sandbox(tmp_path, create=CREATE.replace(right, wrong)).write().fill().load()
    assert (report.loaded, report.failed) == (0, 3)
    assert all(named in failed.failure.message for failed in report.failures)


class BusyTarget(FakeTarget):
    """In use by another, whenever it is asked."""

    asked = 0

    def columns(self, table: str) -> Sequence[Column]:
        self.asked += 1
        raise TargetBusyError


def test_a_warehouse_out_of_reach_is_waited_for_once(tmp_path: Path) -> None:
    loads = [a_load(name=f"load_{number}", retry_delay=timedelta(0)) for number in range(5)]
    target = BusyTarget()
    plan = Plan(tuple(planned("abakan", load=load) for load in loads))
    found = describe_targets(
        a_project(tmp_path), plan, {"dwh": target}, Slots(tmp_path, {}), {}, lambda load: 1
    )
    assert target.asked == 2
    assert [failure.error_class for failure in found.failures.values()] == ["TargetBusyError"] * 5


class ManyTables(FakeTarget):
    """Describes all tables but one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def described(self, tables: Sequence[str]) -> Mapping[str, Described]:
        self.asked.append(list(tables))
        return {table: TargetRefusedError(f"{table}: strange") if "2" in table else OWN for table in tables}


OWN = [
    Column("id", Kind.INTEGER, pa.int64(), "bigint"),
    Column("etl_source", Kind.TEXT, pa.string(), "text"),
    Column("etl_id", Kind.INTEGER, pa.int64(), "bigint"),
    Column("hash_id", Kind.INTEGER, pa.int64(), "bigint"),
]


def test_the_tables_of_a_warehouse_are_described_at_once_and_one_costs_its_own_load_only(
    tmp_path: Path,
) -> None:
    names = [f"load_{number}" for number in range(5)]
    loads = [a_load(name=name, table=f"stage.{name}", slice_by=None) for name in names]
    target = ManyTables()
    plan = Plan(tuple(planned("abakan", load=load) for load in loads))
    said: list[Notice] = []
    found = describe_targets(
        a_project(tmp_path), plan, {"dwh": target}, Slots(tmp_path, {}), {}, lambda load: 1, said.append
    )
    assert said == []  # nothing is tried again
    assert target.asked == [[f"stage.{name}" for name in names]]
    assert list(found.tables) == ["load_0", "load_1", "load_3", "load_4"]
    assert [(name, failure.message) for name, failure in found.failures.items()] == [
        ("load_2", "stage.load_2: strange")
    ]


class OneTableFails(FakeTarget):
    """Fails without a word on a table at load_2."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def columns(self, table: str) -> Sequence[Column]:
        if "load_2" in table and self.failures:
            self.failures -= 1
            raise TargetError("the answer was cut")
        return OWN


@pytest.mark.parametrize("failures", [2, 99])
def test_a_table_that_cannot_be_described_costs_its_own_load_only(tmp_path: Path, failures: int) -> None:
    names = [f"load_{number}" for number in range(5)]
    loads = [
        a_load(name=name, table=f"stage.{name}", slice_by=None, retry_delay=timedelta(0)) for name in names
    ]
    plan = Plan(tuple(planned("abakan", load=load) for load in loads))
    target = OneTableFails(failures)
    found = describe_targets(
        a_project(tmp_path), plan, {"dwh": target}, Slots(tmp_path, {}), {}, lambda load: 1
    )
    expected = {"load_2": "reading the columns of stage.load_2: the answer was cut"} if failures > 2 else {}
    assert {name: failure.message for name, failure in found.failures.items()} == expected
    assert {*found.tables, *expected} == set(names)


class WithoutSecret(FakeTarget):
    """Has a password that is not there."""

    def columns(self, table: str) -> Sequence[Column]:
        raise ConfigError("connections.second.password: the environment variable NOT_THERE is not set")


def test_a_warehouse_without_its_secret_costs_its_own_loads_only(tmp_path: Path) -> None:
    loads = [
        a_load(name=name, table=f"stage.{name}", slice_by=None, target=target)
        for name, target in (("first", "second_dwh"), ("second", "dwh"), ("third", "second_dwh"))
    ]
    plan = Plan(tuple(planned("abakan", load=load) for load in loads))
    targets = {"dwh": OneTableFails(0), "second_dwh": WithoutSecret()}
    project = a_project(tmp_path)
    found = describe_targets(project, plan, targets, Slots(tmp_path, {}), {}, lambda load: 1)
    assert list(found.tables) == ["second"]
    assert {(name, failure.error_class, failure.permanent) for name, failure in found.failures.items()} == {
        ("first", "ConfigError", True),
        ("third", "ConfigError", True),
    }


class AllTablesFail(FakeTarget):
    """Fails for each table, so many times."""

    def __init__(self, failures: Mapping[str, int]) -> None:
        super().__init__()
        self.failures = Counter(failures)

    def columns(self, table: str) -> Sequence[Column]:
        if self.failures[table]:
            self.failures[table] -= 1
            raise TargetError("not enough memory")
        return OWN


def test_tables_that_fail_wait_together_and_each_is_tried_as_often_as_its_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retries = {f"load_{number}": number % 3 for number in range(60)}
    loads = [
        a_load(name=name, table=f"stage.{name}", slice_by=None, retry_delay=timedelta(minutes=1))
        for name in retries
    ]
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    said: list[Notice] = []
    # All are described at once first, which ends with the first that fails.
    target = AllTablesFail({f"stage.{name}": 2 for name in retries} | {"stage.load_0": 3})
    plan = Plan(tuple(planned("abakan", load=load) for load in loads))
    found = describe_targets(
        a_project(tmp_path),
        plan,
        {"dwh": target},
        Slots(tmp_path, {}),
        {},
        lambda load: retries[load.name],
        said.append,
    )
    assert set(found.tables) == {name for name, times in retries.items() if times == 2}
    assert set(found.failures) == set(retries) - set(found.tables)
    assert [round(seconds / 60) for seconds in slept] == [1, 2]
    assert [notice.text.partition(": ")[0] for notice in said] == [
        "the warehouse dwh is not ready for load load_1 and 39 others",
        "the warehouse dwh is not ready for load load_2 and 19 others",
    ]


def test_a_broken_pyarrow_is_an_error_of_the_one_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    of_threads: list[threading.ExceptHookArgs] = []

    def broken(name: str) -> None:
        imported.append(name)
        raise ImportError("libarrow.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(threading, "excepthook", of_threads.append)
    before = set(threading.enumerate())
    plan = Plan((planned("abakan", load=a_load(slice_by=None)),))
    describe_targets(
        a_project(tmp_path), plan, {"dwh": OneTableFails(0)}, Slots(tmp_path, {}), {}, lambda load: 0
    )
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert (imported, of_threads) == (["pyarrow"], [])


def test_a_shard_that_this_version_cannot_read_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write()
    main = (tmp_path / "config" / "dwhctl.toml").read_text()
    before = 'type = "duckdb"\npath = "servers/server_1"'
    assert before in main
    sandbox.put(
        "config/dwhctl.toml",
        main.replace(before, 'type = "vertica"\nhost = "h"\nuser = "sa"\ndatabase = "d"'),
    )
    with pytest.raises(
        ConfigError, match=r"server_1: 'server_1' is of type vertica, .* type duckdb, postgres, mssql"
    ):
        plan_load(sandbox.project(), LoadRequest((DAY,)))


def test_a_target_is_opened_once_when_it_is_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_target(_system: object, connection: Connection, *_how: object) -> FakeTarget:
        opened.append(connection.name)
        time.sleep(0.02)
        return FakeTarget()

    monkeypatch.setattr(type(SYSTEMS["duckdb"]), "open_target", open_target)
    targets = targets_of(read_project(Sandbox(tmp_path).write().root))
    assert (list(targets), len(targets), opened) == (["warehouse"], 1, [])
    with ThreadPoolExecutor(4) as threads:
        found = set(map(id, threads.map(lambda _: targets["warehouse"], range(4))))
    assert (len(found), opened) == (1, ["warehouse"])
