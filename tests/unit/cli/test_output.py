"""Listings and lines."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime

import pytest

from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.output import say
from dwhctl.core.secrets import Secret
from dwhctl.core.words import counted, one_line, shown_seconds

COLUMNS = ("task_name", "rows", "slice_date", "ok", "comment")
ROWS = [
    ("orders__abakan", 1_234_567, date(2020, 7, 13), True, "Пётр [bold]:smile: a,b"),
    ("orders__chita", None, None, False, 'two\nlines "quoted" \x1b[31m'),
]


def shown(form: str, capsys: pytest.CaptureFixture[str]) -> str:
    Listing[object](*COLUMNS).show(ROWS, form)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_a_table_shows_values_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown("table", capsys).splitlines()
    assert lines[0].split("  ")[0] == "task name"
    assert "1,234,567" in lines[1]
    assert "Пётр [bold]:smile: a,b" in lines[1]
    assert 'two lines "quoted" \\x1b[31m' in lines[2]
    assert len(lines) == 3


def test_json_speaks_snake_case(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(shown("json", capsys))
    assert rows[0] == dict(zip(COLUMNS, (*ROWS[0][:2], "2020-07-13", True, ROWS[0][4]), strict=True))
    assert rows[1]["rows"] is None
    assert rows[1]["comment"] == ROWS[1][4]


def test_csv_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.reader(io.StringIO(shown("csv", capsys))))
    assert rows[0] == list(COLUMNS)
    assert rows[1] == ["orders__abakan", "1234567", "2020-07-13", "true", ROWS[0][4]]
    assert rows[2] == ["orders__chita", "", "", "false", ROWS[1][4]]


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_a_listing_without_rows(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    Listing[object]("a", "b").show([], form)
    assert capsys.readouterr().out.strip() == {"json": "[]", "csv": "a,b", "table": "a  b"}[form]


def test_a_moment_in_json_has_its_zone(capsys: pytest.CaptureFixture[str]) -> None:
    Listing[object]("started").show([(datetime(2020, 7, 13, 1, 2, 3, 456789, tzinfo=UTC),)], "json")
    assert json.loads(capsys.readouterr().out) == [{"started": "2020-07-13T01:02:03.456789+00:00"}]


def test_json_has_no_number_that_json_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    Listing[object]("a", "b").show([(float("inf"), float("nan"))], "json")
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"a": None, "b": None}]


def test_no_secret_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    Secret("correct-horse-battery")
    say("a correct-horse-battery")
    Listing[object]("a").show([("a correct-horse-battery",)], "json")
    assert "correct-horse" not in capsys.readouterr().out


def test_one_line_disarms_control_characters() -> None:
    assert one_line(" a\nb\x07\x9b ") == "a b\\x07\\x9b"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (75, "1 m 15 s"), (3_700, "1 h 1 m")]
)
def test_shown_seconds(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text


def test_counted() -> None:
    assert [counted(1, "slice"), counted(1200, "slice"), counted(2, "retry"), counted(2, "day")] == [
        "1 slice",
        "1,200 slices",
        "2 retries",
        "2 days",
    ]


def test_a_terminal_without_the_characters_gets_escapes() -> None:
    code = "from dwhctl.cli.common.ending import run\nimport click\n"
    code += "from dwhctl.cli.common.output import say\n"
    code += "run(click.Command('x', callback=lambda: say('Пётр')), [])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout == b"\\u041f\\u0451\\u0442\\u0440\n"
