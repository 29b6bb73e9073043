"""The types of configuration values, and the base class of every table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dwhctl.core.secrets import Secret, is_sensitive
from dwhctl.core.words import did_you_mean, quoted, shown_value
from dwhctl.project.days import DURATION_FORMS, parse_date, parse_duration

_NAME = re.compile(r"[a-z0-9_]+")
_TABLE = re.compile(r"[^\W\d][\w$]*\.[^\W\d][\w$]*")
_RELATION = re.compile(r"[^\W\d][\w$]*(\.[^\W\d][\w$]*){0,2}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_QUERY = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_SCHEDULE_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
# Debian's cron accepts a step only after a star or a range, and no L, W or # as other crons do.
_SCHEDULE_PART = re.compile(r"(?:\*|[0-9a-z]+-[0-9a-z]+)(?:/[0-9]+)?|[0-9a-z]+", re.ASCII | re.IGNORECASE)
#: Cron's words and what they mean: crontab(5).
SCHEDULE_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_GIVEN: dict[str, Any] = {"given": True}


class Table(BaseModel):
    """A table of a configuration file: immutable; unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        # Each is built when it is first used: most projects use few of them.
        defer_build=True,
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
    )

    #: The keys that `[load_defaults]` or `[report_defaults]` cannot hold.
    own_keys: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def file_keys(cls) -> dict[str, FieldInfo]:
        """Return the keys that the file may contain, as written there."""
        return {f.alias or name: f for name, f in cls.model_fields.items() if f.json_schema_extra != _GIVEN}

    @classmethod
    def shared_keys(cls) -> dict[str, FieldInfo]:
        """Return the keys that the defaults of this kind of table may hold."""
        return {key: field for key, field in cls.file_keys().items() if key not in cls.own_keys}

    def secrets(self) -> dict[str, Secret]:
        """Return the secrets of the table, and of the tables in it, by key."""
        found: dict[str, Secret] = {}
        for key, value in self:
            inner = value.secrets() if isinstance(value, Table) else value if isinstance(value, dict) else {}
            found |= {f"{key}.{name}": each for name, each in inner.items() if isinstance(each, Secret)}
            if isinstance(value, Secret):
                found[key] = value
        return found


class TableWithoutUrls(Table):
    """A table whose texts are names and addresses: a URL is refused, for it may contain a password."""

    url_keys: ClassVar[frozenset[str]] = frozenset({"api_base", "proxy", "password", "token"})

    @model_validator(mode="before")
    @classmethod
    def _no_url(cls, table: Any) -> Any:
        for key, value in table.items() if isinstance(table, dict) else ():
            # An unknown key has an error of its own, with the key that was meant.
            is_text = key in cls.file_keys() and key not in cls.url_keys and not isinstance(value, dict)
            if is_text and any("://" in text for text in leaves(value) if isinstance(text, str)):
                raise ValueError(
                    f"{key}: is a URL; server, user, password and database have keys of their own"
                )
        return table


def given(default: Any = ...) -> Any:
    """Return a field that the reader fills from the table's place; it is not a key of the file."""
    return Field(default, json_schema_extra=_GIVEN)


class NamedTable(Table):
    """A table with a name, which is its key in the file or the name of its file."""

    name: str = given()


def leaves(tree: object) -> Iterator[object]:
    """Yield every value of a tree of tables and lists that is neither."""
    if isinstance(tree, Mapping | list):
        for branch in tree.values() if isinstance(tree, Mapping) else tree:
            yield from leaves(branch)
    else:
        yield tree


def map_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """Return a copy of a tree of tables and lists with each other value changed."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(change, branch) for key, branch in tree.items()}
    return [map_leaves(change, branch) for branch in tree] if isinstance(tree, list) else change(tree)


def name_problem(name: str) -> str | None:
    """Return why this is not a name for a load or shard, or None."""
    if not _NAME.fullmatch(name):
        return "a name is made of a-z, 0-9 and _"
    return "a name contains no '__', which separates load and shard in task_name" if "__" in name else None


# Names of the tz database that are not places: their meaning differs between machines and database systems.
_THIS_MACHINES = {"localtime", "posixrules", "Factory"}
# Abbreviations that are not in the tz database, and the zones that they mean.
_ABBREVIATIONS = """
MSK=Europe/Moscow MSD=Europe/Moscow SAMT=Europe/Samara YEKT=Asia/Yekaterinburg OMST=Asia/Omsk
NOVT=Asia/Novosibirsk KRAT=Asia/Krasnoyarsk IRKT=Asia/Irkutsk YAKT=Asia/Yakutsk VLAT=Asia/Vladivostok
MAGT=Asia/Magadan PETT=Asia/Kamchatka BST=Europe/London WEST=Europe/Lisbon CEST=CET,Europe/Berlin
EEST=EET,Europe/Kyiv TRT=Europe/Istanbul EDT=America/New_York CST=America/Chicago,Asia/Shanghai
CDT=America/Chicago MDT=America/Denver PST=America/Los_Angeles PDT=America/Los_Angeles AST=America/Halifax
BRT=America/Sao_Paulo IST=Asia/Kolkata,Asia/Jerusalem,Europe/Dublin PKT=Asia/Karachi SGT=Asia/Singapore
HKT=Asia/Hong_Kong JST=Asia/Tokyo KST=Asia/Seoul AEST=Australia/Sydney,Australia/Brisbane
AEDT=Australia/Sydney NZST=Pacific/Auckland NZDT=Pacific/Auckland
"""
_OFFSET = re.compile(
    r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?", re.ASCII | re.IGNORECASE
)


def zone_problem(name: str, *extra: str) -> str | None:
    """Return why this is not a time zone, or None; `extra` are other allowed values."""
    try:
        if name in _THIS_MACHINES:
            raise ValueError(name)
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"{quoted(name)} is not a time zone of the IANA list; {_meant_zone(name, extra)}"
    return None


def _meant_zone(name: str, extra: Sequence[str]) -> str:
    from zoneinfo import available_timezones

    zones = available_timezones() - _THIS_MACHINES
    if meant := re.search(rf"(?<!\S){re.escape(name.upper())}=(\S+)", _ABBREVIATIONS):
        return f"an abbreviation is not a zone: write {meant[1].replace(',', ' or ')}"
    if offset := _OFFSET.fullmatch(name):
        # POSIX inverts the sign: Etc/GMT-3 is three hours ahead.
        fixed = f"Etc/GMT{'-' if offset['sign'] == '+' else '+'}{int(offset['hours'])}"
        exists = fixed in zones and not int(offset["minutes"] or 0)
        also = f", or {fixed} where the clock never changes" if exists else ""
        return f"an offset is not a zone: write one as Europe/Moscow{also}"
    wanted = name.lower().replace(" ", "_")
    if same := [zone for zone in zones if wanted in (zone.lower(), zone.rpartition("/")[2].lower())]:
        return f"did you mean '{min(same, key=len)}'?"
    # The short names (MST, W-SU) are obsolete, so they are not proposed.
    places = [zone for zone in zones if "/" in zone]
    return did_you_mean(name, [*places, *extra]) or "write one as Europe/Moscow or UTC"


def _accept(problem: Callable[[Any], str | None]) -> AfterValidator:
    """Refuse a value for which the function returns a problem."""

    def check(value: Any) -> Any:
        if found := problem(value):
            raise ValueError(found)
        return value

    return AfterValidator(check)


def _slice_zone_problem(name: str) -> str | None:
    problem = None if name == "wall" else zone_problem(name, "wall")
    return problem and f'{problem}; or write "wall", the shard\'s own clock'


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


def _time_of_day(value: object) -> object:
    if isinstance(value, time):
        return value
    if not isinstance(value, str):
        raise ValueError(f'is {shown_value(value)}; write a time of day in quotes: "07:00"')
    if not _CLOCK.fullmatch(value):
        raise ValueError(
            f'{quoted(value)} is not a time of day; write one from "00:00" to "23:59", as "07:00"'
        )
    return time.fromisoformat(value)


def _host_problem(host: str) -> str | None:
    # A path is the folder of a PostgreSQL server's socket.
    if host.startswith("/") or not re.search(r"[@/\s]", host):
        return None
    return "is not the name of a server; write it alone: user, password and database have keys of their own"


def _path_in(folder: str) -> BeforeValidator:
    def absolute(value: object, info: ValidationInfo) -> object:
        if value == "":
            raise ValueError("is empty; write a path")
        if not isinstance(value, str | Path):
            raise ValueError(f"is {shown_value(value)}; write a path in quotes")
        if re.search(r"://|\w:[^/]*@", str(value)):
            raise ValueError("is an address; write a path")
        return _below(info, folder, Path(value).expanduser())

    return BeforeValidator(absolute)


def _below(info: ValidationInfo, folder: str, path: Path) -> Path:
    root = (info.context or {}).get("root")
    return path if root is None else Path(root, folder, path)


def table_problem(name: str) -> str | None:
    """Return why this is not the name of a table with its schema, or None."""
    if _TABLE.fullmatch(name):
        return None
    return f'{quoted(name)} is not a table with its schema; write it as "stage.orders"'


def _rows_of(value: object, info: ValidationInfo) -> object:
    """Accept a file (it ends with .sql), a query (it begins with SELECT or WITH) or the name of a view or table."""
    if isinstance(value, Path) or not isinstance(value, str):
        return value
    if value.endswith(".sql") and not _QUERY.match(value):
        return _below(info, "sql", Path(value))
    if is_relation(value) or _QUERY.match(value):
        return value
    raise ValueError(
        f'{quoted(value)} is not a view, query or file; write a view or table as "reports.orders_view", a query that'
        ' begins with SELECT or WITH, or a file in sql/ as "reports/orders.sql"'
    )


def is_relation(text: str) -> bool:
    """Return whether this is the name of a view or table, with or without its schema and database."""
    return _RELATION.fullmatch(text) is not None


def _schedule(value: str) -> str:
    if value in SCHEDULE_WORDS:
        return value
    if re.fullmatch("@[a-z]+", value):
        # `quoted` would hide it: an @ may be of a login.
        raise ValueError(f"'{value}' has no times of its own; write one of {', '.join(SCHEDULE_WORDS)}")
    # split() would accept a newline, which ends cron's line.
    parts = [part for part in re.split(r"[ \t]", value) if part]
    if len(parts) != len(_SCHEDULE_FIELDS):
        raise ValueError(
            f"{quoted(value)} has {len(parts)} of the 5 fields minute, hour, day, month, weekday; "
            f'write it as in a crontab: "0 */6 * * *", or {", ".join(SCHEDULE_WORDS)}'
        )
    for place, (part, (field, lowest, highest)) in enumerate(zip(parts, _SCHEDULE_FIELDS, strict=True)):
        alone = " ".join(part if place == other else "*" for other in range(len(parts)))
        if not all(map(_SCHEDULE_PART.fullmatch, part.split(","))) or not _is_schedule(alone):
            raise ValueError(
                f"{quoted(value)}: {quoted(part)} is not a valid {field} of a crontab"
                f" ({lowest} to {highest}, *, */2, 1-5)"
            )
    schedule = " ".join(parts)
    if not _is_schedule(schedule):
        raise ValueError(f"{quoted(value)} never occurs: none of its months has such a day")
    return schedule


def _is_schedule(expression: str) -> bool:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(expression, datetime(2020, 1, 1))  # noqa: DTZ001 - only read, not asked for a time
    except CronSimError:
        return False
    return True


Text = Annotated[str, Field(min_length=1)]
Host = Annotated[Text, _accept(_host_problem)]
Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Texts = Annotated[tuple[Text, ...], Listed]
SomeTexts = Annotated[tuple[Text, ...], Listed, Field(min_length=1)]
Zone = Annotated[str, _accept(zone_problem)]
SliceZone = Annotated[str, _accept(_slice_zone_problem)]
Day = Annotated[date, BeforeValidator(_day)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day)]
SomeTime = Annotated[
    Duration, _accept(lambda time: None if time > timedelta(0) else "must be longer than 0s")
]
SqlFile = Annotated[Path, _path_in("sql")]
AlertFile = Annotated[Path, _path_in("config/alerts")]
ProjectPath = Annotated[Path, _path_in("")]
TableName = Annotated[str, _accept(table_problem)]
Rows = Annotated[Path | str, BeforeValidator(_rows_of)]
Schedule = Annotated[str, AfterValidator(_schedule)]


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that dwhctl or the protocol writes.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "connection"})


def _headers(headers: dict[str, Any]) -> dict[str, Secret | str]:
    checked: dict[str, Secret | str] = {}
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise ValueError(f"{quoted(name)} is no name of a header")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{quoted(name)} is written by dwhctl itself; leave it out")
        # Most headers are no secrets: a text in the file is one where its name says so.
        is_plain = isinstance(value, str) and not is_secret_header(name)
        checked[name] = value if is_plain else Secret.of(value)
        if isinstance(value, str) and not (value.isprintable() and value.isascii()):
            raise ValueError(f"the value of {name} has characters that a header cannot hold")
    return checked


Headers = Annotated[dict[str, Any], AfterValidator(_headers)]


def _template_headers(headers: dict[str, str]) -> dict[str, str]:
    _headers(dict.fromkeys(headers, "x"))
    for name, value in headers.items():
        if is_secret_header(name) and "{{" not in value:
            raise ValueError(
                f'{name} holds a secret; write auth, or a variable: {name} = "{{{{ var.value.crm_token }}}}"'
            )
    return headers


#: Headers whose values are templates.
TemplateHeaders = Annotated[dict[str, str], AfterValidator(_template_headers)]


def is_secret_header(name: str) -> bool:
    """Return whether people put a secret under this name."""
    return is_sensitive(name) or name.lower() in ("authorization", "cookie", "proxy-authorization")
