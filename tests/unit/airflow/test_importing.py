"""What Airflow exports becomes TOML: nothing lost, no secret in it, nothing overwritten unasked."""

from __future__ import annotations

import json
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from dwhctl.airflow.export import read_exports
from dwhctl.airflow.importing import Import, ImportOutcome, prepare_import
from dwhctl.cli.main import dwhctl
from dwhctl.core.errors import ConfigError, UsageError
from dwhctl.core.secrets import Secret, is_sensitive
from dwhctl.project.context import context
from dwhctl.project.model import Project, TelegramAlert
from dwhctl.project.read import read_project
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.mssql.system import MssqlConnection
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.sqlite.system import SqliteConnection
from dwhctl.systems.vertica.system import VerticaConnection

DATA = Path(__file__).parents[2] / "data/airflow"
CONNECTIONS, VARIABLES = DATA / "airflow_3_connections.json", DATA / "airflow_3_variables.json"
TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
SECRETS = ("Pa:ss@w/0rd%", "другой пароль", 'dwh "secret"', "etl/pass", TOKEN, "mail secret", "k-5f2d")
MAIN = """\
# The project.
[sessions]
connection = "sessions"   # where

[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"

# What templates may name.
[variables]
# the first
first = "1"

# The end.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with little in it."""
    return make_project(tmp_path / "project")


def make_project(root: Path, text: str = MAIN) -> Path:
    """Write a project of one file."""
    (root / "config").mkdir(parents=True)
    (root / "config/dwhctl.toml").write_text(text)
    return root


def prepared(root: Path, *files: Path, secrets: Any = "files", replace: bool = False) -> Import:
    """Prepare an import."""
    return prepare_import(root, list(files), secrets=secrets, replace=replace)


def imported(root: Path, *files: Path, **options: Any) -> tuple[Project, list[ImportOutcome]]:
    """Import files, and read the project that they make."""
    found = prepared(root, *files, **options)
    found.write()
    return read_project(root), found.outcomes


def main_text(root: Path) -> str:
    """The configuration."""
    return (root / "config/dwhctl.toml").read_text()


def written(folder: Path, content: object, name: str = "export.json") -> Path:
    """Write an export."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def in_shell(command: str) -> str:
    """Run a command of the shell, and give what it says."""
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


def notes(outcomes: list[ImportOutcome], name: str) -> str:
    """All that is said of one thing."""
    return "\n".join(one.note for one in outcomes if one.airflow_name == name)


def result_of(outcomes: list[ImportOutcome], name: str) -> str:
    """What became of one thing."""
    return next(one.result for one in outcomes if one.airflow_name == name)


def test_an_export_of_airflow_3_arrives_whole(root: Path) -> None:
    project, outcomes = imported(root, CONNECTIONS, VARIABLES)
    mssql, dwh, etl = (project.connections[name] for name in ("mssql_0", "dwh", "etl"))
    assert isinstance(mssql, MssqlConnection)
    assert (mssql.addresses, mssql.user, mssql.encryption) == (
        (("mssql-0.example.com", 1433),),
        "sa",
        "require",
    )
    assert mssql.connect_timeout.total_seconds() == 5
    assert isinstance(dwh, VerticaConnection)
    assert dwh.addresses == tuple(
        (f"dwh-{n}.example.com", port) for n, port in ((1, 5433), (2, 5433), (3, 5434))
    )
    assert (dwh.tlsmode, dwh.database, dwh.connect_timeout.total_seconds()) == ("require", "docker", 20)
    assert isinstance(etl, PostgresConnection)
    assert (etl.database, etl.port, etl.connect_timeout.total_seconds()) == ("etl", 5432, 7)
    assert etl.sslmode == "require"
    passwords = [each.password.reveal() for each in (mssql, dwh, etl) if each.password]
    assert passwords == ["Pa:ss@w/0rd%", 'dwh "secret"', "etl/pass"]
    files = project.connections["sessions_file"]
    assert isinstance(files, SqliteConnection)
    assert files.path == Path("/srv/etl/sessions.sqlite")
    assert result_of(outcomes, "lake") == "left out"
    assert "its type is 'generic'" in notes(outcomes, "lake")


def test_its_variables_and_alerts_arrive_too(root: Path) -> None:
    project, outcomes = imported(root, CONNECTIONS, VARIABLES)
    var = context(project)["var"]
    assert var["value"].smallest_price == "10.5"
    assert var["json"].cities == ["abakan", "achinsk"]
    assert var["json"].bot_config.bot.token == TOKEN
    assert var["json"].bot_config.bot.proxy is None
    assert var["value"].DWH_API_KEY == "k-5f2d"
    assert "# who gets the report" in main_text(root)
    telegram = project.alerts["telegram_default"]
    assert isinstance(telegram, TelegramAlert)
    assert (telegram.chat_id, telegram.token.reveal()) == ("-1001762374628", TOKEN)
    assert result_of(outcomes, "smtp_default") == "to complete"
    text = main_text(root)
    assert "# [alerts.smtp_default]\n" in text
    assert "# to = []    # fill in\n" in text


def test_the_commented_block_is_right_when_it_is_completed(root: Path) -> None:
    imported(root, CONNECTIONS)
    head, mark, block = main_text(root).partition("# [alerts.smtp_default]")
    block, gap, rest = f"{mark}{block}".partition("\n\n")
    block = block.replace("# ", "", 1).replace("\n# ", "\n").replace("to = []", 'to = ["a@example.com"]')
    (root / "config/dwhctl.toml").write_text(f"{head}{block}{gap}{rest}")
    alert: Any = read_project(root).alerts["smtp_default"]
    assert (alert.security, alert.sender, alert.password.reveal()) == (
        "starttls",
        "dwh@example.com",
        "mail secret",
    )
    assert result_of(imported(root, CONNECTIONS)[1], "smtp_default") == "unchanged"


@pytest.mark.parametrize("secrets", ["files", "env"])
def test_no_secret_stands_in_the_configuration_nor_where_others_can_read(
    root: Path, secrets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(root, CONNECTIONS, VARIABLES, secrets=secrets)
    text = main_text(root)
    assert [each for each in SECRETS if each in text or json.dumps(each)[1:-1] in text] == []
    assert (root / "secrets/.gitignore").read_text() == "*\n"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (root / "secrets").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((root / "secrets").stat().st_mode) == 0o700
    if secrets == "env":
        for line in in_shell(f". {root}/secrets/env.sh && env -0").split("\0"):
            name, _, value = line.partition("=")
            if name.endswith(("PASSWORD", "TOKEN")):
                monkeypatch.setenv(name, value)
        password = getattr(read_project(root).connections["mssql_1"], "password", None)
        assert password is not None
        assert password.reveal() == "другой пароль"


def test_what_stood_there_stays_with_its_comments(root: Path) -> None:
    imported(root, CONNECTIONS, VARIABLES)
    text = main_text(root)
    new = iter(text.splitlines())
    assert all(line in new for line in MAIN.splitlines()), "each old line, in order"
    assert "# The first server of cities\n[connections.mssql_0]\n" in text


def test_once_more_changes_nothing(root: Path) -> None:
    imported(root, CONNECTIONS, VARIABLES)
    text = main_text(root).replace(
        'host = "mssql-0.example.com"', 'host = "mssql-0.example.com"\nmax_connections = 9'
    )
    (root / "config/dwhctl.toml").write_text(text)
    again = prepared(root, CONNECTIONS, VARIABLES)
    assert {one.result for one in again.outcomes} == {"unchanged", "left out", "note"}
    assert again.kept.texts == {}
    again.write()
    assert main_text(root) == text


def test_a_taken_name_is_refused_and_nothing_written(root: Path, tmp_path: Path) -> None:
    file = written(tmp_path, {"first": "2", "second": "3"})
    with pytest.raises(UsageError, match=r"already has variables.first, with other values: --replace"):
        prepared(root, file)
    assert main_text(root) == MAIN
    project, outcomes = imported(root, file, replace=True)
    assert dict(project.variables) == {"first": "2", "second": "3"}
    assert [one.result for one in outcomes] == ["replaced", "added"]
    assert '# the first\nfirst = "2"\n' in main_text(root)


def test_a_replaced_table_keeps_its_place_and_what_follows(tmp_path: Path) -> None:
    root = make_project(tmp_path / "p", MAIN.replace("[variables]", "[variables] # here"))
    file = written(tmp_path, {"sessions": {"conn_type": "sqlite", "host": "/srv/other.sqlite"}})
    project, _ = imported(root, file, replace=True)
    assert project.connections["sessions"] == SqliteConnection(
        name="sessions", path=Path("/srv/other.sqlite")
    )
    assert main_text(root) == MAIN.replace("state/sessions.sqlite", "/srv/other.sqlite").replace(
        "[variables]", "[variables] # here"
    )


def test_another_secret_in_its_file_is_not_overwritten_unasked(root: Path, tmp_path: Path) -> None:
    (root / "secrets").mkdir()
    (root / "secrets/api_key").write_text("old\n")
    with pytest.raises(UsageError, match="secrets/api_key already contains another secret"):
        prepared(root, written(tmp_path, {"api_key": "new"}))
    imported(root, written(tmp_path, {"api_key": "new"}), replace=True)
    assert (root / "secrets/api_key").read_text() == "new\n"


def test_the_exports_of_before_stay(root: Path, tmp_path: Path) -> None:
    imported(root, written(tmp_path, {"api_key": "it's\n'one'"}), secrets="env")
    imported(root, written(tmp_path, {"token": "two"}), secrets="env")
    with pytest.raises(UsageError, match="already exports another TOKEN"):
        prepared(make_copy(root, tmp_path), written(tmp_path, {"token": "three"}), secrets="env")
    shown = in_shell(f'. {root}/secrets/env.sh && printf "%s|%s" "$API_KEY" "$TOKEN"')
    assert shown == "it's\n'one'|two"


def make_copy(root: Path, tmp_path: Path) -> Path:
    """The same secrets beside a configuration that knows nothing of them."""
    copy = make_project(tmp_path / "copy")
    (copy / "secrets").mkdir()
    (copy / "secrets/env.sh").write_text((root / "secrets/env.sh").read_text())
    return copy


def test_what_would_make_the_project_wrong_is_refused(tmp_path: Path) -> None:
    root = make_project(tmp_path / "p")
    file = written(tmp_path, {"sessions": {"conn_type": "mssql", "host": "h", "login": "u"}})
    with pytest.raises(ConfigError, match="which cannot be the sessions table"):
        prepared(root, file, replace=True)
    assert main_text(root) == MAIN


@pytest.mark.parametrize("text", ['variables = { a = "1" }\n', "[variables.a]\nb = 1\n"])
def test_variables_in_a_form_that_cannot_be_added_to(tmp_path: Path, text: str) -> None:
    root = make_project(tmp_path / "p", text + MAIN.partition("# What")[0])
    with pytest.raises(UsageError, match=r"write it as \[variables\] with keys below"):
        prepared(root, written(tmp_path, {"b": "2"}))


def test_names_that_do_not_fit_are_changed_and_told(root: Path, tmp_path: Path) -> None:
    one = {"conn_type": "duckdb", "host": "/srv/a.duckdb"}
    file = written(tmp_path, {"My-DWH": one, "my_dwh": one, "my.dwh": one, "Базы": one})
    project, outcomes = imported(root, file)
    names = {each.airflow_name: each.name for each in outcomes}
    assert names == {"My-DWH": "my_dwh_2", "my_dwh": "my_dwh", "my.dwh": "my_dwh_3", "Базы": "shard"}
    assert "SQL says conn.my_dwh_2" in notes(outcomes, "My-DWH")
    assert isinstance(project.connections["my_dwh_3"], DuckdbConnection)


CASES: list[tuple[dict[str, Any], str]] = [
    ({"conn_type": "mssql", "login": "sa"}, "host: is missing"),
    ({"conn_type": "mssql", "host": "h"}, "login: is missing"),
    ({"conn_type": "mssql", "host": r"h\inst", "login": "sa"}, "has the name of an instance"),
    ({"conn_type": "vertica", "host": "h", "login": "u"}, "schema: is missing"),
    ({"conn_type": "vertica", "host": "h", "login": "u", "schema": "d", "extra": {"tlsmode": "maybe"}}, "tlsmode"),
    ({"conn_type": "vertica", "host": "h", "login": "u", "schema": "d", "extra": {"backup_server_node": 1}}, "as"),
    ({"conn_type": "vertica", "host": "h", "login": "u", "extra": "{x"}, "its extra is not JSON"),
    ({"conn_type": "postgres", "host": "h", "login": "u", "port": "x"}, "port: is not a number"),
    ({"conn_type": "postgres", "host": "h", "login": "u", "port": 99999}, "port: 99999|port: a number"),
    ({"conn_type": "sqlite"}, "host: is missing; give the file's path"),
    ({"conn_type": "duckdb", "host": ":memory:"}, ":memory:"),
    ({"conn_type": "telegram", "host": "-1"}, "no token"),
    ({"conn_type": "smtp"}, "host: is missing"),
    ({"conn_type": "aws"}, "its type is 'aws'"),
    ({"login": "u"}, "neither an object with conn_type nor a URI"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), CASES)
def test_what_cannot_be_mapped_is_left_out_with_the_reason(
    root: Path, tmp_path: Path, value: dict[str, Any], words: str
) -> None:
    fine = {"conn_type": "duckdb", "host": "/srv/a.duckdb"}
    _, outcomes = imported(root, written(tmp_path, {"fine": fine, "bad": value}))
    (bad,) = (one for one in outcomes if one.airflow_name == "bad")
    assert bad.result == "left out"
    assert any(each in bad.note for each in words.split("|"))
    assert result_of(outcomes, "fine") == "added"


def test_the_tls_of_postgresql(root: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    one = {"conn_type": "postgres", "host": "h", "login": "u", "schema": "d"}
    extras: dict[str, dict[str, Any]] = {
        "full": {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")},
        "system": {"sslmode": "verify-full", "sslrootcert": "system"},
        "missing": {"sslmode": "verify-ca", "sslrootcert": "/no/ca.pem"},
        "allow": {"sslmode": "allow"},
    }
    file = written(tmp_path, {name: {**one, "extra": extra} for name, extra in extras.items()})
    project, outcomes = imported(root, file)
    found = [project.connections[name] for name in extras]
    assert [each.tls for each in found if isinstance(each, PostgresConnection)] == [
        "verify-full",
        "verify-full",
        "verify-ca",
        "require",
    ]
    assert isinstance(found[0], PostgresConnection)
    assert found[0].sslrootcert == tmp_path / "ca.pem"
    assert "there is no file /no/ca.pem here" in notes(outcomes, "missing")
    assert "'allow' sends the password in clear first" in notes(outcomes, "allow")


def test_the_forms_of_airflow_2(root: Path) -> None:
    project, outcomes = imported(root, DATA / "airflow_2_connections.json")
    mssql, dwh = project.connections["mssql_0"], project.connections["dwh"]
    assert isinstance(mssql, MssqlConnection)
    assert (mssql.addresses, mssql.encryption, mssql.read_only) == (
        (("mssql-0.example.com", 1433),),
        "require",
        True,
    )
    assert isinstance(dwh, VerticaConnection)
    assert dwh.password is not None
    assert (dwh.password.reveal(), dwh.tlsmode, len(dwh.addresses)) == ("p@ss", "verify-full", 2)
    telegram = project.alerts["telegram_api"]
    assert isinstance(telegram, TelegramAlert)
    assert (telegram.token.reveal(), telegram.chat_id) == (TOKEN, "-100")
    assert result_of(outcomes, "mail") == "to complete"
    assert '# security = "tls"\n' in main_text(root)


def test_the_forms_of_airflow_1_10(root: Path, tmp_path: Path) -> None:
    project, outcomes = imported(root, DATA / "airflow_1_connections.env", DATA / "airflow_1_variables.json")
    etl = project.connections["etl"]
    assert isinstance(etl, PostgresConnection)
    assert etl.password is not None
    assert (etl.password.reveal(), etl.database) == ("e/tl", "etl")
    var = context(project)["var"]
    assert (var["value"].smallest_price, var["value"].region) == ("10", "eu")
    assert var["json"].smtp.password == "p2"
    assert var["json"].env_of.env == "production"
    assert "is written as JSON text" in notes(outcomes, "env_of")
    other, _ = imported(make_project(tmp_path / "other"), DATA / "airflow_1_connections.json")
    assert {"mssql_0", "etl"} <= set(other.connections)


def test_the_lines_of_airflow_3_say_the_same_as_its_json(root: Path, tmp_path: Path) -> None:
    lines, _ = imported(root, DATA / "airflow_3_connections.env")
    objects, _ = imported(make_project(tmp_path / "other"), CONNECTIONS)
    assert {**lines.connections, "sessions": None} == {**objects.connections, "sessions": None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON (line 1)"),
        ("[]", "contains no connections or variables"),
        ("{}", "contains no connections or variables"),
        ("a: 1\n", "is YAML, which dwhctl does not read; export it as JSON: --file-format json"),
        ("# c\nmssql_0:\n  conn_type: mssql\n", "is YAML"),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_exports([written(tmp_path, text)])
    assert words in str(caught.value)


def test_yaml_as_airflow_writes_it_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="--file-format json"):
        read_exports([DATA / "airflow_3_connections.yaml"])


def test_addresses_of_web_pages_are_variables(tmp_path: Path) -> None:
    found = read_exports([written(tmp_path, {"site": "https://example.com", "wiki": "http://w.example.com"})])
    assert (found.connections, len(found.variables)) == ({}, 2)


def test_one_name_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [written(tmp_path, {"a": "1"}, name) for name in ("one.json", "two.json")]
    with pytest.raises(UsageError, match="'a' is in an earlier file already"):
        read_exports(files)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DWH_PASSWORD", "s3cret!"),
        ("conf", {"a": [{"Api-Key": "s3cret!"}]}),
        ("conf", {"credentials": ["s3cret!", {"any": "s3cret!"}]}),
        ("conf", '{"token": "s3cret!"}'),
        ("conf", json.dumps('{"token": "s3cret!"}')),
        ("url", "postgres://user:s3cret!@host/db"),
        ("conf", {"password": "s3cret!", "nothing": None}),
        ("conf", {"env": "s3cret!", "token": "s3cret!"}),
        ("notes", "-----BEGIN RSA PRIVATE KEY-----\nMIIs3cret!\n-----END RSA PRIVATE KEY-----\n"),
        ("notes", "ghp_abcdefghijklmnop0123s3cret!"),
        ("notes", {"slack": ["xoxb-123456789012-s3cret!"]}),
        ("notes", "AKIAIOSFODNN7EXAMPLE/s3cret!"),
        ("notes", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s3cret!"),
        ("notes", "bot 123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw0 s3cret!"),
        ("notes", "Server=h;Uid=sa;Pwd=s3cret!;"),
    ],
)
def test_secrets_among_variables_are_found_however_deep(
    root: Path, tmp_path: Path, name: str, value: Any
) -> None:
    file = written(tmp_path, {name: {"value": value, "description": "it is s3cret!"}})
    project, _ = imported(root, file)
    assert "s3cret!" not in main_text(root)
    shown = context(project)["var"]["value"][name]
    assert (shown if isinstance(value, str) else json.loads(shown)) == value


def test_a_password_that_stands_in_a_variable_as_well_is_found(root: Path, tmp_path: Path) -> None:
    etl = {"conn_type": "postgres", "host": "h", "login": "u", "schema": "d", "password": "s3cret!"}
    files = written(tmp_path, {"etl": etl}), written(tmp_path, {"conf": {"x": "u/s3cret!"}}, "variables.json")
    imported(root, *files)
    assert "s3cret!" not in main_text(root)


KEYS = st.sampled_from(["password", "env", "file", "value", "token"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8) | KEYS, VALUES, min_size=1, max_size=4))
def test_every_variable_reads_as_it_was(variables: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_project(Path(folder) / "p", MAIN.replace('first = "1"\n', ""))
        file = written(Path(folder), {name: {"value": each} for name, each in variables.items()})
        try:
            project, outcomes = imported(root, file)
        except UsageError as error:
            assert "carriage return" in str(error)  # noqa: PT017 - the one thing that is refused
            return
        kept = {one.airflow_name for one in outcomes if one.result == "added"}
        assert kept >= {name for name, each in variables.items() if each is not None and is_text(each)}
        for name in kept:
            wanted, shown = variables[name], context(project)["var"]["value"][name]
            assert shown == wanted if isinstance(wanted, str) else json.loads(shown) == wanted
        texts = {
            name
            for name in kept
            if is_sensitive(name) and isinstance(variables[name], str) and variables[name]
        }
        assert all(isinstance(project.variables[name], Secret) for name in texts)


def is_text(value: object) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


Run = Callable[..., Result]


@pytest.fixture
def run(root: Path) -> Run:
    """Runs `dwhctl connections import ...` over the project."""

    def go(*arguments: str) -> Result:
        return CliRunner().invoke(dwhctl, ["connections", "import", *arguments, "--project", str(root)])

    return go


def test_the_command_shows_all_and_no_secret(root: Path, run: Run) -> None:
    done = run(str(CONNECTIONS), str(VARIABLES), "--dry-run")
    assert done.exit_code == 0, done.output
    assert main_text(root) == MAIN
    assert not (root / "secrets").exists()
    assert "would be added to config/dwhctl.toml:" in done.output
    assert "[connections.dwh]" in done.output
    assert [each for each in SECRETS if each in done.output] == []
    done = run(str(CONNECTIONS), str(VARIABLES), "--format", "json")
    lines = json.loads(done.output)
    assert {
        "kind": "connection",
        "airflow_name": "MSSQL-1",
        "name": "mssql_1",
        "result": "added",
        "note": "",
    } in lines
    assert "nothing to write" in run(str(CONNECTIONS), str(VARIABLES)).output
