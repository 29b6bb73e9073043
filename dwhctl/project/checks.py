"""Checks across tables and files: names that point at each other, files that must be there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
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
from dwhctl.project.fields import Table, name_problem
from dwhctl.project.loads import Load, Report, Shard
from dwhctl.project.model import Alert
from dwhctl.project.problems import Place, Problems

TASK_NAME_LENGTH = 200


@dataclass
class Found:
    """What was read so far. `declared` also holds the names whose tables are wrong: they are not unknown."""

    connections: dict[str, Connection] = field(default_factory=dict)
    shards: dict[str, list[tuple[Shard, Place]]] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    declared: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    places: dict[tuple[type[Table], str], Place] = field(default_factory=dict)

    def place(self, table: Table, name: str) -> Place:
        """Where this table stands."""
        return self.places[(type(table), name)]

    def known(self, kind: str) -> list[str]:
        """The names of this kind that a message may show: what is no name may be a secret in the wrong place."""
        return [name for name in self.declared[kind] if name_problem(name) is None and is_shown(name)]

    def meant(self, kind: str, name: str) -> str:
        """What else has this name, or which name of this kind was probably meant."""
        for other, names in self.declared.items():
            if other != kind and name in names:
                return f"it is a {'shard group' if other == 'group' else other}"
        return nearest(name, self.known(kind))


def check(found: Found, sessions: str | None, problems: Problems) -> None:
    """Note every problem between the tables."""
    if sessions is not None:
        _use(
            found,
            sessions,
            "is_sessions",
            "the sessions table",
            Place("config/dwhctl.toml", "sessions.connection"),
            problems,
        )
    _check_shards(found, problems)
    for load in found.loads.values():
        _check_load(load, found, problems)
    for report in found.reports.values():
        _check_report(report, found, problems)
    _check_authorities(found, problems)
    _check_tables(found, problems)
    _check_task_names(found, problems)


@nothing_shown()
def _check_authorities(found: Found, problems: Problems) -> None:
    for connection in found.connections.values():
        key = connection.tls_words.ca_key if isinstance(connection, NetworkConnection) else "ca_file"
        if key is not None and (authorities := getattr(connection, key, None)) is not None:
            _file(authorities, found.place(connection, connection.name).at(key), problems)


def _use(found: Found, name: str, use: str, what: str, place: Place, problems: Problems) -> Connection | None:
    """The connection of this name, if it can serve for what it is used for."""
    if name not in found.declared["connection"]:
        problems.add(place, f"no connection {quoted_name(name)}; {found.meant('connection', name)}")
    connection = found.connections.get(name)
    if connection and not getattr(SYSTEMS[connection.type], use):
        problems.add(
            place,
            f"{quoted_name(name)} is of type {connection.type}, which cannot be {what}; "
            f"use one of type {', '.join(types_for(use))}",
        )
        return None
    return connection


@nothing_shown()
def _check_shards(found: Found, problems: Problems) -> None:
    first: dict[str, tuple[Shard, Place]] = {}
    files: dict[Path, Shard] = {}
    taken = {shard.name for group in found.shards.values() for shard, _ in group}
    for shard, place in (each for group in found.shards.values() for each in group):
        connection = _use(
            found, shard.connection, "is_source", "a shard's server", _connection_key(place), problems
        )
        other, there = first.setdefault(shard.name, (shard, place))
        if other is not shard:
            problems.add(place, _same_name(shard, other, there, taken))
        elif connection and (path := connection.shard_file(shard.database)):
            _check_file(shard, path, files, place, problems)


def _same_name(shard: Shard, other: Shard, there: Place, taken: Collection[str]) -> str:
    named = f"two shards are named '{shard.name}', here and in {there.key}"
    if (shard.connection, shard.database) == (other.connection, other.database):
        return f"{named}: the same database; drop one"
    remedy = renamed(shard.connection, shard.database, taken)
    return f"{named}; a shard's name is unique in the project: write {remedy}"


def _check_file(shard: Shard, path: Path, files: dict[Path, Shard], place: Place, problems: Problems) -> None:
    """Two shards in one file would both be all that it holds."""
    if re.search(r"[/\0]", shard.database):
        problems.add(
            place,
            f"{quoted(shard.database)} is no name of a file in the connection's path; a database has no '/'",
        )
        return
    other = files.setdefault(path, shard)
    if other is not shard:
        problems.add(
            place,
            f"its file is the shard '{other.name}' already; "
            "give each shard a file: let the connection's path name a folder with <database>.duckdb in it",
        )


def _connection_key(place: Place) -> Place:
    return Place(place.file, place.key.partition("[")[0])


def renamed(connection: str, database: str, taken: Collection[str]) -> str:
    """The shard as a table with a name that is free and allowed."""
    database = database if is_shown(database) else "..."
    wanted = slug(f"{connection}_{database}")
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return f'{{ name = "{name}", database = "{database}" }}'


def slug(text: str) -> str:
    """The text as an allowed name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "shard"


def _check_load(load: Load, found: Found, problems: Problems) -> None:
    place = found.place(load, load.name)
    if load.shards not in found.declared["group"]:
        hint = found.meant("group", load.shards)
        problems.add(place.at("shards"), f"no shard group {quoted(load.shards)}; {hint}")
    connection = _use(found, load.target, "is_target", "a warehouse", place.at("target"), problems)
    if connection and (problem := connection.warehouse_problem()):
        problems.add(place.at("target"), f"'{load.target}' {problem}")
    if load.extract is not None:
        _file(load.extract, place.at("extract"), problems)
    _check_query(load, found, place, problems)
    if load.create:
        _file(load.create, place.at("create"), problems)


def _check_query(load: Load, found: Found, place: Place, problems: Problems) -> None:
    """Note whether the load says what to ask in the way of its sources: `extract`, or `endpoint` with `columns`."""
    sources = {shard.connection for shard, _ in found.shards.get(load.shards, [])}
    types = {found.connections[name].type for name in sources if name in found.connections}
    if not types and load.extract is None and load.endpoint is None:
        problems.add(place.at("extract"), 'is missing; add extract = "orders/extract.sql"')
    for kind in sorted(types):
        if SYSTEMS[kind].takes_endpoint:
            _check_endpoint(load, kind, place, problems)
            continue
        if load.extract is None:
            problems.add(place.at("extract"), 'is missing; add extract = "orders/extract.sql"')
        for key in ("endpoint", "columns"):
            if getattr(load, key):
                problems.add(
                    place.at(key), f"is for HTTP sources, and the shards are of type {kind}; drop it"
                )


def _check_endpoint(load: Load, kind: str, place: Place, problems: Problems) -> None:
    if load.extract is not None:
        problems.add(place.at("extract"), f"is SQL, and the shards are of type {kind}; write an [endpoint]")
    if load.endpoint is None:
        problems.add(place.at("endpoint"), 'is missing; add [endpoint] with path = "orders"')
    if not load.columns:
        problems.add(place.at("columns"), 'is missing; add columns = { id = "bigint" }')
        return
    known = {name.lower() for name in load.columns}
    for key, names in (("key", load.key), ("slice_by", (load.slice_by,) if load.slice_by else ())):
        for name in names:
            if name.lower() not in known:
                problems.add(place.at(key), f"columns has no {quoted(name)}; {nearest(name, load.columns)}")
    for name in load.columns:
        if name.lower() in SERVICE_FIELDS:
            problems.add(place.at("columns", name), "is a service field that dwhctl adds itself; drop it")


def check_files(table: Table, place: Place, problems: Problems) -> None:
    """Note the files of a channel, or of the way of pings, that are not there."""
    for key in ("template", "tls_cafile"):
        path = getattr(table, key, None)
        if path is not None:
            _file(path, place.at(key), problems)


def _file(path: Path, place: Place, problems: Problems) -> None:
    if path.is_file():
        return
    relative, folder = shown_path(path, problems.root), problems.root / "sql"
    shown = shown_text(relative)
    if path.exists():
        problems.add(place, f"{shown} is no file; name the file itself")
        return
    there = (
        [each.relative_to(folder).as_posix() for each in folder.rglob("*.sql")]
        if path.is_relative_to(folder)
        else []
    )
    remedy = did_you_mean(shown_path(path, folder), there) or "create it or correct the path"
    problems.add(place, f"the file {shown} is missing; {remedy}")


def _check_report(report: Report, found: Found, problems: Problems) -> None:
    place = found.place(report, report.name)
    _use(found, report.connection, "is_target", "a warehouse", place.at("connection"), problems)
    if isinstance(report.source, Path):
        _file(report.source, place.at("source"), problems)
    if report.create:
        _file(report.create, place.at("create"), problems)
    if isinstance(report.source, str) and report.source.lower() == report.target.lower():
        problems.add(
            place.at("source"), "is the target itself, which a refresh empties first; name a view or query"
        )
    if report.name in found.declared["load"]:
        problems.add(
            place,
            f"config/loads/{report.name}.toml is a load of the same name, and the sessions would not tell them"
            " apart; give one of them another name",
        )
    for number, need in enumerate(report.needs):
        if need.load not in found.declared["load"]:
            hint = found.meant("load", need.load)
            problems.add(place.at("needs", number, "load"), f"no load {quoted(need.load)}; {hint}")


@nothing_shown()
def check_alert_filters(alerts: Mapping[str, Alert], found: Found, problems: Problems) -> None:
    """Note every load or report that a channel is limited to and that there is not."""
    for alert in alerts.values():
        place = Place("config/dwhctl.toml", f"alerts.{alert.name}")
        for kind, names in (("load", alert.loads), ("report", alert.reports)):
            for number, name in enumerate(names):
                if name not in found.declared[kind]:
                    hint = found.meant(kind, name)
                    problems.add(place.at(f"{kind}s", number), f"no {kind} {quoted(name)}; {hint}")


def _check_tables(found: Found, problems: Problems) -> None:
    """A target table belongs to one load or report: each replaces what is in it."""
    owners: dict[tuple[str, str], str] = {}
    for load in found.loads.values():
        _own(
            owners,
            (load.target, load.table),
            f"load '{load.name}'",
            found.place(load, load.name).at("table"),
            problems,
        )
    for report in found.reports.values():
        place = found.place(report, report.name).at("target")
        _own(owners, (report.connection, report.target), f"report '{report.name}'", place, problems)


def _own(
    owners: dict[tuple[str, str], str], table: tuple[str, str], who: str, place: Place, problems: Problems
) -> None:
    key = (table[0], table[1].lower())
    owner = owners.setdefault(key, who)
    if owner != who:
        problems.add(
            place,
            f"{table[1]} on '{table[0]}' is the target of {owner} already; give {who} a table of its own",
        )


def _check_task_names(found: Found, problems: Problems) -> None:
    for report in found.reports.values():
        if len(report.name) > TASK_NAME_LENGTH:
            problems.add(
                found.place(report, report.name),
                f"the name has {len(report.name)} characters, the sessions table holds {TASK_NAME_LENGTH}; shorten it",
            )
    tasks: dict[str, str] = {}
    for load in found.loads.values():
        names = [shard.name for shard, _ in found.shards.get(load.shards, [])]
        longest = max(names, key=len, default="")
        length = len(task_name(load.name, longest))
        if length > TASK_NAME_LENGTH:
            problems.add(
                found.place(load, load.name),
                f"the task name {load.name}__{longest} has {length} characters, the sessions table holds "
                f"{TASK_NAME_LENGTH}; shorten the load's name or the shard's",
            )
        _check_parting(load, names, tasks, found, problems)


def _check_parting(
    load: Load, names: Iterable[str], tasks: dict[str, str], found: Found, problems: Problems
) -> None:
    # 'a_' with 'b' and 'a' with '_b' would be one task; only names with such edges can meet.
    for name in names:
        if load.name.endswith("_") or name.startswith("_"):
            other = tasks.setdefault(task_name(load.name, name), f"{load.name} and {name}")
            if other != f"{load.name} and {name}":
                problems.add(
                    found.place(load, load.name),
                    f"load and shard {load.name} and {name} have the same task name as {other}; "
                    "drop the '_' at the edge of a name",
                )


def task_name(load: str, shard: str) -> str:
    """What the sessions table calls load x shard."""
    return f"{load}__{shard}"


def literal_warnings(secrets: Mapping[str, bool]) -> tuple[str, ...]:
    """A warning for each place whose secret stands in the file itself."""
    return tuple(
        f'{place}: the secret itself stands in the file; write {{ env = "NAME" }} or {{ file = "PATH" }}'
        for place, literal in secrets.items()
        if literal
    )
