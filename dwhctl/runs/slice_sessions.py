"""The latest session of each planned slice, and what `verify` says of a slice by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dwhctl.project.slices import FIRST_DAY, LAST_DAY
from dwhctl.runs.verdicts import Check, Finding
from dwhctl.sessions.values import LastSession, State, is_complete

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from dwhctl.errors import AttemptError
    from dwhctl.project.model import Project
    from dwhctl.project.slices import Slice
    from dwhctl.runs.plan import PlannedSlice
    from dwhctl.sessions.store import SessionStore

Sessions = dict["Slice", LastSession | None]


def last_sessions_of(project: Project, store: SessionStore, slices: Sequence[PlannedSlice]) -> Sessions:
    """Return the latest session of each slice; the slice of a load without days has the sessions of all days."""
    days: dict[str, list[date]] = {}
    for one in slices:
        days.setdefault(one.load.name, []).append(one.slice.day)
    last: dict[tuple[str, str, date | None], LastSession] = {}
    for name, of_load in days.items():
        sliced = project.loads[name].slice_by is not None
        first, final = (min(of_load), max(of_load)) if sliced else (FIRST_DAY, LAST_DAY)
        found = store.last_sessions(name, first, final)
        for session in sorted(found, key=lambda each: each.started):
            key = (name, session.shard, session.day if sliced else None)
            successes = [session.last_success, last[key].last_success if key in last else None]
            last[key] = replace(session, last_success=max(filter(None, successes), default=None))
    return {
        one.slice: last.get((one.load.name, one.shard.name, one.slice.day if one.load.slice_by else None))
        for one in slices
    }


def is_loaded_whole(one: PlannedSlice, last: LastSession | None) -> bool:
    """Tell whether the slice is complete."""
    return is_complete(last, one.slice.end_at)


def may_have_changed(before: LastSession | None, after: LastSession | None) -> bool:
    """Return whether a load may have published the slice between the two: a running session may publish at any time."""
    return after != before or (after is not None and after.state is State.RUNNING)


def incomplete(last: LastSession | None) -> Finding:
    """Say why a slice is not complete."""
    if last is None:
        why = "never loaded"
    elif last.state in (State.LOADED, State.SKIPPED):
        why = "last loaded before its day was over"
    else:
        why = f"its last session is {last.state.value}"
    return Finding(Check.INCOMPLETE, detail=why)


def not_compared(error: AttemptError) -> Finding:
    """Say why a slice was not compared."""
    return Finding(Check.NOT_COMPARED, detail=str(error))


def ever_loaded() -> Finding:
    """Say that a slice changed under every look."""
    return Finding(
        Check.NOT_COMPARED, detail="it was loaded each time that verify looked at it; verify it again"
    )
