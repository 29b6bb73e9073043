"""docker-compose.db.yml and the reference project agree; there is no Docker engine here to ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwhctl.project.model import Project
from dwhctl.project.read import read_project
from dwhctl.systems.mssql.system import MssqlConnection
from dwhctl.systems.postgres.system import PostgresConnection
from dwhctl.systems.vertica.system import VerticaConnection
from tests.support.sqlcmd import LAB, batches, run_fill

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "docker-compose.db.yml"
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)")
_SECRET = re.compile(r'password\s*=\s*\{ env = "(\w+)" \}')


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = compose["services"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [each for each in os.environ if each.startswith("DWHCTL_")]:
        monkeypatch.delenv(name)
    for name, value in example().items():
        monkeypatch.setenv(name, value)
    return read_project(REPOSITORY)


def example() -> dict[str, str]:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def in_the_docs(tmp_path: Path) -> Path:
    """The file of docs/cluster.md."""
    page = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8")
    path = tmp_path / "docker-compose.dask.yml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    return path


def test_they_fit_the_compose_specification(tmp_path: Path) -> None:
    # The schema is the one that check-jsonschema carries; it asks no network for it.
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
        str(in_the_docs(tmp_path)),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_the_cluster_of_the_docs_has_the_environment_of_the_docs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/cluster.md").read_text(encoding="utf-8")
    written = dict(re.findall(r"^(DASK_\w+)=(\S+)", page, re.MULTILINE))
    services = yaml.safe_load(in_the_docs(tmp_path).read_text(encoding="utf-8"))["services"]
    assert {name: service["environment"] for name, service in services.items()} == {
        "scheduler": written,
        "worker": written,
    }


def test_every_connection_is_a_service_that_this_machine_reaches(
    project: Project, services: dict[str, dict[str, Any]]
) -> None:
    for name, connection in project.connections.items():
        assert isinstance(connection, MssqlConnection | PostgresConnection | VerticaConnection)
        assert connection.host == "127.0.0.1"
        published = f"127.0.0.1:{connection.port}:{connection.default_port}"
        assert services[name]["ports"] == [published]
    # The reference project has no ClickHouse: that service is for the tests alone.
    assert set(services) == {*project.connections, "fill", "clickhouse"}


def test_users_databases_and_passwords_are_those_of_the_services(
    project: Project, services: dict[str, dict[str, Any]]
) -> None:
    etl, dwh = project.connections["etl"], project.connections["dwh"]
    assert isinstance(etl, PostgresConnection)
    assert isinstance(dwh, VerticaConnection)
    postgres, vertica = services["etl"]["environment"], services["dwh"]["environment"]
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == (etl.user, etl.database)
    assert (vertica["APP_DB_USER"], vertica["VERTICA_DB_NAME"]) == (dwh.user, dwh.database)
    tables = re.split(r"(?m)^\[connections\.(\w+)\]$", (REPOSITORY / "config/dwhctl.toml").read_text())
    for name, table in zip(tables[1::2], tables[2::2], strict=True):
        named = _SECRET.search(table)
        assert named, name
        assert f"${{{named[1]}:?" in "".join(map(str, services[name]["environment"].values()))


def test_the_example_names_every_variable_and_no_other(project: Project) -> None:
    assert set(_VARIABLE.findall(COMPOSE.read_text(encoding="utf-8"))) == set(example())
    assert set(_SECRET.findall((REPOSITORY / "config/dwhctl.toml").read_text())) <= set(example())
    assert all(secret.reveal() for secret in project.secrets())


def test_the_example_means_the_same_to_compose_to_a_shell_and_in_a_url() -> None:
    assert [value for value in example().values() if not re.fullmatch(r"[\w.:/-]+", value)] == []
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_the_sa_password_is_one_that_the_server_takes() -> None:
    password = example()["MSSQL_SA_PASSWORD"]
    kinds = [r"[A-Z]", r"[a-z]", r"\d", r"[^A-Za-z\d_]"]
    assert len(password) >= 8
    assert sum(bool(re.search(kind, password)) for kind in kinds) >= 3


def test_what_stays_up_has_a_health_check_and_keeps_its_data(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    staying = {name: service for name, service in services.items() if name != "fill"}
    assert all("healthcheck" in service for service in staying.values())
    kept = [volume.split(":")[0] for service in staying.values() for volume in service["volumes"]]
    assert sorted(kept) == sorted(compose["volumes"])
    assert services["dwh"]["profiles"] == ["vertica"]
    assert [name for name, service in services.items() if "profiles" in service] == ["dwh", "clickhouse"]


def test_the_filling_waits_for_every_sql_server(
    project: Project, services: dict[str, dict[str, Any]]
) -> None:
    healthy = {"condition": "service_healthy"}
    servers = [name for name, each in project.connections.items() if isinstance(each, MssqlConnection)]
    assert services["fill"]["depends_on"] == dict.fromkeys(servers, healthy)
    assert services["fill"]["volumes"] == ["./sql/lab:/lab:ro"]
    assert services["fill"]["entrypoint"] == ["/bin/sh", f"/lab/{(LAB / 'fill.sh').name}"]


def test_the_shards_are_the_databases_that_are_made(project: Project, tmp_path: Path) -> None:
    code, scripts = run_fill(tmp_path)
    assert code == 0
    made = {
        server: [
            found for batch in batches(script) for found in re.findall(r"CREATE DATABASE \[(\w+)\]", batch)
        ]
        for server, script in scripts.items()
    }
    shards = project.shard_groups["cities"]
    assert made == {
        server: [shard.database for shard in shards if shard.connection == server] for server in sorted(made)
    }
    assert [len(cities) for cities in made.values()] == [50, 50, 50]
    assert len({shard.name for shard in shards}) == 150
    assert all(shard.name == shard.database for shard in shards)


def test_one_server_that_fails_does_not_keep_the_others_empty(tmp_path: Path) -> None:
    code, scripts = run_fill(tmp_path, failing="mssql_1")
    assert code == 1
    assert sorted(scripts) == ["mssql_0", "mssql_1", "mssql_2"]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_script_is_one_that_a_shell_reads(shell: str) -> None:
    subprocess.run([shell, "-n", str(LAB / "fill.sh")], check=True)


def test_what_sqlcmd_reads_is_ascii() -> None:
    assert all(path.read_bytes().isascii() for path in LAB.iterdir())
