"""One mistake is one block with one command: on the terminal, in a pipe and in the digest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwhctl.core.errors import About, AttemptError, QueryError, TargetRefusedError
from dwhctl.project.query import Query
from dwhctl.systems.base.system import SourceOptions, system_of
from tests.cli_support import dwh
from tests.integration.vertica_target_kit import a_server, a_target
from tests.servers.bot_api import TOKEN, BotApi
from tests.servers.tds import TdsServer
from tests.support.projects import DAY, Sandbox
from tests.support.reports import Place, a_place

SHARDS = {f"server_{server}": [f"city_{server}_{number}" for number in range(3)] for server in range(3)}
CHANNEL = """
[alerts.failures]
type = "telegram"
when = ["one_failed"]
token = {{ env = "TG_TOKEN" }}
chat_id = -100
api_base = "{url}"
"""
INLINE = ("load", "--date", str(DAY), "--retries", "0", "--inline")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[BotApi]:
    monkeypatch.setenv("TG_TOKEN", TOKEN)
    with BotApi() as server:
        yield server


@pytest.fixture
def sandbox(tmp_path: Path, api: BotApi) -> Sandbox:
    sandbox = Sandbox(tmp_path / "project", servers=SHARDS, load_keys="retries = 0").write().fill(3)
    main = sandbox.root / "config" / "dwhctl.toml"
    main.write_text(main.read_text() + CHANNEL.format(url=api.url))
    return sandbox


def change(sandbox: Sandbox, name: str, old: str, new: str) -> None:
    path = sandbox.root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_one_mistake_in_the_extract_of_three_servers(
    sandbox: Sandbox, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    change(sandbox, "sql/orders/extract.sql", "SELECT", "{# the orders of a day #}\n{{ '' }}SELECT")
    change(sandbox, "sql/orders/extract.sql", "amount", "amuont")
    assert dwh(*INLINE, "--project", sandbox.root) == 1
    captured = capsys.readouterr()
    _, _, reason, shards, command, *rest = captured.out.splitlines()
    assert reason.startswith("9 slices failed: QueryError: Binder Error: ")
    assert shards.startswith(f"  orders {DAY}: city_0_0, ")
    assert shards.endswith(" and 4 more")
    again = f"dwhctl load orders --date {DAY} --only-failed --project {sandbox.root}"
    assert command == f"  correct sql/orders/extract.sql (line 2), then: {again}"
    assert [line for line in rest if line] == ["alert failures: sent: message 4711"]
    failures = [line for line in captured.err.splitlines() if " failed: " in line]
    assert len(failures) == 1
    assert "9 failed (8 more like those above; -v shows each)" in captured.err
    [message] = api.sent
    assert message.text.count("Binder Error") == 1
    assert "orders: 9 shards\n" in message.text
    assert f"correct sql/orders/extract.sql (line 2), then:\n{again}\n" in message.text
    # What it says to do is enough.
    change(sandbox, "sql/orders/extract.sql", "amuont", "amount")
    assert dwh(*shlex.split(again)[1:], "--inline") == 0


def test_with_verbose_every_shard_has_its_message(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    change(sandbox, "sql/orders/extract.sql", "FROM", "FORM")
    assert dwh(*INLINE, "-v", "--project", sandbox.root) == 1
    shown = capsys.readouterr().out
    assert all(shown.count(f"  orders {shard} {DAY}: QueryError: ") == 1 for shard in sandbox.shards())


def test_a_mistake_in_the_second_statement_of_create(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.put(
        "sql/orders/create.sql",
        "CREATE SCHEMA IF NOT EXISTS stage;\n\n-- the table\nCREATE TABLE\n  x (id INTT);\n",
    )
    assert dwh(*INLINE, "--project", sandbox.root) == 1
    shown = capsys.readouterr().out
    assert "9 slices failed on warehouse: TargetRefusedError: " in shown
    assert "  correct sql/orders/create.sql (line 5), then: dwhctl load orders " in shown


@pytest.fixture(params=["duckdb", "vertica"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with a_place(request.param, tmp_path / "project") as made:
        yield made


def test_a_mistake_in_a_reports_query(place: Place) -> None:
    place.put({"numbers": 'retries = 0\nsource = "reports/query.sql"'})
    place.sandbox.put(
        "sql/reports/query.sql",
        "-- {{ ds }}\nSELECT word, id, version,\n       nonsense\nFROM stage.numbers\n",
    )
    [group] = place.refresh().groups
    assert group.advice == "correct sql/reports/query.sql (line 3), then"
    assert group.command == f"dwhctl refresh-reports numbers --date {DAY}"
    place.put({"numbers": 'retries = 0\nsource = "SELECT word, id, version, nonsense FROM stage.numbers"'})
    [group] = place.refresh().groups
    assert group.advice == "correct config/reports.toml: reports.numbers.source (line 1 of it), then"


def test_a_mistake_in_a_reports_create(place: Place) -> None:
    path = place.sandbox.root / "sql/reports/numbers.sql"
    path.write_text(
        path.read_text() + "\nCREATE TABLE reports.y (\n  id INTEGER,\n  word STRANGE_TYPE(3)\n);\n"
    )
    [group] = place.refresh(retries=0).groups
    assert group.advice == "correct sql/reports/numbers.sql (line 7), then"


def test_mistakes_in_two_reports_are_two_reasons(place: Place) -> None:
    """Each has its own message, and the file to correct."""
    names = ("one", "two")
    place.put({name: f'retries = 0\nsource = "reports/{name}_query.sql"' for name in names})
    for name in names:
        place.sandbox.put(f"sql/reports/{name}_query.sql", f"SELECT * FROM stage.not_there_{name}")
    # Which of them fails first differs: they run at once.
    first, second = sorted(place.refresh().groups, key=lambda group: group.example.load)
    for name, group in (("one", first), ("two", second)):
        assert f"not_there_{name}" in group.failure.message
        assert (
            group.advice == f"create the table there or correct sql/reports/{name}_query.sql (line 1), then"
        )
        assert group.command == f"dwhctl refresh-reports {name} --date {DAY}"


def refused_by_sql_server(sql: str) -> AttemptError:
    with TdsServer(databases=("abakan",)) as server:
        server.execute("abakan", "CREATE TABLE orders (id bigint, name nvarchar(50))")
        with (
            system_of(server.connection(name="mssql_0")).open_source(
                server.connection(name="mssql_0"), "abakan", SourceOptions("UTC", 5)
            ) as source,
            pytest.raises(QueryError) as caught,
        ):
            list(source.batches(Query(sql, {}), 10))
    return caught.value


@pytest.mark.parametrize(
    ("sql", "line", "about"),
    [
        ("SELECT id,\n  nme\nFROM dbo.orders", 2, About.SQL),
        ("SELECT id\nFROM dbo.orderz", 2, About.TABLE),
    ],
)
def test_sql_server_names_what_is_wrong(sql: str, line: int, about: About) -> None:
    error = refused_by_sql_server(sql)
    assert (error.line, error.about, error.statement) == (line, about, sql)


def test_vertica_names_what_is_wrong() -> None:
    with a_server() as server, pytest.raises(TargetRefusedError) as caught:
        a_target(server).run_statements(
            ["CREATE SCHEMA IF NOT EXISTS a", "CREATE VIEW a.v AS\nSELECT x\nFROM nowhere.t"]
        )
    error = caught.value
    assert error.statement == "CREATE VIEW a.v AS\nSELECT x\nFROM nowhere.t"
    assert (error.line, error.about) == (3, About.TABLE)
