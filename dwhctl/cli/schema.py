"""`dwhctl schema`: the JSON Schema of what commands write with `--format json`, made from the code that writes it.

A result object's schema is made from its class, a listing's from its columns and their types in `COLUMNS`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dwhctl.cli import alerts, connections, crontab, sessions, verify
from dwhctl.cli.common.listing import Listing, show_json
from dwhctl.cli.common.objects import (
    DemoObject,
    ErrorObject,
    LoadObject,
    PlanObject,
    RefreshObject,
    RefreshPlanObject,
    ResultObject,
)
from dwhctl.cli.common.options import Settings, with_settings
from dwhctl.cli.report import history, monitoring, slices
from dwhctl.core.errors import InternalError, UsageError
from dwhctl.core.words import nearest, quoted

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: The objects of the commands that do work.
OBJECTS: dict[str, tuple[type[ResultObject], ...]] = {
    "demo": (DemoObject,),
    "load": (LoadObject, PlanObject),
    "backfill": (LoadObject, PlanObject),
    "refresh-reports": (RefreshObject, RefreshPlanObject),
    "watch": (alerts.WatchObject,),
    "sessions prune": (sessions.PruneObject,),
    "connections test": (connections.ConnectionTestObject,),
    "config check": (connections.CheckObject,),
}
#: The listings, as JSON and CSV write them; of these commands JSON is an array with an object for each row.
LISTINGS: dict[str, Listing[Any]] = {
    "alert-test": alerts.ALERT_TEST,
    "alert-test --dry-run": alerts.DRY_RUN,
    "connections list": connections.LIST,
    "connections test": connections.TEST,
    "connections import": connections.IMPORT,
    "crontab next": crontab.NEXT,
    "sessions prune": sessions.PRUNE,
    "report grid": slices.GRID,
    "report gaps": slices.GAPS,
    "report sla": monitoring.SLA,
    "report timeline": monitoring.TIMELINE,
    "report failures": slices.FAILURES,
    "report runs": history.RUNS,
    "report sessions": history.SESSIONS,
    "report durations": history.DURATIONS,
    "report alerts": monitoring.ALERTS,
    "adopt": sessions.ADOPT,
    "verify": verify.VERIFY,
    "verify --against": verify.AGAINST,
}
#: The type of each column and what it is; a name has the same meaning in every listing, except in `OTHERS`.
COLUMNS: dict[str, tuple[Any, str]] = {
    "address": (str, "where the system is, without a login"),
    "against": (str | None, "the value of the table of --against"),
    "age": (str | None, "the time since the last success"),
    "airflow_name": (str, "its name in Airflow"),
    "answer": (str | None, "what the channel answered"),
    "at": (datetime, "when cron starts it"),
    "attempt": (int, "the number of the attempt, from 1"),
    "attempts": (int, "how often it was sent"),
    "busy_seconds": (float | None, "how long it held its worker"),
    "busy_until": (datetime | None, "when its worker was free again"),
    "bytes": (int | None, "the size in octets"),
    "channel": (str, "the channel"),
    "check": (str, "what was compared"),
    "column": (str | None, "the column that differs"),
    "command": (str | None, "the command that repairs or does it"),
    "comment": (str | None, "the error of the session"),
    "complete": (bool, "whether a session that began after the end of the day succeeded"),
    "connection": (str, "the connection of the shard"),
    "created": (datetime, "when the message was written"),
    "day": (date | None, "the day of the slice; null of what has none"),
    "deadline": (str | None, "the time of day, by the project's clock"),
    "detail": (str | None, "more, in words"),
    "dwhctl_version": (str | None, "the version of dwhctl that wrote it"),
    "end": (date, "the last day, included"),
    "error_class": (str | None, "the class of the error"),
    "expected": (int, "how many shards it has"),
    "extracted_rows": (int | None, "how many rows the source delivered"),
    "failed": (int, "how many failed"),
    "abandoned": (int, "how many sessions a dead run left"),
    "failed_slices": (int, "how many slices are failing"),
    "finished": (datetime | None, "when it ended"),
    "host": (str | None, "the machine"),
    "id": (int, "its id; of a session the etl_id"),
    "key": (str | None, "the key of one row that differs"),
    "kind": (str, "what it is"),
    "last": (float, "the seconds of the last session"),
    "last_error": (str | None, "the error of the last session that failed"),
    "last_failed": (datetime, "when it ended"),
    "last_success": (datetime | None, "the start of the last success"),
    "latency_ms": (float | None, "how long the answer took"),
    "load": (str, "the load, or the report"),
    "loaded": (int, "how many sessions loaded rows"),
    "loaded_rows": (int | None, "how many rows were loaded"),
    "loads": (str, "the loads, between commas"),
    "machine_time": (str, "the same time by the machine's clock"),
    "max_age": (str | None, "the longest permitted time since the last success"),
    "max_connections": (int | None, "how many connections at once"),
    "median": (float, "the median of the seconds"),
    "missing": (int, "how many shards lack something"),
    "name": (str, "the name"),
    "names": (str, "the loads and reports, between commas"),
    "next_deadline": (datetime | None, "the next deadline"),
    "note": (str | None, "what is to be known"),
    "ok": (bool, "whether it succeeded"),
    "oldest": (date | None, "the oldest day that missed the deadline"),
    "p95": (float, "the seconds that 95 of 100 sessions do not exceed"),
    "password": (str | None, "the mask, where there is a password"),
    "pid": (int | None, "the process"),
    "reason": (str | None, "why not"),
    "reports": (str, "the reports, between commas"),
    "result": (str, "what became of it"),
    "rows": (int | None, "how many rows"),
    "run_id": (str, "the run"),
    "running": (int, "how many sessions have not ended"),
    "seconds": (float | None, "how long it took"),
    "sent_at": (datetime | None, "when it was sent"),
    "sessions": (int, "how many sessions"),
    "shard": (str | None, "the shard; null of a report"),
    "since": (datetime | None, "since when something is missed"),
    "skipped": (int, "how many sessions found no rows"),
    "slice_date": (date, "the day of the slice"),
    "slices": (int, "how many slices"),
    "source": (str | None, "the value of the source"),
    "staged": (str, "where its rows were staged"),
    "start": (date, "the first day"),
    "started": (datetime | None, "when it began; null of what never did"),
    "state": (str, "its state"),
    "streak": (int, "how many slices failed in a row"),
    "subject": (str | None, "the subject of the message"),
    "successful": (bool | None, "whether it succeeded; null while it runs"),
    "table": (str | None, "the value of the load's table"),
    "task_name": (str, "load and shard, or the report"),
    "text": (str | None, "the text of the message"),
    "to": (str | None, "the address of the channel"),
    "trend": (str, "the seconds as bars"),
    "type": (str, "the type of the connection or channel"),
    "up_for_retry": (int, "how many are tried again"),
    "used_for": (str, "what the project uses it for"),
    "user": (str | None, "the user"),
    "waited_seconds": (float | None, "how long it waited to be published"),
    "warehouse": (str | None, "the value of the warehouse"),
    "worker": (int | None, "the number of the worker"),
}
OTHERS: dict[tuple[str, str], tuple[Any, str]] = {
    ("report failures", "since"): (date, "the oldest day of the streak"),
}


@cache
def field_texts(kind: type, base: type = object) -> dict[str, str]:
    """Return the texts below the fields of a class in the code, and of its bases that are subclasses of `base`."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if (
            owner in (object, base)
            or not issubclass(owner, base)
            or not owner.__module__.startswith("dwhctl.")
        ):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


class _Schema(GenerateJsonSchema):
    """Every field is there, has its text, and there is no other field."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        found = super().dataclass_schema(schema)
        found["additionalProperties"] = False
        kind: type = schema["cls"]
        for name, text in field_texts(kind).items():
            found["properties"][name]["description"] = text
        return found

    def field_is_required(self, *_: object, **__: object) -> bool:
        return True

    def field_title_should_be_set(self, _schema: object) -> bool:
        return False


def commands() -> list[str]:
    return sorted({*OBJECTS, *(name.partition(" --")[0] for name in LISTINGS)})


def schema_of(chosen: str | None = None) -> dict[str, Any]:
    """Return the schema of what a command writes, or of all: `$defs` has each by its name, `-` for its blanks."""
    names = commands() if chosen is None else [chosen]
    kinds: set[type[ResultObject]] = {
        ErrorObject,
        *(kind for name in names for kind in OBJECTS.get(name, ())),
    }
    adapters: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]] = [
        (kind.__name__, "serialization", TypeAdapter(kind))
        for kind in sorted(kinds, key=lambda kind: kind.__name__)
    ]
    _, found = TypeAdapter.json_schemas(adapters, schema_generator=_Schema)
    parts = {name: {"anyOf": [*_results(name), _reference(ErrorObject)]} for name in names}
    head = {"$schema": DIALECT, "title": " ".join(filter(None, ("dwhctl", chosen, "--format json")))}
    if chosen is not None:
        return {**head, **parts[chosen], "$defs": found["$defs"]}
    return {**head, "$defs": {name.replace(" ", "-"): part for name, part in parts.items()} | found["$defs"]}


def _results(name: str) -> Iterable[JsonSchemaValue]:
    if name in OBJECTS:
        return map(_reference, OBJECTS[name])
    listed = {title: listing for title, listing in LISTINGS.items() if title.partition(" --")[0] == name}
    return (_array(title, listing.names) for title, listing in listed.items())


def _reference(kind: type[ResultObject]) -> JsonSchemaValue:
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _array(title: str, names: Sequence[str]) -> JsonSchemaValue:
    columns = {name: found for name in names if (found := OTHERS.get((title, name)) or COLUMNS.get(name))}
    if missing := [name for name in names if name not in columns]:
        raise InternalError(f"{title}: add type and text of {', '.join(missing)} to COLUMNS in cli/schema.py")
    row = {
        "type": "object",
        "properties": {
            name: TypeAdapter(kind).json_schema() | {"description": text}
            for name, (kind, text) in columns.items()
        },
        "required": list(names),
        "additionalProperties": False,
    }
    return {"title": f"dwhctl {title}", "type": "array", "items": row}


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for name in commands() if (word := name.split()[0]).startswith(incomplete)]


@click.command("schema")
@click.argument("words", nargs=-1, metavar="[COMMAND]...", shell_complete=_complete)
@with_settings
def command(_settings: Settings, words: tuple[str, ...]) -> None:
    """Print the JSON Schema of what COMMAND writes with --format json, or of what every command writes.

    Any of them writes an ErrorObject instead when an error ends it before it has a result.

    \b
    Examples:
      dwhctl schema
      dwhctl schema backfill
      dwhctl schema report gaps
    """
    chosen = " ".join(words) or None
    if chosen is not None and chosen not in commands():
        raise UsageError(f"there is no schema of {quoted(chosen)}; {nearest(chosen, commands())}")
    show_json(schema_of(chosen))
