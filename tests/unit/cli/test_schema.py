"""The schema is whole, and made from what writes the JSON."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from dwhctl.cli.common.ending import run
from dwhctl.cli.common.listing import show_json
from dwhctl.cli.main import dwhctl
from dwhctl.cli.schema import COLUMNS, LISTINGS, OBJECTS, OTHERS, commands, schema_of
from dwhctl.core.errors import DwhctlError, InternalError
from tests.cli_support import dwh


def test_it_is_a_schema_and_its_references_lead_somewhere() -> None:
    for command in (None, *commands()):
        schema = schema_of(command)
        Draft202012Validator.check_schema(schema)
        referred = re.findall(r"#/\$defs/(\w+)", json.dumps(schema))
        assert set(referred) <= schema["$defs"].keys()
    assert {name.replace(" ", "-") for name in commands()} <= schema_of()["$defs"].keys()


def test_every_field_has_a_text_and_is_required() -> None:
    parts = schema_of()["$defs"]
    for name, part in parts.items():
        for field, found in part.get("properties", {}).items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", field), (name, field)
            assert found["description"].strip(), (name, field)
        if "properties" in part:
            assert part["required"] == list(part["properties"])
            assert part["additionalProperties"] is False
    for kinds in OBJECTS.values():
        for kind in kinds:
            assert set(parts[kind.__name__]["properties"]) == {field.name for field in fields(kind)}


def test_every_column_is_typed_and_none_without_a_listing() -> None:
    arrays = {title: listing.names for title, listing in LISTINGS.items() if title not in OBJECTS}
    assert {name for names in arrays.values() for name in names} == COLUMNS.keys()
    assert all(name in arrays[title] for title, name in OTHERS)


def test_a_column_without_a_type_is_named_with_the_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(COLUMNS, "host")
    with pytest.raises(
        InternalError, match=r"report runs: add type and text of host to COLUMNS in cli/schema\.py"
    ):
        schema_of("report runs")


def _commands(group: click.Group, before: str = "") -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        path = f"{before}{name}"
        found += _commands(command, f"{path} ") if isinstance(command, click.Group) else [(path, command)]
    return found


def test_each_command_that_takes_json_has_a_schema() -> None:
    takes = {
        path
        for path, command in _commands(dwhctl)
        for option in command.params
        if option.name == "form" and isinstance(option.type, click.Choice) and "json" in option.type.choices
    }
    # Rows of a query are of any kind; lines of a log are in docs/logs.md.
    assert takes - {"query", "report log"} == set(commands())


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("schema", "report", "gaps") == 0
    assert json.loads(capsys.readouterr().out) == schema_of("report gaps")
    assert dwh("schema") == 0
    assert json.loads(capsys.readouterr().out) == schema_of()
    assert dwh("schema", "report", "gap") == 2
    assert "did you mean 'report gaps'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--format", "json"], True),
        (["--format=json"], True),
        (["--format", "text", "--format", "json"], True),
        (["--format=json", "--format", "text"], False),
        (["--format"], False),
        (["json", "--form", "json"], False),
    ],
)
def test_an_error_is_written_as_json_where_json_is_wanted(
    arguments: list[str], wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise DwhctlError("two\nproblems \x1b[31m")

    command = click.Command("x", callback=fail, params=[click.Option(["--format"])])
    code = run(command, arguments)
    out, err = capsys.readouterr()
    assert err.startswith("Error: ") or "Usage" in err
    assert bool(out) is wanted
    if wanted:
        error = {
            "error_class": "DwhctlError",
            "message": "two\nproblems \x1b[31m",
            "problems": ["two", "problems \x1b[31m"],
        }
        assert json.loads(out) == {"exit_code": code, "error": error}


def test_a_defect_is_an_internal_error_and_never_a_second_value(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*, early: bool) -> None:
        if not early:
            show_json([1])
        raise ValueError("nothing")

    early, form = click.Option(["--early"], is_flag=True), click.Option(["--format"], expose_value=False)
    command = click.Command("x", callback=fail, params=[early, form])
    assert run(command, ["--early", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["error_class"] == "InternalError"
    assert run(command, ["--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == [1]
