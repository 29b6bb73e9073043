"""Loads, shards and reports: the named work of a project."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, time, timedelta
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from dwhctl.core.columns import SERVICE_FIELDS
from dwhctl.core.secrets import Secret
from dwhctl.core.words import quoted
from dwhctl.project.endpoint import Endpoint, ResponseColumns
from dwhctl.project.fields import (
    Day,
    Duration,
    Listed,
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


def _columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    for column in columns:
        _column(column)
    doubles = [name for name, times in Counter(columns).items() if times > 1]
    if doubles:
        raise ValueError(f"names {quoted(doubles[0])} twice")
    return columns


def _column(column: str) -> str:
    if column.lower() in SERVICE_FIELDS:
        raise ValueError(
            f"'{column}' is a service field that dwhctl adds itself; name columns of the extract"
        )
    return column


def _ping_url(secret: Secret) -> Secret:
    # What is read from the environment or a file is looked at when it is used.
    if secret.is_literal and not secret.reveal().startswith(("http://", "https://")):
        raise ValueError('is no URL; write the check\'s address, "https://...", or { env = "NAME" }')
    return secret


PingUrl = Annotated[Secret, AfterValidator(_ping_url)]


class Load(Table):
    """A named job: one extract query over a shard group into one target table."""

    own_keys: ClassVar[frozenset[str]] = frozenset(
        {"extract", "endpoint", "columns", "table", "create", "ping_url"}
    )

    name: str = given(
        "the file's name without .toml; of a shadow run also its table: `orders@stage.orders_new`"
    )
    shadow_of: str | None = given("the load whose rows a shadow run takes into another table", default=None)
    shards: Text = Field(description="The shard group to load from.", examples=["cities"])
    extract: SqlFile | None = Field(
        None,
        description="The query that extracts a slice, one SELECT: Jinja, with `:start` and `:end` as bound values; "
        "relative to `sql/`. Required, but not with an HTTP source.",
        examples=["orders/extract.sql"],
    )
    endpoint: Endpoint | None = Field(
        None,
        description="What is asked of an HTTP source, in place of `extract`.",
        examples=[{"path": "calls", "data_selector": "$.items[*]"}],
    )
    columns: ResponseColumns = Field(
        default_factory=dict,
        description="The columns of an HTTP source with their types; or tables with `type`, `path`, `optional`.",
        examples=[{"id": "bigint", "called_at": "timestamptz"}],
    )
    target: Text = Field(description="The connection of the warehouse.", examples=["dwh"])
    table: TableName = Field(description="The target table with its schema.", examples=["stage.orders"])
    create: SqlFile | None = Field(
        None,
        description="Statements that make schema and table with the service fields, run before each load; "
        "relative to `sql/`.",
        examples=["orders/create.vertica.sql"],
    )
    key: Annotated[SomeTexts, AfterValidator(_columns)] = Field(
        description="The columns that are unique within a shard.", examples=[["id"]]
    )
    slice_by: Annotated[Text, AfterValidator(_column)] | None = Field(
        None,
        description="The column that tells a row's day; without it a slice is the shard's whole table.",
        examples=["start_time"],
    )
    slice_zone: SliceZone = Field(
        "wall",
        description='The clock that the column holds: "wall" (the shard\'s own), "UTC", or an IANA zone.',
        examples=["UTC"],
    )
    start_date: Day | None = Field(
        None, description="No slice before it is expected.", examples=[date(2020, 2, 8)]
    )
    schedule: Schedule | None = Field(
        None, description="When cron starts it, by the machine's clock.", examples=["0 */6 * * *"]
    )
    catch_up: int | None = Field(
        None,
        ge=1,
        le=3650,
        description="How many days before today a scheduled load looks back on for incomplete slices;"
        " left out, it loads yesterday again as well.",
        examples=[14],
    )
    deadline: TimeOfDay | None = Field(
        None,
        description="The time of day, by the project's clock, by which yesterday's slices must be complete.",
        examples=[time(7)],
    )
    max_age: SomeTime | None = Field(
        None,
        description="How long ago the last successful session of each shard may have started.",
        examples=["8h"],
    )
    ping_url: PingUrl | None = Field(
        None,
        description="Where a service outside (healthchecks.io's protocol) is told that the load starts, succeeds or"
        " fails.",
        examples=[{"env": "ORDERS_PING"}],
    )
    retries: int = Field(3, ge=0, le=1000, description="Attempts after the first one.", examples=[3])
    retry_delay: Duration = Field(
        timedelta(seconds=10),
        description="The wait before the first retry; grows exponentially, with jitter.",
        examples=["10s"],
    )
    timeout: SomeTime = Field(
        timedelta(minutes=30), description="How long an attempt may take.", examples=["30m"]
    )
    max_shrink: float = Field(
        0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of a slice's rows that may vanish from the source before the session fails. It holds"
        " for slices of `shrink_floor` rows or more; such a slice never becomes empty, whatever the share, unless"
        " `--allow-shrink` is given.",
        examples=[0.5],
    )
    shrink_floor: int = Field(
        10,
        ge=1,
        description="From how many rows in the target on a slice is guarded against a shrinking source; a smaller"
        " slice may shrink freely, also to nothing.",
        examples=[10],
    )
    on_new_column: Literal["refuse", "add"] = Field(
        "refuse",
        description="Whether a column that only the source has is added to the table. With `add` a column that a shard"
        " has never delivered is NULL in its rows.",
        examples=["add"],
    )
    verify_columns: Texts = Field(
        (), description="Columns whose values `verify` compares as well.", examples=[["amount"]]
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Values for the templates, as `params.NAME`.",
        examples=[{"top": 10}],
    )


class ShardEntry(TableWithoutUrls):
    """A shard as a table in its group; a text alone stands for name and database both."""

    name: Text | None = Field(
        None,
        description="The shard's name, unique in the project; default: the database's.",
        examples=["jfk_aa"],
    )
    database: Text | None = Field(
        None, description="The database on the connection; default: the shard's name.", examples=["AA"]
    )
    zone: Zone | None = Field(
        None, description="The shard's own clock; default: the project's.", examples=["Asia/Chita"]
    )
    from_date: Day | None = Field(
        None,
        alias="from",
        description="No slice of this shard before it is expected.",
        examples=[date(2020, 3, 1)],
    )
    until_date: Day | None = Field(
        None,
        alias="until",
        description="The last day of a closed shard: no slice after it is expected, and its rows stay known.",
        examples=[date(2020, 9, 30)],
    )

    @model_validator(mode="after")
    def _named(self) -> ShardEntry:
        if self.name is None and self.database is None:
            raise ValueError('name: is missing; add name = "SHARD", database = "DATABASE", or both')
        if self.from_date and self.until_date and self.until_date < self.from_date:
            raise ValueError(f"until: {self.until_date} is before from, {self.from_date}")
        return self


@dataclass(frozen=True, slots=True)
class Shard:
    """One source database behind a connection."""

    name: str
    database: str
    connection: str
    zone: str
    from_date: date | None = None
    until_date: date | None = None

    def has_ended(self, day: date) -> bool:
        """Tell whether the day is after the shard's last one."""
        return self.until_date is not None and day > self.until_date

    @property
    def zoneinfo(self) -> ZoneInfo:
        """The shard's own clock."""
        return ZoneInfo(self.zone)


def is_expected(load: Load, shard: Shard, day: date) -> bool:
    """Tell whether the configuration expects the slice: its day is not before the first one, nor after the last."""
    starts = (load.start_date, shard.from_date)
    return not any(start is not None and day < start for start in starts) and not shard.has_ended(day)


class Need(Table):
    """What a report waits for."""

    load: Text = Field(description="The load.", examples=["orders"])
    at_least: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of the date's slices that must be complete.",
        examples=[0.98],
    )


class Report(Table):
    """A target table refreshed from a view or query inside the warehouse."""

    own_keys: ClassVar[frozenset[str]] = frozenset({"source", "target", "create", "ping_url"})

    name: str = given("the report's name")
    connection: Text = Field(description="The connection of the warehouse.", examples=["dwh"])
    source: Rows = Field(
        description="Where the rows come from: a view or table (`schema.name`), a query (it begins with SELECT or "
        "WITH), or a file with a query (it ends with `.sql`; relative to `sql/`). Queries are Jinja.",
        examples=["reports.city_orders_view"],
    )
    target: TableName = Field(
        description="The table to refresh, with its schema.", examples=["reports.city_orders"]
    )
    create: SqlFile | None = Field(
        None,
        description="Statements that make schema, table and view, run before each refresh, so IF NOT EXISTS or "
        "OR REPLACE; relative to `sql/`.",
        examples=["reports/city_orders.vertica.sql"],
    )
    needs: Annotated[tuple[Need, ...], Listed] = Field(
        (), description="The loads it waits for.", examples=[[{"load": "orders", "at_least": 1.0}]]
    )
    wait: Duration | None = Field(
        None,
        description="How long `refresh-reports` waits for its `needs` when no `--wait` is given; left out, as long as"
        " `wait` in `[refresh]` says.",
        examples=["2h"],
    )
    min_rows: int = Field(
        0, ge=0, description="With fewer rows the refresh fails, and the old content stays.", examples=[1]
    )
    schedule: Schedule | None = Field(
        None, description="When cron starts it, by the machine's clock.", examples=["30 6 * * *"]
    )
    deadline: TimeOfDay | None = Field(
        None,
        description="The time of day, by the project's clock, by which it must be refreshed for yesterday.",
        examples=[time(8)],
    )
    max_age: SomeTime | None = Field(
        None, description="How long ago its last successful refresh may have started.", examples=["26h"]
    )
    ping_url: PingUrl | None = Field(
        None,
        description="Where a service outside (healthchecks.io's protocol) is told that the refresh starts, succeeds or"
        " fails.",
        examples=[{"env": "CITY_ORDERS_PING"}],
    )
    retries: int = Field(3, ge=0, le=1000, description="Attempts after the first one.", examples=[3])
    retry_delay: Duration = Field(
        timedelta(seconds=10),
        description="The wait before the first retry; grows exponentially, with jitter.",
        examples=["10s"],
    )
    timeout: SomeTime = Field(
        timedelta(minutes=30), description="How long an attempt may take.", examples=["30m"]
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Values for the templates, as `params.NAME`.",
        examples=[{"top": 10}],
    )


class Refreshing(Table):
    """How reports are refreshed."""

    max_parallel: int = Field(
        2, ge=1, le=64, description="Reports that one `refresh-reports` refreshes at once.", examples=[4]
    )
    wait: Duration = Field(
        timedelta(0),
        description="How long `refresh-reports` waits for the `needs` of a report that has no `wait` of its own, when"
        " no `--wait` is given.",
        examples=["2h"],
    )
