"""The variables of a template: those of Airflow, so that existing SQL works, and the shard and the load."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.core.words import nearest
from dwhctl.project.days import start_of_day
from dwhctl.project.fields import map_leaves
from dwhctl.project.loads import Load, Report, Shard

if TYPE_CHECKING:
    from dwhctl.project.connections import Connection
    from dwhctl.project.model import Project

_ONE_DAY = timedelta(days=1)


class Names(Mapping[str, Any]):
    """Values of a prefix (`params`, `var.value`): as attributes, items, or with `.get(name, default)`.

    A missing value is undefined with a hint, so that `default(...)` and `is defined` work.
    """

    def __init__(
        self, prefix: str, values: Mapping[str, Any], show: Callable[[Any, str], Any] | None = None
    ) -> None:
        self._prefix = prefix
        self._values = values
        self._show = show or _shown

    def __getitem__(self, name: str) -> Any:
        if name in self._values:
            return self._show(self._values[name], f"{self._prefix}.{name}")
        return StrictUndefined(
            hint=f"'{self._prefix}.{name}' is undefined; {nearest(str(name), map(str, self._values))}"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols of copy, pickle and Jinja
            raise AttributeError(name)
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or the default when there is none."""
        return self[name] if name in self._values else default

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        return json.dumps(_plain(self._values), ensure_ascii=False, default=str)


def _shown(value: Any, prefix: str) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping) and not isinstance(value, Names):
        return Names(prefix, value)
    return [_shown(item, prefix) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return map_leaves(lambda leaf: leaf.reveal() if isinstance(leaf, Secret) else leaf, value)


def context(
    project: Project, work: Load | Report | None = None, shard: Shard | None = None, day: date | None = None
) -> dict[str, Any]:
    """Return the variables of a template; those of a load, report, shard or day only if there is one."""
    variables = {
        "value": Names("var.value", project.variables, _as_text),
        "json": Names("var.json", project.variables, _as_json),
    }
    names: dict[str, Any] = {
        "macros": MACROS,
        "var": Names("var", variables, lambda value, _prefix: value),
        "conn": Names("conn", project.connections, _ConnectionNames),
    }
    if isinstance(work, Load):
        name = work.shadow_of or work.name
        names["load"] = Names("load", {"name": name, "table": work.table, "target": work.target})
    elif work is not None:
        report = {key: getattr(work, key) for key in ("name", "target", "connection")}
        names["report"] = Names("report", report)
    if work is not None:
        names["params"] = Names("params", work.params)
    if shard is not None:
        fields = ("name", "database", "connection", "zone")
        names["shard"] = Names("shard", {field: getattr(shard, field) for field in fields})
    return names | (_days(day, project.zone) if day is not None else {})


@lru_cache(maxsize=64)
def _days(day: date, zone: ZoneInfo) -> dict[str, Any]:
    before, after = day - _ONE_DAY, day + _ONE_DAY
    start, end, previous = (start_of_day(at, zone).astimezone(zone) for at in (day, after, before))
    names: dict[str, Any] = {
        "logical_date": start,
        "execution_date": start,
        "data_interval_start": start,
        "data_interval_end": end,
        "prev_execution_date": previous,
        "next_execution_date": end,
        "ts": ts(start),
        "ts_nodash": ts_nodash(start),
        "ts_nodash_with_tz": ts_nodash_with_tz(start),
    }
    days = {"ds": day, "prev_ds": before, "next_ds": after, "yesterday_ds": before, "tomorrow_ds": after}
    for name, date_of in days.items():
        names |= {name: ds(date_of), f"{name}_nodash": ds_nodash(date_of)}
    return names


def ds(moment: date) -> str:
    """Return the date as 2020-07-13."""
    return moment.strftime("%Y-%m-%d")


def ds_nodash(moment: date) -> str:
    """Return the date as 20200713."""
    return moment.strftime("%Y%m%d")


def ts(moment: datetime) -> str:
    """Return the time as 2020-07-13T00:00:00+03:00."""
    return moment.isoformat()


def ts_nodash(moment: datetime) -> str:
    """Return the time as 20200713T000000."""
    return moment.strftime("%Y%m%dT%H%M%S")


def ts_nodash_with_tz(moment: datetime) -> str:
    """Return the time as 20200713T000000+0300."""
    return moment.isoformat().replace("-", "").replace(":", "")


FILTERS = {form.__name__: form for form in (ds, ds_nodash, ts, ts_nodash, ts_nodash_with_tz)}


def ds_add(day: str, days: int) -> str:
    """Return the date so many days later, as Airflow's `macros.ds_add`."""
    return ds(datetime.strptime(str(day), "%Y-%m-%d") + timedelta(days=days))  # noqa: DTZ007 - a date


def ds_format(day: str, input_format: str, output_format: str) -> str:
    """Return the date in another format, as Airflow's `macros.ds_format`."""
    return datetime.strptime(str(day), input_format).strftime(output_format)  # noqa: DTZ007 - a date


# Only functions that SQL uses: a module would lead out of the sandbox (`uuid.os`).
MACROS = Names(
    "macros",
    {
        "ds_add": ds_add,
        "ds_format": ds_format,
        "date": date,
        "datetime": datetime,
        "timedelta": timedelta,
        "json": Names("macros.json", {"dumps": json.dumps, "loads": json.loads}),
        "time": Names("macros.time", {"time": time.time, "strftime": time.strftime}),
        "uuid": Names("macros.uuid", {"uuid4": uuid.uuid4, "UUID": uuid.UUID}),
    },
)


def _as_text(value: Any, _prefix: str) -> Any:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _as_json(value: Any, prefix: str) -> Any:
    plain = _plain(value) if isinstance(value, Secret) else value
    return _shown(json.loads(plain) if isinstance(plain, str) else plain, prefix)


class _ConnectionNames:
    def __init__(self, connection: Connection, _prefix: str) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        where = f"conn.{self._connection.name}"
        secret = {key.partition(".")[0] for key in self._connection.secrets()}
        if name in {"password", "get_password", "get_uri", "extra", "extra_dejson", *secret}:
            raise ConfigError(
                f"'{where}.{name}' is refused: SQL is shown and logged, it must not have a password"
            )
        airflow = {"schema": "database", "login": "user", "conn_type": "type", "conn_id": "name"}
        field = airflow.get(name, name)
        known = sorted(set(type(self._connection).model_fields) - {"password"})
        if field not in known:
            return StrictUndefined(hint=f"'{where}.{name}' is undefined; {nearest(name, known)}")
        if field == "host":
            return self._connection.addresses[0][0] if hasattr(self._connection, "addresses") else None
        return getattr(self._connection, field)

    def __str__(self) -> str:
        return str(self._connection.name)
