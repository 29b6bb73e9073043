"""A secret in the wrong place of the configuration or the command line is never shown."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.core import secrets
from dwhctl.core.errors import ConfigError
from dwhctl.project.read import read_project
from tests.cli_support import dwh
from tests.unit.projects import EXTRACT, LOAD, MAIN, problems, the_problem, write, write_project

PROJECT: dict[str, Any] = {
    **tomlkit.parse(MAIN).unwrap(),
    "variables": {"chat": "-100123", "bot": {"name": "x", "n": [1, "a"]}},
    "alerts": {
        "chat": {"type": "telegram", "when": ["all_done"], "token": {"env": "T"}, "chat_id": "-1"},
        "mail": {
            "type": "email", "when": ["one_failed"], "host": "mail", "port": 25, "from": "a@example.com",
            "to": ["b@example.com"], "loads": ["orders"], "repeat_after": "2h",
        },
    },
}  # fmt: skip
PROJECT["connections"]["pg"] = {
    "type": "postgres", "host": "h", "port": 5432, "user": "u", "password": {"env": "P"}, "database": "d",
    "connect_timeout": "3s", "max_connections": 3,
}  # fmt: skip
PROJECT["connections"]["v"] = {
    "type": "vertica", "host": "h", "user": "u", "database": "d", "tlsmode": "verify-full",
    "tls_cafile": "config/ca.pem",
}  # fmt: skip
REPORTS = {
    "reports": {
        "city": {"connection": "dwh", "source": "stage.v", "target": "stage.r", "schedule": "@daily"}
    },
    "refresh": {"max_parallel": 2},
}
FILES = {
    "config/dwhctl.toml": PROJECT,
    "config/loads/orders.toml": tomlkit.parse(LOAD).unwrap(),
    "config/reports.toml": REPORTS,
}
PRIVATE = ("connections", "shards", "alerts")


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and item of a tree."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        yield (*path, step)
        yield from places(below, (*path, step))


PLACES = [(file, path) for file, tree in FILES.items() for path in places(tree)]
cores = st.text("abcdefghjkmnpqrstuvwxyz23456789", min_size=12, max_size=12).map("Zq{}9X".format)
anywhere = (
    "postgres://etl:{}@host/db",
    "etl:{}@host",
    "https://hooks.example.com/{}",
    "123456789:{}AAAAbbbbCCCCdddd11112222",
)
only_private = ("{}", "{}-!x", "123:{}", "{}\"'\\ y")


def put(tree: dict[str, Any], path: tuple[Any, ...], secret: str, how: str) -> dict[str, Any]:
    """The tree with the secret at a place: as its value, in a list, as its key, as a table's name, beside it."""
    changed = copy.deepcopy(tree)
    owner: Any = changed
    for step in path[:-1]:
        owner = owner[step]
    key = path[-1]
    if how == "value" or isinstance(owner, list):
        owner[key] = secret
    elif how == "list":
        owner[key] = [secret]
    elif how == "key":
        owner[secret] = owner.pop(key)
    elif how == "table":
        owner[secret] = {"type": secret, secret: secret}
    elif how == "typo":
        owner[f"{key}n"] = secret
    return changed


def said_by(root: Path, *arguments: str) -> str:
    """All that a command writes, with its traceback; masked is only what it reads itself."""
    secrets._secrets.clear()
    secrets._masks = None
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        dwh("--debug", "--project", root, *arguments)
    return out.getvalue()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "config/ca.pem", "")
        yield write_project(Path(folder))


@settings(max_examples=120)
@given(data=st.data(), core=cores)
def test_a_secret_at_any_place_is_never_shown(root: Path, data: st.DataObject, core: str) -> None:
    file, path = data.draw(st.sampled_from(PLACES))
    private = file == "config/dwhctl.toml" and path[0] in PRIVATE and len(path) > 1
    secret = data.draw(st.sampled_from(anywhere + only_private * private)).format(core)
    how = data.draw(st.sampled_from(["value", "list", "key", "table", "typo"]))
    for name, tree in FILES.items():
        write(root, name, tomlkit.dumps(put(tree, path, secret, how) if name == file else tree))
    said = said_by(root, "config", "check")
    assert said
    assert core.lower() not in said.lower()
    assert "Traceback" not in said or "ConfigError" in said


@settings(max_examples=60)
@given(
    before=cores, mark=st.sampled_from("?#@/:&=%;, "), core=cores, number=st.booleans(),
    kind=st.sampled_from(["postgres", "mssql", "vertica", "duckdb", "postgress", ""]),
    tail=st.sampled_from(["@host/db", "@host", "", "@host:5432/db?tlsmode=require"]),
)  # fmt: skip
def test_no_part_of_a_url_is_shown(
    root: Path, before: str, mark: str, core: str, number: bool, kind: str, tail: str
) -> None:
    for name, tree in FILES.items():
        write(root, name, tomlkit.dumps(tree))
    url = f"{kind}://etl:{123 if number else before}{mark}{core}{tail}"
    with mock.patch.dict(os.environ, {"DWHCTL_CONN_PG": url}):
        said = said_by(root, "config", "check")
    assert core not in said
    assert before not in said


TOML = {
    "a table twice": '["{}"]\n["{}"]',
    "a key twice": '[x]\n"{}" = 1\n"{}" = 2',
    "a key twice in a line": 'x = {{ "{}" = 1, "{}" = 2 }}',
    "a key below a value": 'x = {{ "{}" = {{ a = 1 }} }}\n[x."{}"]\nb = 1',
    "a table below a value": '"{}" = 1\n["{}".y]',
    "an array of tables": '[["{}"]]\n["{}"]\n[["{}"]]',
    "no quotes": "x = {}",
    "no quote": 'x = "{}',
    "no value": "{}",
}


@pytest.mark.parametrize("text", TOML.values(), ids=list(TOML))
def test_an_error_of_toml_shows_no_key_and_no_value(tmp_path: Path, text: str) -> None:
    write_project(tmp_path, text.replace("{}", "Hunter2!pass").replace("{{", "{").replace("}}", "}"))
    assert "unter2" not in the_problem(tmp_path)
    assert "line " in the_problem(tmp_path)


def test_a_hidden_key_is_found_by_its_line(tmp_path: Path) -> None:
    write_project(
        tmp_path, MAIN + '\n[connections."postgres://u:hunter2@h/db"]\ntype = "duckdb"\npath = "x"\n'
    )
    line = MAIN.count("\n") + 2
    assert problems(tmp_path)[0].startswith(
        f"config/dwhctl.toml: connections.<25 characters, not shown> (line {line}): "
    )


WRONG = {
    '[connections]\netl = "postgres://u:hunter2@h/db"': "connections.etl: expected a table, got a text of 25",
    '[alerts]\nfailures = "123:hunter2"': "alerts.failures: expected a table, got a text of 11 characters",
    '[alerts]\nfailures = ["123:hunter2"]': "alerts.failures: expected a table, got a list",
    '[alerts.a]\ntype = "telegram"\nwhen = ["all_done"]\nchat_id = "1"\ntokn = "123:hunter2"\ntoken = "x:y"':
        "alerts.a.tokn: unknown key; did you mean 'token'?",
    '[alerts.a]\ntype = "telegram"\nwhen = ["all_done"]\nchat_id = "123:hunter2"\ntoken = "x:y"':
        "alerts.a.chat_id: is not a chat; write its number",
    '[connections.m]\ntype = "mssql://u:hunter2@h"': "connections.m.type: expected one of",
    '[connections.m]\ntype = "mssql"\nuser = "u"\nhost = "mssql://u:hunter2@h"': "connections.m.host: is a URL;",
    '[connections.m]\ntype = "mssql"\nuser = "u"\nhost = "u:hunter2@h"':
        "connections.m.host: is not the name of a server",
    '[connections.m]\ntype = "mssql"\nuser = "u"\nhost = "h"\nport = "hunter2"':
        "connections.m.port: expected a whole number, got a text of 7 characters",
    '[connections.m]\ntype = "duckdb"\npath = "u:hunter2@h/db"': "connections.m.path: is an address; write a path",
    '[shards.towns]\nserver_0 = ["postgres://u:hunter2@h/db"]': "shards.towns.server_0[0].database: is a URL",
    '[shards.towns]\nserver_0 = [{ name = "x", database = "postgres://u:hunter2@h/db" }]':
        "shards.towns.server_0[0].database: is a URL",
    '[shards]\n"postgres://u:hunter2@h/db" = ["x"]': "shards.<25 characters, not shown> (line ",
}  # fmt: skip


@pytest.mark.parametrize(("table", "words"), WRONG.items(), ids=list(WRONG.values()))
def test_what_is_wrong_is_told_without_the_secret(tmp_path: Path, table: str, words: str) -> None:
    main = (
        MAIN
        if table.startswith(("[connections.", "[shards.", "[alerts"))
        else "\n".join(
            block for block in MAIN.split("\n\n") if not block.startswith(table.partition("\n")[0][:-1])
        )
    )
    write_project(tmp_path, f"{main}\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        read_project(tmp_path)
    assert f"config/dwhctl.toml: {words}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config/dwhctl.toml", 'connection = "sessions"', 'connection = "{}"'),
        ("config/loads/orders.toml", 'target = "dwh"', 'target = "{}"'),
        ("config/loads/orders.toml", 'shards = "cities"', 'shards = "{}"'),
        ("config/loads/orders.toml", 'extract = "orders/extract.sql"', 'extract = "{}"'),
        ("config/loads/orders.toml", 'table = "stage.orders"', 'table = "{}"'),
    ],
)
def test_an_address_in_another_place_is_not_shown(tmp_path: Path, file: str, old: str, new: str) -> None:
    write_project(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    write(tmp_path, file, text.replace(old, new.format("postgres://u:hunter2@h/db")))
    assert the_problem(tmp_path).startswith(f"{file}: ")
    assert "hunter2" not in the_problem(tmp_path)


ADDRESS = "postgres://u:hunter2@h/db"


@pytest.mark.parametrize(
    "arguments",
    [
        ("connections", "test", ADDRESS),
        ("query", ADDRESS, "SELECT 1"),
        ("query", "dwh", "SELECT 1", "--shard", ADDRESS),
        ("load", "--shard", ADDRESS, "--date", "today"),
        ("load", ADDRESS, "--date", "today"),
        ("load", "--date", ADDRESS),
        ("load", "--date", "today", "--wait", ADDRESS),
        ("load", "--date", "today", "--jobs", ADDRESS),
        ("load", "--date", "today", f"--{ADDRESS}"),
        ("report", "runs", "--format", ADDRESS),
        ("report", "log", ADDRESS),
        ("report", "timeline", ADDRESS),
        ("render", ADDRESS, "--date", "today"),
        ("config", "check", ADDRESS),
        ("connections", "import", ADDRESS),
        ("alert-test", ADDRESS),
        ("refresh-reports", ADDRESS),
        (ADDRESS,),
        ("config", ADDRESS),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["", "--debug"])
def test_an_address_on_the_command_line_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], debug: tuple[str, ...]
) -> None:
    write_project(tmp_path)
    write(tmp_path, "sql/orders/extract.sql", EXTRACT)
    assert dwh(*debug, "--project", tmp_path, *arguments) != 0
    said = capsys.readouterr()
    assert said.err
    assert "hunter2" not in said.out + said.err


def test_an_address_as_the_project_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("config", "check", "--project", ADDRESS) == 2
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("load", "--date", "today", "--shard", ADDRESS), ("load", "--date", ADDRESS), ("load", f"--{ADDRESS}")],
)
def test_a_message_about_wrong_usage_does_not_hold_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    sent: list[str] = []

    def take(_project: object, command: str, message: str, _kind: object) -> list[object]:
        sent.extend((command, message))
        return []

    monkeypatch.setattr("dwhctl.notify.notify_usage_error", take)
    write_project(tmp_path, tomlkit.dumps(PROJECT))
    assert dwh(*arguments, "--scheduled", "--project", tmp_path) == 2
    assert len(sent) == 2
    assert sent[0].startswith("dwhctl load ")
    assert "hunter2" not in "".join(sent)
