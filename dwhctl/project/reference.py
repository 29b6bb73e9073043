"""The reference page of the configuration: every file, table and key, generated from the models."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from datetime import date, time, timedelta
from pathlib import Path
from typing import Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .alerts import ALERT_TYPES
from .connections import CONNECTION_TYPES, SYSTEMS
from .environment import CONNECTION_PREFIX, URL_FORMS, VARIABLE_PREFIX
from .fields import Table
from .loads import Load, Need, Refreshing, Report, ShardEntry
from .model import PingsTable, ProjectTable, SessionsTable
from .problems import toml_value
from .secrets import FORMS, Secret
from .slices import DAY_FORMS, DURATION_FORMS, format_duration

_TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    date: "date",
    time: "time of day",
    timedelta: "duration",
    Path: "path",
    Secret: "secret",
    dict: "table",
}

_INTRODUCTION = f"""\
A project is a folder with `config/` and `sql/`. The files are TOML; an unknown key is an error. A key without
a default is required.

- *secret*: {FORMS}. Of a text in the file itself `dwhctl config check` warns.
- *duration*: {DURATION_FORMS}.
- *time of day*: `"07:00"`, by the project's clock.
- *date*: `2020-02-08`, with or without quotes. Where a command asks for a day: {DAY_FORMS}.
- Names (of loads, shards, groups, connections, reports, channels) are made of `a-z`, `0-9` and `_`, without
  `__`.
"""

_SHARDS = """\
A table per shard group; its keys are connections, their values lists of databases. A database is a text,
which is also the shard's name, or a table:
"""

_DEFAULTS = """\
What every load (`[load_defaults]`) and every report (`[report_defaults]`) begins with, as `default_args` in
Airflow. The own key of a load or report wins; it replaces the whole value, also a table or list. A load
cannot take a default away: leave out what does not hold for all.
"""

_VARIABLES = """\
Values for templates, of any type: `var.value.NAME` is the text of one, `var.json.NAME.KEY` goes into a table.
A table `{ env = "NAME" }` or `{ file = "PATH" }`, also deep in a variable, is a secret.
"""

_ENVIRONMENT = f"""\
The environment wins over the files.

| variable | what |
| --- | --- |
| `DWHCTL_PROJECT` | the project's folder |
| `{CONNECTION_PREFIX}NAME` | the connection `name` as a URL, in place of the table of that name |
| `{VARIABLE_PREFIX}NAME` | the variable `name`, a text; `var.json` reads JSON in it. Masked when it is a \
secret by its name (`password`, `token`, `api_key` ...), its form, or the file's reference: [security.md](security.md) |

A URL is one of {URL_FORMS}. Its parts are percent-encoded, the query holds the other keys. A path stands as
written: `duckdb:state/dwh.duckdb` is relative to the project, `duckdb:/srv/dwh.duckdb` is not. Several hosts
are parted by commas.
"""

_TEMPLATES = """\
SQL files are Jinja templates in a sandbox; an undefined name is an error. `{% include %}` and `{% import %}`
take paths relative to `sql/`. Values are bound: `:start` and `:end` are the slice's bounds; a report's query binds
nothing.

| name | value for the day 2020-07-13 of a project in Europe/Moscow |
| --- | --- |
| `ds`, `ds_nodash` | `2020-07-13`, `20200713` |
| `yesterday_ds`, `prev_ds`, `tomorrow_ds`, `next_ds`, each also `_nodash` | the dates beside it |
| `ts`, `ts_nodash` | `2020-07-13T00:00:00+03:00`, `20200713T000000` |
| `ts_nodash_with_tz` | `20200713T000000+0300` |
| `data_interval_start`, `data_interval_end` | the day's midnights in the project's zone, as datetimes |
| `logical_date`, `execution_date`, `prev_execution_date`, `next_execution_date` | midnights likewise |
| `macros.ds_add(ds, 7)`, `macros.ds_format(ds, '%Y-%m-%d', '%d.%m.%Y')` | `2020-07-20`, `13.07.2020` |
| `macros.datetime`, `.date`, `.timedelta`, `.json`, `.time`, `.uuid` | as in Python |
| `params.NAME` | the load's or the report's `params` |
| `var.value.NAME`, `var.json.NAME.KEY`, each with `.get(name, default)` | variables |
| `conn.NAME.host`, `.port`, `.schema`, `.login`, `.conn_type` ... | connections; a password is refused |
| `shard.name`, `shard.database`, `shard.connection`, `shard.zone` | the shard; in extract queries |
| `load.name`, `load.table`, `load.target` | the load |
| `report.name`, `report.target`, `report.connection` | the report; in its `source` and `create` |
| filters `ds`, `ds_nodash`, `ts`, `ts_nodash`, `ts_nodash_with_tz` | for datetimes |
"""


def config_reference() -> str:
    """Every file, table and key of a project's configuration, as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield from ("# Configuration", "", _INTRODUCTION, "## `config/dwhctl.toml`", "")
    yield from _table("[project]", ProjectTable)
    yield from _table("[sessions]", SessionsTable)
    yield from ("### What each type of connection can be used for", "", *_systems(), "")
    for kind, connection in CONNECTION_TYPES.items():
        yield from _table(f'[connections.NAME] with type = "{kind}"', connection)
    yield from ("### `[shards.GROUP]`", "", _SHARDS, *_keys(ShardEntry))
    yield from ("### `[variables]`", "", _VARIABLES)
    for kind, alert in ALERT_TYPES.items():
        yield from _table(f'[alerts.NAME] with type = "{kind}"', alert)
    yield from _table("[pings]", PingsTable)
    yield from ("### `[load_defaults]`, `[report_defaults]`", "", _DEFAULTS)
    for title, model in (("load_defaults", Load), ("report_defaults", Report)):
        yield f"- `[{title}]`: {_names(model.shared_keys())}; not {_names(model.own_keys)}"
    yield ""
    yield from ("## `config/loads/NAME.toml`", "", _doc(Load), "", *_keys(Load))
    yield from ("## `config/reports.toml`", "")
    yield from _table("[reports.NAME]", Report)
    yield from _table("needs = [{ ... }] of a report", Need)
    yield from _table("[refresh]", Refreshing)
    yield from ("## Environment", "", _ENVIRONMENT, "## Templates", "", _TEMPLATES)


def _systems() -> Iterator[str]:
    yield "| type | server of shards | target of loads and reports | sessions |"
    yield "| --- | --- | --- | --- |"
    for name, system in SYSTEMS.items():
        uses = (system.source, system.target, system.sessions)
        yield f"| `{name}` | {' | '.join('yes' if use else '-' for use in uses)} |"


def _table(title: str, model: type[Table]) -> Iterator[str]:
    yield from (f"### `{title}`", "", _doc(model), "", *_keys(model))


def _names(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in sorted(keys))


def _doc(model: type[Table]) -> str:
    return " ".join((model.__doc__ or "").split())


def _keys(model: type[Table]) -> Iterator[str]:
    yield "| key | type | default | description | example |"
    yield "| --- | --- | --- | --- | --- |"
    for key, field in sorted(model.file_keys().items(), key=lambda item: item[0] != "type"):
        cells = (f"`{key}`", _type(field.annotation), _default(model, key, field), field.description or "")
        example = f"`{key} = {toml_value(_plain(field.examples[0]))}`" if field.examples else ""
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, example)) + " |"
    yield ""


def _type(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return ", ".join(f'`"{each}"`' for each in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return "tables"
    return _TYPES.get(typing.cast("type", origin or annotation), "value")


def _default(model: type[Table], key: str, field: FieldInfo) -> str:
    if key == "type":
        return "required"
    if key == "port" and not field.default:
        return f"`{getattr(model, 'default_port', None)}`"
    if isinstance(field.json_schema_extra, dict) and (words := field.json_schema_extra.get("default")):
        return str(words)
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    return "none" if default is None or default in ((), {}) else f"`{toml_value(_plain(default))}`"


def _plain(value: object) -> object:
    if isinstance(value, time):
        return f"{value:%H:%M}"
    return format_duration(value) if isinstance(value, timedelta) else value
