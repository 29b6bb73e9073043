"""The page docs/reference.md, made from the code: `python -m dwhctl.cli.reference [--check FILE]`."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, time, timedelta
from pathlib import Path
from typing import Literal

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dwhctl.alerts.message import TEMPLATES
from dwhctl.cli import alerts, connections, crontab, sessions, verify
from dwhctl.cli import sessions as adopt
from dwhctl.cli.common.ending import COMPLETION, EXIT_CODES
from dwhctl.cli.docs import headings
from dwhctl.cli.main import dwhctl
from dwhctl.cli.report import history, monitoring, slices
from dwhctl.core.errors import ExitCode
from dwhctl.core.secrets import FORMS, Secret
from dwhctl.project.connections import CONNECTION_TYPES, SYSTEMS
from dwhctl.project.days import DAY_FORMS, DURATION_FORMS, format_duration
from dwhctl.project.fields import Table
from dwhctl.project.files import CONNECTION_PREFIX, URL_FORMS, VARIABLE_PREFIX
from dwhctl.project.loads import Load, Need, Refreshing, Report, ShardEntry
from dwhctl.project.model import ALERT_TYPES, PingsTable, ProjectTable, SessionsTable
from dwhctl.project.problems import tables_in, toml_value
from dwhctl.systems.http import types as http_types
from dwhctl.systems.mssql import types as mssql_types
from dwhctl.systems.vertica import types as vertica_types

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
    return "\n".join(_config_lines()).rstrip() + "\n"


def _config_lines() -> Iterator[str]:
    yield from ("# Configuration", "", _INTRODUCTION, "## `config/dwhctl.toml`", "")
    yield from _table("[project]", ProjectTable)
    yield from _table("[sessions]", SessionsTable)
    yield from ("### What each type of connection can be used for", "", *_systems(), "")
    for kind, connection in CONNECTION_TYPES.items():
        yield from _table(f'[connections.NAME] with type = "{kind}"', connection)
        yield from _inner_tables("", connection)
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
    yield from _inner_tables("", Load)
    yield from ("## `config/reports.toml`", "")
    yield from _table("[reports.NAME]", Report)
    yield from _table("needs = [{ ... }] of a report", Need)
    yield from _table("[refresh]", Refreshing)
    yield from ("## Environment", "", _ENVIRONMENT, "## Templates", "", _TEMPLATES)


def _systems() -> Iterator[str]:
    yield "| type | server of shards | target of loads and reports | sessions |"
    yield "| --- | --- | --- | --- |"
    for name, system in SYSTEMS.items():
        uses = (system.is_source, system.is_target, system.is_sessions)
        yield f"| `{name}` | {' | '.join('yes' if use else '-' for use in uses)} |"


def _table(title: str, model: type[Table]) -> Iterator[str]:
    yield from (f"### `{title}`", "", _doc(model), "", *_keys(model))


def _inner_tables(path: str, model: type[Table]) -> Iterator[str]:
    """Yield the tables that are values of a table's keys, by their types where they have some."""
    for key, field in model.file_keys().items():
        found = list(tables_in(field.annotation))
        for inner in found:
            kind = f' = {{ type = "{inner.model_fields["type"].default}" }}' if len(found) > 1 else ""
            yield from _table(f"{path}{key}{kind}", inner)
            yield from _inner_tables(f"{path}{key}.", inner)


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
        return " or ".join(dict.fromkeys(_type(each) for each in arguments if each is not type(None)))
    if origin is Literal:
        return ", ".join(f'`"{each}"`' for each in arguments)
    if origin is tuple:
        inner = _type(arguments[0])
        return f"list of {inner}{'s' if inner == 'table' else ''}"
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return "table"
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


WIDTH = 100
HEAD = (
    "# Reference: commands, keys, columns, messages, types",
    "",
    "Made from the code by `python -m dwhctl.cli.reference`; do not edit.",
    "",
)
#: The names of the listings' columns, as JSON and CSV write them.
LISTINGS = {
    "alert-test": alerts.COLUMNS,
    "alert-test --dry-run": alerts.DRY_RUN_COLUMNS,
    "connections list": connections.LIST_COLUMNS,
    "connections test": connections.TEST_COLUMNS,
    "connections import": connections.IMPORT_COLUMNS,
    "crontab next": crontab.NEXT_COLUMNS,
    "sessions prune": sessions.PRUNE_COLUMNS,
    "report grid": slices.GRID_COLUMNS,
    "report gaps": slices.GAPS_COLUMNS,
    "report sla": monitoring.SLA_COLUMNS,
    "report timeline": monitoring.COLUMNS,
    "report failures": slices.FAILURES_COLUMNS,
    "report runs": history.RUNS_COLUMNS,
    "report sessions": history.SESSIONS_COLUMNS,
    "report durations": history.DURATIONS_COLUMNS,
    "report alerts": monitoring.ALERTS_COLUMNS,
    "adopt": adopt.COLUMNS,
    "verify": verify.COLUMNS,
    "verify --against": verify.AGAINST_COLUMNS,
}
ENVIRONMENT = {
    "NO_COLOR": "set to anything: no colours",
    COMPLETION: f'`eval "$({COMPLETION}=bash_source dwhctl)"` in `~/.bashrc` lets the shell complete '
    "commands, options and the project's names; `zsh_source` and `fish_source` likewise",
}


@click.command()
@click.option("--check", "file", type=click.Path(path_type=Path), help="Only say whether FILE is this page.")
def main(file: Path | None) -> ExitCode:
    """Print docs/reference.md."""
    page = reference()
    if file is None:
        click.echo(page, nl=False)
        return ExitCode.DONE
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return ExitCode.DONE
    remedy = f"write it anew: python -m dwhctl.cli.reference > {file}"
    click.echo(f"{file} is not what the code says; {remedy}", err=True)
    return ExitCode.FAILED


def reference() -> str:
    """Return the whole page: title, contents, sections."""
    body = "\n".join(_lines()).rstrip().splitlines()
    return "\n".join((*HEAD, *_contents(body), "", *body)) + "\n"


def _contents(body: Sequence[str]) -> Iterator[str]:
    """Yield a line for each section, with links to its parts."""
    links: list[list[str]] = []
    for number, level, anchor in headings(body):
        link = f"[{body[number].lstrip('# ')}](#{anchor})"
        if level == 2:
            links.append([link])
        elif level == 3:
            links[-1].append(link)
    for section, *parts in links:
        yield f"- {section}" + (f": {', '.join(parts)}" if parts else "")


def _lines() -> Iterator[str]:
    yield from ("## Commands", "")
    yield from _help_of(dwhctl, click.Context(dwhctl, info_name="dwhctl", terminal_width=WIDTH))
    yield from ("## Exit codes", "", "| code | meaning |", "| --- | --- |")
    yield from (f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODES.items())
    yield from ("", "## Listings", "", "The columns of listings, in the names that JSON and CSV use.", "")
    yield from ("| command | columns |", "| --- | --- |")
    for name, columns in LISTINGS.items():
        yield f"| `dwhctl {name}` | {', '.join(f'`{column}`' for column in columns)} |"
    yield from ("", "## Terminal and shell", "", "| variable | meaning |", "| --- | --- |")
    yield from (f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    yield from ("", _one_level_down(config_reference()))
    yield from ("### Messages", "", (TEMPLATES / "messages.md").read_text(encoding="utf-8").rstrip())
    yield from (
        "",
        "## Types",
        "",
        "What a source's or a target's type is not in these tables is refused by name.",
        "",
    )
    yield from ("### SQL Server, as a source", "", "| type | arrives as |", "| --- | --- |")
    for row in mssql_types.TYPES:
        yield f"| `{row.name}` | {row.note if row.kind else _refused(row.note)} |"
    yield from ("", "### HTTP, as a source", "", "| declared | takes |", "| --- | --- |")
    yield from (f"| `{name}` | {what} |" for name, what in http_types.TAKES.items())
    yield from ("", "### Vertica, as a target", "", "| type | holds |", "| --- | --- |")
    yield from (f"| `{name}` | {vertica_types.holds(name)} |" for name in vertica_types.NAMES)


def _refused(remedy: str) -> str:
    instead = f"; instead: `{remedy.format(column='c')}`" if "{column}" in remedy else f": {remedy}"
    return f"refused{instead}"


def _help_of(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"### `{context.command_path}`", "", "```text", command.get_help(context).rstrip(), "```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            inner = click.Context(child, info_name=name, parent=context, terminal_width=WIDTH)
            yield from _help_of(child, inner)


def _one_level_down(page: str) -> str:
    """Make the page's headings fit under those of this one."""
    return re.sub(r"^#", "##", page, flags=re.MULTILINE)


if __name__ == "__main__":
    raise SystemExit(main(standalone_mode=False))
