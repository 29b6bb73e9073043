"""`[load_defaults]` and `[report_defaults]`: what every load and report begins with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.project.read import read_project
from tests.unit.projects import LOAD, MAIN, problems, write, write_project

DEFAULTS = """
[load_defaults]
retries = 7
timeout = "2h"
max_shrink = 0.1
params = { top = 1, low = 2 }

[report_defaults]
connection = "dwh"
min_rows = 5
needs = [{ load = "orders" }]
"""
REPORTS = """
[reports.first]
source = "reports.first_view"
target = "reports.first"

[reports.second]
source = "reports.second_view"
target = "reports.second"
min_rows = 0
needs = []
"""


def a_project(root: Path, main: str = DEFAULTS, load: str = LOAD, reports: str = REPORTS) -> Path:
    """Write a project with defaults, a load and two reports."""
    write_project(root)
    # A bare key belongs above every table.
    write(root, "config/dwhctl.toml", f"{MAIN}\n{main}" if "[" in main else f"{main}\n{MAIN}")
    write(root, "config/loads/orders.toml", load)
    write(root, "config/reports.toml", reports)
    return root


def test_loads_and_reports_begin_with_the_defaults_and_their_own_key_wins(tmp_path: Path) -> None:
    project = read_project(a_project(tmp_path, load=LOAD + "timeout = '5m'\nparams = { top = 3 }"))
    load, first, second = project.loads["orders"], project.reports["first"], project.reports["second"]
    assert (load.retries, load.timeout, load.max_shrink) == (7, timedelta(minutes=5), 0.1)
    assert load.params == {"top": 3}
    assert (first.connection, first.min_rows, [need.load for need in first.needs]) == ("dwh", 5, ["orders"])
    assert (second.connection, second.min_rows, second.needs) == ("dwh", 0, ())


def test_a_required_key_may_come_from_the_defaults(tmp_path: Path) -> None:
    main = '[load_defaults]\nshards = "cities"\ntarget = "dwh"\nkey = ["id"]'
    load = 'extract = "orders/extract.sql"\ntable = "stage.orders"'
    assert read_project(a_project(tmp_path, main, load, "")).loads["orders"].key == ("id",)


@pytest.mark.parametrize(
    ("main", "line"),
    [
        ("[load_defaults]\nretry = 3", "load_defaults.retry: unknown key; did you mean"),
        (
            "[load_defaults]\ntable = 'a.b'",
            "load_defaults.table: cannot have a default: move it to config/loads/NAME.toml",
        ),
        ("[load_defaults]\nextract = 'x.sql'", "load_defaults.extract: cannot have a default"),
        (
            "[report_defaults]\ntarget = 'a.b'",
            "report_defaults.target: cannot have a default: move it to [reports.NAME]",
        ),
        ("[report_defaults]\nname = 'a'", "report_defaults.name: unknown key"),
        ("[load_defaults]\nretries = '3'", "load_defaults.retries: expected a whole number"),
        ("[load_defaults]\ntarget = 7", "load_defaults.target: expected a text"),
        ("load_defaults = 3", "load_defaults: expected a table"),
    ],
)
def test_what_is_wrong_with_defaults_is_said_once_with_their_place(
    tmp_path: Path, main: str, line: str
) -> None:
    first, *others = problems(a_project(tmp_path, main, LOAD, ""))
    assert first.startswith(f"config/dwhctl.toml: {line}")
    assert others == []


def test_a_name_that_does_not_exist_has_the_place_of_the_defaults(tmp_path: Path) -> None:
    load = LOAD.replace('target = "dwh"\n', "")
    (line,) = problems(a_project(tmp_path, '[load_defaults]\ntarget = "dwx"', load, ""))
    assert line.startswith("config/dwhctl.toml: load_defaults.target:")
    (line,) = problems(
        a_project(tmp_path, '[load_defaults]\ntarget = "dwh"', LOAD.replace('"dwh"', '"dwx"'), "")
    )
    assert line.startswith("config/loads/orders.toml: target:")
