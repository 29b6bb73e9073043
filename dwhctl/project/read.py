"""Reading a project: config/ as typed objects, or one error with all that is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar

from dwhctl.core.secrets import Secret, is_reference, is_sensitive
from dwhctl.core.words import (
    did_you_mean,
    looks_secret,
    may_show,
    nearest,
    nothing_shown,
    quoted,
    shown_value,
)
from dwhctl.project.checks import Found, check, check_alert_filters, check_files, literal_warnings, slug
from dwhctl.project.connections import CONNECTION_TYPES, Connection
from dwhctl.project.fields import Table, name_problem
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
    Alert,
    PingsTable,
    Project,
    ProjectTable,
    SessionsTable,
    Variable,
    secrets_in,
)
from dwhctl.project.problems import Place, Problems

MAIN = Place("config/dwhctl.toml")
REPORTS = Place("config/reports.toml")
_SHARD_TABLE = '{ name = "abakan", database = "Abakan" }'
ROOT_TABLES = (
    "project",
    "sessions",
    "connections",
    "shards",
    "variables",
    "alerts",
    "pings",
    "load_defaults",
    "report_defaults",
)

Model = TypeVar("Model", bound=Table)
Kind = TypeVar("Kind", bound=Table)


def read_project(root: Path) -> Project:
    """The project in this folder; ConfigError with all its problems, one a line."""
    return _Reader(Path(os.path.normpath(root.absolute())), os.environ).read()


def read_for_alerts(root: Path) -> Project | None:
    """What can be read of a project whose configuration is wrong, without its loads: its channels can tell of it.

    None when the main file is no TOML. `sessions_connection` may name no connection.
    """
    return _Reader(Path(os.path.normpath(root.absolute())), os.environ).read_for_alerts()


class _Reader:
    """Reads one project; `problems` grows on the way, `found` is what the names are checked against."""

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self.root = root
        self.environ = environ
        self.problems = Problems(root)
        self.found = Found()

    def read(self) -> Project:
        main = read_toml(self.root / MAIN.file, self.problems)
        self._refuse_unknown(main or {}, ROOT_TABLES, MAIN)
        project = self._one(ProjectTable, main or {}, "project")
        sessions = self._one(SessionsTable, main, "sessions") if main is not None else None
        self._read_connections(main or {})
        self._read_shards(main or {}, project.timezone if project else "UTC")
        variables = self._read_variables(main or {})
        alerts = self._read_alerts(main or {})
        pings = self._one(PingsTable, main or {}, "pings") or PingsTable()
        check_files(pings, MAIN.at("pings"), self.problems)
        self._read_loads(main or {})
        refreshing = self._read_reports(main or {})
        if main is not None:
            check(self.found, sessions.connection if sessions else None, self.problems)
            check_alert_filters(alerts, self.found, self.problems)
        self.problems.raise_any()
        assert project is not None
        assert sessions is not None
        return self._project(project, sessions, variables, alerts, refreshing, pings)

    def read_for_alerts(self) -> Project | None:
        main = read_toml(self.root / MAIN.file, self.problems)
        if main is None:
            return None
        project = self._one(ProjectTable, main, "project")
        sessions = self._one(SessionsTable, main, "sessions")
        self._read_connections(main)
        return self._project(
            project or ProjectTable.model_validate({}, context={"root": self.root}),
            sessions or SessionsTable(connection="sessions"),
            self._read_variables(main),
            self._read_alerts(main),
            Refreshing(),
        )

    def _project(
        self,
        table: ProjectTable,
        sessions: SessionsTable,
        variables: dict[str, Variable],
        alerts: dict[str, Alert],
        refreshing: Refreshing,
        pings: PingsTable | None = None,
    ) -> Project:
        found = self.found
        secrets = self._placed(found.connections, variables, alerts, pings or PingsTable())
        return Project(
            root=self.root,
            timezone=table.timezone,
            state_dir=table.state_dir,
            max_workers=table.max_workers,
            sessions_connection=sessions.connection,
            connections=found.connections,
            shard_groups={name: tuple(shard for shard, _ in group) for name, group in found.shards.items()},
            variables=variables,
            alerts=alerts,
            loads=found.loads,
            reports=found.reports,
            refreshing=refreshing,
            keep_logs=table.keep_logs,
            warnings=literal_warnings(secrets),
            watch_schedule=table.watch_schedule,
            group_access=table.group_access,
            pings=pings or PingsTable(),
        )

    def _one(self, model: type[Model], main: dict[str, Any], key: str) -> Model | None:
        place = MAIN.at(key)
        if key not in main and any(field.is_required() for field in model.file_keys().values()):
            self.problems.add(place, f'the table is missing; add [{key}] with connection = "NAME"')
            return None
        return self.problems.validated(model, main.get(key, {}), place)

    def _refuse_unknown(self, table: Mapping[str, Any], known: tuple[str, ...], place: Place) -> None:
        for key in table:
            if key in known:
                continue
            homes: dict[str, type[Table]] = {"project": ProjectTable, "sessions": SessionsTable}
            home = next(
                (name for name, model in homes.items() if name in known and key in model.file_keys()), None
            )
            remedy = f"it belongs below [{home}]" if home else nearest(key, known)
            self.problems.add(place.at(key), f"unknown key; {remedy}")

    def _named(self, main: Mapping[str, Any], key: str, place: Place) -> list[tuple[str, Any, Place]]:
        """The tables below a table: name, content, place; names that are none are noted."""
        tables = []
        for name, table in self.problems.table(main.get(key, {}), place.at(key)).items():
            problem = name_problem(name)
            if problem:
                better = f"; call it '{slug(name)}'" if may_show(name) else ""
                self.problems.add(place.at(key, name), f"{quoted(name)} is no name: {problem}{better}")
            tables.append((name, table, place.at(key, name)))
        return tables

    def _typed(self, types: Mapping[str, type[Kind]], table: object, place: Place, name: str) -> Kind | None:
        """A table whose key `type` says which model it is."""
        values = self.problems.table(table, place)
        kind = values.get("type")
        if isinstance(kind, str) and kind in types:
            return self.problems.validated(types[kind], values, place, name=name)
        if not isinstance(table, dict):
            return None
        choices = ", ".join(f'"{each}"' for each in types)
        if kind is None:
            self.problems.add(place.at("type"), f"is missing; add type = one of {choices}")
        else:
            hint = did_you_mean(kind, types) if isinstance(kind, str) else ""
            also = f"; {hint}" if hint else ""
            self.problems.add(place.at("type"), f"expected one of {choices}; got {shown_value(kind)}{also}")
        return None

    @nothing_shown()
    def _read_connections(self, main: Mapping[str, Any]) -> None:
        given = named_values(CONNECTION_PREFIX, self.environ)
        overridden = {each.name for each in given}
        for name, table, place in self._named(main, "connections", MAIN):
            if name not in overridden:  # the environment wins, also over a table that is wrong
                self._add_connection(name, table, place)
        for each in given:
            self._read_url(each.name, each.text, Place("environment", each.variable))

    def _read_url(self, name: str, url: str, place: Place) -> None:
        self.found.declared["connection"].add(name)
        problem = name_problem(name)
        if problem:
            self.problems.add(place, f"{quoted(name)} is no name: {problem}; rename the variable")
        try:
            table = table_of_url(url)
        except ValueError as error:
            self.problems.add(place, str(error))
            return
        self._add_connection(name, table, place)

    def _add_connection(self, name: str, table: object, place: Place) -> None:
        self.found.declared["connection"].add(name)
        connection = self._typed(CONNECTION_TYPES, table, place, name)
        if connection is not None:
            self.found.connections[name] = connection
            self.found.places[(type(connection), name)] = place

    @nothing_shown()
    def _read_shards(self, main: Mapping[str, Any], zone: str) -> None:
        for group, table, place in self._named(main, "shards", MAIN):
            self.found.declared["group"].add(group)
            shards = self.found.shards.setdefault(group, [])
            before = len(self.problems.lines)
            for connection, entries in self.problems.table(table, place).items():
                shards += self._shards_on(connection, entries, place.at(connection), zone)
            if not shards and len(self.problems.lines) == before:
                self.problems.add(place, 'the group has no shard; add CONNECTION = ["DATABASE"]')

    def _shards_on(
        self, connection: str, entries: object, place: Place, zone: str
    ) -> list[tuple[Shard, Place]]:
        if not isinstance(entries, list):
            self.problems.add(
                place, f'expected a list of databases, got {shown_value(entries)}; write ["abakan"]'
            )
            return []
        shards = []
        for number, entry in enumerate(entries):
            shard = self._shard(connection, entry, place.at(number), zone)
            if shard is not None:
                shards.append((shard, place.at(number)))
        return shards

    def _shard(self, connection: str, entry: object, place: Place, zone: str) -> Shard | None:
        if not isinstance(entry, str | dict):
            what = shown_value(entry)
            self.problems.add(place, f'expected a database, got {what}; write "abakan" or {_SHARD_TABLE}')
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
        problem = name_problem(name)
        if problem:
            self.problems.add(place, f"{quoted(name)} is no shard's name: {problem}; write {_SHARD_TABLE}")
            return None
        dates = checked.from_date, checked.until_date
        return Shard(name, database, connection, checked.zone or zone, *dates)

    def _misread_database(self, connection: str, entry: ShardEntry) -> str | None:
        """What is wrong with a database that is written as a pattern or as a file."""
        if entry.name is None and entry.database and re.search(r"[*?%]", entry.database):
            return (
                "a shard group lists its databases one by one, patterns are not expanded; write one of them, and"
                f" `dwhctl connections test {connection}` shows those that are in no shard group"
            )
        found = self.found.connections.get(connection)
        file = found.shard_file(entry.database) if found and entry.database else None
        if file and entry.database and (ending := file.suffix) and entry.database.endswith(ending):
            return f"a database is written without {ending}, which is added to find its file; leave it out"
        return None

    def _read_variables(self, main: Mapping[str, Any]) -> dict[str, Variable]:
        table = self.problems.table(main.get("variables", {}), MAIN.at("variables"))
        variables = {name: _variable(value) for name, value in table.items()}
        spelled = {name.lower(): name for name in variables}
        for each in named_values(VARIABLE_PREFIX, self.environ):
            name = spelled.get(each.name, each.name)
            secret = is_sensitive(name) or looks_secret(each.text) or isinstance(variables.get(name), Secret)
            variables[name] = Secret(each.text, kind="environment") if secret else each.text
        return variables

    @nothing_shown()
    def _read_alerts(self, main: Mapping[str, Any]) -> dict[str, Alert]:
        alerts: dict[str, Alert] = {}
        for name, table, place in self._named(main, "alerts", MAIN):
            alert = self._typed(ALERT_TYPES, table, place, name)
            if alert is not None:
                check_files(alert, place, self.problems)
                alerts[name] = alert
        return alerts

    def _read_loads(self, main: Mapping[str, Any]) -> None:
        defaults = read_defaults(Load, main, MAIN.at("load_defaults"), self.problems)
        for path in sorted((self.root / "config" / "loads").glob("*.toml")):
            name, place = path.stem, Place(f"config/loads/{path.name}")
            self.found.declared["load"].add(name)
            problem = name_problem(name)
            if problem:
                self.problems.add(
                    place,
                    f"{quoted(name)} is no load's name: {problem}; rename the file to {slug(name)}.toml",
                )
            table = read_toml(path, self.problems)
            if table is None:
                continue
            whole, place = defaults.under(table, place)
            load = self.problems.validated(Load, whole, place, name=name)
            if load is not None:
                self.found.loads[name] = load
                self.found.places[(Load, name)] = place

    def _read_reports(self, main: Mapping[str, Any]) -> Refreshing:
        defaults = read_defaults(Report, main, MAIN.at("report_defaults"), self.problems)
        path = self.root / REPORTS.file
        tables = (read_toml(path, self.problems) if path.exists() else None) or {}
        self._refuse_unknown(tables, ("reports", "refresh"), REPORTS)
        for name, table, place in self._named(tables, "reports", REPORTS):
            self.found.declared["report"].add(name)
            whole, place = defaults.under(table, place)
            report = self.problems.validated(Report, whole, place, name=name)
            if report is not None:
                self.found.reports[name] = report
                self.found.places[(Report, name)] = place
        refreshing = self.problems.validated(Refreshing, tables.get("refresh", {}), REPORTS.at("refresh"))
        return refreshing or Refreshing()

    def _placed(
        self,
        connections: Mapping[str, Connection],
        variables: Mapping[str, Variable],
        alerts: Mapping[str, Alert],
        pings: PingsTable,
    ) -> dict[str, bool]:
        """Tell every secret where it stands; which of the places hold the secret itself."""
        secrets = _secrets_of(pings, MAIN.at("pings"))
        for name, connection in connections.items():
            secrets |= _secrets_of(connection, self.found.place(connection, name))
        for name, alert in alerts.items():
            secrets |= _secrets_of(alert, MAIN.at("alerts", name))
        for kind in (self.found.loads, self.found.reports):
            for name, work in kind.items():
                secrets |= _secrets_of(work, self.found.place(work, name))
        placed = list(secrets.items())
        for name, variable in variables.items():
            outside = Place("environment", f"{VARIABLE_PREFIX}{name.upper()}")
            placed += [
                (outside if secret.is_given else MAIN.at("variables", name), secret)
                for secret in secrets_in(variable)
            ]
        for place, secret in placed:
            secret.place, secret.root = str(place), self.root
        return {secret.place: is_in_file(secret) for _, secret in placed}


def _secrets_of(table: Table, place: Place) -> dict[Place, Secret]:
    found: dict[Place, Secret] = {}
    for key in type(table).model_fields:
        value = getattr(table, key)
        inner = value.items() if isinstance(value, Mapping) else ()
        found |= {place.at(key, name): each for name, each in inner if isinstance(each, Secret)}
        if isinstance(value, Secret):
            found[place.at(key)] = value
        elif isinstance(value, Table):
            found |= _secrets_of(value, place.at(key))
    return found


def is_in_file(secret: Secret) -> bool:
    """Whether the secret itself stands in a configuration file."""
    # A proxy's URL is a secret only when it holds a login.
    return secret.is_literal and (not secret.place.endswith(".proxy") or "@" in secret.reveal())


def _variable(value: Any) -> Variable:
    if is_reference(value):
        return Secret.of(value)
    if isinstance(value, dict):
        return {name: _variable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_variable(each) for each in value]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, str) and looks_secret(value):
        return Secret(value)
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"TOML has no {type(value).__name__}")
