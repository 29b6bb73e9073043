"""An export of a real Airflow 3, imported into a fresh project: its connections work against servers."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from dwhctl.cli.main import dwhctl
from tests.postgres import PostgresServer
from tests.servers.tds import TdsServer
from tests.servers.vertica import VerticaServer

DATA = Path(__file__).parents[1] / "data/airflow"
PASSWORDS = {"mssql_0": "Pa:ss@w/0rd%", "MSSQL-1": "другой пароль", "dwh": 'dwh "secret"'}


def invoke(root: Path, *arguments: str) -> str:
    """Run a command over the project, which must go well, and give what it says."""
    done = CliRunner().invoke(dwhctl, [*arguments, "--project", str(root)])
    assert done.exit_code == 0, done.output
    return done.output


def moved(
    first: TdsServer, second: TdsServer, warehouse: VerticaServer, postgres: PostgresServer, database: str
) -> dict[str, dict[str, object]]:
    """The export, with the addresses of our servers in the place of the invented ones."""
    export: dict[str, dict[str, object]] = json.loads((DATA / "airflow_3_connections.json").read_text())
    export["mssql_0"] |= {"host": "127.0.0.1", "port": first.port}
    export["MSSQL-1"] |= {"host": "127.0.0.1", "port": second.port}
    # Our servers speak TLS only when they are told to.
    export["mssql_0"]["extra"] = str(export["mssql_0"]["extra"]).replace("require", "off")
    nodes = json.loads(str(export["dwh"]["extra"])) | {"tlsmode": "disable"}
    nodes["backup_server_node"] = [["127.0.0.1", warehouse.port]]
    export["dwh"] |= {"host": "127.0.0.1", "port": warehouse.port, "extra": json.dumps(nodes)}
    at = {"host": postgres.host, "port": postgres.port, "login": postgres.user, "schema": database}
    export["etl"] |= {**at, "password": postgres.password or "etl/pass"}
    return export


def test_connections_of_a_real_airflow_work_after_the_import(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    root = tmp_path / "project"
    assert CliRunner().invoke(dwhctl, ["init", str(root)]).exit_code == 0
    with (
        TdsServer(databases=("abakan", "Achinsk_2", "chita"), password=PASSWORDS["mssql_0"]) as first,
        TdsServer(databases=("tomsk",), password=PASSWORDS["MSSQL-1"]) as second,
        VerticaServer(password=PASSWORDS["dwh"], database="docker") as warehouse,
    ):
        export = moved(first, second, warehouse, postgres_server, postgres_database)
        file = tmp_path / "connections.json"
        file.write_text(json.dumps(export))
        arguments = ("connections", "import", str(file), str(DATA / "airflow_3_variables.json"), "--replace")
        said = invoke(root, *arguments)
        assert not [each for each in PASSWORDS.values() if each in said]
        assert "the configuration is right" in invoke(root, "config", "check")
        names = ("mssql_0", "mssql_1", "dwh", "etl")
        rows = json.loads(invoke(root, "connections", "test", *names, "--format", "json"))["connections"]
    assert {row["connection"] for row in rows if row["ok"]} == set(names)
    assert all(row["version"] for row in rows)
