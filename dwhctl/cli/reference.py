"""The page docs/reference.md, generated from the code: `python -m dwhctl.cli.reference [--check FILE]`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import click
from jinja2 import Environment, StrictUndefined
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dwhctl.alerts.message import TEMPLATES
from dwhctl.cli.common.ending import COMPLETION, EXIT_CODES
from dwhctl.cli.docs import headings
from dwhctl.cli.main import dwhctl
from dwhctl.cli.schema import LISTINGS, OBJECTS, field_texts, schema_of
from dwhctl.core import errors
from dwhctl.core.errors import ExitCode
from dwhctl.core.secrets import FORMS, Secret
from dwhctl.project.connections import BEYOND, SYSTEMS, types_for
from dwhctl.project.days import DAY_FORMS, DURATION_FORMS, format_duration
from dwhctl.project.fields import Table
from dwhctl.project.files import CONNECTION_PREFIX, URL_FORMS, VARIABLE_PREFIX
from dwhctl.project.loads import Load, Need, Refreshing, Report, ShardEntry
from dwhctl.project.model import (
    ALERT_TYPES,
    ExecutorTable,
    PageTable,
    PingsTable,
    ProjectTable,
    SessionsTable,
)
from dwhctl.project.problems import tables_in, toml_value
from dwhctl.systems.base.system import type_map
from dwhctl.systems.clickhouse import types as clickhouse_types
from dwhctl.systems.http import types as http_types
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
#: Classes that are only derived from.
_BASES = ("DwhctlError", "AttemptError", "Missed")
WIDTH = 100
HEAD = (
    "# Reference: commands, keys, columns, messages, types",
    "",
    "Made from the code by `python -m dwhctl.cli.reference`; do not edit.",
    "",
)


@click.command()
@click.option("--check", "file", type=click.Path(path_type=Path), help="Only check that FILE is this page.")
def main(file: Path | None) -> ExitCode:
    """Print docs/reference.md."""
    page = reference()
    if file is None:
        click.echo(page, nl=False)
        return ExitCode.DONE
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return ExitCode.DONE
    remedy = f"generate it again: python -m dwhctl.cli.reference > {file}"
    click.echo(f"{file} differs from the code; {remedy}", err=True)
    return ExitCode.FAILED


@cache
def reference() -> str:
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "words": lambda text: " ".join(text.split()),
        "code": lambda names: ", ".join(f"`{name}`" for name in names),
        "refused": _refused,
    }
    template = environment.from_string(Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8"))
    singles = (ProjectTable, SessionsTable, ExecutorTable, PingsTable, PageTable)
    models = (*singles, Load, Report, Need, Refreshing, ShardEntry)
    page = template.render(
        {model.__name__: model for model in models},
        rows=_rows,
        inner_tables=_inner_tables,
        commands=_help_of(dwhctl, click.Context(dwhctl, info_name="dwhctl", terminal_width=WIDTH)),
        exit_codes=EXIT_CODES,
        error_classes=list(_error_classes()),
        listings=LISTINGS,
        objects=OBJECTS,
        object_fields=dict(_object_fields()),
        completion=COMPLETION,
        secret_forms=FORMS,
        duration_forms=DURATION_FORMS,
        day_forms=DAY_FORMS,
        url_forms=URL_FORMS,
        connection_prefix=CONNECTION_PREFIX,
        variable_prefix=VARIABLE_PREFIX,
        systems=SYSTEMS,
        alert_types=ALERT_TYPES,
        messages=(TEMPLATES / "messages.md").read_text(encoding="utf-8").rstrip(),
        type_maps={source: type_map(source) for source in types_for("is_source")},
        targets=types_for("is_target"),
        http_types=http_types.TAKES,
        vertica_types=vertica_types,
        clickhouse_types=clickhouse_types,
    )
    body = page.rstrip().splitlines()
    return "\n".join((*HEAD, *_contents(body), "", *body)) + "\n"


def _contents(body: Sequence[str]) -> Iterator[str]:
    sections: list[list[str]] = []
    for number, level, anchor in headings(body):
        link = f"[{body[number].lstrip('# ')}](#{anchor})"
        if level == 2:
            sections.append([link])
        elif level == 3:
            sections[-1].append(link)
    for section, *parts in sections:
        yield f"- {section}" + (f": {', '.join(parts)}" if parts else "")


def _refused(remedy: str) -> str:
    instead = f"; instead: `{remedy.format(column='c')}`" if "{column}" in remedy else f": {remedy}"
    return f"refused{instead}"


def _error_classes() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each class in `error_class`, what it means, and what follows."""
    for name, found in vars(errors).items():
        if not isinstance(found, type) or not issubclass(found, errors.DwhctlError) or name in _BASES:
            continue
        if name.startswith("_") or issubclass(found, errors.AlertError):
            continue
        if issubclass(found, errors.AttemptError):
            outcome = "no retry" if found.permanent else "retried"
        elif issubclass(found, (errors.RunDied, errors.Stopped, errors.Missed)):
            outcome = "a message"
        else:
            outcome = f"exit code {found.exit_code}"
        yield name, str(found()).rstrip("."), outcome


def _help_of(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the path and the help text of a command and its subcommands."""
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _help_of(
                child, click.Context(child, info_name=name, parent=context, terminal_width=WIDTH)
            )


def descriptions(model: type[Table]) -> dict[str, str]:
    """Return the descriptions of a table's keys: the texts below its fields in the code."""
    texts = field_texts(model, Table)
    return {model.model_fields[name].alias or name: text for name, text in texts.items()}


def _object_fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each JSON object, its description and its fields, from the schema."""
    for name, part in sorted(schema_of()["$defs"].items()):
        if "properties" in part:
            fields = part["properties"].items()
            rows = [(field, _json_type(found), found["description"]) for field, found in fields]
            yield name, {"description": part["description"], "rows": rows}


def _json_type(part: dict[str, Any]) -> str:
    if "anyOf" in part:
        return " or ".join(map(_json_type, part["anyOf"]))
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in part:
        return ", ".join(f'`"{value}"`' for value in part["enum"])
    if part["type"] == "array":
        return f"array of {_json_type(part['items'])}"
    if part["type"] == "object":
        return f"object of {_json_type(part['additionalProperties'])} by name"
    return {"date": "date", "date-time": "time"}.get(part.get("format", ""), str(part["type"]))


def _rows(model: type[Table]) -> Iterator[list[str]]:
    described = descriptions(model)
    keys = model.file_keys().items()
    for key, field in sorted(keys, key=lambda item: (item[0] != "type", not item[1].is_required())):
        example = f"`{key} = {toml_value(_plain(field.examples[0]))}`" if field.examples else ""
        description = field.description or described.get(key, "")
        cells = (f"`{key}`", _type(field.annotation), _default(model, key, field), description, example)
        yield [cell.replace("|", "\\|") for cell in cells]


def _inner_tables(model: type[Table], path: str = "") -> Iterator[tuple[str, type[Table]]]:
    """Yield the tables that are values of a table's keys, with titles, by their types where they have some."""
    for key, field in model.file_keys().items():
        found = tables_in(field.annotation)
        for inner in found:
            kind = f' = {{ type = "{inner.model_fields["type"].default}" }}' if len(found) > 1 else ""
            yield f"{path}{key}{kind}", inner
            yield from _inner_tables(inner, f"{path}{key}.")


def _type(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_type(kind) for kind in arguments if kind is not type(None)))
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
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
    tls = getattr(model, "tls_words", None)
    if tls is not None and key == tls.key and tls.off != "false":
        return f'`"{BEYOND}"`; on this machine `"{tls.local}"`'
    if tls is not None and key == tls.key:
        return "`true`; on this machine `false`"
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


if __name__ == "__main__":
    raise SystemExit(main(standalone_mode=False))
