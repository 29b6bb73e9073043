"""Checks across tables and files: names that refer to each other, files that must exist."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

from dwhctl.core.columns import SERVICE_FIELDS
from dwhctl.core.words import (
    did_you_mean,
    is_shown,
    nearest,
    nothing_shown,
    quoted,
    quoted_name,
    shown_path,
    shown_text,
)
from dwhctl.project.connections import SYSTEMS, Connection, NetworkConnection, types_for
from dwhctl.project.fields import NamedTable, Table, name_problem
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Alert
from dwhctl.project.problems import MAIN, Place, Problems

TASK_NAME_LENGTH = 200


@dataclass
class Found:
    """What was read so far. `declared` also has the names of tables with problems: they are not unknown."""

    problems: Problems
    connections: dict[str, Connection] = field(default_factory=dict)
    shards: dict[str, list[tuple[Shard, Place]]] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    declared: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    places: dict[tuple[type[NamedTable], str], Place] = field(default_factory=dict)

    def place(self, table: NamedTable) -> Place:
        return self.places[(type(table), table.name)]

    def meant(self, kind: str, name: str) -> str:
        """Return what else has this name, or the name of this kind that was probably meant."""
        for other, names in self.declared.items():
            if other != kind and name in names:
                return f"it is a {other}"
        # A word that is not a valid name may be a misplaced secret, so no message shows it.
        known = [word for word in self.declared[kind] if name_problem(word) is None and is_shown(word)]
        return nearest(name, known)

    def require(self, kind: str, name: str, place: Place) -> None:
        """Add a problem if there is no such connection, shard group, load or report."""
        if name not in self.declared[kind]:
            shown = quoted_name(name) if kind == "connection" else quoted(name)
            self.problems.add(place, f"no {kind} {shown}; {self.meant(kind, name)}")


def check(found: Found, sessions: str | None) -> None:
    """Add every problem between the tables."""
    if sessions is not None:
        _use(found, sessions, "is_sessions", "the sessions table", MAIN.at("sessions", "connection"))
    _check_shards(found)
    for load in found.loads.values():
        _check_load(found, load)
    for report in found.reports.values():
        _check_report(found, report)
    _check_ca_files(found)
    _check_tables(found)
    _check_task_names(found)
    _check_alert_filters(found)


@nothing_shown()
def _check_ca_files(found: Found) -> None:
    for connection in found.connections.values():
        key = connection.tls_words.ca_key if isinstance(connection, NetworkConnection) else "ca_file"
        if key:
            check_file(found.problems, getattr(connection, key, None), found.place(connection).at(key))


def _use(found: Found, name: str, use: str, shown: str, place: Place) -> Connection | None:
    """Return the connection of this name, or None with a problem if there is none or its type does not fit."""
    found.require("connection", name, place)
    connection = found.connections.get(name)
    if connection and not getattr(SYSTEMS[connection.type], use):
        what = f"{quoted_name(name)} is of type {connection.type}, which cannot be {shown}"
        found.problems.add(place, f"{what}; use one of type {', '.join(types_for(use))}")
        return None
    return connection


@nothing_shown()
def _check_shards(found: Found) -> None:
    first: dict[str, tuple[Shard, Place]] = {}
    files: dict[Path, Shard] = {}
    shards = list(chain.from_iterable(found.shards.values()))
    taken = {shard.name for shard, _ in shards}
    for shard, place in shards:
        key = Place(place.file, place.key.partition("[")[0])
        connection = _use(found, shard.connection, "is_source", "a shard's server", key)
        other, other_place = first.setdefault(shard.name, (shard, place))
        if other is not shard:
            found.problems.add(place, _same_name(shard, other, other_place, taken))
        elif connection and (path := connection.shard_file(shard.database)):
            _check_shard_file(found, shard, path, files, place)


def _same_name(shard: Shard, other: Shard, other_place: Place, taken: Collection[str]) -> str:
    what = f"two shards are named '{shard.name}', here and in {other_place.key}"
    if (shard.connection, shard.database) == (other.connection, other.database):
        return f"{what}: the same database; drop one"
    remedy = renamed(shard.connection, shard.database, taken)
    return f"{what}; a shard's name is unique in the project: write {remedy}"


def _check_shard_file(found: Found, shard: Shard, path: Path, files: dict[Path, Shard], place: Place) -> None:
    """Add a problem for two shards in one file: each would have all of its rows."""
    if re.search(r"[/\0]", shard.database):
        what = f"{quoted(shard.database)} is not the name of a file in the connection's path"
        found.problems.add(place, f"{what}; write a database without '/'")
        return
    other = files.setdefault(path, shard)
    if other is not shard:
        remedy = "give each shard a file: set the connection's path to a folder that has <database>.duckdb"
        found.problems.add(place, f"its file is already the shard '{other.name}'; {remedy}")


def renamed(connection: str, database: str, taken: Collection[str]) -> str:
    """Return the shard as a table of TOML with a free and valid name."""
    database = database if is_shown(database) else "..."
    name = free_name(slug(f"{connection}_{database}"), taken)
    return f'{{ name = "{name}", database = "{database}" }}'


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return the wanted name, or the first free one with a number."""
    numbered = (f"{wanted}_{number}" for number in count(2))
    return next(name for name in chain([wanted], numbered) if name not in taken)


def slug(text: str) -> str:
    """Return the text as a valid name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "shard"


def _check_load(found: Found, load: Load) -> None:
    place = found.place(load)
    found.require("shard group", load.shards, place.at("shards"))
    connection = _use(found, load.target, "is_target", "a warehouse", place.at("target"))
    if connection and (problem := connection.warehouse_problem()):
        found.problems.add(place.at("target"), f"'{load.target}' {problem}")
    check_files(found.problems, load, place)
    _check_split(found.problems, load, connection, place)
    kinds = {
        found.connections[shard.connection].type
        for shard, _ in found.shards.get(load.shards, [])
        if shard.connection in found.connections
    }
    for kind in sorted(kinds):
        _check_query(found.problems, load, kind, place)
    if not kinds and load.extract is None and load.endpoint is None:
        found.problems.add(place.at("extract"), _NO_EXTRACT)


_NO_EXTRACT = 'is missing; add extract = "orders/extract.sql"'


def _check_split(problems: Problems, load: Load, target: Connection | None, place: Place) -> None:
    """Add a problem for a `split` that cannot be cut, or staged."""
    if load.split > 1 and target and not SYSTEMS[target.type].stages_parts:
        what = f"slices in parts cannot be staged in '{load.target}', which is of type {target.type}"
        problems.add(place.at("split"), f"{what}; drop split")
    elif load.split_by is not None and load.split == 1:
        problems.add(place.at("split_by"), "has no use without split; add split = 2, or drop it")
    elif load.split_by is not None and load.endpoint is not None:
        what = "is a column of an SQL source, and this load has an endpoint"
        problems.add(place.at("split_by"), f"{what}; drop it, and the slices are split by time")
    elif load.split > 1 and load.split_by is None and load.slice_by is None:
        what = "cannot cut by time, for the load has no slice_by"
        problems.add(place.at("split"), f'{what}; add split_by = "{load.key[0]}" or another column')


def _check_query(problems: Problems, load: Load, kind: str, place: Place) -> None:
    """Add a problem unless the load has what its sources take: `extract`, or `endpoint` with `columns`."""
    if SYSTEMS[kind].takes_endpoint:
        if load.extract is not None:
            problems.add(
                place.at("extract"), f"is SQL, and the shards are of type {kind}; write an [endpoint]"
            )
        if load.ready is not None:
            what = f"is a query on the shards, and those of type {kind} run no SQL"
            remedy = "drop it; if it is in [load_defaults], write it into the loads with SQL sources instead"
            problems.add(place.at("ready"), f"{what}; {remedy}")
        if load.endpoint is None:
            problems.add(place.at("endpoint"), 'is missing; add [endpoint] with path = "orders"')
        if not load.columns:
            problems.add(place.at("columns"), 'is missing; add columns = { id = "bigint" }')
        else:
            _check_columns(problems, load, place)
        return
    if load.extract is None:
        problems.add(place.at("extract"), _NO_EXTRACT)
    for key in ("endpoint", "columns"):
        if getattr(load, key):
            problems.add(place.at(key), f"is for HTTP sources, and the shards are of type {kind}; drop it")


def _check_columns(problems: Problems, load: Load, place: Place) -> None:
    known = {name.lower() for name in load.columns}
    for key, names in (("key", load.key), ("slice_by", (load.slice_by,) if load.slice_by else ())):
        for name in names:
            if name.lower() not in known:
                problems.add(place.at(key), f"columns has no {quoted(name)}; {nearest(name, load.columns)}")
    for name in load.columns:
        if name.lower() in SERVICE_FIELDS:
            problems.add(place.at("columns", name), "is a service field, which dwhctl adds; drop it")


def check_files(problems: Problems, table: Table, place: Place) -> None:
    """Add a problem for each missing file of a load, report, channel, the pings or the executor."""
    for key in ("extract", "ready", "source", "create", "template", "tls_cafile", "ca", "cert", "key"):
        check_file(problems, getattr(table, key, None), place.at(key))


def check_file(problems: Problems, path: object, place: Place) -> None:
    """Add a problem if this is a path without a file."""
    if not isinstance(path, Path):
        return
    folder = problems.root / "sql"
    text = shown_path(path, folder)
    # Before it is looked for: the system refuses a name of more than 255 octets.
    if re.match(r"(select|with|from|create)\s(?!.*\.sql$)", text, re.IGNORECASE | re.DOTALL):
        problems.add(place, "is SQL; write it into a file of sql/, and the name of that file here")
        return
    if path.is_file():
        return
    shown = shown_text(shown_path(path, problems.root))
    if path.exists():
        problems.add(place, f"{shown} is not a file; write the path of a file")
        return
    in_sql = path.is_relative_to(folder)
    existing = [file.relative_to(folder).as_posix() for file in folder.rglob("*.sql")] if in_sql else []
    remedy = did_you_mean(text, existing) or "create it or correct the path"
    problems.add(place, f"the file {shown} is missing; {remedy}")


def _check_report(found: Found, report: Report) -> None:
    place = found.place(report)
    _use(found, report.connection, "is_target", "a warehouse", place.at("connection"))
    check_files(found.problems, report, place)
    if isinstance(report.source, str) and report.source.lower() == report.target.lower():
        what = "is the target itself, which a refresh empties first"
        found.problems.add(place.at("source"), f"{what}; write another view or a query")
    if report.name in found.declared["load"]:
        what = f"config/loads/{report.name}.toml is a load of the same name, and sessions have only the name"
        found.problems.add(place, f"{what}; rename one of them")
    for number, need in enumerate(report.needs):
        found.require("load", need.load, place.at("needs", number, "load"))


@nothing_shown()
def _check_alert_filters(found: Found) -> None:
    for alert in found.alerts.values():
        for kind, names in (("load", alert.loads), ("report", alert.reports)):
            for number, name in enumerate(names):
                found.require(kind, name, found.place(alert).at(f"{kind}s", number))


def _check_tables(found: Found) -> None:
    """Add a problem for a target table that cannot be, or is that of two loads or reports: each replaces its rows.

    A name that is too long is cut by some systems, and then is that of another table.
    """
    owners: dict[tuple[str, str], str] = {}
    for work in (*found.loads.values(), *found.reports.values()):
        target = found.connections.get(work.warehouse)
        if target and (problem := SYSTEMS[target.type].table_problem(target, work.target_table)):
            found.problems.add(found.place(work).at(work.table_key), problem)
        owner = owners.setdefault((work.warehouse, work.target_table.lower()), work.title)
        if owner != work.title:
            what = f"{work.target_table} on '{work.warehouse}' is already the target of {owner}"
            place = found.place(work).at(work.table_key)
            found.problems.add(place, f"{what}; give {work.title} a table of its own")


def _check_task_names(found: Found) -> None:
    limit = f"the sessions table holds {TASK_NAME_LENGTH}"
    for report in found.reports.values():
        if (length := len(report.name)) > TASK_NAME_LENGTH:
            found.problems.add(found.place(report), f"the name has {length} characters, {limit}; shorten it")
    tasks: dict[str, str] = {}
    for load in found.loads.values():
        names = [shard.name for shard, _ in found.shards.get(load.shards, [])]
        longest = task_name(load.name, max(names, key=len, default=""))
        if len(longest) > TASK_NAME_LENGTH:
            what = f"the task name {longest} has {len(longest)} characters, {limit}"
            found.problems.add(found.place(load), f"{what}; shorten the load's name or the shard's")
        # 'a_' with 'b' and 'a' with '_b' have the same task name; other names cannot collide.
        for name in (name for name in names if load.name.endswith("_") or name.startswith("_")):
            pair = f"{load.name} and {name}"
            other = tasks.setdefault(task_name(load.name, name), pair)
            if other != pair:
                what = f"load and shard {pair} have the same task name as {other}"
                found.problems.add(found.place(load), f"{what}; drop the '_' at the edge of a name")


def task_name(load: str, shard: str) -> str:
    """Return the name under which sessions record a load's work on a shard."""
    return f"{load}__{shard}"
