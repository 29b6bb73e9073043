"""`dwhctl init`: a project of each kind, and the way from nothing to own rows by its comments only."""

from __future__ import annotations

import re
import shlex
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest

from dwhctl.cli.new_project.init import SOURCES, TARGETS
from tests.cli_support import dwh
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer

KINDS = list(product(SOURCES, TARGETS))
YESTERDAY = datetime.now(ZoneInfo("UTC")).date() - timedelta(days=1)
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DWHCTL_PROJECT", "MSSQL_0_PASSWORD", "DWH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def init(root: Path, source: str, target: str, captured: Captured) -> list[str]:
    """Make a project and give the commands that it names."""
    assert dwh("init", root, "--source", source, "--target", target) == 0
    shown = captured.readouterr().out
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80
    return [line.strip() for line in shown.partition("Next:\n")[2].splitlines()]


def edit(root: Path, number: int, changes: dict[str, str]) -> None:
    """Make the changes below the marks of one edit; each text is there once."""
    marked = [
        path
        for folder in ("config", "sql")
        for path in (root / folder).rglob("*.*")
        if re.search(rf"^(#|--) EDIT {number}:", path.read_text(), re.MULTILINE)
    ]
    [path] = marked  # an edit is of one file
    start, mark, rest = path.read_text().partition(f" EDIT {number}:")
    for before, after in changes.items():
        assert rest.count(before) == 1, before
        rest = rest.replace(before, after)
    path.write_text(start + mark + rest)


def run_the_rest(commands: list[str], *more: str) -> None:
    """Run the commands that `init` names, but for those of the shell."""
    for command in commands:
        words = shlex.split(command, comments=True)
        names = [Path(word).name for word in words]
        if "dwhctl" in names:
            arguments = words[names.index("dwhctl") + 1 :]
            assert dwh(*arguments, *(more if arguments[-1] == "yesterday" else ())) == 0, command


@pytest.mark.parametrize(("source", "target"), KINDS)
def test_every_kind_is_accepted_as_it_is_and_with_every_setting_switched_on(
    source: str, target: str, tmp_path: Path, capsys: Captured
) -> None:
    root = tmp_path / "new"
    init(root, source, target, capsys)
    assert dwh("config", "check", "--project", root) == 0
    assert "the configuration is right" in capsys.readouterr().out
    files = sorted((root / "config").rglob("*.toml"))
    before = {path: path.read_text() for path in files}
    blocks = [
        (path, block)
        for path, text in before.items()
        for block in re.findall(r"(?:^#(?=\S).*\n)+", text, re.MULTILINE)
    ]
    assert len(blocks) >= 9
    for path, block in blocks:
        path.write_text(before[path].replace(block, re.sub("^#", "", block, flags=re.MULTILINE)))
        assert dwh("config", "check", "--project", root) == 0, (path, block, capsys.readouterr())
        path.write_text(before[path])
    for path, text in before.items():
        path.write_text(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    assert dwh("config", "check", "--project", root) == 0, capsys.readouterr()
    assert "1 load, 1 report, 2 alerts" in capsys.readouterr().out


def test_from_nothing_to_own_rows_in_duckdb_by_four_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    shops = tmp_path / "shops"
    shops.mkdir()
    for name in ("berlin", "Paris_2"):
        with duckdb.connect(str(shops / f"{name}.duckdb")) as db:
            db.execute(
                "CREATE TABLE calls (call_id BIGINT, called_at TIMESTAMP, seconds INTEGER, note VARCHAR)"
            )
            db.execute(
                f"INSERT INTO calls SELECT i, TIMESTAMP '{YESTERDAY}' - INTERVAL 1 DAY + i * INTERVAL 1 HOUR, i, 'é'"
                " FROM range(72) AS r (i)"
            )
    monkeypatch.chdir(tmp_path)
    commands = init(Path("mine"), "duckdb", "duckdb", capsys)
    assert commands[0] == "cd mine"
    assert not any(command.startswith("export") for command in commands)
    monkeypatch.chdir(tmp_path / "mine")
    shards = '[\n    "abakan",\n    "chita",\n    { name = "achinsk", database = "Achinsk_2", from = "2020-03-01" },\n]'
    mine = '["berlin", { name = "paris", database = "Paris_2" }]'
    edit(Path(), 1, {'"servers/server_0"': f'"{shops}"', shards: mine})
    first = YESTERDAY - timedelta(days=1)
    edit(Path(), 2, {'["id"]': '["call_id"]', '"start_time"': '"called_at"', "2020-02-08": str(first)})
    columns = "    id,\n    start_time,\n    end_time,\n    customer,\n    price\nFROM orders\n"
    edit(
        Path(),
        3,
        {
            columns: "    call_id,\n    called_at,\n    seconds,\n    note\nFROM calls\n",
            "WHERE start_time": "WHERE called_at",
            "AND start_time": "AND called_at",
        },
    )
    old = (
        "    id         BIGINT NOT NULL,\n    start_time TIMESTAMP NOT NULL,\n"
        "    end_time   TIMESTAMP,\n    customer   VARCHAR,\n    price      DECIMAL(12, 2)\n"
    )
    edit(
        Path(),
        4,
        {
            old: "    call_id BIGINT NOT NULL,\n    called_at TIMESTAMP,\n    seconds INTEGER,\n    note VARCHAR\n"
        },
    )
    run_the_rest(commands)
    shown = capsys.readouterr()
    assert "2 slices loaded, 0 skipped (no rows), 0 failed; 48 rows" in shown.out
    assert "Error" not in shown.err
    assert "Warning" not in shown.err
    reports = Path("config/reports.toml")
    reports.write_text(re.sub(r"^#(?=\S)", "", reports.read_text(), flags=re.MULTILINE))
    assert dwh("refresh-reports") == 0
    with duckdb.connect("state/warehouse.duckdb") as db:
        rows = db.sql("SELECT etl_source, count(*), sum(seconds) FROM stage.orders GROUP BY 1 ORDER BY 1")
        assert rows.fetchall() == [("berlin", 24, 852), ("paris", 24, 852)]
        assert db.sql("SELECT * FROM reports.city_orders ORDER BY 1").fetchall() == [
            ("berlin", 24),
            ("paris", 24),
        ]


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_from_sql_server(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = init(Path("mine"), "mssql", target, capsys)
    monkeypatch.chdir(tmp_path / "mine")
    with TdsServer(databases=("Berlin",), password="first secret") as server, VerticaServer() as warehouse:
        server.execute("Berlin", "CREATE TABLE dbo.Orders (id BIGINT NOT NULL, start_time DATETIME2(3) NOT NULL,"
                       " end_time DATETIME2(3), customer NVARCHAR(100), price DECIMAL(12, 2))")  # fmt: skip
        server.execute(
            "Berlin", f"INSERT INTO dbo.Orders VALUES (1, '{YESTERDAY}T10:00:00', NULL, N'Zoë', 12.50)"
        )
        secrets = {"MSSQL_0_PASSWORD": "first secret"}
        if target == "vertica":
            secrets["DWH_PASSWORD"] = warehouse.password
        assert [line for line in commands if line.startswith("export ")] == [
            f"export {name}=..." for name in secrets
        ]
        for name, secret in secrets.items():
            monkeypatch.setenv(name, secret)
        shards = '    "abakan",\n    "chita",\n    { name = "achinsk", database = "Achinsk_2", from = "2020-03-01" },\n'
        addresses = {
            '"mssql-0.example.com"\nuser            = "dwhctl"': f'"{server.host}"\nuser = "{server.user}"',
            "#port           = 1433": f"port = {server.port}",
            shards: '    { name = "berlin", database = "Berlin" },\n',
        }
        if target == "vertica":
            addresses |= {
                '"vertica.example.com"\ndatabase        = "dwh"\nuser            = "dwhctl"': (
                    f'"{warehouse.host}"\ndatabase = "{warehouse.database}"\nuser = "{warehouse.user}"'
                ),
                "#port           = 5433": f"port = {warehouse.port}",
                '#tlsmode        = "disable"': 'tlsmode = "disable"',
            }
        edit(Path(), 1, addresses)
        run_the_rest(commands, "--inline")
        shown = capsys.readouterr()
        assert "1 slice loaded, 0 skipped (no rows), 0 failed; 1 row" in shown.out
        assert "Error" not in shown.err
        sql = "SELECT etl_source, customer, price FROM stage.orders"
        assert dwh("query", "dwh", sql, "--format", "csv") == 0
        assert capsys.readouterr().out.splitlines()[1].replace('"', "") == "berlin,Zoë,12.50"
