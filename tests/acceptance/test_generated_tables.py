"""A load without a `create` makes its table from the columns that a shard declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwhctl.runtime.new_tables import TableColumnsFinder
from tests.cli_support import dwh
from tests.support.projects import ORDERS, Sandbox
from tests.support.wire import REAL_MSSQL, a_wire, needs_faults

_COLUMNS = (
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
    " WHERE table_name = 'orders' ORDER BY ordinal_position"
)
SERVICE = [("etl_source", "VARCHAR", "NO"), ("etl_id", "BIGINT", "NO"), ("hash_id", "BIGINT", "NO")]


def test_the_table_is_made_and_loaded(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="").write().fill()
    for _ in range(2):
        report = sandbox.load()
        assert (report.loaded, report.failed) == (3, 0)
    assert sandbox.target_rows() == sandbox.source_rows()
    assert sandbox.warehouse(_COLUMNS) == [
        *SERVICE,
        ("id", "BIGINT", "NO"),
        ("customer", "VARCHAR", "YES"),
        ("amount", "DECIMAL(18,2)", "YES"),
        ("start_time", "TIMESTAMP", "NO"),
    ]


def test_a_table_that_duckdb_takes_for_a_file_is_made_too(tmp_path: Path) -> None:
    """DuckDB reads `stage.json` as a file where there is no such table."""
    sandbox = Sandbox(tmp_path, create="").write().fill()
    load = tmp_path / "config/loads/orders.toml"
    load.write_text(load.read_text().replace("stage.orders", "stage.json"))
    for _ in range(2):
        assert sandbox.load().loaded == 3
    assert sandbox.warehouse("SELECT count(*) FROM stage.json") == [(30,)]


def test_render_shows_the_statements_that_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox(tmp_path, create="").write().fill(shards=["achinsk", "chita"])
    assert dwh("render", "orders", "--create", "--project", tmp_path) == 0
    shown = capsys.readouterr().out
    assert not sandbox.warehouse_file.exists()
    assert "made of the columns that shard achinsk declares" in shown
    sandbox.put("sql/orders/create.sql", shown)
    everything = dwh("render", "orders", "--part", "all", "--project", tmp_path)
    assert everything == 0
    assert "create of load orders: none, the table is made from the columns" in capsys.readouterr().out
    assert sandbox.load().loaded == 2
    made = sandbox.warehouse(_COLUMNS)
    # As a create of the user's own it makes the same table.
    sandbox.warehouse_file.unlink()
    sandbox.create = shown
    sandbox.write()
    assert sandbox.load().loaded == 2
    assert sandbox.warehouse(_COLUMNS) == made
    assert len(made) == len(SERVICE) + 4


@pytest.mark.parametrize(
    ("slice_zone", "second", "expected"),
    [
        ("UTC", "Asia/Chita", "toDate(\"at\", 'Europe/Moscow')"),
        ("wall", "Europe/Moscow", "toDate(\"at\", 'Europe/Moscow')"),
        ("wall", "Asia/Chita", 'toDate("at")'),
    ],
)
def test_a_partition_of_clickhouse_is_a_day_of_the_slices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slice_zone: str, second: str, expected: str
) -> None:
    """By days of UTC the first load refused the table that it had made."""
    sandbox = Sandbox(tmp_path)
    sandbox.put(
        "config/dwhctl.toml",
        '[project]\ntimezone = "Europe/Moscow"\n[sessions]\nconnection = "own"\n[connections]\n'
        'own = { type = "sqlite", path = "state/own.sqlite" }\n'
        'dwh = { type = "clickhouse", host = "127.0.0.1", user = "dwh" }\n'
        'crm = { type = "http", base_url = "http://127.0.0.1:9/" }\n'
        f'[shards.accounts]\ncrm = ["acme", {{ name = "north", zone = "{second}" }}]\n',
    )
    sandbox.put(
        "config/loads/calls.toml",
        'shards = "accounts"\ntarget = "dwh"\ntable = "stage.calls"\nkey = ["id"]\nslice_by = "at"\n'
        f'slice_zone = "{slice_zone}"\ncolumns = {{ id = "bigint", at = "timestamptz" }}\n'
        '[endpoint]\npath = "calls"\nparams = { day = "{{ ds }}" }\n',
    )
    assert dwh("render", "calls", "--create", "--project", tmp_path) == 0
    assert f"\nPARTITION BY {expected}\n" in capsys.readouterr().out


def test_render_says_why_no_shard_could_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sandbox(tmp_path, create="").write().fill(shards=["chita"])
    assert dwh("render", "orders", "--create", "--shard", "abakan", "--project", tmp_path) == 1
    assert "no shard could be described to make it: abakan: connection server_0" in capsys.readouterr().err


# Bad luck


def test_a_dead_first_shard_does_not_stop_it(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="", load_keys="retries = 0").write().fill(shards=["achinsk", "chita"])
    report = sandbox.load()
    assert (report.loaded, report.failed) == (2, 1)
    assert sandbox.target_rows() == sandbox.source_rows(shards=["achinsk", "chita"])


def test_without_a_shard_the_slices_fail_with_the_reason(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="").write().fill(shards=["achinsk"])
    sandbox.in_shard("achinsk", "ALTER TABLE orders ALTER id TYPE DOUBLE")
    report = sandbox.load()
    assert (report.loaded, report.failed) == (0, 3)
    for failed in report.failures:
        assert failed.failure.message.startswith(
            "stage.orders does not exist, and no shard could be described"
        )
        assert "; achinsk: key column id is DOUBLE: a float cannot be a key;" in failed.failure.message
    assert sandbox.warehouse("SELECT table_name FROM duckdb_tables()") == []


def test_shards_out_of_reach_cost_other_loads_no_wait(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="", load_keys='retries = 5\nretry_delay = "60s"')
    sandbox.write().fill()
    sandbox.put("config/loads/gone.toml", (tmp_path / "config/loads/orders.toml").read_text())
    gone = '[shards.gone]\nnowhere = ["lost"]\n[connections.nowhere]\ntype = "duckdb"\npath = "servers/nowhere"\n'
    sandbox.put("config/dwhctl.toml", f"{sandbox._toml()}\n{gone}")
    text = (tmp_path / "config/loads/gone.toml").read_text()
    sandbox.put("config/loads/gone.toml", text.replace('"cities"', '"gone"').replace(".orders", ".gone"))
    report = sandbox.load()
    assert (report.loaded, report.failed) == (3, 1)


@pytest.mark.parametrize("other", [ORDERS, ORDERS.replace("(id", "(note VARCHAR, id")])
def test_the_table_of_another_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """It is made between the look at the warehouse and the CREATE."""
    sandbox = Sandbox(tmp_path, create="", load_keys="retries = 0").write().fill()
    table_for = TableColumnsFinder.table_for
    service = ", etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT)"

    def lost(self: TableColumnsFinder, *arguments: Any) -> Any:
        create = other.replace("orders", "stage.orders").removesuffix(")") + service
        sandbox.change_warehouse("CREATE SCHEMA stage", create)
        return table_for(self, *arguments)

    monkeypatch.setattr(TableColumnsFinder, "table_for", lost)
    report = sandbox.load()
    if other == ORDERS:
        assert report.loaded == 3
        assert sandbox.target_rows() == sandbox.source_rows()
    else:
        assert [failed.failure.error_class for failed in report.failures] == ["SchemaDriftError"] * 3
        assert "column note is missing at the source" in report.failures[0].failure.message


def test_shards_that_differ_from_the_table_are_drift(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, create="").write().fill()
    sandbox.in_shard("chita", "ALTER TABLE orders ALTER customer TYPE BLOB USING encode(customer)")
    code, out, err = check_online(sandbox)
    assert code == 0, out
    assert (
        "column customer is BLOB in chita and VARCHAR in abakan, achinsk: the table is made from one shard"
        in err
    )
    report = sandbox.load()
    assert (report.loaded, report.failed) == (2, 1)
    assert "customer is BLOB at the source and VARCHAR in the target" in report.failures[0].failure.message


def check_online(sandbox: Sandbox) -> tuple[int, str, str]:
    done = sandbox.run("config", "check", "--online")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# SQL Server to Vertica


def test_the_table_in_vertica_has_the_lengths_of_sql_server(tmp_path: Path) -> None:
    servers = {"server_0": ["abakan"], "server_1": ["chita"]}
    with a_wire(tmp_path, servers, create="") as wire:
        wire.fill()
        if not REAL_MSSQL:
            wire.own_sources["server_0"].stop()
        report = wire.load()
        assert (report.loaded, report.failed) == ((1, 1) if not REAL_MSSQL else (2, 0))
        columns = wire.warehouse(
            "SELECT column_name, data_type, is_nullable FROM v_catalog.columns"
            f" WHERE table_schema = '{wire.schema}' AND table_name = 'orders' ORDER BY ordinal_position"
        )
        assert [tuple(row) for row in columns] == [
            ("etl_source", "varchar(200)", False),
            ("etl_id", "int", False),
            ("hash_id", "int", False),
            ("id", "int", False),
            ("customer", "varchar(300)", True),
            ("amount", "numeric(18,2)", True),
            ("start_time", "timestamp", False),
        ]
        assert wire.target_rows() == wire.source_rows(shards=["chita"] if not REAL_MSSQL else None)
        if wire.dwh is not None:
            made = next(one.sql for one in wire.dwh.statements if one.sql.startswith("CREATE TABLE"))
            assert made.endswith(
                '\nORDER BY "etl_source", "start_time"\nSEGMENTED BY HASH("hash_id") ALL NODES'
            )


@needs_faults
def test_a_refused_login_is_not_repeated_for_each_shard(tmp_path: Path) -> None:
    shards = [f"city_{number}" for number in range(5)]
    with a_wire(tmp_path, {"server_0": shards}, create="") as wire:
        (server,) = wire.own_sources.values()
        server.users = dict.fromkeys(server.users, "another")
        before = server.logins
        report = wire.load()
        assert [failed.failure.error_class for failed in report.failures] == ["LoginRefusedError"] * 5
        # The client asks once more, without the database, which of the two was refused.
        assert server.logins - before <= 2


@needs_faults
def test_a_user_who_may_not_make_it_learns_what_to_do(tmp_path: Path) -> None:
    with a_wire(tmp_path, {"server_0": ["abakan"]}, create="") as wire:
        wire.fill()
        assert wire.dwh is not None
        wire.dwh.create_user("loader", "loads_only")
        connection = wire.dwh.connection()
        password = connection.password.reveal() if connection.password else ""
        main = (tmp_path / "config" / "dwhctl.toml").read_text()
        main = main.replace(f'user = "{connection.user}"', 'user = "loader"').replace(password, "loads_only")
        wire.put("config/dwhctl.toml", main)
        (failed,) = wire.load().failures
        assert failed.failure.message.startswith("stage.orders does not exist and cannot be made: ")
        assert "Permission denied for database" in failed.failure.message
        assert "`dwhctl render orders --create` prints its statements" in failed.failure.message
        # A right on the schema is enough, once it is there.
        wire.dwh.execute("CREATE SCHEMA stage")
        wire.dwh.execute("GRANT ALL ON SCHEMA stage TO loader")
        assert wire.load().loaded == 1
