"""`config check` finds without a server what a load, a refresh or a query would refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli_support import dwh
from tests.support.projects import DAY, EXTRACT, Sandbox

Captured = pytest.CaptureFixture[str]
VERTICA = 'type = "vertica"\nhost = "127.0.0.1"\ndatabase = "d"\nuser = "u"\ntlsmode = "disable"\n'
MSSQL = 'type = "mssql"\nhost = "127.0.0.1"\nuser = "u"\nencryption = "off"\n'
CLICKHOUSE = 'type = "clickhouse"\nhost = "127.0.0.1"\nuser = "u"\n'
SQLITE = 'type = "sqlite"\npath = "state/other.sqlite"\n'
WAREHOUSE = 'type = "duckdb"\npath = "state/warehouse.duckdb"\nlock_wait = "5s"\n'
SERVER = 'type = "duckdb"\npath = "servers/server_1"\n'


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A project that is right, with its shards' files."""
    return Sandbox(tmp_path, load_keys="").write().fill(1)


def change(sandbox: Sandbox, before: str, after: str, file: str = "config/dwhctl.toml") -> None:
    text = (sandbox.root / file).read_text()
    assert before in text
    sandbox.put(file, text.replace(before, after))


def append(sandbox: Sandbox, table: str) -> None:
    main = sandbox.root / "config/dwhctl.toml"
    main.write_text(main.read_text() + table)


def check(sandbox: Sandbox, captured: Captured) -> tuple[int, str]:
    code = dwh("config", "check", "--project", sandbox.root)
    shown = captured.readouterr()
    return code, shown.out + shown.err


def test_a_right_project_is_accepted_without_a_warning(sandbox: Sandbox, capsys: Captured) -> None:
    sandbox.put("config/alerts/notes.yml", "")
    sandbox.put("config/loads/orders.toml.bak", "")
    code, shown = check(sandbox, capsys)
    assert (code, "Warning" in shown) == (0, False), shown


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (SERVER, SQLITE, "shards.cities.server_1: 'server_1' is of type sqlite, which cannot be a shard's server"),
        (SERVER, VERTICA, "'server_1' is of type vertica, which cannot be a shard's server; use one of"),
        (WAREHOUSE, SQLITE, "orders.toml: target: 'warehouse' is of type sqlite, which cannot be a warehouse"),
        (WAREHOUSE, WAREHOUSE.replace("warehouse.duckdb", "stage.duckdb"), "takes stage for the file stage.duckdb"),
        (WAREHOUSE, WAREHOUSE.replace("state/", "data/"), "there is no folder data for the file of warehouse"),
        ('path = "state/sessions.sqlite"', 'path = "servers"', "sessions.path: servers is a folder; choose a file"),
        ('path = "state/sessions.sqlite"', 'path = "sql/orders/create.sql"', "create.sql is not a SQLite database"),
        ("[project]", '[project]\nstate_dir = "sql/orders/create.sql/state"', "sql/orders/create.sql is a file"),
        ("'achinsk'", "'achinks'", "achinks.duckdb of the shard achinks is missing; did you mean 'achinsk'?"),
        (WAREHOUSE, VERTICA + 'tls_cafile = "sql/orders/create.sql"\n', "the file has no certificate in PEM"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_main_file(
    before: str, after: str, problem: str, sandbox: Sandbox, capsys: Captured
) -> None:
    change(sandbox, before, after)
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert problem in shown


@pytest.mark.parametrize(
    ("extract", "problem"),
    [
        ("SELECT * FROM orders", "extract.sql: returns the same rows for every day"),
        ("SELECT * FROM orders -- {{ ds }}", "WHERE start_time >= :start AND start_time < :end, or drop slice_by"),
        (f"SELECT 1; {EXTRACT}", "extract.sql: has 2 statements; an extract is one SELECT"),
        (f"SELEC{EXTRACT}", 'extract.sql: line 1 as rendered: Parser Error: syntax error at or near "SELECSELECT"'),
        (f"{EXTRACT} AND customer = 'x", "Parser Error: unterminated string literal"),
        (f"INSERT INTO copied {EXTRACT}", "extract.sql: an extract is one SELECT; this one is INSERT"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_an_extract(extract: str, problem: str, sandbox: Sandbox, capsys: Captured) -> None:
    sandbox.put("sql/orders/extract.sql", extract)
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert problem in shown


@pytest.mark.parametrize(
    "extract",
    [
        "SELECT * FROM orders WHERE start_time::DATE = '{{ ds }}'",
        "SELECT * FROM orders WHERE date_diff('day', :start, start_time) = 0",
        f"FROM ({EXTRACT});",
    ],
)
def test_extracts_that_depend_on_the_day_in_another_way(
    extract: str, sandbox: Sandbox, capsys: Captured
) -> None:
    sandbox.put("sql/orders/extract.sql", extract)
    assert check(sandbox, capsys)[0] == 0


def test_an_extract_without_days_needs_no_bounds(sandbox: Sandbox, capsys: Captured) -> None:
    sandbox.put("sql/orders/extract.sql", "SELECT * FROM orders")
    change(sandbox, 'slice_by = "start_time"\n', "", "config/loads/orders.toml")
    assert check(sandbox, capsys)[0] == 0


@pytest.mark.parametrize(
    ("extract", "problem"),
    [
        (f"{EXTRACT} AND (a = 1", "extract.sql: line 4: a ( is not closed"),
        (f"{EXTRACT} UPDATE orders SET id = 1", "an extract is one SELECT; this one has UPDATE, SET in it"),
    ],
)  # fmt: skip
def test_an_extract_for_sql_server(extract: str, problem: str, sandbox: Sandbox, capsys: Captured) -> None:
    for server in ("server_0", "server_1"):
        change(sandbox, f'type = "duckdb"\npath = "servers/{server}"\n', MSSQL)
    sandbox.put("sql/orders/extract.sql", extract)
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert problem.partition(", SET")[0] in shown


@pytest.mark.parametrize(
    ("create", "problem"),
    [
        ("CREATE TABLE stage.orders (id BIGINT;", "create.sql: line 1 as rendered: Parser Error"),
        (
            "DELETE FROM stage.orders WHERE start_time = :start",
            "create.sql: ':start' is not bound in a create",
        ),
    ],
)
def test_what_is_wrong_in_a_create(create: str, problem: str, sandbox: Sandbox, capsys: Captured) -> None:
    sandbox.put("sql/orders/create.sql", create)
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert problem in shown


def test_tables_that_vertica_cannot_have(sandbox: Sandbox, capsys: Captured) -> None:
    change(sandbox, WAREHOUSE, VERTICA)
    for table, problem in (
        ("v_catalog.x", "v_catalog is Vertica's own"),
        (f"stage.{'x' * 129}", "at most 128 octets"),
    ):
        change(sandbox, "stage.orders", table, "config/loads/orders.toml")
        code, shown = check(sandbox, capsys)
        assert code == 2
        assert "config/loads/orders.toml: table: " in shown
        assert problem in shown
        change(sandbox, table, "stage.orders", "config/loads/orders.toml")


POSTGRES = (
    'type = "postgres"\nhost = "127.0.0.1"\nport = 1\ndatabase = "d"\nuser = "u"\nsslmode = "disable"\n'
)


def test_no_command_takes_a_table_whose_name_postgresql_would_cut(sandbox: Sandbox, capsys: Captured) -> None:
    """The cut name may be that of another load's table, whose rows would be mixed with these."""
    change(sandbox, WAREHOUSE, POSTGRES)
    day = ("--date", "2020-07-13", "--project", sandbox.root)
    assert dwh("load", "orders", "--table", f"stage.{'x' * 64}", *day) == 2
    assert "at most 63 octets" in capsys.readouterr().err
    change(sandbox, "stage.orders", f"stage.{'ё' * 32}", "config/loads/orders.toml")
    for command in ("load", "verify"):
        assert dwh(command, *day) == 2
        assert (
            "config/loads/orders.toml: table: a name in PostgreSQL has at most 63 octets"
            in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('source = "SELECT 1 AS FROM x"', "reports.x.source: line 1 as rendered: Parser Error"),
        ('source = "stage.orders"\ncreate = "x.sql"', "sql/x.sql: line 1 as rendered: Parser Error"),
        ('source = "x.sql"', "sql/x.sql: line 1 as rendered: Parser Error"),
    ],
)
def test_what_is_wrong_in_a_report(keys: str, problem: str, sandbox: Sandbox, capsys: Captured) -> None:
    sandbox.put("sql/x.sql", "SELECT 1 FROM (")
    sandbox.put("config/reports.toml", f'[reports.x]\nconnection = "warehouse"\ntarget = "stage.x"\n{keys}\n')
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert problem in shown


def test_files_that_are_not_read_are_named(sandbox: Sandbox, capsys: Captured) -> None:
    unread = (
        "loads/shop/returns.toml",
        "loads/calls.yml",
        "loads/Visits.TOML",
        "load/bills.toml",
        "reports.yaml",
    )
    for name in (*unread, "connections.toml"):
        sandbox.put(f"config/{name}", "")
    code, shown = check(sandbox, capsys)
    assert code == 0
    for name in unread:
        assert f"Warning: config/{name} is not read: " in shown
    assert (
        "calls.yml is not read: a load is config/loads/calls.toml, in TOML and not in a folder below" in shown
    )
    assert "reports.yaml is not read: rename it to config/reports.toml" in shown
    assert "connections.toml is not read: dwhctl reads config/dwhctl.toml" in shown


def test_a_folder_of_shards_that_is_not_here_is_a_warning(sandbox: Sandbox, capsys: Captured) -> None:
    change(sandbox, "servers/server_0", "elsewhere/server_0")
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert (
        "Warning: shards.cities.server_0: the folder of connections.server_0.path does not exist here, so the shard"
        " abakan and 1 more cannot be loaded\n"
    ) in shown


def test_an_extra_that_is_not_installed_is_said_in_words(
    sandbox: Sandbox, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(sandbox, WAREHOUSE, CLICKHOUSE)
    # As where the package is not installed: it is neither found nor imported.
    monkeypatch.setitem(sys.modules, "clickhouse_connect", None)
    monkeypatch.setattr("dwhctl.systems.clickhouse.system.find_spec", lambda _name: None)
    remedy = "type = \"clickhouse\" needs a package that is not installed; pip install 'dwhctl[clickhouse]'"
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert f"Warning: config/dwhctl.toml: connections.warehouse: {remedy}" in shown
    for command in (("config", "check", "--online"), ("connections", "test")):
        assert dwh(*command, "--project", sandbox.root) == 1
        written = capsys.readouterr()
        assert remedy in written.out
        assert "defect" not in written.out + written.err


def test_a_driver_that_is_not_installed_is_a_warning(
    sandbox: Sandbox, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwhctl.systems.mssql.system.find_spec", lambda _name: None)
    table = f'\n[connections.other]\n{MSSQL.replace("off", "require")}driver = "mssql-python"\n'
    append(sandbox, table)
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert 'Warning: config/dwhctl.toml: connections.other: driver = "mssql-python" needs a package' in shown


def test_a_comma_before_the_port_is_refused(sandbox: Sandbox, capsys: Captured) -> None:
    table = f"\n[connections.other]\n{MSSQL.replace('127.0.0.1', '127.0.0.1,1433')}"
    append(sandbox, table)
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert 'connections.other.host: has a comma; write host = "SERVER" and port = 1433' in shown


def test_files_of_loads_with_another_ending_are_a_warning(sandbox: Sandbox, capsys: Captured) -> None:
    for name in (
        "visits.tml",
        "calls.toml.txt",
        "orders.toml~",
        "orders.toml.bak",
        "orders.toml.tmpl",
        "a.html",
    ):
        sandbox.put(f"config/loads/{name}", "")
    _, shown = check(sandbox, capsys)
    assert shown.count("is not read") == 2, shown
    assert "config/loads/visits.tml is not read: a load is config/loads/visits.toml, in TOML" in shown
    assert "config/loads/calls.toml.txt is not read: a load is config/loads/calls.toml, in TOML" in shown


def test_a_mistyped_variable_is_a_warning(
    sandbox: Sandbox, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(sandbox, '\n[variables]\nbot = { env = "DWHCTL_BOT" }\n')
    for name in ("DWHCTL_PROJEKT", "DWHCTL_VARS_CHAT", "DWHCTL_BOT", "DWHCTL_TEST_MSSQL"):
        monkeypatch.setenv(name, "a text of some length")
    monkeypatch.setenv("DWHCTL_CONN_WAREHUSE", "duckdb:state/warehouse.duckdb")
    monkeypatch.setenv("DWHCTL_CONN_ELSEWHERE", "duckdb:state/elsewhere.duckdb")
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert "environment: DWHCTL_PROJEKT is not read: dwhctl reads DWHCTL_PROJECT, DWHCTL_CONN_NAME" in shown
    assert "environment: DWHCTL_VARS_CHAT is not read" in shown
    assert (
        "environment: DWHCTL_CONN_WAREHUSE makes a connection that nothing uses; did you mean 'warehouse'?"
        in shown
    )
    assert shown.count("environment:") == 3, shown


def test_variables_that_are_right_are_no_warning(
    sandbox: Sandbox, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second server before its shards, a connection for `query`, and a Service of Kubernetes called dwhctl.
    for name in ("server_2", "server_10", "warehouse_ro"):
        monkeypatch.setenv(f"DWHCTL_CONN_{name.upper()}", "duckdb:state/elsewhere.duckdb")
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PAGE_SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"DWHCTL_{name}", "10.0.0.7")
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert "environment:" not in shown


def test_a_page_without_its_folder_is_a_warning(sandbox: Sandbox, capsys: Captured) -> None:
    append(sandbox, '\n[page]\npath = "www/dwh.html"\n')
    code, shown = check(sandbox, capsys)
    assert code == 0
    assert "Warning: config/dwhctl.toml: page.path: there is no folder www; create it" in shown


def test_verify_columns_are_looked_for_in_the_table(sandbox: Sandbox, capsys: Captured) -> None:
    assert dwh("load", "--date", DAY, "--project", sandbox.root) == 0
    change(sandbox, "key = [", 'verify_columns = ["amont"]\nkey = [', "config/loads/orders.toml")
    assert dwh("config", "check", "--online", "--project", sandbox.root) == 1
    assert (
        "stage.orders has no column amont, which is in the load's verify_columns" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("extract", "problem"),
    [
        ("SELECT id FROM orders", "is SQL; write it into a file of sql/, and the name of that file here"),
        (f"SELECT {'a_column, ' * 100}id FROM orders", "is SQL; write it into a file of sql/"),
        ("from-crm/extract.sql", "the file sql/from-crm/extract.sql is missing; create it"),
        ("with orders.sql", "the file sql/with orders.sql is missing; create it"),
    ],
)  # fmt: skip
def test_sql_in_place_of_its_file_is_said_in_words(
    extract: str, problem: str, sandbox: Sandbox, capsys: Captured
) -> None:
    change(sandbox, '"orders/extract.sql"', f'"{extract}"', "config/loads/orders.toml")
    code, shown = check(sandbox, capsys)
    assert code == 2
    assert f"orders.toml: extract: {problem}" in shown


def test_what_metrics_and_log_do_not_find(sandbox: Sandbox, capsys: Captured) -> None:
    missing = sandbox.root / "nowhere"
    assert dwh("report", "metrics", "--output", missing / "x.prom", "--project", sandbox.root) == 1
    assert f"x.prom cannot be written: make the folder {missing} first" in capsys.readouterr().err
    sandbox.put("state/logs/20200714T030000-0a1b2c3d.jsonl", "")
    assert dwh("report", "log", "2099", "--project", sandbox.root) == 2
    assert (
        "Error: on this machine there is no log of a run '2099': the last one is" in capsys.readouterr().err
    )
