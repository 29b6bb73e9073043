"""`load --dry-run` says what would be loaded and touches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.support.projects import DAY, Sandbox


@pytest.mark.parametrize("only_missing", [False, True])
def test_nothing_is_made_where_nothing_is(tmp_path: Path, only_missing: bool) -> None:
    sandbox = Sandbox(tmp_path).write()
    extra = ["--only-missing"] if only_missing else []
    done = sandbox.run("load", "--date", str(DAY), "--dry-run", *extra)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 slices" in done.stdout
    assert not (tmp_path / "state").exists()


def test_a_postgres_without_a_table_is_left_without(tmp_path: Path, postgres_server: PostgresServer) -> None:
    database = postgres_server.make_database()
    try:
        sessions = (
            f'type = "postgres"\nhost = "{postgres_server.host}"\nport = {postgres_server.port}\n'
            f'database = "{database}"\nuser = "{postgres_server.user}"'
        )
        sandbox = Sandbox(tmp_path, sessions=sessions).write()
        done = sandbox.run("load", "--date", str(DAY), "--dry-run", "--only-missing")
        assert (done.returncode, "3 slices" in done.stdout) == (0, True)
        with postgres_server.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('sessions')")
            assert cursor.fetchone() == (None,)
    finally:
        postgres_server.drop_database(database)


def test_complete_slices_are_left_out(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path).write().fill(shards=["abakan", "achinsk"])
    report = sandbox.load()
    assert (report.loaded, report.failed) == (2, 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.lock")}
    done = sandbox.run("load", "--date", str(DAY), "--dry-run", "--only-missing")
    assert done.returncode == 0
    assert "1 slice" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.lock")} == before
