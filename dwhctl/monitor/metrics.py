"""Metrics of a project as OpenMetrics text: only gauges, which Prometheus' older text format has as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest

from dwhctl.core.errors import DwhctlError
from dwhctl.core.files import write_whole
from dwhctl.monitor.coverage import sessions_of
from dwhctl.project.checks import task_name
from dwhctl.project.model import Project
from dwhctl.runtime.failures import DAYS, Failures
from dwhctl.sessions.task_states import NEVER_TRIED, Work, WorkState, read_work
from dwhctl.sessions.values import State

_LABELS = ("project", "kind", "load")
_STATES = (*(state.value for state in State), NEVER_TRIED)


#: The name, unit and help of each gauge, and its value.
_GAUGES: tuple[tuple[str, str, str, Callable[[WorkState], float]], ...] = (
    (
        "dwhctl_last_success_timestamp",
        "seconds",
        "When a task of the load or report succeeded last, since 1970; 0 if none did in 90 days.",
        lambda state: state.last_success.timestamp() if state.last_success else 0.0,
    ),
    (
        "dwhctl_duration",
        "seconds",
        "From the start to the end of the last run, as far as it loaded newest slices.",
        lambda state: round(state.seconds, 3),
    ),
    ("dwhctl_loaded_rows", "", "Rows of the newest slices that are loaded.", lambda state: state.rows),
    (
        "dwhctl_failing_tasks",
        "",
        "Tasks of which a slice failed in the last two days, or the newest slice failed.",
        lambda state: state.failing,
    ),
    (
        "dwhctl_streak",
        "",
        "The longest failing streak of a task, in slices, counted up to 400.",
        lambda state: state.streak,
    ),
)


def metrics_text(project: Project, today: date) -> str:
    """Return the metrics of every load and report. Raise SessionsError."""
    works = _works(project, today)
    with sessions_of(project) as store:
        if store is None:
            states = [WorkState(work, Counter({NEVER_TRIED: len(work.tasks)})) for work in works]
        else:
            failing, _ = Failures(project).read(store, datetime.now(UTC) - timedelta(days=DAYS))
            states = read_work(store, works, today, failing)
    octets: bytes = generate_latest(_Collected(project.root.name, states))  # type: ignore[no-untyped-call]
    return octets.decode()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old one or the new. Raise DwhctlError."""
    try:
        # Every user may read it, node_exporter's too: it has only names and numbers.
        write_whole(path, text, 0o644)
    except OSError as error:
        raise DwhctlError(f"{path} cannot be written: {error.strerror}") from error


def _works(project: Project, today: date) -> list[Work]:
    works = [
        Work(
            "load",
            load.name,
            [task_name(load.name, shard.name) for shard in project.open_shards_of(load, today)],
        )
        for load in project.loads.values()
    ]
    return works + [Work("report", name, [name]) for name in project.reports]


class _Collected:
    def __init__(self, project: str, states: list[WorkState]) -> None:
        self._project = project
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, unit, text, value in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=_LABELS, unit=unit)
            for state in self._states:
                family.add_metric(self._labels(state), value(state))
            yield family
        family = GaugeMetricFamily(
            "dwhctl_tasks",
            "Tasks by the state of their newest slice, by its last closed session; and sessions that are running.",
            labels=(*_LABELS, "state"),
        )
        for state in self._states:
            for name in _STATES:
                family.add_metric([*self._labels(state), name], state.states[name])
        yield family

    def _labels(self, state: WorkState) -> list[str]:
        return [self._project, state.work.kind, state.work.name]
