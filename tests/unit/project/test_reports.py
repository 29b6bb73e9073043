"""Reading reports: where their rows come from, and what their SQL becomes."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.project.names import RowSource, report_sql
from dwhctl.project.read import read_project
from tests.unit.projects import the_problem, write, write_project

REPORT = '[reports.x]\nconnection = "dwh"\nsource = "r.v"\ntarget = "r.t"\n'


def test_a_report_and_a_load_may_not_share_a_name(tmp_path: Path) -> None:
    write_project(tmp_path)
    write(tmp_path, "config/reports.toml", REPORT.replace("reports.x", "reports.orders"))
    assert the_problem(tmp_path).startswith(
        "config/reports.toml: reports.orders: config/loads/orders.toml is a load of the same name"
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("reports/x.sql", "source: the file sql/reports/x.sql is missing"),
        ("DROP TABLE x", "source: 'DROP TABLE x' is not a view, query or file"),
        ("a.b.c.d", "source: 'a.b.c.d' is not a view, query or file"),
        ("R.T", "source: is the target itself, which a refresh empties first"),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, source: str, words: str) -> None:
    write_project(tmp_path)
    write(tmp_path, "config/reports.toml", REPORT.replace("r.v", source))
    assert the_problem(tmp_path).startswith(f"config/reports.toml: reports.x.{words}")


def test_how_many_reports_at_once(tmp_path: Path) -> None:
    write_project(tmp_path)
    assert read_project(tmp_path).refreshing.max_parallel == 2
    write(tmp_path, "config/reports.toml", f"[refresh]\nmax_parallel = 4\n{REPORT}")
    assert read_project(tmp_path).refreshing.max_parallel == 4
    write(tmp_path, "config/reports.toml", "[refresh]\nmax_paralel = 4\n")
    assert "refresh.max_paralel: unknown key; did you mean 'max_parallel'?" in the_problem(tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("r.v", RowSource("r.v")),
        ("v", RowSource("v")),
        ("select '{{ ds }}' AS day; ", RowSource("select '2020-07-14' AS day", is_query=True)),
        ("r/x.sql", RowSource("WITH a AS (SELECT 3) SELECT * FROM a", is_query=True)),
    ],
)
def test_a_source_is_told_by_its_form(tmp_path: Path, source: str, expected: RowSource) -> None:
    write_project(tmp_path)
    write(tmp_path, "sql/r/x.sql", "WITH a AS (SELECT {{ params.top }}) SELECT * FROM a\n")
    write(tmp_path, "sql/r/create.sql", "CREATE TABLE {{ report.target }} (a INT); SELECT ';';")
    keys = 'create = "r/create.sql"\nparams = { top = 3 }\n'
    write(tmp_path, "config/reports.toml", REPORT.replace("r.v", source) + keys)
    project = read_project(tmp_path)
    found = report_sql(project, project.reports["x"], date(2020, 7, 14))
    assert found.source == expected
    assert found.create == ("CREATE TABLE r.t (a INT)", "SELECT ';'")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1; DELETE FROM t", "has 2 statements; write one SELECT"),
        ("-- nothing", "has no query"),
        ("SELECT :start", "':start' is not bound in a report"),
        ("SELECT {{ dz }}", "'dz' is undefined"),
    ],
)
def test_a_query_that_cannot_be_one(tmp_path: Path, query: str, words: str) -> None:
    write_project(tmp_path)
    write(tmp_path, "sql/r/x.sql", query)
    write(tmp_path, "config/reports.toml", REPORT.replace("r.v", "r/x.sql"))
    project = read_project(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        report_sql(project, project.reports["x"], date(2020, 7, 14))
    assert str(caught.value).startswith("sql/r/x.sql: ")
