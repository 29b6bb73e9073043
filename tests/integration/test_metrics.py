"""`report metrics`: what is read on both databases, against a count by hand, and by index; the text that comes of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as older_format

from dwhctl.errors import DwhctlError
from dwhctl.runs.metrics import metrics_text, write_atomically
from dwhctl.sessions import SessionStore, State
from dwhctl.sessions.metrics import Work, read_work
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.support.projects import Sandbox

from .sessions_kit import DAY, START, Place, new, postgres_place, sqlite_place, write

UNSUCCESSFUL = {State.UP_FOR_RETRY, State.FAILED, State.ABANDONED}
LOADS = [Work("load", "orders", ("orders__a", "orders__b")), Work("load", "clients", ("clients__a",))]
WORKS = [*LOADS, Work("report", "sums", ("sums",))]
NEVER = Work("load", "new", ("new__a", "new__b"))
ALL = [*WORKS, NEVER]
DIALECTS = pytest.mark.parametrize("dialect", ["sqlite", "postgres"])


def a_store(
    stack: ExitStack, dialect: str, folder: Path, server: PostgresServer
) -> tuple[Place, SessionStore]:
    place = sqlite_place(folder) if dialect == "sqlite" else postgres_place(server, server.make_database())
    stack.callback(place.end)
    return place, place.store()


# Task, days back, state, and the hour at which it started: times need not go with days.
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([("orders", "a"), ("orders", "b"), ("clients", "a"), ("sums", None)]),
        st.integers(0, 4),
        st.sampled_from([*State, State.LOADED, State.FAILED]),
        st.integers(0, 200),
    ),
    max_size=30,
)
_Event = tuple[tuple[str, str | None], int, State, int]


def naive(work: Work, events: list[_Event]) -> tuple[int, int, int, datetime | None, float]:
    """Rows, failing tasks, streak, last success and seconds, session by session."""
    rows = failing = streak = 0
    successes: list[datetime] = []
    newest: list[tuple[str, datetime]] = []
    for task in work.tasks:
        last: dict[int, tuple[int, State, int]] = {}
        good: dict[int, datetime] = {}
        for place, ((load, shard), back, state, hour) in enumerate(events):
            if task == (load if shard is None else f"{load}__{shard}") and state is not State.RUNNING:
                last[back] = (place, state, hour)
                if state not in UNSUCCESSFUL:
                    good[back] = _ended(hour)
        in_a_row = 0
        for back in sorted(last):
            if last[back][1] not in UNSUCCESSFUL:
                break
            in_a_row += 1
        streak = max(streak, in_a_row)
        if last:
            place, state, hour = last[min(last)]
            newest.append((f"run-{place % 3}", _ended(hour)))
            failing += state in UNSUCCESSFUL
            rows += 0 if state in UNSUCCESSFUL else place
        successes += [good[min(good)]] if good else []
        if last and last[min(last)][1] not in UNSUCCESSFUL:
            successes.append(_ended(last[min(last)][2]))
    return rows, failing, streak, max(successes, default=None), _seconds(newest)


def _ended(hour: int) -> datetime:
    return START + timedelta(hours=hour, seconds=60)


def _seconds(newest: list[tuple[str, datetime]]) -> float:
    last_run = max((run_id for run_id, _ in newest), default="")
    ends = [ended for run_id, ended in newest if run_id == last_run]
    return (max(ends) - min(ends)).total_seconds() + 60 if ends else 0.0


def put(store: SessionStore, events: list[_Event]) -> None:
    for place, ((load, shard), back, state, hour) in enumerate(events):
        started = START + timedelta(hours=hour)
        day = DAY - timedelta(days=back)
        session = new("x", day=day, run_id=f"run-{place % 3}", load=load, started=started)
        rows = None if state in UNSUCCESSFUL else place
        write(store, replace(session, shard=shard), state, seconds=hour * 3600 + 60, loaded_rows=rows)


@DIALECTS
def test_it_is_what_a_count_by_hand_says(
    dialect: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with ExitStack() as stack:
        place, store = a_store(stack, dialect, tmp_path, postgres_server)

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(_EVENTS)
        def compare(events: list[_Event]) -> None:
            place.rows("DELETE FROM sessions")
            put(store, events)
            for state in read_work(store, ALL, DAY):
                rows, failing, streak, success, seconds = naive(state.work, events)
                assert (state.rows, state.failing, state.streak) == (rows, failing, streak)
                assert state.seconds == seconds
                if state.failing < len(state.work.tasks) - state.states["missing"] or not state.failing:
                    newest_good = _good_newest(state.work, events)
                    assert state.last_success == newest_good
                else:
                    assert state.last_success == success
                running = sum(
                    one is State.RUNNING and (load, shard is None) == _key(state.work)
                    for (load, shard), _, one, _ in events
                )
                assert state.states["running"] == running

        compare()


def _key(work: Work) -> tuple[str, bool]:
    return work.name, work.kind == "report"


def _good_newest(work: Work, events: list[_Event]) -> datetime | None:
    """When that last closed session of a newest slice ended that succeeded, the latest of them."""
    found = []
    for task in work.tasks:
        last: dict[int, tuple[State, int]] = {}
        for (load, shard), back, state, hour in events:
            if task == (load if shard is None else f"{load}__{shard}") and state is not State.RUNNING:
                last[back] = (state, hour)
        if last and last[min(last)][0] not in UNSUCCESSFUL:
            found.append(_ended(last[min(last)][1]))
    return max(found, default=None)


@DIALECTS
def test_it_goes_by_index(dialect: str, tmp_path: Path, postgres_server: PostgresServer) -> None:
    with ExitStack() as stack:
        place, store = a_store(stack, dialect, tmp_path, postgres_server)
        if dialect == "postgres":  # of an empty table any plan is good
            events: list[_Event] = [(("orders", "a"), n % 400, State.LOADED, n) for n in range(2000)]
            put(store, events)
            place.rows("ANALYZE sessions")
        values = {"tasks": '["a"]', "ids": "[1]", "most": 400, "first": DAY}
        if dialect == "postgres":
            values |= {"tasks": ["orders__a"], "ids": [1]}
        wanted = {"newest_closed": "sessions_by_task", "streaks": "sessions_by_task"}
        wanted |= {"last_successes": "sessions_by_task", "running_by_load": "sessions_running"}
        for statement, index in wanted.items():
            plan = place.plan(store, statement, values)
            assert index in plan, plan
            assert "SCAN sessions" not in plan
            assert "Seq Scan on sessions" not in plan


# The text


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    samples = [sample for family in families(text).values() for sample in family.samples]
    [found] = [one for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return float(found.value)


def test_a_project_in_both_formats_of_prometheus(tmp_path: Path) -> None:
    name = 'a "quoted" \\ name'
    sandbox = Sandbox(tmp_path / name, load_keys="retries = 0").write().fill(10)
    sandbox.in_shard("chita", "DROP TABLE orders")
    before = datetime.now(UTC).timestamp()
    sandbox.load()
    text = metrics_text(sandbox.project(), datetime.now(UTC).date())
    labels = {"project": name, "kind": "load", "load": "orders"}
    assert value(text, "dwhctl_loaded_rows", **labels) == 20
    assert value(text, "dwhctl_failing_tasks", **labels) == 1
    assert value(text, "dwhctl_streak", **labels) == 1
    assert value(text, "dwhctl_tasks", state="loaded", **labels) == 2
    assert value(text, "dwhctl_tasks", state="failed", **labels) == 1
    assert value(text, "dwhctl_tasks", state="missing", **labels) == 0
    assert value(text, "dwhctl_duration_seconds", **labels) > 0
    success = value(text, "dwhctl_last_success_timestamp_seconds", **labels)
    assert before < success <= datetime.now(UTC).timestamp()
    assert text.endswith("\n# EOF\n")
    found = families(text)
    assert {family.type for family in found.values()} == {"gauge"}
    assert all(family.unit == "seconds" for name, family in found.items() if name.endswith("_seconds"))
    # node_exporter reads the older format: there a unit is a comment.
    older = {
        (one.name, *sorted(one.labels.items()), one.value)
        for each in older_format(text)
        for one in each.samples
    }
    newer = {
        (one.name, *sorted(one.labels.items()), one.value) for each in found.values() for one in each.samples
    }
    assert older == newer


def test_a_project_without_sessions_has_never_succeeded(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "project").write()
    text = metrics_text(sandbox.project(), date(2020, 7, 14))
    assert value(text, "dwhctl_last_success_timestamp_seconds", load="orders") == 0
    assert value(text, "dwhctl_tasks", state="missing") == 3
    assert not (sandbox.root / "state").exists()


def test_the_command_writes_its_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(tmp_path / "project").write()
    path = tmp_path / "dwhctl.prom"
    path.write_text("old")
    arguments = ("report", "metrics", "--project", sandbox.root)
    assert dwh(*arguments) == 0
    out = capsys.readouterr().out
    assert dwh(*arguments, "--output", path) == 0
    assert capsys.readouterr() == ("", "")
    assert path.read_text() == out
    assert [one.name for one in tmp_path.iterdir() if "prom" in one.name] == ["dwhctl.prom"]
    assert dwh(*arguments, "--output", tmp_path / "nowhere" / "dwhctl.prom") == 1
    assert "dwhctl.prom cannot be written: No such file or directory" in capsys.readouterr().err


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder.prom"
    path.mkdir()
    with pytest.raises(DwhctlError, match="cannot be written"):
        write_atomically(path, "text")
    assert list(tmp_path.iterdir()) == [path]
