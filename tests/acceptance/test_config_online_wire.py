"""`config check --online` over the wire: drift, privileges, databases in no shard group, an enabled key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wire import CREATE, ORDERS, Wire, a_wire, needs_faults

pytestmark = needs_faults

SERVERS = {"mssql_0": ["abakan", "achinsk"], "mssql_1": ["chita"]}


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    """A project whose warehouse was loaded once."""
    with a_wire(tmp_path, SERVERS) as wire:
        assert wire.fill().load().failed == 0
        yield wire


def check(wire: Wire) -> tuple[int, list[str], list[str]]:
    """Run the check; give its exit code, its lines, and its warnings but for those of the passwords."""
    done = wire.run("config", "check", "--online")
    assert "Traceback" not in done.stderr
    assert "Secret" not in done.stdout + done.stderr
    warnings = [line for line in done.stderr.splitlines() if "the secret itself" not in line]
    return done.returncode, done.stdout.splitlines(), warnings


def test_a_project_without_fault_is_left_as_it_was(wire: Wire) -> None:
    before = wire.target_rows()
    code, lines, warnings = check(wire)
    assert (code, warnings) == (0, [])
    assert "the configuration is right" in lines[0]
    assert wire.target_rows() == before
    assert wire.staging_tables() == []
    assert all(server.sessions_now <= 1 for server in wire.own_servers)


def test_drift_privileges_and_a_missing_database_are_one_line_each(wire: Wire) -> None:
    wire.put("sql/orders/extract.sql", wire.extract.replace("id, customer, amount, start_time", "*"))
    wire.in_shard(
        "abakan", "DROP TABLE dbo.Orders", ORDERS.replace("customer", "note NVARCHAR(50), customer")
    )
    wire.own_sources["mssql_0"].deny("achinsk", "Orders")
    wire.servers = {**SERVERS, "mssql_1": ["chita", "omsk"]}
    wire.put("config/dwhctl.toml", wire._toml())
    code, lines, _ = check(wire)
    assert code == 1
    abakan, achinsk, omsk = lines
    assert abakan == "abakan: orders: column note (nvarchar(50)) is new at the source"
    assert achinsk.startswith("achinsk: orders: ")
    assert "229" in achinsk
    assert omsk.startswith("omsk: orders: ")
    assert "omsk" in omsk.partition("orders: ")[2]


def test_a_database_in_no_shard_group(wire: Wire) -> None:
    server = wire.own_sources["mssql_1"]
    server.create_database("omsk")
    server.execute("omsk", ORDERS)
    server.create_database("notes")
    expected = ["Warning: mssql_1: database omsk has what the load orders reads, but is in no shard group"]
    assert check(wire)[::2] == (0, expected)
    done = wire.run("connections", "test")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("Warning: mssql")] == expected


def test_an_enabled_primary_key_is_told(wire: Wire) -> None:
    wire.warehouse(f"DROP TABLE {wire.schema}.orders CASCADE")
    wire.create = CREATE.replace(
        "start_time TIMESTAMP\n", "start_time TIMESTAMP, PRIMARY KEY (id, etl_source) ENABLED\n"
    )
    assert "ENABLED" in wire.create
    assert wire.write().load().failed == 0
    code, _, warnings = check(wire)
    assert code == 0
    assert len(warnings) == 1
    assert "orders: warehouse: " in warnings[0]
    assert "ENABLED" in warnings[0].upper()


def test_a_user_without_privileges_on_the_target(wire: Wire) -> None:
    assert wire.dwh is not None
    wire.dwh.create_user("reader", "reads_only")
    wire.dwh.execute(f"GRANT USAGE ON SCHEMA {wire.schema} TO reader")
    wire.dwh.execute(f"GRANT SELECT ON {wire.schema}.orders TO reader")
    main = (wire.root / "config" / "dwhctl.toml").read_text()
    connection = wire.dwh.connection()
    password = connection.password.reveal() if connection.password else ""
    main = main.replace(f'user = "{connection.user}"', 'user = "reader"').replace(password, "reads_only")
    wire.put("config/dwhctl.toml", main)
    code, lines, _ = check(wire)
    assert code == 1
    assert all(line.startswith("orders: warehouse: ") for line in lines)
    assert any("INSERT" in line for line in lines)
