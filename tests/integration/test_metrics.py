"""`report metrics`: what is read, on both databases, against a count by hand and by index; the text made of it."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as older_format

from benchmarks.history import History
from dwhctl.core.errors import DwhctlError
from dwhctl.monitor.metrics import metrics_text, write_atomically
from dwhctl.sessions import Closing, SessionStore, State, open_store
from dwhctl.sessions.task_states import Work, read_work
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


@dataclass
class Naive:
    """A load or report, session by session."""

    rows: int = 0
    failing: int = 0
    streak: int = 0
    seconds: float = 0.0
    running: int = 0
    last_success: datetime | None = None


def naive(work: Work, events: list[_Event]) -> Naive:
    """Count by hand."""
    found = Naive()
    newest: list[tuple[str, datetime]] = []
    newest_good: list[datetime] = []
    older_good: list[datetime] = []
    for task in work.tasks:
        mine = [
            (number, back, state, hour)
            for number, (name, back, state, hour) in enumerate(events)
            if _task(*name) == task
        ]
        found.running += sum(state is State.RUNNING for _, _, state, _ in mine)
        last = {
            back: (number, state, hour) for number, back, state, hour in mine if state is not State.RUNNING
        }
        good = {back: _ended(hour) for _, back, state, hour in mine if state in (State.LOADED, State.SKIPPED)}
        good_days = [place for place, back in enumerate(sorted(last)) if last[back][1] not in UNSUCCESSFUL]
        found.streak = max(found.streak, good_days[0] if good_days else len(last))
        older_good += [good[min(good)]] if good else []
        if last:
            number, state, hour = last[min(last)]
            newest.append((f"run-{number % 3}", _ended(hour)))
            found.failing += state in UNSUCCESSFUL
            found.rows += 0 if state in UNSUCCESSFUL else number
            newest_good += [] if state in UNSUCCESSFUL else [_ended(hour)]
    found.last_success = max(newest_good or older_good, default=None)
    ends = [ended for run_id, ended in newest if run_id == max(newest)[0]]
    found.seconds = (max(ends) - min(ends)).total_seconds() + 60 if ends else 0.0
    return found


def _task(load: str, shard: str | None) -> str:
    return load if shard is None else f"{load}__{shard}"


def _ended(hour: int) -> datetime:
    return START + timedelta(hours=hour, seconds=60)


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

        @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(_EVENTS)
        def compare(events: list[_Event]) -> None:
            place.rows("DELETE FROM sessions")
            put(store, events)
            for state in read_work(store, ALL, DAY):
                found = Naive(
                    state.rows,
                    state.failing,
                    state.streak,
                    state.seconds,
                    state.states["running"],
                    state.last_success,
                )
                assert found == naive(state.work, events)

        compare()


@DIALECTS
def test_it_goes_by_index(dialect: str, tmp_path: Path, postgres_server: PostgresServer) -> None:
    with ExitStack() as stack:
        place, store = a_store(stack, dialect, tmp_path, postgres_server)
        if dialect == "postgres":  # of an empty table any plan is good
            place.rows(History(loads=3, shards=10, hours=100).statement(dialect, datetime.now(UTC)))
            place.rows("ANALYZE sessions")
        values = {"tasks": '["a"]', "first": DAY}
        if dialect == "postgres":
            values |= {"tasks": ["load_001__city_01"]}
        wanted = {"newest_closed": "sessions_closed"}
        wanted |= {"last_successes": "sessions_closed", "running_by_load": "sessions_running"}
        for statement, index in wanted.items():
            plan = place.plan(store, statement, values)
            assert index in plan, plan
            assert "SCAN sessions" not in plan
            assert "Seq Scan on sessions" not in plan


# The text


def families(text: str) -> dict[str, Metric]:
    found = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {family.name: family for family in found}


def value(text: str, name: str, **labels: str) -> float:
    samples = [sample for family in families(text).values() for sample in family.samples]
    [found] = [one for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return float(found.value)


def test_a_project_in_both_formats_of_prometheus(tmp_path: Path) -> None:
    name = 'a "quoted" \\ name'
    sandbox = Sandbox(tmp_path / "project", load_keys="retries = 0").write().fill(10)
    sandbox.in_shard("chita", "DROP TABLE orders")
    before = datetime.now(UTC).timestamp()
    sandbox.load()
    text = metrics_text(dataclasses.replace(sandbox.project(), root=Path(name)), datetime.now(UTC).date())
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


def test_what_report_failures_lists_is_failing(tmp_path: Path) -> None:
    """A task whose newest slice is well and an older one is not; and one that nobody tries any more."""
    sandbox = Sandbox(tmp_path / "project").write()
    now = datetime.now(UTC)
    rows = [("chita", 1, 1, State.FAILED), ("chita", 0, 0, State.LOADED), ("abakan", 9, 9, State.FAILED)]
    with open_store(sandbox.project().sessions) as store:
        store.prepare()
        for shard, back, ago, state in rows:
            started = now - timedelta(days=ago, hours=1)
            [one] = store.open([new(shard, day=now.date() - timedelta(days=back), started=started)])
            store.close([Closing(one, state, started)])
    text = metrics_text(sandbox.project(), now.date())
    assert value(text, "dwhctl_failing_tasks", load="orders") == 2
    assert value(text, "dwhctl_streak", load="orders") == 1
    assert value(text, "dwhctl_tasks", state="failed", load="orders") == 1


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
    assert "dwhctl.prom cannot be written: make the folder" in capsys.readouterr().err


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder.prom"
    path.mkdir()
    with pytest.raises(DwhctlError, match="cannot be written"):
        write_atomically(path, "text")
    assert list(tmp_path.iterdir()) == [path]
