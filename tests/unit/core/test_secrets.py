"""Secrets are referred to, revealed late and never shown."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwhctl.core import secrets
from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import MASKED, Secret, mask
from dwhctl.project.context import context
from dwhctl.project.read import read_project
from dwhctl.systems.mssql.system import MssqlConnection
from tests.cli_support import dwh
from tests.unit.projects import MAIN, the_problem, write_project

SERVER = '\n[connections.m]\ntype = "mssql"\nhost = "h"\nuser = "sa"\npassword = '


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(secrets, "_secrets", set())
    monkeypatch.setattr(secrets, "_masks", None)
    yield
    secrets._masks = None


def password_of(root: Path, value: str) -> Secret:
    connection = read_project(write_project(root, MAIN + SERVER + value)).connections["m"]
    assert isinstance(connection, MssqlConnection)
    assert connection.password is not None
    return connection.password


def test_a_literal_is_allowed_masked_and_warned_of(tmp_path: Path) -> None:
    secret = password_of(tmp_path, '"hunter2"')
    assert secret.is_literal
    assert secret.reveal() == "hunter2"
    assert f"{secret} {secret!r}" == f"{MASKED} Secret('{MASKED}')"
    (warning,) = read_project(tmp_path).warnings
    assert warning.startswith(
        "config/dwhctl.toml: connections.m.password: the secret itself is in the file; write"
    )
    assert mask("login with hunter2 failed") == f"login with {MASKED} failed"


def test_a_secret_of_the_environment_is_read_when_revealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = password_of(tmp_path, '{ env = "M_PASSWORD" }')
    assert not secret.is_literal
    with pytest.raises(ConfigError) as caught:
        secret.reveal()
    assert str(caught.value).startswith(
        "config/dwhctl.toml: connections.m.password: the environment variable M_PASSWORD is not set; export"
    )
    monkeypatch.setenv("M_PASSWORD", "")
    with pytest.raises(ConfigError, match="is empty"):
        secret.reveal()
    monkeypatch.setenv("M_PASSWORD", "from outside")
    assert mask("from outside") == "from outside"
    assert secret.reveal() == "from outside"
    assert mask("from outside") == MASKED
    assert read_project(tmp_path).warnings == ()


def test_a_secret_in_a_file_is_read_when_revealed(tmp_path: Path) -> None:
    secret = password_of(tmp_path, '{ file = "keys/m" }')
    with pytest.raises(ConfigError, match=r"password: the file .*/keys/m cannot be read \(No such file"):
        secret.reveal()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/m").write_text("\n")
    with pytest.raises(ConfigError, match="is empty; write the secret into it"):
        secret.reveal()
    (tmp_path / "keys/m").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        secret.reveal()
    (tmp_path / "keys/m").write_text(" with spaces \n")
    assert secret.reveal() == " with spaces "


@pytest.mark.parametrize(
    "value", ["12", "[1]", '{ env = "A", file = "b" }', "{ envv = 'A' }", "{ env = 3 }", "true"]
)
def test_what_is_no_secret_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    write_project(tmp_path, MAIN + SERVER + value)
    assert the_problem(tmp_path) == (
        'config/dwhctl.toml: connections.m.password: expected a text, { env = "NAME" } or { file = "PATH" }'
    )


def test_every_secret_of_a_project_is_found(tmp_path: Path) -> None:
    variables = '\n[variables]\nbot = { deep = [{ token = { env = "TG" } }] }\n'
    project = read_project(write_project(tmp_path, MAIN + SERVER + '{ env = "M" }' + variables))
    assert [secret.place for secret in project.secrets()] == [
        "config/dwhctl.toml: connections.m.password",
        "config/dwhctl.toml: variables.bot",
    ]


@pytest.mark.parametrize(
    ("proxy", "warned"), [("http://proxy:8080", False), ("http://u:pass@proxy:8080", True)]
)
def test_a_proxy_is_a_secret_only_with_a_login(tmp_path: Path, proxy: str, warned: bool) -> None:
    alert = (
        '\n[alerts.a]\ntype = "telegram"\nwhen = ["all_done"]\ntoken = { env = "T" }\nchat_id = "1"\n'
        f'proxy = "{proxy}"\n'
    )
    assert bool(read_project(write_project(tmp_path, MAIN + alert)).warnings) is warned


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN + SERVER + '"hunter2"')
    project = read_project(tmp_path)
    connection = project.connections["m"]
    for text in (
        repr(project),
        str(connection),
        f"{connection!r}",
        json.dumps(connection.model_dump(), default=str),
    ):
        assert "hunter2" not in text


def test_a_worker_masks_the_secrets_that_it_was_sent() -> None:
    sent = pickle.dumps(Secret("hunter2"))
    secrets._secrets.clear()
    secrets._masks = None
    assert mask("hunter2") == "hunter2"
    assert pickle.loads(sent).reveal() == "hunter2"
    assert mask("hunter2") == MASKED


def test_masking_knows_how_drivers_write_secrets() -> None:
    Secret("p@ss'w/rd\\")
    Secret("p@ss'w/rd\\longer")
    for shown in ("p@ss'w/rd\\", "p%40ss%27w%2Frd%5C", repr("p@ss'w/rd\\")[1:-1], "p@ss'w/rd\\longer"):
        assert mask(f"<{shown}>") == f"<{MASKED}>"


def test_a_short_secret_is_masked_only_where_a_text_announces_it() -> None:
    Secret("sa")
    assert (
        mask("password=sa; a message of the same user sa")
        == f"password={MASKED}; a message of the same user sa"
    )


@pytest.mark.parametrize(
    ("name", "text", "secret"),
    [
        ("BOT_TOKEN", "abcdefgh", True),
        ("MY_PASSWORD", "abcdefgh", True),
        ("NOTES", "ghp_abcdefghijklmnop0123", True),
        ("NOTES", "https://u:abcdefgh@host", True),
        ("IN_FILE", "abcdefgh", True),
        ("NOTES", "abcdefgh", False),
        ("SORT_KEY", "abcdefgh", False),
    ],
)
def test_a_variable_of_the_environment_that_is_a_secret_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, secret: bool
) -> None:
    monkeypatch.setenv(f"DWHCTL_VAR_{name}", text)
    main = MAIN + '[variables]\nin_file = { env = "SOMETHING" }\n'
    project = read_project(write_project(tmp_path, main))
    assert (MASKED in mask(f"said {text}")) is secret
    assert (text not in repr(project)) is secret
    assert context(project)["var"]["value"][name.lower()] == text
    assert project.warnings == ()


def test_a_variable_in_the_file_with_the_form_of_a_secret_is_one(tmp_path: Path) -> None:
    main = MAIN + '[variables]\nnotes = "https://u:abcdefgh@host"\nplain = "abcd"\n'
    project = read_project(write_project(tmp_path, main))
    assert mask("to https://u:abcdefgh@host") == f"to {MASKED}"
    assert project.variables["plain"] == "abcd"
    (warning,) = project.warnings
    assert warning.startswith("config/dwhctl.toml: variables.notes: the secret itself is in the file")


def test_a_check_warns_of_short_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("M_PASSWORD", "abcde")
    monkeypatch.setenv("DWHCTL_VAR_TOKEN", "sa")
    write_project(tmp_path, MAIN + SERVER + '{ env = "M_PASSWORD" }\n')
    assert dwh("config", "check", "--project", tmp_path) == 0
    said = capsys.readouterr().err
    assert (
        "Warning: config/dwhctl.toml: connections.m.password: the secret has fewer than 6 characters" in said
    )
    assert "Warning: environment: DWHCTL_VAR_TOKEN: the secret has fewer than 6 characters" in said
    monkeypatch.setenv("M_PASSWORD", "abcdef")
    monkeypatch.delenv("DWHCTL_VAR_TOKEN")
    assert dwh("config", "check", "--project", tmp_path) == 0
    assert "fewer" not in capsys.readouterr().err


def test_a_secret_in_place_of_its_reference_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ('{ env = "Hunter2!" }', '{ file = "Hunter2!" }', '{ env = "postgres://u:Hunter2!@h" }'):
        write_project(tmp_path, MAIN + SERVER + value)
        assert dwh("config", "check", "--project", tmp_path) == 0
        said = capsys.readouterr().err
        assert "connections.m.password: the" in said
        assert "Hunter2" not in said


def test_an_empty_secret_masks_nothing() -> None:
    Secret("")
    assert mask("text") == "text"


def test_secrets_compare_by_what_they_refer_to() -> None:
    assert Secret("a") == Secret("a")
    assert len({Secret("a"), Secret("a"), Secret("a", kind="env"), Secret("b")}) == 3
    with pytest.raises(ValueError, match="no such kind"):
        Secret("a", kind="vault")
