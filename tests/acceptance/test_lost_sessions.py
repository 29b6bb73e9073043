"""The sessions database is lost and begun anew: an etl_id is never handed out twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.support.projects import Sandbox


def _ids(sandbox: Sandbox) -> set[int]:
    return {etl_id for (etl_id,) in sandbox.warehouse("SELECT DISTINCT etl_id FROM stage.orders")}


def test_a_new_sqlite_file_goes_on_above_the_warehouse(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    sandbox.load()
    before = _ids(sandbox)
    for file in (tmp_path / "state").glob("sessions.sqlite*"):
        file.unlink()
    sandbox.load()
    assert min(_ids(sandbox)) > max(before)
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_new_postgres_table_goes_on_above_the_warehouse(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    database = postgres_server.make_database()
    sandbox = Sandbox(
        tmp_path,
        sessions=f'type = "postgres"\nhost = "{postgres_server.host}"\nport = {postgres_server.port}\n'
        f'database = "{database}"\nuser = "{postgres_server.user}"',
    )
    try:
        sandbox.write().fill().load()
        before = _ids(sandbox)
        postgres_server.run("DROP TABLE sessions", database)
        sandbox.load()
        assert min(_ids(sandbox)) > max(before)
    finally:
        postgres_server.drop_database(database)


@pytest.mark.parametrize("above", [1, 41])
def test_ids_are_only_ever_lifted(tmp_path: Path, above: int) -> None:
    sandbox = Sandbox(tmp_path).write().fill()
    sandbox.load()
    highest = max(_ids(sandbox))
    from dwhctl.sessions import open_store

    with open_store(sandbox.project().sessions) as store:
        store.lift_ids(above)
    sandbox.load()
    assert min(_ids(sandbox)) == max(highest, above) + 1
