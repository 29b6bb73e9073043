"""The first half of docs/from-airflow.md (import, shadow run, `--against`), from the page's own code blocks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli_support import dwh
from tests.postgres import any_server
from tests.support.wire import a_wire, needs_faults

PAGE = Path(__file__).parents[2] / "docs/from-airflow.md"
SERVERS = {
    "mssql_0": ("abakan", "achinsk"),
    "mssql_1": ("chernogorsk", "chita"),
    "mssql_2": ("klin", "moscow"),
}
SESSIONS = """\
CREATE TABLE sessions (
    id SERIAL NOT NULL PRIMARY KEY, task_name VARCHAR(200) NOT NULL,
    started TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, finished TIMESTAMPTZ DEFAULT current_timestamp,
    successful BOOL, loaded_rows INT, comment VARCHAR(500))"""
OLD_TABLE = """\
CREATE TABLE stage.Orders (
    id INT, start_time TIMESTAMP, end_time TIMESTAMP, type INT, data VARCHAR(32),
    etl_source VARCHAR(200), etl_id INT, hash_id INT PRIMARY KEY)"""
ORDERS = """\
CREATE TABLE dbo.Orders (id bigint NOT NULL, start_time datetime2, end_time datetime2, type int,
    data uniqueidentifier)"""
ROWS = 12


class Block(NamedTuple):
    """A fenced block: its language and text."""

    language: str
    text: str


def blocks() -> list[Block]:
    """Return the page's fenced blocks in their order."""
    return [Block(*found) for found in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"))]


def write_files(root: Path) -> None:
    """Write every block whose first line is a comment with a file's name."""
    for block in blocks():
        named = re.match(r"(?:#|--) ((?:config|sql)/\S+)\n", block.text)
        if named:
            path = root / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def commands(section: str) -> list[list[str]]:
    """Return the dwhctl commands of the sh blocks of a section."""
    text = PAGE.read_text("utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = "".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", text)).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("dwhctl ")]


@needs_faults
def test_import_shadow_and_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "warehouse"
    root.mkdir()
    monkeypatch.chdir(root)
    with any_server() as postgres, a_wire(tmp_path / "servers", SERVERS) as wire:
        database = postgres.make_database()
        postgres.run(SESSIONS, database)
        monkeypatch.setenv("DWHCTL_CONN_ETL", postgres.url(database))
        wire.change_warehouse("CREATE SCHEMA stage", OLD_TABLE)
        for number, shard in enumerate(wire.shards()):
            data = [f"6F9619FF-8B86-D011-B42D-00C04FC9{key:04d}" for key in range(ROWS)]
            wire.in_shard(shard, "DROP TABLE dbo.Orders", ORDERS)
            for key, value in enumerate(data):
                at = f"2020-07-14 {key:02d}:00:00"
                wire.in_shard(shard, f"INSERT INTO dbo.Orders VALUES ({key}, '{at}', '{at}', 1, '{value}')")
            times = 3 if shard == "chita" else 1
            old = [
                f"INSERT INTO stage.Orders VALUES ({key}, '2020-07-14 {key:02d}:00:00', '2020-07-14 {key:02d}:00:00',"
                f" 1, '{value[:32]}', '{shard}', {number + 1}, {number * 1000 + again * 100 + key})"
                for again in range(times)
                for key, value in enumerate(data)
            ]
            wire.change_warehouse(*old)
            postgres.run(
                f"INSERT INTO sessions (task_name, successful, loaded_rows) VALUES ('orders__{shard}', TRUE, {ROWS})",
                database,
            )
        exported = {}
        for name, server in wire.own_sources.items():
            one = server.connection()
            exported[name] = {"conn_type": "mssql", "host": one.host, "port": one.port, "login": one.user,
                              "password": one.password.reveal() if one.password else ""}  # fmt: skip
        assert wire.dwh is not None
        dwh_one = wire.dwh.connection()
        exported["dwh"] = {"conn_type": "vertica", "host": dwh_one.host, "port": dwh_one.port, "login": dwh_one.user,
                           "schema": dwh_one.database, "extra": json.dumps({"tlsmode": "disable"}),
                           "password": dwh_one.password.reveal() if dwh_one.password else ""}  # fmt: skip
        (tmp_path / "connections.json").write_text(json.dumps(exported))
        (tmp_path / "variables.json").write_text(json.dumps({"failures_chat": "-100"}))

        main = next(block.text for block in blocks() if block.text.startswith("# config/dwhctl.toml"))
        (root / "config").mkdir()
        (root / "config/dwhctl.toml").write_text(main)
        for command in commands("Connections and variables"):
            assert dwh(*command) == 0, capfd.readouterr()
        imported = (root / "config/dwhctl.toml").read_text()
        write_files(root)
        (root / "config/dwhctl.toml").write_text(imported)

        check, load, verify = commands("The shadow run")
        assert dwh(*check) == 0, capfd.readouterr()
        assert dwh(*load) == 0, capfd.readouterr()
        capfd.readouterr()
        assert dwh(*verify) == 1
        shown = capfd.readouterr().out
        assert "data" in shown
        assert "chita" in shown

        with postgres.connect(database) as link, link.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM sessions WHERE load IS NULL")
            assert cursor.fetchone() == (len(wire.shards()),)
        link.close()
        postgres.drop_database(database)
