"""The way over from Airflow 1.10.10, which the tutorial runs: its export script, its connections, its --replace."""

from __future__ import annotations

import json
import os
import re
import runpy
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.airflow.export import read_exports
from dwhctl.airflow.importing import ImportOutcome
from dwhctl.core.errors import UsageError
from dwhctl.core.secrets import Secret
from dwhctl.project.context import context
from dwhctl.project.model import TelegramAlert
from dwhctl.project.read import read_project
from dwhctl.systems.postgres.system import PostgresConnection
from tests.unit.airflow.test_importing import (
    DATA,
    MAIN,
    TOKEN,
    imported,
    main_text,
    make_project,
    notes,
    prepared,
    result_of,
    written,
)

PAGE = Path(__file__).parents[3] / "docs/airflow-1-10.md"
STAND_IN = DATA / "stand_in"
KEY = "MJNz36Q8222VOQhBOmBROFrmeSxNOgTCMaVp2_HOtE0="
CONNECTIONS, VARIABLES = DATA / "airflow_1_10_connections.json", DATA / "airflow_1_10_variables.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with little in it."""
    return make_project(tmp_path / "project")


# The script of docs/airflow-1-10.md


@pytest.fixture
def airflow(tmp_path: Path) -> Path:
    """The script in a file, beside the rows of an Airflow that has what the tutorial has."""
    command = re.search(
        r"^dwhctl docs airflow-1-10 \| (sed .* > airflow_1_10_export.py)$", PAGE.read_text(), re.M
    )
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], cwd=tmp_path, check=True, input=PAGE.read_bytes())
    encrypt = runpy.run_path(str(STAND_IN / "airflow/models.py"))["encrypt"]
    extra = encrypt('{"bot_token": "123:ABC"}', KEY)
    clear = {"is_encrypted": False, "is_extra_encrypted": False}
    rows = {
        "connections": [
            {"conn_id": "mssql_0", "conn_type": "mssql", "host": "h0", "login": "sa", "port": 1433,
             "_password": encrypt("pä ss", KEY), "is_encrypted": True},
            {"conn_id": "dwh", "conn_type": "vertica", "host": "h1", "login": "u", "schema": "d", **clear},
            {"conn_id": "dwh", "conn_type": "vertica", "host": "h2", "login": "u", "schema": "d", **clear},
            {"conn_id": "tg_main", "conn_type": "", "_extra": extra, "is_extra_encrypted": True},
            {"conn_id": "Etl", "conn_type": "postgres", "host": "old", **clear},
        ],
        "variables": [
            {"key": "price", "_val": "10", "is_encrypted": False},
            {"key": "bot", "_val": encrypt("{'token': '123:ABC'}", KEY), "is_encrypted": True},
            {"key": "cities", "_val": '["abakan"]', "is_encrypted": False},
            {"key": "none", "_val": None, "is_encrypted": False},
        ],
    }  # fmt: skip
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "out").mkdir()
    return tmp_path


def export(airflow: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a fresh interpreter."""
    given = {"PYTHONPATH": str(STAND_IN), "STAND_IN": str(airflow / "rows.json")}
    return subprocess.run(
        [sys.executable, "airflow_1_10_export.py", "out"],
        cwd=airflow,
        env=os.environ | given | {"AIRFLOW__CORE__FERNET_KEY": KEY} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_exports_what_the_import_reads(airflow: Path, root: Path) -> None:
    done = export(airflow, AIRFLOW_CONN_ETL="postgres://etl:p%402@new:5432/etl", AIRFLOW_VAR_PRICE="11")
    assert done.returncode == 0, done.stderr
    assert "pä ss" not in done.stdout + done.stderr
    assert "dwh exists more than once; written as dwh_2" in done.stderr
    files = [airflow / "out/connections.json", airflow / "out/variables.json"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    project, outcomes = imported(root, *files)
    assert set(project.connections) == {"sessions", "mssql_0", "dwh", "dwh_2", "etl"}
    passwords = {name: getattr(project.connections[name], "password", None) for name in ("mssql_0", "etl")}
    assert [each and each.reveal() for each in passwords.values()] == ["pä ss", "p@2"]
    assert getattr(project.connections["etl"], "host", "") == "new"
    var = context(project)["var"]
    assert (var["value"].price, var["json"].cities) == ("11", ["abakan"])
    assert var["value"].bot == "{'token': '123:ABC'}"
    assert isinstance(project.variables["bot"], Secret)
    assert result_of(outcomes, "tg_main") == "to complete"
    assert "none" not in project.variables
    again = export(airflow)
    assert (again.returncode, again.stdout) == (1, "")
    assert "out/connections.json exists already; move it away" in again.stderr


@pytest.mark.parametrize(
    ("key", "only_variables", "words"),
    [
        ("", False, "the password of connection mssql_0 cannot be decrypted (AirflowException)"),
        ("another", False, "the password of connection mssql_0 cannot be decrypted (InvalidToken)"),
        ("another", True, "variable bot cannot be decrypted"),
    ],
)
def test_the_script_writes_nothing_without_the_right_key(
    airflow: Path, key: str, only_variables: bool, words: str
) -> None:
    if only_variables:
        rows = json.loads((airflow / "rows.json").read_text())
        (airflow / "rows.json").write_text(json.dumps(rows | {"connections": []}))
    done = export(airflow, AIRFLOW__CORE__FERNET_KEY=key)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"airflow_1_10_export: {words}")
    assert "Traceback" not in done.stderr
    assert list((airflow / "out").iterdir()) == []


# What Airflow 1.10.10 wrote


def test_an_export_of_airflow_1_10_10_arrives(root: Path) -> None:
    project, outcomes = imported(root, CONNECTIONS, VARIABLES)
    assert {one.airflow_name: one.result for one in outcomes if one.kind == "connection" and one.result != "note"} == {
        "airflow_db, aws_default and 36 more": "left out",
        "broken_extra": "left out",
        **dict.fromkeys(("dwh", "dwh_2", "etl", "mssql_0", "mssql_1", "mssql_2"), "added"),
    }  # fmt: skip
    etl = project.connections["etl"]
    assert isinstance(etl, PostgresConnection)
    assert etl.sslmode == "verify-ca"
    text = main_text(root)
    secrets = ("123:ABC", "456:DEF", "789:GHI", TOKEN, "YOuRAwEsomeBOtToKen", "etl/pass")
    assert [each for each in secrets if each in text] == []
    values = context(project)["var"]["value"]
    assert values.bot_config == "{'service': 'TG', 'bot': {'token': '123:ABC'}}"
    assert values.cut == '{"bot": {"token": "789:GHI'
    assert values.smallest_price == "10"
    assert context(project)["var"]["json"].threshold == {"value": 5}
    again = prepared(root, CONNECTIONS, VARIABLES)
    assert {one.result for one in again.outcomes} == {"unchanged", "left out", "note"}
    assert (again.written.changed, again.kept.texts) == (False, {})


def test_the_variables_that_its_own_command_writes(root: Path) -> None:
    project, _ = imported(root, DATA / "airflow_1_10_variables_cli.json")
    assert "ABC" not in main_text(root)
    assert "GHI" not in main_text(root)
    assert context(project)["var"]["json"].bot_config_json.bot.token == "456:DEF"
    assert context(project)["var"]["value"].bot_config.startswith("{'service'")


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "db.example.com", "login": "etl", "schema": "etl"},
        {"password": "mine", "host": "db.example.com"},
        {"extra": '{"sslmode": "disable"}', "host": "postgres"},
    ],
)
def test_an_example_that_someone_changed_is_no_example(root: Path, tmp_path: Path, changes: Any) -> None:
    entries = json.loads(CONNECTIONS.read_text())
    entries = {name: entries[name] for name in ("postgres_default", "aws_default", "sqlite_default")}
    entries["postgres_default"] |= changes
    _, outcomes = imported(root, written(tmp_path, entries))
    assert result_of(outcomes, "postgres_default") == "added"
    assert result_of(outcomes, "aws_default, sqlite_default") == "left out"


BOT = {"bot_token": TOKEN, "chat_id": -100}


@pytest.mark.parametrize("kind", ["", None, "None", " none ", "http", "HTTP", "generic", "telegram", "jira"])
def test_a_bots_token_in_extra_is_an_alert_whatever_the_type(
    root: Path, tmp_path: Path, kind: str | None
) -> None:
    entry = {"conn_type": kind, "extra": json.dumps(BOT)}
    project, _ = imported(root, written(tmp_path, {"tg_main": entry}))
    alert = project.alerts["tg_main"]
    assert isinstance(alert, TelegramAlert)
    assert (alert.token.reveal(), alert.chat_id) == (TOKEN, "-100")
    assert TOKEN not in main_text(root)


@pytest.mark.parametrize(
    "text",
    [
        "AIRFLOW_CONN_TG_MAIN=://?bot_token=123%3AABC&chat_id=-100\n",
        "AIRFLOW_CONN_TG_MAIN=none://?bot_token=123%3AABC&chat_id=-100\n",
        '{"tg_main": {"extra": {"bot_token": "123:ABC", "chat_id": "-100"}}, "x": {"conn_type": null}}',
    ],
)
def test_a_connection_that_says_no_type(root: Path, tmp_path: Path, text: str) -> None:
    project, outcomes = imported(root, written(tmp_path, text))
    assert isinstance(alert := project.alerts["tg_main"], TelegramAlert)
    assert alert.token.reveal() == "123:ABC"
    if "null" in text:
        assert notes(outcomes, "x").startswith("it has no type: dwhctl knows")


def test_another_systems_bot_token_is_no_telegram(root: Path, tmp_path: Path) -> None:
    slack = {"conn_type": "slack", "extra": {"bot_token": "xoxb-1"}}
    _, outcomes = imported(root, written(tmp_path, {"slack": slack}))
    assert result_of(outcomes, "slack") == "left out"


@pytest.mark.parametrize(
    "text",
    [
        "{'service': 'TG', 'bot': {'token': '123:ABC'}}",
        '{"bot": {"token": "123:ABC"',
        '{"bot": {"name": "x", "api_key": 123ABC}}',
        "bot:\n  token: 123:ABC\n",
        "[bot]\ntoken = 123:ABC\n",
        "('x', {1: {'password': b'123:ABC'}})",
        r"{\"token\": \"123:ABC",
        json.dumps("{'token': '123:ABC'}"),
        r"{'re': '\d', 'token': '123:ABC'}",
        "[" * 300 + "{'token': '123:ABC'}" + "]" * 300,
    ],
)
def test_a_secret_in_a_text_that_is_no_json_is_found(root: Path, tmp_path: Path, text: str) -> None:
    project, _ = imported(root, written(tmp_path, {"conf": text}))
    assert "123" not in main_text(root)
    assert isinstance(project.variables["conf"], Secret)
    assert context(project)["var"]["value"].conf == text


@pytest.mark.parametrize(
    "text", ["{'token': None}", '{"token": null', "a: 1", "{x", "{'a': 1, 'b': [2]}", "tokens are nice", "(" * 5000]
)  # fmt: skip
def test_a_text_without_a_secret_stays_in_the_configuration(root: Path, tmp_path: Path, text: str) -> None:
    project, _ = imported(root, written(tmp_path, {"conf": text}))
    assert project.variables["conf"] == text


def test_what_is_nested_too_deeply_is_left_out(root: Path, tmp_path: Path) -> None:
    deep = "[" * 600 + "]" * 600
    _, outcomes = imported(root, written(tmp_path, f'{{"deep": {deep}, "fine": "1"}}'))
    assert notes(outcomes, "deep") == "is nested too deeply; make it flatter in the file"
    assert result_of(outcomes, "fine") == "added"


# --replace

OLD = """\
[connections.mssql_0]   # the first
# Its address.
type            = "mssql"
host            = "old.example.com"   # by the network team
port            = 1444

# The account.
user            = "sa"
password        = { env = "SA" }      # rotated
max_connections = 4 # pool
encryption      = "require"

# The next one.
"""
NEW: dict[str, Any] = {
    "conn_type": "mssql",
    "host": "old.example.com",
    "login": "sa",
    "password": "p",
    "port": 1433,
}


def replaced(tmp_path: Path, old: str, entry: dict[str, Any]) -> tuple[str, str, list[ImportOutcome]]:
    """Import one connection over a block. Return the new configuration, what was said of it, and all outcomes."""
    root = make_project(tmp_path / "project", old + MAIN)
    file = written(tmp_path, {"mssql_0": entry})
    with pytest.raises(UsageError, match="--replace"):
        prepared(root, file)
    _, outcomes = imported(root, file, replace=True)
    text = main_text(root)
    assert text.endswith(MAIN)
    again = prepared(root, file, replace=True)
    assert (again.written.changed, {one.result for one in again.outcomes} - {"note"}) == (
        False,
        {"unchanged"},
    )
    return text, notes(outcomes, "mssql_0"), outcomes


def test_replace_keeps_keys_comments_and_order(tmp_path: Path) -> None:
    text, said, outcomes = replaced(tmp_path, OLD, NEW)
    wanted = OLD.replace("1444", "1433").replace('{ env = "SA" }', '{ file = "secrets/mssql_0_password" }')
    assert text == wanted + MAIN
    assert said.strip() == "kept: max_connections, encryption"
    assert outcomes[0].result == "replaced"


def test_replace_takes_no_password_and_port_to_another_server(tmp_path: Path) -> None:
    entry = {**NEW, "host": "new.example.com", "port": None, "password": None}
    text, said, _ = replaced(tmp_path, OLD, entry)
    wanted = OLD.replace("old.", "new.").replace("port            = 1444\n", "")
    assert text == wanted.replace('password        = { env = "SA" }      # rotated\n', "") + MAIN
    assert "kept: max_connections, encryption\n" in said
    assert "removed: port, password: of another server, user or type" in said


def test_replace_keeps_the_password_of_the_same_server_and_user(tmp_path: Path) -> None:
    text, said, _ = replaced(tmp_path, OLD, {**NEW, "password": None, "schema": "other"})
    assert 'password        = { env = "SA" }      # rotated\n' in text
    assert 'encryption      = "require"\ndatabase = "other"\n\n# The next one.\n' in text
    assert "kept: password, max_connections, encryption" in said


def test_replace_by_another_type_keeps_what_that_type_has(tmp_path: Path) -> None:
    entry = {**NEW, "conn_type": "vertica", "schema": "d"}
    text, said, _ = replaced(tmp_path, OLD, entry)
    assert "max_connections = 4 # pool\n" in text
    assert "encryption" not in text
    assert "removed: encryption" in said


def test_replace_keeps_tables_within(tmp_path: Path) -> None:
    old = OLD.replace("\n# The next one.\n", '\n[connections.mssql_0.labels]   # ours\nteam = "dwh"\n\n')
    root = make_project(tmp_path / "project", old + MAIN)
    found = prepared(root, written(tmp_path, {"mssql_0": NEW}), replace=True)
    assert '[connections.mssql_0.labels]   # ours\nteam = "dwh"\n' in found.written.text
    assert "kept: max_connections, encryption, labels" in notes(found.outcomes, "mssql_0")


def test_replace_of_an_alert_keeps_what_airflow_does_not_say(tmp_path: Path) -> None:
    old = """\
[alerts.tg_main]
type      = "telegram"
token     = "111111:old"     # of the old bot
chat_id   = "-100"
when      = ["all_done"]     # every night
loads     = ["orders"]
"""
    root = make_project(tmp_path / "project", old + MAIN)
    entry = {"conn_type": "", "extra": {"bot_token": TOKEN, "chat_id": "-100"}}
    file = written(tmp_path, {"tg_main": entry})
    found = prepared(root, file, replace=True)
    wanted = old.replace('"111111:old"', '{ file = "secrets/tg_main_token" }')
    assert found.written.text == wanted + MAIN
    assert "kept: loads" in notes(found.outcomes, "tg_main")


def test_an_alert_with_another_when_is_unchanged(root: Path, tmp_path: Path) -> None:
    file = written(tmp_path, {"tg_main": {"conn_type": "", "extra": BOT}})
    imported(root, file)
    text = re.sub(r"when = \[.*\]", 'when = ["all_done"]', main_text(root))
    (root / "config/dwhctl.toml").write_text(text)
    assert result_of(imported(root, file)[1], "tg_main") == "unchanged"
    assert main_text(root) == text


# Everything that Airflow's form can hold

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
EXTRAS = ["", "{}", '{"sslmode": "disable"}', '{"SSLMODE": "Require"}', '{"sslmode": " verify-full "}']
ENTRY = st.fixed_dictionaries(
    {
        "conn_type": st.sampled_from(["postgres", "Postgres", "postgresql"]),
        "host": st.just("db.example.com"),
        "login": WORDS,
    },
    optional={
        "password": WORDS,
        "schema": WORDS,
        "port": st.integers(1, 65535) | st.just(" 5433 "),
        "extra": st.sampled_from(EXTRAS),
    },
)


@settings(max_examples=40, deadline=None)
@given(ENTRY)
def test_every_connection_arrives_as_it_was_or_is_left_out(entry: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_project(Path(folder) / "p")
        file = written(Path(folder), {"etl": entry})
        try:
            _, outcomes = imported(root, file)
        except UsageError as error:
            assert "carriage return" in str(error)  # noqa: PT017 - the one thing that is refused
            return
        if result_of(outcomes, "etl") == "left out":
            assert notes(outcomes, "etl")
            return
        etl = read_project(root).connections["etl"]
        assert isinstance(etl, PostgresConnection)
        assert (etl.user, etl.password and etl.password.reveal()) == (entry["login"], entry.get("password"))
        assert (etl.database, etl.port) == (entry.get("schema", entry["login"]), int(entry.get("port", 5432)))
        mode = json.loads(entry.get("extra") or "{}")
        assert etl.sslmode == (next(iter(mode.values())).strip().lower() if mode else None)
        text = main_text(root)
        assert prepared(root, file).written.text == text


def test_a_half_character_is_left_out(root: Path, tmp_path: Path) -> None:
    entries = {
        "etl": {"conn_type": "postgres", "host": "h", "login": "u", "schema": "d", "password": "\ud800"}
    }
    _, outcomes = imported(root, written(tmp_path, entries))
    assert "half a character" in notes(outcomes, "etl")


def test_the_message_for_no_export_leads_to_the_script(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Airflow 1.10: dwhctl docs airflow-1-10"):
        read_exports([written(tmp_path, "[]")])
