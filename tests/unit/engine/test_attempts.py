"""Sessions of attempts: opened and closed in batches."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from dwhctl.core import faults
from dwhctl.core.errors import SessionsError
from dwhctl.engine.jobs import Attempts
from dwhctl.load.attempts import SliceAttempt, SliceJob
from dwhctl.runtime.events import Event, RunResult, SliceClosed
from dwhctl.sessions.sqlite_store import SqliteStore
from dwhctl.sessions.values import State
from tests.unit.runs_kit import anything, planned


def an_attempt(shard: str) -> SliceAttempt:
    return SliceAttempt(SliceJob(planned(shard)), anything(), (), time.monotonic(), float("inf"))


def begun(tmp_path: Path, heard: list[Event]) -> tuple[SqliteStore, Attempts, SliceAttempt]:
    """A store with one session, which was closed and not yet written."""
    store = SqliteStore(tmp_path / "sessions.sqlite", host="alpha")
    store.prepare()
    attempts = Attempts(store, RunResult("run-1"), heard.append, None)
    first = an_attempt("a")
    attempts.open([first])
    first.runner.failed_in = None
    first.bytes = None
    attempts.close(first, State.LOADED)
    return store, attempts, first


def test_a_session_is_closed_in_the_transaction_that_opens_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    points: list[str] = []
    store, attempts, first = begun(tmp_path, heard)
    monkeypatch.setattr(faults, "handler", points.append)
    attempts.open([an_attempt("b"), an_attempt("c")])
    assert points == [
        f"sessions.{what}.{at}" for at in ("begin", "commit", "done") for what in ("close", "open")
    ]
    assert [(event.shard, event.etl_id) for event in heard if isinstance(event, SliceClosed)] == [
        ("a", first.etl_id)
    ]
    assert [(row.shard, row.state) for row in store.of_run("run-1")] == [
        ("a", State.LOADED), ("b", State.RUNNING), ("c", State.RUNNING),
    ]  # fmt: skip
    attempts.flush()
    assert len(heard) == 1
    store.close_connection()


def test_neither_is_written_when_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    store, attempts, _ = begun(tmp_path, heard)

    def full(point: str) -> None:
        if point == "sessions.open.commit":
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(faults, "handler", full)
    with pytest.raises(SessionsError, match="full"):
        attempts.open([an_attempt("b")])
    assert heard == []
    assert [(row.shard, row.state) for row in store.of_run("run-1")] == [("a", State.RUNNING)]
    store.close_connection()


def test_what_was_closed_is_written_also_when_nothing_is_opened(tmp_path: Path) -> None:
    heard: list[Event] = []
    store, attempts, _ = begun(tmp_path, heard)
    attempts.open([])
    assert [(row.shard, row.state) for row in store.of_run("run-1")] == [("a", State.LOADED)]
    assert len(heard) == 1
    store.close_connection()
