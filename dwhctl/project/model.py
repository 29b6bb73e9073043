"""The project as typed objects: the whole configuration, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dwhctl.core.secrets import Secret
from dwhctl.project.connections import SYSTEMS, Connection, NetworkConnection, is_local
from dwhctl.project.fields import (
    AlertFile,
    Headers,
    Host,
    Listed,
    NamedTable,
    ProjectPath,
    Schedule,
    SomeTexts,
    SomeTime,
    Table,
    TableWithoutUrls,
    Text,
    Texts,
    Zone,
    leaves,
)
from dwhctl.project.loads import Load, Refreshing, Report, Shard
from dwhctl.project.problems import MAIN

Occasion = Literal["all_success", "one_failed", "all_done", "sla_miss"]


def _id_text(value: Any) -> Any:
    # Users write the number of a chat as 123 or "123".
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def chat_problem(chat: str) -> str | None:
    """Return why this is not a chat of Telegram, or None. The text is not shown: it may be a misplaced token."""
    if re.fullmatch(r"-?\d+|@\w+", chat):
        return None
    return "is not a chat; write its number, as -1001762374628, or a public chat's name, as @reports"


def _chat(chat: str) -> str:
    problem = None if "{" in chat else chat_problem(chat)  # a template is checked when it is rendered
    if problem:
        raise ValueError(problem)
    return chat


class _Alert(NamedTable, TableWithoutUrls):
    when: Annotated[tuple[Occasion, ...], Listed, Field(min_length=1)] = Field(
        examples=[["one_failed", "sla_miss"]]
    )
    """When a digest is sent; `one_failed` also reports the recovery."""
    loads: Texts = Field((), examples=[["orders"]])
    """The loads that the channel is limited to, beside `reports`; with neither key it gets all."""
    reports: Texts = Field((), examples=[["city_orders"]])
    """The reports that the channel is limited to, beside `loads`; with neither key it gets all."""
    repeat_after: SomeTime = Field(timedelta(hours=24), examples=["24h"])
    """The time after which an unchanged failure is reported again."""
    template: AlertFile | None = Field(None, examples=["telegram_failures.jinja"])
    """A template of your own, relative to `config/alerts/`."""


class TelegramAlert(_Alert):
    """A Telegram chat."""

    type: Literal["telegram"] = Field("telegram", examples=["telegram"])
    """The kind of channel."""
    token: Secret = Field(examples=[{"env": "TG_TOKEN"}])
    """The bot's token."""
    chat_id: Annotated[Text, BeforeValidator(_id_text), AfterValidator(_chat)] = Field(
        examples=["{{ var.value.failures_chat }}"]
    )
    """The chat; a template."""
    api_base: Text = Field("https://api.telegram.org", examples=["https://api.telegram.org"])
    """The URL of the API."""
    proxy: Secret | None = Field(None, examples=[{"env": "TG_PROXY"}])
    """A proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/proxy-ca.pem"])
    """The CA certificates for the host's certificate; default: those of the package certifi."""
    message_thread_id: int | None = Field(None, examples=[7])
    """The topic of a forum chat."""


class EmailAlert(_Alert):
    """A mail to a list of recipients."""

    type: Literal["email"] = Field("email", examples=["email"])
    """The kind of channel."""
    host: Host = Field(examples=["smtp.example.com"])
    """The mail server."""
    port: int = Field(587, ge=1, le=65535, examples=[587])
    """Its port."""
    security: Literal["starttls", "tls", "none"] = Field("starttls", examples=["tls"])
    """How the connection is encrypted."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/mail-ca.pem"])
    """The CA certificates for the server's certificate; default: the system's."""
    user: Text | None = Field(None, examples=["dwh"])
    """The user to log in as."""
    password: Secret | None = Field(None, examples=[{"env": "SMTP_PASSWORD"}])
    """The password."""
    sender: Text = Field(alias="from", examples=["dwh@example.com"])
    """The sender; a template."""
    to: SomeTexts = Field(examples=[["{{ var.value.all_the_kings_men }}"]])
    """The recipients; templates, each for one or more addresses, separated by commas."""

    @model_validator(mode="after")
    def _login_is_complete(self) -> EmailAlert:
        if (self.user is None) != (self.password is None):
            missing = "user" if self.user is None else "password"
            raise ValueError(
                f"{missing}: is missing; a login has a user and a password: add it, or drop both"
            )
        return self


class WebhookAlert(_Alert):
    """A POST of JSON to a URL: a chat of Slack, Mattermost or Teams, or a program of yours."""

    url_keys: ClassVar[frozenset[str]] = TableWithoutUrls.url_keys | {"url"}

    type: Literal["webhook"] = Field("webhook", examples=["webhook"])
    """The kind of channel."""
    service: Literal["slack", "mattermost", "teams", "json"] = Field("json", examples=["slack"])
    """Whose message it is; `json` sends the document of the template."""
    url: Secret = Field(examples=[{"env": "SLACK_WEBHOOK"}])
    """The address, which is a secret: who has it can write."""
    headers: Headers = Field({}, examples=[{"Authorization": {"env": "HOOK_AUTHORIZATION"}}])
    """Further headers; a value may be a secret."""
    allow_http: bool = Field(False, examples=[True])
    """Whether the address may be `http://` beyond this machine, where others can read it."""
    proxy: Secret | None = Field(None, examples=[{"env": "HOOK_PROXY"}])
    """A proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/proxy-ca.pem"])
    """The CA certificates for the host's certificate; default: those of the package certifi."""


class AppriseAlert(_Alert):
    """A service that the package Apprise knows; needs `dwhctl[apprise]`."""

    url_keys: ClassVar[frozenset[str]] = TableWithoutUrls.url_keys | {"url"}

    type: Literal["apprise"] = Field("apprise", examples=["apprise"])
    """The kind of channel."""
    url: Secret = Field(examples=[{"env": "DISCORD_URL"}])
    """Apprise's URL of one service, which is a secret."""


Alert = TelegramAlert | EmailAlert | WebhookAlert | AppriseAlert

ALERT_TYPES: dict[str, type[Alert]] = {
    "telegram": TelegramAlert,
    "email": EmailAlert,
    "webhook": WebhookAlert,
    "apprise": AppriseAlert,
}


WATCH_SCHEDULE = "*/5 * * * *"
DASK_REMEDY = "pip install 'dwhctl[dask]', or run with --executor local"
_SCHEDULER = re.compile(r"(tls|tcp)://(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")

Variable = str | int | float | bool | Secret | list["Variable"] | dict[str, "Variable"]


class ProjectTable(Table):
    """The project as a whole."""

    timezone: Zone = Field("UTC", examples=["Europe/Moscow"])
    """The time zone of the project's days, of the IANA list."""
    state_dir: ProjectPath = Field(Path("state"), validate_default=True, examples=["state"])
    """Locks, slots, logs and embedded databases; relative to the project."""
    max_workers: int = Field(4, ge=1, le=1024, examples=[16])
    """Worker processes at once, over all runs on this machine."""
    group_access: bool = Field(False, examples=[True])
    """Let the group read and write the state folder, the databases and the logs: for several users who run dwhctl on
    one project. Without it only the owner can."""
    keep_logs: SomeTime = Field(timedelta(days=30), examples=["30d"])
    """How long the logs of runs are kept in the state folder; all together at most 1 GiB."""
    watch_schedule: Schedule = Field(WATCH_SCHEDULE, examples=["*/10 * * * *"])
    """When cron checks whether a `deadline` or a `max_age` is missed."""


class SessionsTable(Table):
    """Where the sessions table is."""

    connection: Text = Field(examples=["etl"])
    """A connection to PostgreSQL or SQLite."""


class PingsTable(Table):
    """The network settings of pings."""

    proxy: Secret | None = Field(None, examples=[{"env": "PING_PROXY"}])
    """An HTTP proxy's URL, which may hold a password; the environment's HTTPS_PROXY is not used."""
    tls_cafile: ProjectPath | None = Field(None, examples=["config/proxy-ca.pem"])
    """The CA certificates for the service's certificate; default: those of the package certifi."""


class PageTable(Table):
    """The page that shows the state of the project."""

    path: ProjectPath | None = Field(None, examples=["/var/www/dwh/index.html"])
    """An HTML file that every run writes at its end, and `watch` too; relative to the project. Every user of the
    machine may read it."""


class ExecutorTable(Table):
    """Where the attempts of `load` and `backfill` run: in worker processes of this machine, or on a Dask cluster."""

    type: Literal["local", "dask"] = Field("local", examples=["dask"])
    """`dask` needs `dwhctl[dask]`; [cluster.md](cluster.md) says how to set a cluster up."""
    scheduler: Text | None = Field(None, examples=["tls://dask.example.com:8786"])
    """The address of the Dask scheduler. `tcp://` is refused beyond this machine: who reaches an open scheduler runs
    programs on the workers, and the passwords of the connections travel to them."""
    ca: ProjectPath | None = Field(None, examples=["config/dask-ca.pem"])
    """The CA certificates of the cluster, for `tls://`."""
    cert: ProjectPath | None = Field(None, examples=["config/dask-client.pem"])
    """The certificate that this machine shows to the cluster."""
    key: ProjectPath | None = Field(None, examples=["config/dask-client-key.pem"])
    """The private key of `cert`."""
    insecure: bool = Field(False, examples=[True])
    """Whether `tcp://` may be used beyond this machine, in a network that only these machines are in."""
    shared_state: bool = Field(False, examples=[True])
    """Whether the workers have the state folder and the database files at the same paths as this machine, on a shared
    file system: sources and targets in files need that."""
    wait: SomeTime = Field(timedelta(minutes=1), examples=["5m"])
    """How long a run waits for the scheduler, and for a worker when there is none."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection to the scheduler is encrypted."""
        return (self.scheduler or "").startswith("tls://")

    @property
    def is_local(self) -> bool:
        """Whether the scheduler is on this machine, and its workers are taken to be as well."""
        return is_local(urlsplit(self.scheduler or "").hostname or "")

    def problem(self) -> tuple[str, str] | None:
        """Return the key with a problem and what it is, or None."""
        if self.type == "local":
            return None
        if self.scheduler is None:
            return "scheduler", 'is missing; write the address of the Dask scheduler, as "tls://HOST:8786"'
        if not _SCHEDULER.fullmatch(self.scheduler):
            return "scheduler", 'is not an address of a Dask scheduler; write "tls://HOST:PORT"'
        if self.is_encrypted:
            missing = [key for key in ("ca", "cert", "key") if getattr(self, key) is None]
            if missing:
                return missing[0], "is missing; tls:// needs the files of ca, cert and key"
        elif not (self.is_local or self.insecure):
            return "scheduler", (
                "tcp:// is not encrypted, and anyone who reaches the port runs programs on the workers; use tls:// with"
                " ca, cert and key, or write insecure = true in a network of your own"
            )
        return None

    @model_validator(mode="after")
    def _is_complete(self) -> ExecutorTable:
        if problem := self.problem():
            raise ValueError(": ".join(problem))
        return self

    def files_problem(self, connections: Iterable[Connection]) -> str | None:
        """Return which of these keeps files that the workers do not have, and the remedies, or None."""
        if self.type == "local" or self.is_local or self.shared_state:
            return None
        for connection in connections:
            if not isinstance(connection, NetworkConnection):
                return (
                    f"connection {connection.name} is of type {connection.type}, which keeps files in this machine's"
                    f" state folder or beside it, and the workers of {self.scheduler} are on other machines; put the"
                    " project on a file system that they share and write shared_state = true in [executor], or run"
                    " with --executor local"
                )
        return None

    def warnings(self, connections: Iterable[Connection]) -> tuple[str, ...]:
        """Return what is allowed but should not stay, and what a load over these connections would refuse."""
        if self.type == "local":
            return ()
        table, found = MAIN.at("executor"), []
        if not (self.is_encrypted or self.is_local):
            risk = "passwords go to the Dask cluster unencrypted, and anyone who reaches its ports runs programs on it"
            found.append(f"{table.at('insecure')}: {risk}; use tls://")
        if find_spec("distributed") is None:
            found.append(f"{table.at('type')}: needs a package that is not installed; {DASK_REMEDY}")
        if problem := self.files_problem(connections):
            found.append(f"{table}: {problem}")
        return tuple(found)


@dataclass(frozen=True)
class Project:
    """A project: its configuration with every name resolved and every path absolute.

    `place` is the root if --project gave it: the commands in messages need it then.
    """

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
    page: PageTable = field(default_factory=PageTable)
    executor: ExecutorTable = field(default_factory=ExecutorTable)
    place: Path | None = None

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def sessions(self) -> Connection:
        connection = self.connections[self.sessions_connection]
        if not SYSTEMS[connection.type].is_sessions:
            what = f"{connection.name} is {connection.type}; use a connection to PostgreSQL or SQLite"
            raise MAIN.at("sessions", "connection").error(what)
        return connection

    def work(self) -> Iterator[Load | Report]:
        """Yield every load and report."""
        yield from self.loads.values()
        yield from self.reports.values()

    def shards_of(self, load: Load) -> tuple[Shard, ...]:
        """Return the shards of a load, in the order of the configuration."""
        return self.shard_groups[load.shards]

    def open_shards_of(self, load: Load, day: date) -> tuple[Shard, ...]:
        """Return the shards of a load that are not closed on that day."""
        return tuple(shard for shard in self.shards_of(load) if not shard.has_ended(day))

    def secrets(self) -> Iterator[Secret]:
        """Yield every secret of the project; each knows its place."""
        tables = (self.connections, self.alerts, self.loads, self.reports)
        for table in (self.pings, *(table for kind in tables for table in kind.values())):
            yield from table.secrets().values()
        yield from (leaf for leaf in leaves(self.variables) if isinstance(leaf, Secret))
