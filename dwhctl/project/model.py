"""The project as typed objects: everything that its configuration says, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field

from dwhctl.errors import ConfigError

from .alerts import ALERT_TYPES, Alert, EmailAlert, TelegramAlert
from .connections import (
    CONNECTION_TYPES,
    Connection,
    DuckdbConnection,
    MssqlConnection,
    PostgresConnection,
    SqliteConnection,
    VerticaConnection,
)
from .fields import ProjectPath, Schedule, SomeTime, Table, Text, Zone
from .loads import Load, Need, Refreshing, Report, Shard, ShardEntry
from .secrets import Secret

__all__ = [
    "ALERT_TYPES",
    "CONNECTION_TYPES",
    "Alert",
    "Connection",
    "DuckdbConnection",
    "EmailAlert",
    "Load",
    "MssqlConnection",
    "Need",
    "PingsTable",
    "PostgresConnection",
    "Project",
    "ProjectTable",
    "Refreshing",
    "Report",
    "Secret",
    "SessionsTable",
    "Shard",
    "ShardEntry",
    "SqliteConnection",
    "TelegramAlert",
    "Variable",
    "VerticaConnection",
]

WATCH_SCHEDULE = "*/5 * * * *"

Variable = str | int | float | bool | Secret | list["Variable"] | dict[str, "Variable"]


class ProjectTable(Table):
    """The project as a whole."""

    timezone: Zone = Field("UTC", description='What "today" means: an IANA zone.', examples=["Europe/Moscow"])
    state_dir: ProjectPath = Field(
        Path("state"),
        validate_default=True,
        description="Locks, slots, logs and embedded databases; relative to the project.",
        examples=["state"],
    )
    max_workers: int = Field(
        4,
        ge=1,
        le=1024,
        description="Worker processes at once, over all runs on this machine.",
        examples=[16],
    )
    group_access: bool = Field(
        False,
        description="Give the group of the state folder, the databases and the logs what their owner may: for several"
        " users who run dwhctl on one project. Without it they are closed to all other users.",
        examples=[True],
    )
    keep_logs: SomeTime = Field(
        timedelta(days=30),
        description="How long the logs of runs stay in the state folder; all together never more than 1 GiB.",
        examples=["30d"],
    )
    watch_schedule: Schedule = Field(
        WATCH_SCHEDULE,
        description="When cron looks whether a `deadline` or a `max_age` is missed.",
        examples=["*/10 * * * *"],
    )


class SessionsTable(Table):
    """Where the sessions table is."""

    connection: Text = Field(description="A connection to PostgreSQL or SQLite.", examples=["etl"])


class PingsTable(Table):
    """How pings get to their service."""

    proxy: Secret | None = Field(
        None,
        description="An HTTP proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used.",
        examples=[{"env": "PING_PROXY"}],
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the service's certificate may come from;"
        " default: those of the package certifi.",
        examples=["config/proxy-ca.pem"],
    )


@dataclass(frozen=True)
class Project:
    """A project: its configuration with every name resolved and every path absolute."""

    root: Path
    timezone: str
    state_dir: Path
    max_workers: int
    sessions_connection: str
    connections: Mapping[str, Connection]
    shard_groups: Mapping[str, tuple[Shard, ...]] = field(default_factory=dict)
    variables: Mapping[str, Variable] = field(default_factory=dict)
    alerts: Mapping[str, Alert] = field(default_factory=dict)
    loads: Mapping[str, Load] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)
    refreshing: Refreshing = field(default_factory=Refreshing)
    keep_logs: timedelta = timedelta(days=30)
    warnings: tuple[str, ...] = ()
    watch_schedule: str = WATCH_SCHEDULE
    group_access: bool = False
    pings: PingsTable = field(default_factory=PingsTable)

    @property
    def zone(self) -> ZoneInfo:
        """The project's clock."""
        return ZoneInfo(self.timezone)

    @property
    def sessions(self) -> SqliteConnection | PostgresConnection:
        """The connection of the sessions table."""
        connection = self.connections[self.sessions_connection]
        if not isinstance(connection, SqliteConnection | PostgresConnection):
            raise ConfigError(
                f"config/dwhctl.toml: sessions.connection: {connection.name} is {connection.type};"
                " sessions stand in PostgreSQL or SQLite"
            )
        return connection

    def shards_of(self, load: Load) -> tuple[Shard, ...]:
        """The shards that a load loads from, in the order of the configuration."""
        return self.shard_groups[load.shards]

    def open_shards_of(self, load: Load, day: date) -> tuple[Shard, ...]:
        """The shards of a load that are not closed on that day."""
        return tuple(shard for shard in self.shards_of(load) if not shard.has_ended(day))

    def secrets(self) -> Iterator[Secret]:
        """Every secret of the project; each knows the key it stands at."""
        kinds = (self.connections, self.alerts, self.loads, self.reports)
        for table in (self.pings, *(each for kind in kinds for each in kind.values())):
            for name in type(table).model_fields:
                value = getattr(table, name)
                if isinstance(value, Secret):
                    yield value
        yield from secrets_in(self.variables)


def secrets_in(value: object) -> Iterator[Secret]:
    """Every secret in a tree of variables."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from secrets_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from secrets_in(each)
