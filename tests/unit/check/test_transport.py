"""What `config check` says of secrets that travel in clear, and of servers whose certificate is not checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwhctl.check.connections import in_clear, unchecked
from dwhctl.project.connections import is_local
from dwhctl.project.read import read_project
from dwhctl.systems.postgres.system import PostgresConnection
from tests.cli_support import dwh
from tests.unit.projects import LOAD, MAIN, the_problem, write_project

SECRET = "Geheim_1234"
LOGIN = f'user = "u"\npassword = "{SECRET}"\ndatabase = "d"\n'


def said(tmp_path: Path, more: str, load: str = "") -> tuple[list[str], list[str]]:
    """Give the warnings and the notes of a project with these tables."""
    project = read_project(write_project(tmp_path, MAIN + more, load=LOAD + load))
    found = list(in_clear(project)), list(unchecked(project))
    assert SECRET not in str(found)
    return found


def table(kind: str, *keys: str, name: str = "it", host: str = "db.example.com") -> str:
    return "\n".join((f"\n[connections.{name}]", f'type = "{kind}"', f'host = "{host}"', LOGIN, *keys, ""))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST\\\\SQL", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("/run/postgresql", True),
        ("/run/postgresql,db", False),
        ("127.0.0.1,db", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("db", False),
        ("", False),
    ],
)
def test_a_host_is_judged_by_its_name_as_written(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize(
    ("kind", "key", "word"),
    [("postgres", "sslmode", "disable"), ("vertica", "tlsmode", "disable"), ("mssql", "encryption", "off")],
)
def test_an_explicit_word_is_warned_of(tmp_path: Path, kind: str, key: str, word: str) -> None:
    off = f'{key} = "{word}"'
    (warning,), notes = said(tmp_path, table(kind, off))
    assert warning.startswith(f"connection it: {off}: password and rows travel in clear; write {key} = ")
    assert notes == []
    assert said(tmp_path, table(kind, off, host="127.0.0.1")) == ([], [])


@pytest.mark.parametrize(
    ("kind", "off"),
    [
        ("postgres", 'sslmode = "prefer"'),
        ("vertica", 'tlsmode = "prefer"'),
        ("mssql", 'encryption = "request"'),
    ],
)
def test_a_word_that_asks_for_tls_only_where_it_is_is_warned_of(tmp_path: Path, kind: str, off: str) -> None:
    (warning,), notes = said(tmp_path, table(kind, off))
    assert "where the server has no TLS" in warning
    assert notes == []


def test_servers_that_are_not_checked_are_noted_once_for_each_kind(tmp_path: Path) -> None:
    many = "".join(table("mssql", name=f"mssql_{n}", host=f"sql-{n}") for n in range(150))
    warnings, notes = said(tmp_path, many + table("vertica", name="vertica"))
    assert warnings == []
    sql_servers, warehouse = notes
    assert sql_servers.startswith(
        "connections mssql_0, mssql_1, mssql_2, mssql_3, 146 more: encrypted, but the server's"
    )
    assert sql_servers.endswith('encryption = "verify-full" with tls_cafile and driver = "mssql-python"')
    assert warehouse.startswith(
        "connection vertica: encrypted, but the server's certificate is not checked; write"
    )
    assert warehouse.endswith('tlsmode = "verify-full" with tls_cafile')


def test_a_checked_server_is_not_mentioned(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    for keys in (
        ('sslmode = "verify-full"',),
        ('sslmode = "verify-ca"', 'sslrootcert = "ca.pem"'),
        ('sslrootcert = "ca.pem"',),
        ('sslmode = "require"', 'sslrootcert = "ca.pem"'),  # libpq checks the authority then
    ):
        assert said(tmp_path, table("postgres", *keys)) == ([], [])
    assert said(tmp_path, table("vertica", 'tls_cafile = "ca.pem"')) == ([], [])
    _, (note,) = said(tmp_path, table("vertica", 'tls_cafile = "ca.pem"', 'tlsmode = "require"'))
    assert "not checked" in note


MAIL = '[alerts.mail]\ntype = "email"\nwhen = ["all_done"]\nfrom = "a@b.example"\nto = ["a@b.example"]\n'
MAIL_LOGIN = f'user = "u"\npassword = "{SECRET}"\n'
CHAT = f'[alerts.chat]\ntype = "telegram"\nwhen = ["all_done"]\nchat_id = "1"\ntoken = "1:{SECRET}"\n'


@pytest.mark.parametrize(
    ("more", "load", "warning"),
    [
        (f'{MAIL}{MAIL_LOGIN}host = "mail"\nsecurity = "none"', "", "alerts.mail.security: \"none\": the password"),
        (f'{MAIL}{MAIL_LOGIN}host = "localhost"\nsecurity = "none"', "", None),
        (f'{MAIL}host = "mail"\nsecurity = "none"', "", None),
        (f'{MAIL}{MAIL_LOGIN}host = "mail"', "", None),
        (f'{CHAT}api_base = "http://bots.example.com"', "", "alerts.chat.api_base: the token"),
        (f'{CHAT}api_base = "http://127.0.0.1:8081"', "", None),
        (f'{CHAT}proxy = "http://u:{SECRET}@proxy:3128"', "", "alerts.chat.proxy: the password travels in clear"),
        (f'{CHAT}proxy = "https://u:{SECRET}@proxy:3128"', "", None),
        (f'{CHAT}proxy = "http://proxy:3128"', "", None),
        (f'{CHAT}proxy = {{ env = "NOT_SET" }}', "", None),
        ("", f'ping_url = "http://hc.example.com/{SECRET}"', "ping_url: the address, which is the secret"),
        ("", f'ping_url = "https://hc.example.com/{SECRET}"', None),
        ("", f'ping_url = "http://[::1]/{SECRET}"', None),
    ],
)  # fmt: skip
def test_channels_and_pings(tmp_path: Path, more: str, load: str, warning: str | None) -> None:
    warnings, _ = said(tmp_path, f"\n{more}\n", f"\n{load}\n")
    assert [each for each in warnings if warning is None or warning not in each] == []
    assert len(warnings) == (warning is not None)


def test_the_environment_of_libpq_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    (warning,), _ = said(tmp_path, table("postgres"))
    assert warning == "environment: PGSSLMODE is not read; write sslmode in connection it"
    assert said(tmp_path, table("postgres", 'sslmode = "verify-full"')) == ([], [])


def test_config_check_of_a_new_project_warns_of_nothing_that_is_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("MSSQL_0_PASSWORD", "DWH_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    assert dwh("init", tmp_path, "--quiet") == 0
    assert dwh("config", "check", "--project", tmp_path) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert [line.startswith("Note: ") for line in out.splitlines()] == [True, True, False]
    assert dwh("config", "check", "--quiet", "--project", tmp_path) == 0
    assert capfd.readouterr() == ("", "")


def test_the_lab_is_on_this_machine() -> None:
    lab = read_project(Path(__file__).parents[3])
    assert [*in_clear(lab), *unchecked(lab)] == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ('sslmode = "allow"', "'allow' sends the password in clear first; write \"require\""),
        ('sslmode = "verify_full"', "verify-full"),
        (
            'sslrootcert = "none.pem"',
            "connections.it.sslrootcert: the file <8 characters, not shown> is missing",
        ),
    ],
)
def test_wrong_keys(tmp_path: Path, key: str, words: str) -> None:
    write_project(tmp_path, MAIN + table("postgres", key))
    assert words in the_problem(tmp_path)


def test_a_url_of_the_environment_has_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").touch()
    url = f"postgres://u:{SECRET}@db:5432/d?sslmode=verify-full&sslrootcert=ca.pem"
    monkeypatch.setenv("DWHCTL_CONN_IT", url)
    one = read_project(write_project(tmp_path)).connections["it"]
    assert isinstance(one, PostgresConnection)
    assert (one.tls, one.sslrootcert) == ("verify-full", tmp_path / "ca.pem")
