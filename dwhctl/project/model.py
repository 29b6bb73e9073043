"""The project as typed objects: everything that its configuration says, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.project.connections import SYSTEMS, Connection
from dwhctl.project.fields import (
    AlertFile,
    Host,
    Listed,
    ProjectPath,
    Schedule,
    SomeTexts,
    SomeTime,
    Table,
    TableWithoutUrls,
    Text,
    Texts,
    Zone,
    given,
)
from dwhctl.project.loads import Load, Need, Refreshing, Report, Shard, ShardEntry

Occasion = Literal["all_success", "one_failed", "all_done", "sla_miss"]


def _id_text(value: Any) -> Any:
    # Telegram's chats are numbers; both 123 and "123" are what people write.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def chat_problem(chat: str) -> str | None:
    """Why this is no chat of Telegram, or None. It is not shown: it may be a token in the wrong place."""
    if re.fullmatch(r"-?\d+|@\w+", chat):
        return None
    return "is no chat; write its number, as -1001762374628, or a public chat's name, as @reports"


def _chat(chat: str) -> str:
    problem = None if "{" in chat else chat_problem(chat)  # a template is looked at when it is rendered
    if problem:
        raise ValueError(problem)
    return chat


class _Alert(TableWithoutUrls):
    """What every channel has."""

    name: str = given("the channel's name")
    when: Annotated[tuple[Occasion, ...], Listed, Field(min_length=1)] = Field(
        description="When a digest is sent; `one_failed` tells the recovery as well.",
        examples=[["one_failed", "sla_miss"]],
    )
    loads: Texts = Field(
        (),
        description="Only of these loads (and `reports`) it is told; with neither key of all.",
        examples=[["orders"]],
    )
    reports: Texts = Field(
        (),
        description="Only of these reports (and `loads`) it is told; with neither key of all.",
        examples=[["city_orders"]],
    )
    repeat_after: SomeTime = Field(
        timedelta(hours=24),
        description="A failure that is still the same is told again after this time.",
        examples=["24h"],
    )
    template: AlertFile | None = Field(
        None,
        description="A template of your own, relative to `config/alerts/`.",
        examples=["telegram_failures.jinja"],
    )


class TelegramAlert(_Alert):
    """A Telegram chat."""

    type: Literal["telegram"] = Field("telegram", description="The kind of channel.", examples=["telegram"])
    token: Secret = Field(description="The bot's token.", examples=[{"env": "TG_TOKEN"}])
    chat_id: Annotated[Text, BeforeValidator(_id_text), AfterValidator(_chat)] = Field(
        description="The chat; a template.", examples=["{{ var.value.failures_chat }}"]
    )
    api_base: Text = Field(
        "https://api.telegram.org", description="Where the API is.", examples=["https://api.telegram.org"]
    )
    proxy: Secret | None = Field(
        None,
        description="A proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used.",
        examples=[{"env": "TG_PROXY"}],
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the host's certificate may come from; default: those of the package certifi.",
        examples=["config/proxy-ca.pem"],
    )
    message_thread_id: int | None = Field(None, description="The topic of a forum chat.", examples=[7])


class EmailAlert(_Alert):
    """A mail to a list of people."""

    type: Literal["email"] = Field("email", description="The kind of channel.", examples=["email"])
    host: Host = Field(description="The mail server.", examples=["smtp.example.com"])
    port: int = Field(587, ge=1, le=65_535, description="Its port.", examples=[587])
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection is encrypted.", examples=["tls"]
    )
    tls_cafile: ProjectPath | None = Field(
        None,
        description="The authorities that the server's certificate may come from; default: the system's.",
        examples=["config/mail-ca.pem"],
    )
    user: Text | None = Field(None, description="The user to log in as.", examples=["dwh"])
    password: Secret | None = Field(None, description="The password.", examples=[{"env": "SMTP_PASSWORD"}])
    sender: Text = Field(alias="from", description="The sender; a template.", examples=["dwh@example.com"])
    to: SomeTexts = Field(
        description="The recipients; templates, each for one address or several with commas between.",
        examples=[["{{ var.value.all_the_kings_men }}"]],
    )

    @model_validator(mode="after")
    def _a_login_is_whole(self) -> EmailAlert:
        if (self.user is None) != (self.password is None):
            missing = "user" if self.user is None else "password"
            raise ValueError(
                f"{missing}: is missing; a login has a user and a password: add it, or drop both"
            )
        return self


Alert = TelegramAlert | EmailAlert

ALERT_TYPES: dict[str, type[Alert]] = {"telegram": TelegramAlert, "email": EmailAlert}


__all__ = [
    "ALERT_TYPES",
    "Alert",
    "Connection",
    "EmailAlert",
    "Load",
    "Need",
    "PingsTable",
    "Project",
    "ProjectTable",
    "Refreshing",
    "Report",
    "Secret",
    "SessionsTable",
    "Shard",
    "ShardEntry",
    "TelegramAlert",
    "Variable",
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
    def sessions(self) -> Connection:
        """The connection of the sessions table."""
        connection = self.connections[self.sessions_connection]
        if not SYSTEMS[connection.type].is_sessions:
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
                yield from secrets_in(getattr(table, name))
        yield from secrets_in(self.variables)


def secrets_in(value: object) -> Iterator[Secret]:
    """Every secret in a tree of variables, or of tables."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Table):
        for name in type(value).model_fields:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from secrets_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from secrets_in(each)
