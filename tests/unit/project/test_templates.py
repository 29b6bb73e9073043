"""Templates: Airflow's names, bound values, and errors with file and line."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import Secret
from dwhctl.project.days import make_slice
from dwhctl.project.model import Project
from dwhctl.project.query import Query
from dwhctl.project.sandbox import TemplateSandbox
from dwhctl.project.templates import render_extract, render_file, render_text
from tests.unit.projects import a_load, a_project, a_shard, write

DAY = date(2020, 7, 13)
VARIABLES = {
    "chat": "-100",
    "bot": {"service": "TG", "deep": {"token": Secret("TG_TOKEN", kind="env")}, "list": [1, "2"]},
    "text_json": '{"a": {"b": 3}}',
    "number": 5,
}


def project_with(root: Path, text: str, **fields: Any) -> Project:
    write(root, "sql/extract.sql", text)
    return a_project(root, variables=VARIABLES, **fields)


def query(root: Path, text: str, day: date = DAY, **keys: Any) -> Query:
    project = project_with(root, text)
    load = a_load(extract=root / "sql/extract.sql", **keys)
    return render_extract(project, load, a_shard(), make_slice(project, load, a_shard(), day))


def rendered(root: Path, text: str, **keys: Any) -> str:
    return query(root, text, **keys).sql


def problem(root: Path, text: str, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        query(root, text, **keys)
    return str(caught.value)


@pytest.mark.parametrize(
    "text", ["SELECT '}} %} #}' FROM t WHERE x > '{' ||:start\n", "SELECT 1\r\nFROM t\r\n"]
)
def test_a_text_without_markup_is_as_it_is_and_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def rendered() -> str:
        return render_file(project_with(tmp_path, text), tmp_path / "sql/extract.sql")

    with monkeypatch.context() as patched:
        patched.setattr(TemplateSandbox, "compile", None)
        plain = rendered()
    compiled = render_file(project_with(tmp_path, "{# #}" + text), tmp_path / "sql/extract.sql")
    assert plain == compiled == text.replace("\r", "")


NAMES = {
    "{{ ds }} {{ ds_nodash }}": "2020-07-13 20200713",
    "{{ yesterday_ds }} {{ prev_ds }}": "2020-07-12 2020-07-12",
    "{{ tomorrow_ds }} {{ next_ds }}": "2020-07-14 2020-07-14",
    "{{ yesterday_ds_nodash }} {{ prev_ds_nodash }}": "20200712 20200712",
    "{{ tomorrow_ds_nodash }} {{ next_ds_nodash }}": "20200714 20200714",
    "{{ ts }}": "2020-07-13T00:00:00+03:00",
    "{{ ts_nodash }} {{ ts_nodash_with_tz }}": "20200713T000000 20200713T000000+0300",
    "{{ logical_date }} {{ execution_date.year }}": "2020-07-13 00:00:00+03:00 2020",
    "{{ data_interval_start.isoformat() }}": "2020-07-13T00:00:00+03:00",
    "{{ data_interval_end | ts }}": "2020-07-14T00:00:00+03:00",
    "{{ logical_date | ds }} {{ logical_date | ds_nodash }}": "2020-07-13 20200713",
    "{{ logical_date | ts_nodash }}": "20200713T000000",
    "{{ logical_date | ts_nodash_with_tz }}": "20200713T000000+0300",
    "{{ prev_execution_date | ds }} {{ next_execution_date | ds }}": "2020-07-12 2020-07-14",
    "{{ macros.ds_add(ds, -7) }}": "2020-07-06",
    "{{ macros.ds_format(ds, '%Y-%m-%d', '%d.%m.%Y') }}": "13.07.2020",
    "{{ (execution_date + macros.timedelta(days=3)).strftime('%d') }}": "16",
    "{{ macros.datetime.strptime(ds, '%Y-%m-%d').month }} {{ macros.date(2020, 1, 2) }}": "7 2020-01-02",
    "{{ macros.json.loads('[1]')[0] }} {{ macros.uuid.UUID(int=0).int }}": "1 0",
    "{{ params.top }} {{ params['top'] }} {{ params.deep.x }}": "10 10 y",
    "{{ var.value.chat }} {{ var.value.number }} {{ var.value['chat'] }}": "-100 5 -100",
    "{{ var.value.get('chat') }} {{ var.value.get('nix', 'other') }}": "-100 other",
    "{{ var.json.bot.service }} {{ var.json.bot['list'][1] }}": "TG 2",
    "{{ var.json.text_json.a.b }} {{ var.json.get('nix', 1) }}": "3 1",
    "{{ var.json.bot.deep.token }}": "42:secret",
    "{{ var.value.bot }}": '{"service": "TG", "deep": {"token": "42:secret"}, "list": [1, "2"]}',
    "{{ var.value.nix | default('d') }} {{ var.value.nix is defined }}": "d False",
    "{{ conn.dwh.host }}:{{ conn.dwh.port }}/{{ conn.dwh.schema }}": "dwh-host:5433/docker",
    "{{ conn.dwh.login }} {{ conn.dwh.user }} {{ conn.dwh.conn_type }}": "dbadmin dbadmin vertica",
    "{{ shard.name }} {{ shard.database }}": "chita Chita_DB",
    "{{ shard.connection }} {{ shard.zone }}": "server_0 Asia/Chita",
    "{{ load.name }} {{ load.table }} {{ load.target }}": "orders stage.orders dwh",
    "{% for n in ['a', 'b'] %}{{ n }},{% endfor %}": "a,b,",
    "'<{{ 'a' }}&>'": "'<a&>'",
}


@pytest.mark.parametrize(("text", "expected"), NAMES.items(), ids=NAMES)
def test_the_context_speaks_airflows_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setenv("TG_TOKEN", "42:secret")
    params = {"top": 10, "deep": {"x": "y"}}
    assert rendered(tmp_path, f"SELECT $${text}$$", params=params) == f"SELECT $${expected}$$"


def test_the_days_of_a_clock_change(tmp_path: Path) -> None:
    project = a_project(tmp_path, timezone="America/Sao_Paulo")
    path = write(tmp_path, "sql/x.sql", "{{ data_interval_start | ts }} {{ ds }}")
    assert render_file(project, path, day=date(2018, 11, 4)) == "2018-11-04T01:00:00-02:00 2018-11-04"


PROBLEMS = {
    "a\n{{ dss }}": "line 2: 'dss' is undefined; did you mean 'ds'?",
    "{{ nothing_like_it }}": "line 1: 'nothing_like_it' is undefined; known: conn, data_interval_end",
    "\n\n{{ macros.ds_ad(ds, 1) }}": "line 3: 'macros.ds_ad' is undefined; did you mean 'ds_add'?",
    "{{ params.tpo }}": "line 1: 'params.tpo' is undefined; did you mean 'top'?",
    "{{ var.value.caht }}": "line 1: 'var.value.caht' is undefined; did you mean 'chat'?",
    "{{ var.json.bot.servise }}": "line 1: 'var.json.bot.servise' is undefined; did you mean 'service'?",
    "{{ var.jsn.x }}": "line 1: 'var.jsn' is undefined; did you mean 'json'?",
    "{{ var.json.bot.deep.token }}": "line 1: secret: the environment variable TG_TOKEN is not set;",
    "{{ var.json.chat.x }}": "line 1: 'int object' has no attribute 'x'",
    "{{ conn.dw.host }}": "line 1: 'conn.dw' is undefined; did you mean 'dwh'?",
    "{{ conn.dwh.hots }}": "line 1: 'conn.dwh.hots' is undefined; did you mean 'host",
    "{{ conn.dwh.password }}": "line 1: 'conn.dwh.password' is refused: SQL is shown and logged",
    "{{ conn.dwh.get_uri() }}": "line 1: 'conn.dwh.get_uri' is refused",
    "{{ shard.nam }}": "line 1: 'shard.nam' is undefined; did you mean 'name'?",
    "\n{% if %}": "line 2: expected an expression, got 'end of statement block'; correct the template there",
    "{% for x in y %}": "line 1: unexpected end of template",
    "{{ ds | nofilter }}": "line 1: no filter named 'nofilter'",
    "{{ macros.ds_add('x', 1) }}": "line 1: time data 'x' does not match format '%Y-%m-%d' (ValueError)",
    "{{ 1 / 0 }}": "line 1: division by zero (ZeroDivisionError)",
    "{{ ''.__class__.__mro__ }}": "line 1: access to attribute '__class__' of 'str' object is unsafe; a",
    "{{ macros.ds_add.__globals__ }}": "line 1: access to attribute '__globals__'",
    "{{ range(999999999) }}": "line 1: Range too big",
    "{% include 'nix.sql' %}": "line 1: the template 'nix.sql' is missing; name it relative to sql/",
    "{% include '../config/dwhctl.toml' %}": "line 1: the template '../config/dwhctl.toml' is missing",
    "a = 1\nAND b < :strat": "line 2: ':strat' is not a bind parameter; did you mean ':start'?",
    "": "has no query; write a SELECT",
    "-- nothing;": "has no query; write a SELECT",
}


@pytest.mark.parametrize(("text", "words"), PROBLEMS.items(), ids=PROBLEMS)
def test_a_wrong_template_is_told_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.delenv("TG_TOKEN", raising=False)
    assert problem(tmp_path, text, params={"top": 1}).startswith(f"sql/extract.sql: {words}")


def test_an_error_in_an_included_template_is_told_there(tmp_path: Path) -> None:
    write(tmp_path, "sql/parts/columns.sql", "a,\n{{ nix }}")
    assert problem(tmp_path, "SELECT\n\n{% include 'parts/columns.sql' %}").startswith(
        "sql/parts/columns.sql: line 2: 'nix' is undefined"
    )
    write(tmp_path, "sql/parts/broken.sql", "a,\n\n{% if %}")
    assert problem(tmp_path, "SELECT {% include 'parts/broken.sql' %}").startswith(
        "sql/parts/broken.sql: line 3: "
    )


def test_templates_share_macros(tmp_path: Path) -> None:
    write(tmp_path, "sql/parts.sql", "{% macro columns(n) %}a, {{ n }}{% endmacro %}")
    text = "{% from 'parts.sql' import columns %}SELECT {{ columns('b') }}"
    assert rendered(tmp_path, text) == "SELECT a, b"


def test_values_are_bound_and_only_those_used(tmp_path: Path) -> None:
    made = query(tmp_path, "SELECT ':end' WHERE a >= :start")
    assert made == Query(
        "SELECT ':end' WHERE a >= :start",
        {"start": datetime.fromisoformat("2020-07-13")},
        "start_time",
        {"start": datetime.fromisoformat("2020-07-12T15:00Z")},
    )
    assert query(tmp_path, "SELECT 1").binds == {}
    both = query(tmp_path, "SELECT :start, :end, :start", slice_zone="UTC")
    assert both.binds == {
        "start": datetime.fromisoformat("2020-07-12T21:00"),
        "end": datetime.fromisoformat("2020-07-13T21:00"),
    }


def test_a_load_without_slice_by_has_nothing_to_bind(tmp_path: Path) -> None:
    assert rendered(tmp_path, "SELECT '{{ ds }}'", slice_by=None) == "SELECT '2020-07-13'"
    assert problem(tmp_path, "SELECT\n:start", slice_by=None) == (
        "sql/extract.sql: line 2: ':start' has no value: 'orders' has no slice_by; "
        "set slice_by or drop the condition"
    )


def test_the_semicolon_at_the_end_is_dropped(tmp_path: Path) -> None:
    assert rendered(tmp_path, "SELECT 1;\n-- done\n") == "SELECT 1"
    with pytest.raises(ConfigError, match=r"extract.sql: has 2 statements; an extract is one SELECT"):
        rendered(tmp_path, "SELECT 1; SELECT 2;\n")


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    assert rendered(tmp_path, "SELECT 1") == "SELECT 1"
    assert rendered(tmp_path, "SELECT 2") == "SELECT 2"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    project = a_project(tmp_path)
    with pytest.raises(ConfigError, match=r"^sql/x.sql: the file is missing; create it"):
        render_file(project, tmp_path / "sql/x.sql")
    write(tmp_path, "sql/x.sql", "").write_bytes("a\n'город'".encode("cp1251"))
    with pytest.raises(ConfigError, match=r"^sql/x.sql: line 2: not UTF-8"):
        render_file(project, tmp_path / "sql/x.sql")
    with pytest.raises(ConfigError, match=r"^sql: the file cannot be read \(Is a directory\)"):
        render_file(project, tmp_path / "sql")


def test_a_file_is_rendered_with_what_is_there(tmp_path: Path) -> None:
    project = project_with(tmp_path, "{{ load.table }} {{ params.x }}\n")
    path = tmp_path / "sql/extract.sql"
    assert render_file(project, path, a_load(params={"x": 1})) == "stage.orders 1\n"
    write(tmp_path, "sql/extract.sql", "{{ ds }}")
    with pytest.raises(ConfigError, match=r"^sql/extract.sql: line 1: 'ds' is undefined"):
        render_file(project, path)
    assert render_file(project, path, day=DAY) == "2020-07-13"


def test_a_text_of_the_configuration_is_rendered(tmp_path: Path) -> None:
    project = project_with(tmp_path, "")
    assert render_text(project, "{{ var.value.chat }}", "alerts.x.chat_id") == "-100"
    with pytest.raises(
        ConfigError, match=r"^alerts.x.chat_id: 'var.value.caht' is undefined; did you mean 'chat'"
    ):
        render_text(project, "{{ var.value.caht }}", "alerts.x.chat_id")
    with pytest.raises(ConfigError, match=r"^alerts.x.chat_id: expected an expression"):
        render_text(project, "{{ }}", "alerts.x.chat_id")
