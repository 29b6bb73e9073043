"""The kinds of values that keys of the configuration hold, and the base of every table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from dwhctl.core.errors import UsageError
from dwhctl.core.words import did_you_mean, quoted, shown_value
from dwhctl.project.days import DURATION_FORMS, parse_date, parse_duration

_NAME = re.compile(r"[a-z0-9_]+")
_TABLE = re.compile(r"[^\W\d][\w$]*\.[^\W\d][\w$]*")
_RELATION = re.compile(r"[^\W\d][\w$]*(\.[^\W\d][\w$]*){0,2}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_QUERY = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_SCHEDULE_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
# Debian's cron takes a step after a star or a range only, and none of the letters that other crons have (L, W, #).
_SCHEDULE_PART = re.compile(r"(?:\*|[0-9a-z]+-[0-9a-z]+)(?:/[0-9]+)?|[0-9a-z]+", re.ASCII | re.IGNORECASE)
#: Cron's words, and what they stand for: crontab(5).
SCHEDULE_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


class Table(BaseModel):
    """One table of a configuration file: unknown keys and wrong types are errors, nothing changes later."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
    )

    #: The keys that `[load_defaults]` or `[report_defaults]` cannot hold: each load or report has its own.
    own_keys: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def file_keys(cls) -> dict[str, FieldInfo]:
        """The keys that may stand in the file, as they are written there."""
        return {f.alias or name: f for name, f in cls.model_fields.items() if not _is_given(f)}

    @classmethod
    def shared_keys(cls) -> dict[str, FieldInfo]:
        """Return the keys that the defaults of this kind of table may hold."""
        return {key: field for key, field in cls.file_keys().items() if key not in cls.own_keys}


class TableWithoutUrls(Table):
    """A table whose texts are names and addresses: a URL in one of them has a password in it sooner or later."""

    url_keys: ClassVar[frozenset[str]] = frozenset({"api_base", "proxy", "password", "token"})

    @model_validator(mode="before")
    @classmethod
    def _no_url(cls, table: Any) -> Any:
        for key, value in table.items() if isinstance(table, dict) else ():
            texts = value if isinstance(value, list) else [value]
            # An unknown key has an error of its own, with the key that was meant.
            is_text = key in cls.file_keys() and key not in cls.url_keys
            if is_text and any(isinstance(each, str) and "://" in each for each in texts):
                raise ValueError(
                    f"{key}: holds a URL; server, user, password and database have keys of their own"
                )
        return table


def given(description: str, default: Any = ...) -> Any:
    """A field that the reader fills from where the table stands; it is no key of the file."""
    return Field(default, description=description, json_schema_extra={"given": True})


def _is_given(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("given"))


def name_problem(name: str) -> str | None:
    """Why this is no name for a load or shard, or None."""
    if not _NAME.fullmatch(name):
        return "a name is made of a-z, 0-9 and _"
    return "a name holds no '__': it parts load and shard in task_name" if "__" in name else None


# Names of the tz database that are no places: each machine, and each database system, has its own idea of them.
_THIS_MACHINES = {"localtime", "posixrules", "Factory"}
# Abbreviations that are no names of the tz database, and the zones that people mean by them.
_ABBREVIATIONS = {
    "MSK": ["Europe/Moscow"],
    "MSD": ["Europe/Moscow"],
    "SAMT": ["Europe/Samara"],
    "YEKT": ["Asia/Yekaterinburg"],
    "OMST": ["Asia/Omsk"],
    "NOVT": ["Asia/Novosibirsk"],
    "KRAT": ["Asia/Krasnoyarsk"],
    "IRKT": ["Asia/Irkutsk"],
    "YAKT": ["Asia/Yakutsk"],
    "VLAT": ["Asia/Vladivostok"],
    "MAGT": ["Asia/Magadan"],
    "PETT": ["Asia/Kamchatka"],
    "BST": ["Europe/London"],
    "WEST": ["Europe/Lisbon"],
    "CEST": ["CET", "Europe/Berlin"],
    "EEST": ["EET", "Europe/Kyiv"],
    "TRT": ["Europe/Istanbul"],
    "EDT": ["America/New_York"],
    "CST": ["America/Chicago", "Asia/Shanghai"],
    "CDT": ["America/Chicago"],
    "MDT": ["America/Denver"],
    "PST": ["America/Los_Angeles"],
    "PDT": ["America/Los_Angeles"],
    "AST": ["America/Halifax"],
    "BRT": ["America/Sao_Paulo"],
    "IST": ["Asia/Kolkata", "Asia/Jerusalem", "Europe/Dublin"],
    "PKT": ["Asia/Karachi"],
    "SGT": ["Asia/Singapore"],
    "HKT": ["Asia/Hong_Kong"],
    "JST": ["Asia/Tokyo"],
    "KST": ["Asia/Seoul"],
    "AEST": ["Australia/Sydney", "Australia/Brisbane"],
    "AEDT": ["Australia/Sydney"],
    "NZST": ["Pacific/Auckland"],
    "NZDT": ["Pacific/Auckland"],
}
_OFFSET = re.compile(
    r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?", re.ASCII | re.IGNORECASE
)


def zone_problem(name: str, *extra: str) -> str | None:
    """Why this is no time zone, or None; `extra` words are good as well."""
    try:
        if name in _THIS_MACHINES:
            raise ValueError(name)
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"{quoted(name)} is no time zone of the IANA list; {_meant_zone(name, extra)}"
    return None


def _meant_zone(name: str, extra: Sequence[str]) -> str:
    from zoneinfo import available_timezones

    zones = available_timezones() - _THIS_MACHINES
    if meant := _ABBREVIATIONS.get(name.upper()):
        return f"an abbreviation is no zone: write {' or '.join(meant)}"
    if offset := _OFFSET.fullmatch(name):
        # POSIX counts the other way round: Etc/GMT-3 is three hours ahead.
        fixed = f"Etc/GMT{'-' if offset['sign'] == '+' else '+'}{int(offset['hours'])}"
        also = (
            f", or {fixed} where the clock never changes"
            if fixed in zones and not int(offset["minutes"] or 0)
            else ""
        )
        return f"an offset is no zone: write one as Europe/Moscow{also}"
    wanted = name.lower().replace(" ", "_")
    same = [each for each in zones if wanted in (each.lower(), each.rpartition("/")[2].lower())]
    if same:
        return f"did you mean '{min(same, key=len)}'?"
    # The short names (MST, W-SU) are old; a slip in another short name does not mean them.
    places = [each for each in zones if "/" in each]
    return did_you_mean(name, [*places, *extra]) or "write one as Europe/Moscow or UTC"


def _zone(name: str) -> str:
    problem = zone_problem(name)
    if problem:
        raise ValueError(problem)
    return name


def _slice_zone(name: str) -> str:
    problem = None if name == "wall" else zone_problem(name, "wall")
    if problem:
        raise ValueError(f'{problem}; or write "wall", the shard\'s own clock')
    return name


def _day(value: object) -> object:
    if isinstance(value, datetime) or not isinstance(value, date | str):
        raise ValueError(f"is {shown_value(value)}; write a date as 2020-02-08")
    if isinstance(value, date):
        return value
    try:
        return parse_date(value)
    except ValueError as error:
        raise ValueError(f"{quoted(value)}: {error}; write a date as 2020-02-08") from None


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(f"is {shown_value(value)}; write a duration in quotes: {DURATION_FORMS}")
    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _some_time(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _time_of_day(value: object) -> object:
    if isinstance(value, time):
        return value
    if not isinstance(value, str):
        raise ValueError(f'is {shown_value(value)}; write a time of day in quotes: "07:00"')
    if not _CLOCK.fullmatch(value):
        raise ValueError(f'{quoted(value)} is no time of day; write one from "00:00" to "23:59", as "07:00"')
    return time.fromisoformat(value)


def _host(value: str) -> str:
    # A path is the folder of a PostgreSQL server's socket.
    if not value.startswith("/") and re.search(r"[@/\s]", value):
        raise ValueError(
            "is no name of a server; write it alone: user, password and database have keys of their own"
        )
    return value


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _path_in(folder: str) -> BeforeValidator:
    def absolute(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str | Path) or value == "":
            return _no_path(value)
        if re.search(r"://|\w:[^/]*@", str(value)):
            raise ValueError("is an address; write a path")
        path = Path(value).expanduser()
        root = (info.context or {}).get("root")
        return Path(root, folder, path) if root is not None else path

    return BeforeValidator(absolute)


def _no_path(value: object) -> object:
    raise ValueError(
        f"is {shown_value(value)}; write a path in quotes" if value != "" else "is empty; write a path"
    )


def table_problem(name: str) -> str | None:
    """Why this is no name of a table with its schema, or None."""
    if _TABLE.fullmatch(name):
        return None
    return f'{quoted(name)} is no table with its schema; write it as "stage.orders"'


def _table(value: str) -> str:
    problem = table_problem(value)
    if problem:
        raise ValueError(problem)
    return value


def _rows_of(value: object, info: ValidationInfo) -> object:
    """Tell a file, a name and a query from each other: a file ends with .sql, a query begins with SELECT or WITH."""
    if isinstance(value, Path) or not isinstance(value, str):
        return value
    if value.endswith(".sql") and not _QUERY.match(value):
        root = (info.context or {}).get("root")
        return Path(root, "sql", value) if root is not None else Path(value)
    if is_relation(value) or _QUERY.match(value):
        return value
    raise ValueError(
        f'{quoted(value)} is no view, query or file; write a view or table as "reports.orders_view", a query that'
        ' begins with SELECT or WITH, or a file in sql/ as "reports/orders.sql"'
    )


def is_relation(text: str) -> bool:
    """Tell whether this is the name of a view or table, with or without its schema and database."""
    return _RELATION.fullmatch(text) is not None


def _schedule(value: str) -> str:
    if value in SCHEDULE_WORDS:
        return value
    # Not split(): to it a newline, which would end cron's line, is a space as well.
    parts = [part for part in re.split(r"[ \t]", value) if part]
    if len(parts) != len(_SCHEDULE_FIELDS):
        raise ValueError(
            f"{quoted(value)} has {len(parts)} of the 5 fields minute, hour, day, month, weekday; "
            f'write it as in a crontab: "0 */6 * * *", or {", ".join(SCHEDULE_WORDS)}'
        )
    for place, (part, (field, lowest, highest)) in enumerate(zip(parts, _SCHEDULE_FIELDS, strict=True)):
        alone = " ".join(part if place == each else "*" for each in range(len(parts)))
        if not all(map(_SCHEDULE_PART.fullmatch, part.split(","))) or not _is_schedule(alone):
            raise ValueError(
                f"{quoted(value)}: {quoted(part)} is no {field} of a crontab ({lowest} to {highest}, *, */2, 1-5)"
            )
    schedule = " ".join(parts)
    if not _is_schedule(schedule):
        raise ValueError(f"{quoted(value)} never comes: no month of it has such a day")
    return schedule


def _is_schedule(expression: str) -> bool:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(expression, datetime(2020, 1, 1))  # noqa: DTZ001 - only read, not asked for a time
    except CronSimError:
        return False
    return True


Text = Annotated[str, Field(min_length=1)]
Host = Annotated[Text, AfterValidator(_host)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
SomeTexts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
Zone = Annotated[str, AfterValidator(_zone)]
SliceZone = Annotated[str, AfterValidator(_slice_zone)]
Day = Annotated[date, BeforeValidator(_day)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day)]
SomeTime = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_some_time)]
SqlFile = Annotated[Path, _path_in("sql")]
AlertFile = Annotated[Path, _path_in("config/alerts")]
ProjectPath = Annotated[Path, _path_in("")]
TableName = Annotated[str, AfterValidator(_table)]
Rows = Annotated[Path | str, BeforeValidator(_rows_of)]
Schedule = Annotated[str, AfterValidator(_schedule)]
Listed = BeforeValidator(_listed)
