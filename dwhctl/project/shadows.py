"""Shadow runs: a load into another table than its own, to compare before it takes over.

A shadow run of the load `orders` into `stage.orders_new` goes by the name `orders@stage.orders_new` wherever a load's
name stands: in its sessions, its locks, its staging. No load can be called so, so nothing takes its sessions for the
load's own; and the name alone tells whoever reaps a dead shadow run which table to look at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dwhctl.errors import UsageError

from .checks import TASK_NAME_LENGTH, task_name
from .fields import table_problem
from .names import find_load
from .templates import render_file
from .words import shown_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Load, Project

_AT = "@"


def shadow_name(load: str, table: str) -> str:
    """What a load's shadow run into this table is called."""
    return f"{load}{_AT}{table}"


def as_asked(name: str) -> str:
    """A load's name as it stands in a command: `orders`, or `orders --table stage.orders_new` for a shadow run."""
    load, at, table = name.partition(_AT)
    return f"{load} --table '{table}'" if "$" in table else f"{load} --table {table}" if at else load


def load_of(project: Project, name: str) -> Load | None:
    """The load of this name, also of a shadow run's; None when the project has none (any more)."""
    load, at, table = name.partition(_AT)
    found = project.loads.get(name) or project.loads.get(load)
    if at and table_problem(table):
        return None  # no shadow run goes by such a name
    return _shadow(found, table) if found is not None and at and found.name != name else found


def _shadow(load: Load, table: str) -> Load:
    changed = {"name": shadow_name(load.name, table), "table": table, "shadow_of": load.name}
    # It is no sign of life of the load itself.
    return load.model_copy(update={**changed, "ping_url": None})


def with_shadow(project: Project, names: Sequence[str], table: str) -> tuple[Project, tuple[str, ...]]:
    """The project with a shadow of the one load that is named, and that shadow's name.

    The table is written in lower case: one table must not go by two names. Raise UsageError when there is not one
    load, or the table cannot be its shadow's, and ConfigError for a `create` that would not make the table.
    """
    if len(set(names)) != 1:
        raise UsageError(
            "--table takes the one load whose rows go there; name it: load NAME --table SCHEMA.TABLE"
        )
    load, table = find_load(project, names[0]), table.lower()
    _refuse_table(project, load, table)
    shadow = _shadow(load, table)
    _refuse_create(project, load, shadow)
    return replace(project, loads={**project.loads, shadow.name: shadow}), (shadow.name,)


def _refuse_table(project: Project, load: Load, table: str) -> None:
    problem = table_problem(table)
    if problem:
        raise UsageError(f"--table: {problem}")
    owners = {(one.target, one.table.lower()): f"load '{one.name}'" for one in project.loads.values()}
    owners |= {
        (one.connection, one.target.lower()): f"report '{one.name}'" for one in project.reports.values()
    }
    owner = owners.get((load.target, table))
    if owner == f"load '{load.name}'":
        raise UsageError(f"--table {table} is the load's own table: leave --table out")
    if owner:
        raise UsageError(
            f"--table {table} on '{load.target}' is the target of {owner}: give the shadow run a table of its own"
        )
    if "__" in table or table.endswith("_"):
        raise UsageError(
            f"--table {table}: '__' parts load and shard in task_name; name a table without it, and without a '_' at"
            " its end"
        )
    _refuse_length(project, load, table)


def _refuse_length(project: Project, load: Load, table: str) -> None:
    longest = max((shard.name for shard in project.shards_of(load)), key=len, default="")
    name = task_name(shadow_name(load.name, table), longest)
    if len(name) > TASK_NAME_LENGTH:
        raise UsageError(
            f"--table {table}: the task name {name} has {len(name)} characters, the sessions table holds"
            f" {TASK_NAME_LENGTH}; name a shorter table"
        )


def _refuse_create(project: Project, load: Load, shadow: Load) -> None:
    """A `create` that does not go by load.table would make the load's own table once more."""
    if load.create is None:
        return
    if render_file(project, load.create, shadow) == render_file(project, load.create, load):
        raise UsageError(
            f"{shown_path(load.create, project.root)} makes the same table whatever --table says: write the table's"
            " name in it as {{ load.table }}, as in: CREATE TABLE IF NOT EXISTS {{ load.table }} ("
        )
