"""Fixtures for every test."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

from dwhctl.core import secrets
from dwhctl.core import words as times
from tests.postgres import PostgresServer, any_server

# The tests start hundreds of processes: keep what the first of them compiles of dwhctl for the others.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The tests share two cores with processes that they start: how long an example takes says nothing.
settings.register_profile("dwhctl", deadline=None)
settings.load_profile("dwhctl")

_MEMORY = Path("/dev/shm")
#: What the servers of the gate's tests take at most, several times over.
_ROOM = 4 << 30

# Imports and collection make objects that stay: to look through them again and again is a fifth of their time.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Keep PostgreSQL servers of the gate's tests in memory where it has room: a new database costs a third there."""
    usable = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM
    if usable and config.option.markexpr == "not long":
        os.environ.setdefault("DWHCTL_TEST_POSTGRES_FOLDER", str(_MEMORY))


def pytest_collection(session: pytest.Session) -> None:
    """Import this worker's share of all test modules first: the workers compile each module once, not each of them."""
    config = session.config
    if not hasattr(config, "workerinput") or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    tests = Path(__file__).parent
    number = int(config.workerinput["workerid"].removeprefix("gw"))
    for file in sorted(tests.rglob("test_*.py"))[number :: config.workerinput["workercount"]]:
        # What is wrong with a module is said when it is collected.
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.relative_to(tests.parent).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    _collect()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Find here what the tests of a module left open in cycles of objects, and warn: later it fails another's test."""
    yield
    _collect()


def _collect() -> None:
    gc.collect()
    # What is left lives on, as modules do: to look through it after each module again takes longer than all the rest.
    gc.freeze()


@pytest.fixture(autouse=True)
def own_secrets() -> Iterator[None]:
    """Masked is what this test's secrets are, not those of the tests before it."""
    before = set(secrets._secrets)
    yield
    secrets._secrets.intersection_update(before)
    secrets._masks = None


@pytest.fixture(autouse=True)
def no_zone_of_another_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command shows times in its project's zone from then on, as long as its process lives."""
    monkeypatch.setattr(times, "_zone", UTC)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests of this process share."""
    with any_server() as server:
        yield server


@pytest.fixture(scope="session")
def spare_databases(postgres_server: PostgresServer) -> Iterator[list[str]]:
    """Databases of tests that are over, empty again: to empty one costs a fraction of making and dropping one."""
    spare: list[str] = []
    yield spare
    for name in spare:
        postgres_server.drop_database(name)


@pytest.fixture
def postgres_database(postgres_server: PostgresServer, spare_databases: list[str]) -> Iterator[str]:
    """An empty database on it, as good as new."""
    name = spare_databases.pop() if spare_databases else postgres_server.make_database()
    yield name
    postgres_server.empty_database(name)
    spare_databases.append(name)
