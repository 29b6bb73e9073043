"""Look at a project's slices: opens its sessions, if there are any yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.runs.coverage import Coverage, Tasks, cover
from dwhctl.sessions import REPORT_TIMEOUT, open_if_there

if TYPE_CHECKING:
    from datetime import date, datetime

    from dwhctl.project.model import Project


def look_back(project: Project, tasks: Tasks, days: tuple[date, ...], now: datetime) -> Coverage:
    """Say where each slice stands now. Raise SessionsError."""
    store = open_if_there(project.sessions, answer_timeout=REPORT_TIMEOUT)
    if store is None:
        return cover(project, None, tasks, days, now)
    with store:
        return cover(project, store, tasks, days, now)
