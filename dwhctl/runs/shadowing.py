"""What a shadow run asks the sessions table before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.errors import UsageError
from dwhctl.project.shadows import shadow_name

if TYPE_CHECKING:
    from dwhctl.project.model import Load, Project
    from dwhctl.runs.plan import Plan
    from dwhctl.sessions.store import SessionStore


def refuse_shared_shadows(project: Project, store: SessionStore, plan: Plan) -> None:
    """Raise UsageError for a table that another load's shadow run goes into: each would replace the other's rows."""
    for shadow in _shadows(plan):
        for other in project.loads.values():
            if other.target != shadow.target or other.name in (shadow.name, shadow.shadow_of):
                continue
            if _has_sessions(store, shadow_name(other.name, shadow.table)):
                raise UsageError(
                    f"--table {shadow.table}: shadow runs of the load '{other.name}' went into it;"
                    f" give '{shadow.shadow_of}' a table of its own"
                )


def first_shadows(store: SessionStore, plan: Plan) -> list[Load]:
    """Give the shadows of the plan that have no session yet: their tables may be older than the sessions table."""
    return [shadow for shadow in _shadows(plan) if not _has_sessions(store, shadow.name)]


def _shadows(plan: Plan) -> list[Load]:
    loads = {one.load.name: one.load for one in plan.slices}
    return [load for load in loads.values() if load.shadow_of is not None]


def _has_sessions(store: SessionStore, load: str) -> bool:
    return bool(store.read("looking for shadow runs", "any_of_load", {"load": load}))
