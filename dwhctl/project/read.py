"""Reading a project: config/ as typed objects, or one error with all problems."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar

from dwhctl.core.secrets import Secret, is_reference, is_sensitive
from dwhctl.core.words import looks_secret, may_show, nearest, nothing_shown, quoted, shown_value
from dwhctl.project.checks import Found, check, check_files, slug
from dwhctl.project.connections import CONNECTION_TYPES
from dwhctl.project.fields import NamedTable, Table, leaves, name_problem
from dwhctl.project.files import (
    CONNECTION_PREFIX,
    VARIABLE_PREFIX,
    named_values,
    read_defaults,
    read_toml,
    table_of_url,
)
from dwhctl.project.loads import Load, Refreshing, Report, Shard, ShardEntry
from dwhctl.project.model import (
    ALERT_TYPES,
    ExecutorTable,
    PageTable,
    PingsTable,
    Project,
    ProjectTable,
    SessionsTable,
    Variable,
)
from dwhctl.project.problems import MAIN, REPORTS, Model, Place, Problems, one_of

_SHARD_TABLE = '{ name = "abakan", database = "Abakan" }'
_ROOT_TABLES = (
    *("project", "sessions", "connections", "shards", "variables", "alerts", "pings", "page", "executor"),
    *("load_defaults", "report_defaults"),
)
Kind = TypeVar("Kind", bound=NamedTable)


def read_project(root: Path) -> Project:
    """Return the project in this folder. Raise ConfigError with all problems, one a line."""
    return _Reader(root, os.environ).read()


def read_for_alerts(root: Path) -> Project | None:
    """Return what can be read of a project with problems, without its loads, so that its channels can report them.

    None when the main file is not TOML. `sessions_connection` may be unknown.
    """
    return _Reader(root, os.environ).read_for_alerts()


class _Reader:
    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self.root = Path(os.path.normpath(root.absolute()))
        self.environ = environ
        self.problems = Problems(self.root)
        self.found = Found(self.problems)
        main = read_toml(self.root / MAIN.file, self.problems)
        self.is_read = main is not None
        self.main = main or {}

    def read(self) -> Project:
        self._refuse_unknown(self.main, _ROOT_TABLES, MAIN)
        project = self._single(ProjectTable, "project")
        sessions = self._single(SessionsTable, "sessions") if self.is_read else None
        self._read_connections()
        self._read_shards(project.timezone if project else "UTC")
        variables = self._read_variables()
        self._read_alerts()
        pings = self._single(PingsTable, "pings") or PingsTable()
        check_files(self.problems, pings, MAIN.at("pings"))
        page = self._single(PageTable, "page")
        executor = self._single(ExecutorTable, "executor") or ExecutorTable()
        check_files(self.problems, executor, MAIN.at("executor"))
        self._read_loads()
        refreshing = self._read_reports()
        if self.is_read:
            check(self.found, sessions.connection if sessions else None)
        self.problems.raise_any()
        assert project is not None
        assert sessions is not None
        read = self._project(project, sessions, variables, refreshing, pings, page)
        used = {shard.connection for load in read.loads.values() for shard in read.shards_of(load)}
        used |= {load.target for load in read.loads.values()}
        warnings = executor.warnings(read.connections[name] for name in sorted(used))
        return replace(read, executor=executor, warnings=(*read.warnings, *warnings))

    def read_for_alerts(self) -> Project | None:
        if not self.is_read:
            return None
        project = self._single(ProjectTable, "project")
        sessions = self._single(SessionsTable, "sessions")
        self._read_connections()
        self._read_alerts()
        return self._project(
            project or ProjectTable.model_validate({}, context={"root": self.root}),
            sessions or SessionsTable(connection="sessions"),
            self._read_variables(),
        )

    def _project(
        self,
        table: ProjectTable,
        sessions: SessionsTable,
        variables: dict[str, Variable],
        refreshing: Refreshing | None = None,
        pings: PingsTable | None = None,
        page: PageTable | None = None,
    ) -> Project:
        found, pings = self.found, pings or PingsTable()
        return Project(
            root=self.root,
            **dict(table),
            sessions_connection=sessions.connection,
            connections=found.connections,
            shard_groups={name: tuple(shard for shard, _ in group) for name, group in found.shards.items()},
            variables=variables,
            alerts=found.alerts,
            loads=found.loads,
            reports=found.reports,
            refreshing=refreshing or Refreshing(),
            warnings=self._place_secrets(variables, pings),
            pings=pings,
            page=page or PageTable(),
        )

    def _single(self, model: type[Model], key: str) -> Model | None:
        place = MAIN.at(key)
        if key not in self.main and any(field.is_required() for field in model.file_keys().values()):
            self.problems.add(place, f'the table is missing; add [{key}] with connection = "NAME"')
            return None
        return self.problems.validated(model, self.main.get(key, {}), place)

    def _refuse_unknown(self, table: Mapping[str, Any], known: tuple[str, ...], place: Place) -> None:
        homes: dict[str, type[Table]] = {"project": ProjectTable, "sessions": SessionsTable}
        for key in (key for key in table if key not in known):
            fitting = (name for name, model in homes.items() if name in known and key in model.file_keys())
            home = next(fitting, None)
            remedy = f"it belongs below [{home}]" if home else nearest(key, known)
            self.problems.add(place.at(key), f"unknown key; {remedy}")

    def _named(self, main: Mapping[str, Any], key: str, place: Place) -> list[tuple[str, Any, Place]]:
        """Return name, content and place of the tables below a table; add the problems of their names."""
        tables = []
        for name, table in self.problems.table(main.get(key, {}), place.at(key)).items():
            remedy = f"; call it '{slug(name)}'" if may_show(name) else ""
            self._check_name(name, place.at(key, name), "name", remedy)
            tables.append((name, table, place.at(key, name)))
        return tables

    def _check_name(self, name: str, place: Place, what: str, remedy: str) -> bool:
        if problem := name_problem(name):
            self.problems.add(place, f"{quoted(name)} is not a {what}: {problem}{remedy}")
        return problem is None

    def _typed(
        self, types: Mapping[str, type[Model]], table: object, place: Place, name: str
    ) -> Model | None:
        values = self.problems.table(table, place)
        kind = values.get("type")
        if isinstance(kind, str) and kind in types:
            return self.problems.validated(types[kind], values, place, name=name)
        if isinstance(table, dict):
            choices = ", ".join(f'"{choice}"' for choice in types)
            missing = f"is missing; add type = one of {choices}"
            self.problems.add(place.at("type"), missing if kind is None else one_of(kind, types))
        return None

    def _add(self, tables: dict[str, Kind], table: Kind | None, place: Place) -> None:
        if table is not None:
            tables[table.name] = table
            self.found.places[(type(table), table.name)] = place

    @nothing_shown()
    def _read_connections(self) -> None:
        given = named_values(CONNECTION_PREFIX, self.environ)
        tables = self._named(self.main, "connections", MAIN)
        # The environment wins, also over a table with problems.
        overridden = {value.name for value in given}
        tables = [table for table in tables if table[0] not in overridden]
        for value in given:
            place = Place("environment", value.variable)
            self.found.declared["connection"].add(value.name)
            self._check_name(value.name, place, "name", "; rename the variable")
            try:
                tables.append((value.name, table_of_url(value.text), place))
            except ValueError as error:
                self.problems.add(place, str(error))
        for name, table, place in tables:
            self.found.declared["connection"].add(name)
            self._add(self.found.connections, self._typed(CONNECTION_TYPES, table, place, name), place)

    @nothing_shown()
    def _read_shards(self, zone: str) -> None:
        for group, table, place in self._named(self.main, "shards", MAIN):
            self.found.declared["shard group"].add(group)
            shards = self.found.shards.setdefault(group, [])
            before = len(self.problems.lines)
            for connection, entries in self.problems.table(table, place).items():
                at = place.at(connection)
                if not isinstance(entries, list):
                    what = f"expected a list of databases, got {shown_value(entries)}"
                    self.problems.add(at, f'{what}; write ["abakan"]')
                    continue
                for number, entry in enumerate(entries):
                    if shard := self._shard(connection, entry, at.at(number), zone):
                        shards.append((shard, at.at(number)))
            if not shards and len(self.problems.lines) == before:
                self.problems.add(place, 'the group has no shard; add CONNECTION = ["DATABASE"]')

    def _shard(self, connection: str, entry: object, place: Place, zone: str) -> Shard | None:
        if not isinstance(entry, str | dict):
            what = f"expected a database, got {shown_value(entry)}"
            self.problems.add(place, f'{what}; write "abakan" or {_SHARD_TABLE}')
            return None
        table = {"database": entry} if isinstance(entry, str) else entry
        checked = self.problems.validated(ShardEntry, table, place)
        if checked is None:
            return None
        if misread := self._misread_database(connection, checked):
            self.problems.add(place, misread)
            return None
        name, database = checked.name or checked.database, checked.database or checked.name
        assert name is not None
        assert database is not None
        if not self._check_name(name, place, "shard's name", f"; write {_SHARD_TABLE}"):
            return None
        dates = checked.from_date, checked.until_date
        return Shard(name, database, connection, checked.zone or zone, *dates)

    def _misread_database(self, connection: str, entry: ShardEntry) -> str | None:
        """Return the problem of a database that is written as a pattern or as a file."""
        if entry.name is None and entry.database and re.search(r"[*?%]", entry.database):
            return (
                "a shard group lists each database, patterns are not expanded; write the databases, and"
                f" `dwhctl connections test {connection}` shows those that are in no shard group"
            )
        found = self.found.connections.get(connection)
        file = found.shard_file(entry.database) if found and entry.database else None
        if file and entry.database and (suffix := file.suffix) and entry.database.endswith(suffix):
            return f"a database is written without {suffix}, which dwhctl adds to find its file; leave it out"
        return None

    def _read_variables(self) -> dict[str, Variable]:
        table = self.problems.table(self.main.get("variables", {}), MAIN.at("variables"))
        variables = {name: _variable(value) for name, value in table.items()}
        spelled = {name.lower(): name for name in variables}
        for value in named_values(VARIABLE_PREFIX, self.environ):
            name = spelled.get(value.name, value.name)
            secret = is_sensitive(name) or looks_secret(value.text) or isinstance(variables.get(name), Secret)
            variables[name] = Secret(value.text, kind="environment") if secret else value.text
        return variables

    @nothing_shown()
    def _read_alerts(self) -> None:
        for name, table, place in self._named(self.main, "alerts", MAIN):
            alert = self._typed(ALERT_TYPES, table, place, name)
            if alert is not None:
                check_files(self.problems, alert, place)
            self._add(self.found.alerts, alert, place)

    def _read_loads(self) -> None:
        defaults = read_defaults(Load, self.main, MAIN.at("load_defaults"), self.problems)
        # Not those that begin with a dot: an editor's lock or backup, which come and go while cron's loads start.
        for path in sorted((self.root / "config" / "loads").glob("[!.]*.toml")):
            name, place = path.stem, Place(f"config/loads/{path.name}")
            self.found.declared["load"].add(name)
            self._check_name(name, place, "load's name", f"; rename the file to {slug(name)}.toml")
            table = read_toml(path, self.problems)
            if table is not None:
                whole, place = defaults.under(table, place)
                self._add(self.found.loads, self.problems.validated(Load, whole, place, name=name), place)

    def _read_reports(self) -> Refreshing:
        defaults = read_defaults(Report, self.main, MAIN.at("report_defaults"), self.problems)
        path = self.root / REPORTS.file
        tables = (read_toml(path, self.problems) if path.exists() else None) or {}
        self._refuse_unknown(tables, ("reports", "refresh"), REPORTS)
        for name, table, at in self._named(tables, "reports", REPORTS):
            self.found.declared["report"].add(name)
            whole, place = defaults.under(table, at)
            self._add(self.found.reports, self.problems.validated(Report, whole, place, name=name), place)
        refreshing = self.problems.validated(Refreshing, tables.get("refresh", {}), REPORTS.at("refresh"))
        return refreshing or Refreshing()

    def _place_secrets(self, variables: Mapping[str, Variable], pings: PingsTable) -> tuple[str, ...]:
        """Set the place of every secret. Return a warning for each place that contains the secret itself."""
        found = self.found
        placed = [(MAIN.at("pings", key), secret) for key, secret in pings.secrets().items()]
        for tables in (found.connections, found.alerts, found.loads, found.reports):
            for table in tables.values():
                placed += [
                    (found.place(table).at(*key.split(".")), secret)
                    for key, secret in table.secrets().items()
                ]
        for name, variable in variables.items():
            outside = Place("environment", f"{VARIABLE_PREFIX}{name.upper()}")
            for secret in leaves(variable):
                if isinstance(secret, Secret):
                    placed.append((outside if secret.is_given else MAIN.at("variables", name), secret))
        for place, secret in placed:
            secret.place, secret.root = str(place), self.root
        remedy = 'write { env = "NAME" } or { file = "PATH" }'
        literal = dict.fromkeys(secret.place for _, secret in placed if is_in_file(secret))
        return tuple(f"{place}: the secret itself is in the file; {remedy}" for place in literal)


def is_in_file(secret: Secret) -> bool:
    """Return whether a configuration file contains the secret itself."""
    # A proxy's URL is a secret only when it has a login.
    return secret.is_literal and (not secret.place.endswith(".proxy") or "@" in secret.reveal())


def _variable(value: Any) -> Variable:
    if is_reference(value):
        return Secret.of(value)
    if isinstance(value, dict):
        return {name: _variable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_variable(inner) for inner in value]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return Secret(value) if isinstance(value, str) and looks_secret(value) else value
