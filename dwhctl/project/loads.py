"""The tables of loads, shards and reports."""

from __future__ import annotations

from datetime import date, time, timedelta
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from msgspec import Struct
from pydantic import AfterValidator, Field, model_validator

from dwhctl.core.columns import SERVICE_FIELDS
from dwhctl.core.secrets import Secret
from dwhctl.core.words import quoted
from dwhctl.project.endpoint import Endpoint
from dwhctl.project.fields import (
    Day,
    Duration,
    Listed,
    NamedTable,
    Rows,
    Schedule,
    SliceZone,
    SomeTexts,
    SomeTime,
    SqlFile,
    Table,
    TableName,
    TableWithoutUrls,
    Text,
    Texts,
    TimeOfDay,
    Zone,
    given,
)
from dwhctl.project.response_columns import ResponseColumns


def _columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    for position, column in enumerate(map(_column, columns)):
        if column in columns[:position]:
            raise ValueError(f"contains {quoted(column)} twice; write each column once")
    return columns


def _column(column: str) -> str:
    if column.lower() in SERVICE_FIELDS:
        raise ValueError(f"'{column}' is a service field, which dwhctl adds; write columns of the extract")
    return column


def _ping_url(secret: Secret) -> Secret:
    # A reference is resolved, and checked, only when it is used.
    if secret.is_literal and not secret.reveal().startswith(("http://", "https://")):
        raise ValueError('is not a URL; write the address, "https://...", or { env = "NAME" }')
    return secret


PingUrl = Annotated[Secret, AfterValidator(_ping_url)]


class _Scheduled(NamedTable):
    #: The keys of the warehouse's connection and of the target table.
    warehouse_key: ClassVar[str]
    table_key: ClassVar[str]

    schedule: Schedule | None = Field(None, examples=["0 */6 * * *"])
    """When cron starts it, by the machine's clock."""
    ping_url: PingUrl | None = Field(None, examples=[{"env": "ORDERS_PING"}])
    """The URL of a monitoring service (protocol of healthchecks.io) that is notified of each start, success and
    failure."""
    retries: int = Field(3, ge=0, le=1000, examples=[3])
    """Attempts after the first one."""
    retry_delay: Duration = Field(timedelta(seconds=10), examples=["10s"])
    """The wait before the first retry; grows exponentially, with jitter."""
    timeout: SomeTime = Field(timedelta(minutes=30), examples=["30m"])
    """How long an attempt may take."""
    params: dict[str, Any] = Field(default_factory=dict, examples=[{"top": 10}])
    """Values for the templates, as `params.NAME`."""

    @property
    def warehouse(self) -> str:
        return str(getattr(self, self.warehouse_key))

    @property
    def target_table(self) -> str:
        return str(getattr(self, self.table_key))

    @property
    def title(self) -> str:
        return f"{type(self).__name__.lower()} '{self.name}'"


class Load(_Scheduled):
    """A named job: one extract query over a shard group into one target table."""

    warehouse_key, table_key = "target", "table"
    own_keys: ClassVar[frozenset[str]] = frozenset(
        {"extract", "endpoint", "columns", "table", "create", "ping_url"}
    )

    #: The load of which a shadow run loads the rows into another table; its own name is `orders@stage.orders_new`.
    shadow_of: str | None = given(default=None)
    shards: Text = Field(examples=["cities"])
    """The shard group to load from."""
    extract: SqlFile | None = Field(None, examples=["orders/extract.sql"])
    """The query that extracts a slice, one SELECT: Jinja, with `:start` and `:end` as bound values; relative to
    `sql/`. Required, but not with an HTTP source."""
    endpoint: Endpoint | None = Field(None, examples=[{"path": "calls", "data_selector": "$.items[*]"}])
    """What is asked of an HTTP source, in place of `extract`."""
    columns: ResponseColumns = Field(
        default_factory=dict, examples=[{"id": "bigint", "called_at": "timestamptz"}]
    )
    """The columns of an HTTP source with their types; or tables with `type`, `path`, `optional`."""
    target: Text = Field(examples=["dwh"])
    """The connection of the warehouse."""
    table: TableName = Field(examples=["stage.orders"])
    """The target table with its schema."""
    create: SqlFile | None = Field(None, examples=["orders/create.vertica.sql"])
    """Statements that make schema and table with the service fields, run before each load; relative to `sql/`. Left
    out: a table that does not exist is made from the source's columns."""
    key: Annotated[SomeTexts, AfterValidator(_columns)] = Field(examples=[["id"]])
    """The columns that are unique within a shard."""
    ready: SqlFile | None = Field(None, examples=["orders/ready.sql"])
    """A query on the shard, one SELECT: a slice starts when the first column of its first row is true. Jinja, with
    `:start` and `:end`, as `extract`; relative to `sql/`."""
    ready_interval: SomeTime = Field(timedelta(minutes=1), examples=["1m"])
    """The time between two checks of `ready`."""
    ready_timeout: Duration = Field(timedelta(hours=1), examples=["2h"])
    """How long after the start of the run `ready` may be false before the slice fails as NotReady."""
    slice_by: Annotated[Text, AfterValidator(_column)] | None = Field(None, examples=["start_time"])
    """The column with a row's time, which decides its day; without it a slice is the shard's whole table."""
    slice_zone: SliceZone = Field("wall", examples=["UTC"])
    """The clock of the values in `slice_by`: "wall" (the shard's own), "UTC", or an IANA zone."""
    split: int = Field(1, ge=1, le=64, examples=[2])
    """How many parts of a slice are read and staged at once, each by a worker with its own connections; the slice stays
    one in all else. Parts are cut by time, within the slice's day, or by `split_by`."""
    split_by: Annotated[Text, AfterValidator(_column)] | None = Field(None, examples=["id"])
    """The column of the extract by whose ranges `split` cuts: whole numbers, decimals or dates. Left out: by time, and
    the query then uses both bounds of the slice."""
    start_date: Day | None = Field(None, examples=[date(2020, 2, 8)])
    """No slice before it is expected."""
    catch_up: int | None = Field(None, ge=1, le=3650, examples=[14])
    """How many days back a scheduled load completes incomplete slices; left out, it also reloads yesterday."""
    deadline: TimeOfDay | None = Field(None, examples=[time(7)])
    """The time of day, by the project's clock, by which yesterday's slices must be complete."""
    max_age: SomeTime | None = Field(None, examples=["8h"])
    """How long ago the last successful session of each shard may have started."""
    max_shrink: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, examples=[0.5])
    """The share of a slice's rows that may vanish from the source before the session fails, for slices of
    `shrink_floor` rows or more. Such a slice never becomes empty, whatever the share, without `--allow-shrink`."""
    shrink_floor: int = Field(10, ge=1, examples=[10])
    """The number of rows in the target from which `max_shrink` protects a slice; a smaller slice may shrink freely,
    also to nothing."""
    on_new_column: Literal["refuse", "add"] = Field("refuse", examples=["add"])
    """Whether a column that only the source has is added to the table. With `add` a column that a shard has never
    delivered is NULL in its rows."""
    verify_columns: Texts = Field((), examples=[["amount"]])
    """Columns whose values `verify` compares as well."""

    @property
    def can_be_direct(self) -> bool:
        """Whether a worker may write a slice into the table itself, where the target allows it.

        Not in parts; and not where new columns are added to the table: whether a shard lost one is found out from what
        the table holds.
        """
        return self.on_new_column != "add" and self.split == 1


class ShardEntry(TableWithoutUrls):
    """A shard as a table in its group; a text alone is both name and database."""

    name: Text | None = Field(None, examples=["jfk_aa"])
    """The shard's name, unique in the project; default: the database's."""
    database: Text | None = Field(None, examples=["AA"])
    """The database on the connection; default: the shard's name."""
    zone: Zone | None = Field(None, examples=["Asia/Chita"])
    """The shard's own clock; default: the project's."""
    from_date: Day | None = Field(None, alias="from", examples=[date(2020, 3, 1)])
    """No slice of this shard before it is expected."""
    until_date: Day | None = Field(None, alias="until", examples=[date(2020, 9, 30)])
    """The last day of a closed shard: no slice after it is expected, and its rows are kept."""

    @model_validator(mode="after")
    def _named(self) -> ShardEntry:
        if self.name is None and self.database is None:
            raise ValueError('name: is missing; add name = "SHARD", database = "DATABASE", or both')
        if self.from_date and self.until_date and self.until_date < self.from_date:
            raise ValueError(f"until: {self.until_date} is before from, {self.from_date}")
        return self


class Shard(Struct, frozen=True):
    """One source database behind a connection."""

    name: str
    database: str
    connection: str
    zone: str
    from_date: date | None = None
    until_date: date | None = None

    def has_ended(self, day: date) -> bool:
        """Return whether the day is after the shard's last one."""
        return self.until_date is not None and day > self.until_date

    @property
    def zoneinfo(self) -> ZoneInfo:
        return ZoneInfo(self.zone)


def is_expected(load: Load, shard: Shard, day: date) -> bool:
    """Return whether the configuration expects the slice: its day is between the first and the last one."""
    first = max(filter(None, (load.start_date, shard.from_date)), default=day)
    return first <= day and not shard.has_ended(day)


class Need(Table):
    """A load that a report waits for."""

    load: Text = Field(examples=["orders"])
    """The load."""
    at_least: float = Field(1.0, ge=0, le=1, allow_inf_nan=False, examples=[0.98])
    """The share of the date's slices that must be complete."""


class Report(_Scheduled):
    """A target table refreshed from a view or query inside the warehouse."""

    warehouse_key, table_key = "connection", "target"
    own_keys: ClassVar[frozenset[str]] = frozenset({"source", "target", "create", "ping_url"})

    connection: Text = Field(examples=["dwh"])
    """The connection of the warehouse."""
    source: Rows = Field(examples=["reports.city_orders_view"])
    """Where the rows come from: a view or table (`schema.name`), a query (it begins with SELECT or WITH), or a file
    with a query (it ends with `.sql`; relative to `sql/`). Queries are Jinja."""
    target: TableName = Field(examples=["reports.city_orders"])
    """The table to refresh, with its schema."""
    create: SqlFile | None = Field(None, examples=["reports/city_orders.vertica.sql"])
    """Statements that make schema, table and view, run before each refresh, so IF NOT EXISTS or OR REPLACE; relative
    to `sql/`."""
    needs: Annotated[tuple[Need, ...], Listed] = Field((), examples=[[{"load": "orders", "at_least": 1.0}]])
    """The loads it waits for."""
    wait: Duration | None = Field(None, examples=["2h"])
    """How long `refresh-reports` waits for its `needs` without `--wait`. Left out: `wait` of `[refresh]`."""
    min_rows: int = Field(0, ge=0, examples=[1])
    """With fewer rows the refresh fails, and the old content stays."""
    deadline: TimeOfDay | None = Field(None, examples=[time(8)])
    """The time of day, by the project's clock, by which it must be refreshed for yesterday."""
    max_age: SomeTime | None = Field(None, examples=["26h"])
    """How long ago its last successful refresh may have started."""


class Refreshing(Table):
    """The settings for refreshing reports."""

    max_parallel: int = Field(2, ge=1, le=64, examples=[4])
    """Reports that one `refresh-reports` refreshes at once."""
    wait: Duration = Field(timedelta(0), examples=["2h"])
    """How long `refresh-reports` waits for the `needs` of a report without a `wait`, without `--wait`."""
