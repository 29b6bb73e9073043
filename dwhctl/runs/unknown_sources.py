"""Rows in a load's table whose etl_source no shard of the load has: what a renamed shard leaves behind."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from dwhctl.project.fields import name_problem
from dwhctl.runs.verdicts import Check, Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.project.model import Load, Project


def unknown_sources(
    project: Project, load: Load, sources: Mapping[str, int], globs: Sequence[str] = ()
) -> Iterator[Verdict]:
    """Give the verdicts on the etl_sources (with their rows) that are unknown, where they fit the shards asked for."""
    for name, rows in names_unknown(project, load, sources):
        if not globs or any(fnmatch.fnmatchcase(name, each) for each in globs):
            found = Finding(Check.UNKNOWN_SOURCE, None, str(rows), what_to_do(load, name))
            yield Verdict(load.name, name, None, [found])


def names_unknown(project: Project, load: Load, sources: Mapping[str, int]) -> list[tuple[str, int]]:
    """Give the etl_sources that no shard of the load has, with their rows; a closed shard is known."""
    known = {shard.name for shard in project.shards_of(load)}
    return sorted((name, rows) for name, rows in sources.items() if name not in known)


def what_to_do(load: Load, name: str) -> str:
    """Say what is wrong with the rows of an unknown etl_source, and what to do about them."""
    literal = name.replace("'", "''")
    where = f"= '{literal}'" if name else "IS NULL OR etl_source = ''"
    delete = f"DELETE FROM {load.table} WHERE etl_source {where}"
    if name_problem(name):
        return f"dwhctl did not load them; if nobody needs them: {delete}"
    return (
        f"no shard of {load.name} has this name. Was the shard renamed? Keep the name:"
        f' {{ name = "{name}", database = "NEW" }}; is it closed: {{ name = "{name}", until = "LAST DAY" }};'
        f" else, when its days are loaded under the new name: {delete}"
    )
