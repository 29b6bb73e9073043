"""The sessions database is lost and begun anew: an etl_id is never handed out twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dwhctl.runtime.events import Notice
from tests.postgres import PostgresServer
from tests.support.faulty import postgres_sessions
from tests.support.projects import DAY, Sandbox


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
        store.raise_id_floor(above)
    sandbox.load()
    assert min(_ids(sandbox)) == max(highest, above) + 1


# Restored from a backup

Backup = Callable[[], Callable[[], None]]


@pytest.fixture(params=["sqlite", "postgres"])
def backed_up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sandbox, Backup]]:
    """A project, and what makes a backup of its sessions database, whose result restores it."""
    sandbox = Sandbox(tmp_path)
    if request.param == "sqlite":
        file, copy = tmp_path / "state" / "sessions.sqlite", tmp_path / "backup"

        def back_up_file() -> Callable[[], None]:
            shutil.copy(file, copy)

            def put_back() -> None:
                shutil.copy(copy, file)

            return put_back

        yield sandbox.write().fill(), back_up_file
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.make_database()
    sandbox.sessions = postgres_sessions(server, database)

    def back_up_database() -> Callable[[], None]:
        server.run(f"CREATE DATABASE {database}_backup TEMPLATE {database}")

        def restore() -> None:
            server.drop_database(database)
            server.run(f"CREATE DATABASE {database} TEMPLATE {database}_backup")

        return restore

    yield sandbox.write().fill(), back_up_database
    for name in (database, f"{database}_backup"):
        server.drop_database(name)


def test_a_restored_database_hands_out_no_id_twice(backed_up: tuple[Sandbox, Backup]) -> None:
    sandbox, back_up = backed_up
    sandbox.load()
    restore = back_up()
    sandbox.load()
    sandbox.load()
    before = _ids(sandbox)
    restore()
    known = max(one.id for one in sandbox.sessions_newest_first())
    assert known < min(before), "the backup does not know what is in the warehouse"
    notices: list[str] = []
    sandbox.load(listen=lambda event: notices.append(event.text) if isinstance(event, Notice) else None)
    assert min(_ids(sandbox)) > max(before)
    [text] = [one for one in notices if "would hand out" in one]
    assert f"the etl_id {known + 1} again: this machine has handed out {max(before)}" in text
    assert sandbox.target_rows() == sandbox.source_rows()
    compared = sandbox.run("verify", "--date", str(DAY))
    assert compared.returncode == 0, compared.stdout
    notices.clear()
    sandbox.load(listen=lambda event: notices.append(event.text) if isinstance(event, Notice) else None)
    assert notices == []
