"""The reports over two weeks of the planned scale: 5,000,000 sessions."""

from __future__ import annotations

import pytest

from benchmarks.history import History
from benchmarks.reports import COMMANDS, START, WATCH, best_seconds, filled, finished_run

#: Beyond what a command takes that only reads the project.
SECONDS = 1.5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_report_answers_within_a_second_and_a_half(dialect: str) -> None:
    with filled(History(), dialect) as (sandbox, project):
        start, _ = best_seconds(sandbox, START.split())
        run = finished_run(project)
        seconds = {
            command: best_seconds(sandbox, command.replace("RUN", run).split(), times=5)[0] - start
            for command in (*COMMANDS, WATCH)
        }
    slow = {command: round(taken, 2) for command, taken in seconds.items() if taken > SECONDS}
    assert not slow
