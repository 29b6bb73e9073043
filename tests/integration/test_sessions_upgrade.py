"""The table that others made and use becomes dwhctl's as well, and stays theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dwhctl.core.errors import SessionsError
from dwhctl.sessions import State, open_if_there, postgres_store
from dwhctl.sessions.schema import REPLACED
from tests.postgres import PostgresServer

from .sessions_kit import FOREIGN_ROW, Place, closed, new, postgres_place, sqlite_place, write

THEIRS = (
    "INSERT INTO sessions (id, task_name, started, successful, loaded_rows, comment) "
    "VALUES (7, 'one', '2020-01-01 00:00:00+00:00', {true}, 5, NULL), "
    "(41, 'two', '2020-01-02 00:00:00+00:00', NULL, NULL, 'нет')"
)
SEVEN = "SELECT id, task_name, started, finished, successful, loaded_rows, comment FROM sessions ORDER BY id"


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
        place.store(prepared=False)  # makes the file
    else:
        server = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("postgres_database"))
    yield place
    place.end()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Place]:
    place = sqlite_place(tmp_path)
    place.store(prepared=False)
    yield place
    place.end()


@pytest.fixture
def postgres(postgres_server: PostgresServer, postgres_database: str) -> Iterator[Place]:
    place = postgres_place(postgres_server, postgres_database)
    yield place
    place.end()


def theirs(place: Place) -> None:
    place.rows(place.seven)
    place.rows(THEIRS.format(true="1" if place.dialect == "sqlite" else "TRUE"))


def test_their_rows_are_kept_and_their_programs_go_on(place: Place) -> None:
    theirs(place)
    before = place.rows(SEVEN)
    with place.other_program() as connection:
        cursor = connection.cursor()
        cursor.execute(SEVEN)
        assert cursor.fetchall() == before
        store = place.store()
        cursor.execute(SEVEN)
        assert cursor.fetchall() == before
        cursor.execute(FOREIGN_ROW)
    [ours] = store.open([new()])
    ids = [row[0] for row in place.rows(SEVEN)]
    assert (ids[:2], len(ids), ids[-1]) == ([7, 41], 4, ours)
    assert ours > 41
    assert [row.id for row in store.recent(9)] == [ours]
    place.store()


def test_ids_that_others_chose_are_not_handed_out_again(place: Place) -> None:
    theirs(place)
    store = place.store()
    ids = store.open([new(f"s{number}") for number in range(50)])
    assert min(ids) > 41


def test_an_empty_table_of_theirs_is_upgraded(place: Place) -> None:
    place.rows(place.seven)
    assert len(place.store().open([new()])) == 1


def test_many_upgrade_at_once(place: Place) -> None:
    theirs(place)
    stores = [place.store(prepared=False) for _ in range(6)]
    errors: list[BaseException] = []

    def prepare(number: int) -> None:
        try:
            stores[number].prepare()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(place.rows(SEVEN)) == 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("CREATE TABLE sessions (sid VARCHAR(40) PRIMARY KEY, data VARCHAR(9))", "it has no column id"),
        ("CREATE VIEW sessions AS SELECT 1 AS id", "it is "),
    ],
)
def test_a_foreign_table_of_another_shape_is_refused_and_left_alone(
    place: Place, table: str, says: str
) -> None:
    place.rows(table)
    with pytest.raises(SessionsError, match="another kind") as caught:
        place.store()
    assert says in str(caught.value)
    with pytest.raises(SessionsError, match="rename that table"):
        place.store()


def test_their_own_run_id_is_not_taken_for_ours(place: Place) -> None:
    place.rows(place.seven.replace("comment VARCHAR(500)", "comment VARCHAR(500), run_id TEXT"))
    with pytest.raises(SessionsError, match="run_id is not dwhctl's"):
        place.store()


LATER = ("worker", "busy_seconds")


def as_an_earlier_version_left_it(place: Place) -> list[Any]:
    """A table with sessions in it from before the later columns; gives what it holds."""
    store = place.store()
    write(store, new("abakan"), State.LOADED, loaded_rows=5)
    write(store, new("achinsk"), State.RUNNING)
    place.rows(FOREIGN_ROW)
    store.close_connection()
    for column in LATER:
        place.rows(f"ALTER TABLE sessions DROP COLUMN {column}")
    return place.rows("SELECT * FROM sessions ORDER BY id")


def test_a_table_of_an_earlier_version_gets_the_later_columns(place: Place) -> None:
    before = as_an_earlier_version_left_it(place)
    assert not place.store(prepared=False)._schema.is_ready()
    store = place.store()
    assert [(*row, None, None) for row in before] == place.rows("SELECT * FROM sessions ORDER BY id")
    [session_id] = store.open([replace(new("chita"), worker=3)])
    store.close([closed(session_id, busy_seconds=1.25)])
    newest, *old = store.recent(9)
    assert (newest.worker, newest.busy_seconds) == (3, 1.25)
    assert [(one.worker, one.busy_seconds) for one in old] == [(None, None)] * 2
    assert newest.id > max(row[0] for row in before)
    assert place.store(prepared=False)._schema.is_ready()


def test_an_upgrade_that_was_broken_off_is_finished(place: Place) -> None:
    as_an_earlier_version_left_it(place)
    place.rows("ALTER TABLE sessions ADD COLUMN worker INTEGER")
    assert place.store().recent(1)[0].busy_seconds is None


def test_a_reader_upgrades_what_an_earlier_version_uses_and_makes_nothing_else(place: Place) -> None:
    assert open_if_there(place.connection) is None
    theirs(place)
    tables = place.rows("SELECT * FROM sessions")
    assert open_if_there(place.connection) is None
    assert place.rows("SELECT * FROM sessions") == tables
    place.rows("DROP TABLE sessions")
    as_an_earlier_version_left_it(place)
    store = open_if_there(place.connection)
    assert store is not None
    with store:
        assert [one.shard for one in store.recent(9)] == ["achinsk", "abakan"]


def test_the_indexes_of_an_earlier_version_are_replaced(place: Place) -> None:
    place.store().close_connection()
    place.rows("DROP INDEX sessions_closed")
    place.rows("CREATE INDEX sessions_good ON sessions (task_name, slice_date, started)")
    place.rows("CREATE INDEX their_own ON sessions (comment)")
    store = place.store()
    names = {name for name, _ in store._schema._rows(store._sql["indexes"])}
    assert {"sessions_closed", "their_own"} <= names
    assert not names & {*REPLACED}
    assert store._schema.is_ready()


def test_an_index_of_an_earlier_version_stays_until_the_one_in_its_place_is_built(
    postgres: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.store().close_connection()
    postgres.rows("DROP INDEX sessions_closed")
    postgres.rows("CREATE INDEX sessions_good ON sessions (task_name, slice_date, started)")
    postgres.rows("CREATE TABLE other (id INT)")
    monkeypatch.setattr(postgres_store, "INDEX_MILLISECONDS", 100)
    store = postgres.store(prepared=False)
    old = "SELECT count(*) FROM pg_class WHERE relname = 'sessions_good'"
    with postgres.other_program() as reader:
        reader.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM other")
        store.prepare()
        assert "sessions_closed is not built yet" in caplog.text
        assert postgres.rows(old) == [(1,)]
        reader.cursor().execute("COMMIT")
    store.prepare()
    assert postgres.rows(old) == [(0,)]


def test_an_old_index_that_this_user_may_not_drop_stops_no_run(
    postgres_server: PostgresServer, postgres: Place, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.store()
    for name in ("sessions_good", "sessions_by_task"):
        postgres.rows(f"CREATE INDEX {name} ON sessions (task_name, slice_date, started)")
    role = f"role_{postgres.rows('SELECT current_database()')[0][0]}"
    postgres.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    limited = Place(postgres.connection.model_copy(update={"user": role}), postgres_server)
    try:
        postgres.rows(f"GRANT SELECT, INSERT, UPDATE ON sessions TO {role}")
        postgres.rows(f"GRANT USAGE ON sessions_id_seq TO {role}")
        assert limited.store().open([new()])
        assert len(caplog.messages) == 1
        assert "is not dropped yet: must be owner" in caplog.text
    finally:
        limited.end()
        postgres.rows(f"DROP OWNED BY {role}")
        postgres.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("column", ["state", "dwhctl_version"])
def test_a_table_with_some_of_the_first_columns_is_not_ours(place: Place, column: str) -> None:
    as_an_earlier_version_left_it(place)
    for index in ("sessions_running", "sessions_unsuccessful", "sessions_closed"):
        place.rows(f"DROP INDEX {index}")
    place.rows(f"ALTER TABLE sessions DROP COLUMN {column}")
    with pytest.raises(SessionsError, match="run_id is not dwhctl's"):
        place.store()


def test_their_own_worker_is_not_taken_for_ours(postgres: Place) -> None:
    postgres.rows(postgres.seven.replace("comment VARCHAR(500)", "comment VARCHAR(500), worker TEXT"))
    with pytest.raises(SessionsError, match="its column worker is text"):
        postgres.store()


def test_their_further_columns_stay(postgres: Place) -> None:
    postgres.rows(
        postgres.seven.replace("comment VARCHAR(500)", "comment VARCHAR(500), dag VARCHAR(9) DEFAULT 'd'")
    )
    postgres.rows(FOREIGN_ROW)
    postgres.store().open([new()])
    assert postgres.rows("SELECT dag FROM sessions") == [("d",), ("d",)]


# SQLite


def test_sqlite_ids_are_never_reused_after_the_upgrade(sqlite: Place) -> None:
    theirs(sqlite)
    sqlite.store()
    sqlite.rows("DELETE FROM sessions WHERE id = 41")
    assert sqlite.store().open([new()]) == [42]
    assert sqlite.rows("SELECT seq FROM sqlite_sequence WHERE name = 'sessions'") == [(42,)]


def test_sqlite_keeps_a_sequence_that_is_ahead_of_the_rows(sqlite: Place) -> None:
    sqlite.rows(sqlite.seven.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT"))
    sqlite.rows(FOREIGN_ROW)
    sqlite.rows("UPDATE sqlite_sequence SET seq = 900")
    assert sqlite.store().open([new()]) == [901]


def test_sqlite_numbers_the_rows_of_a_serial_column(sqlite: Place) -> None:
    # SQLite takes SERIAL for any type: such rows have no id at all.
    sqlite.rows(sqlite.seven.replace("INTEGER PRIMARY KEY", "SERIAL PRIMARY KEY"))
    sqlite.rows(THEIRS.format(true="1"))
    sqlite.rows(FOREIGN_ROW)
    store = sqlite.store()
    assert [row[:2] for row in sqlite.rows(SEVEN)] == [(7, "one"), (41, "two"), (42, "theirs")]
    assert store.open([new()]) == [43]


def test_sqlite_keeps_their_indexes_triggers_and_views(sqlite: Place) -> None:
    theirs(sqlite)
    sqlite.rows("CREATE INDEX theirs ON sessions (task_name)")
    sqlite.rows("CREATE TABLE log (id)")
    sqlite.rows("CREATE TRIGGER seen AFTER INSERT ON sessions BEGIN INSERT INTO log VALUES (new.id); END")
    sqlite.rows("CREATE VIEW good AS SELECT * FROM sessions WHERE successful")
    [ours] = sqlite.store().open([new()])
    assert sqlite.rows("SELECT id FROM log") == [(ours,)]
    assert [row[0] for row in sqlite.rows("SELECT id FROM good")] == [7]
    assert sqlite.rows("SELECT name FROM sqlite_schema WHERE name = 'theirs'") == [("theirs",)]


def test_sqlite_does_not_lose_further_columns(sqlite: Place) -> None:
    sqlite.rows(sqlite.seven.replace("comment VARCHAR(500)", "comment VARCHAR(500), dag TEXT"))
    with pytest.raises(SessionsError, match="dag would be lost"):
        sqlite.store()
    assert sqlite.rows("SELECT name FROM pragma_table_info('sessions')")[-1] == ("dag",)


def test_sqlite_upgrade_that_fails_midway_changes_nothing(sqlite: Place) -> None:
    sqlite.rows(sqlite.seven.replace("INTEGER PRIMARY KEY", "SERIAL PRIMARY KEY"))
    sqlite.rows(
        FOREIGN_ROW.replace("(task_name", "(id, task_name").replace("('theirs'", "('no number', 'theirs'")
    )
    before = sqlite.rows("SELECT sql FROM sqlite_schema")
    with pytest.raises(SessionsError, match="datatype mismatch"):
        sqlite.store()
    assert sqlite.rows("SELECT sql FROM sqlite_schema") == before


def test_sqlite_settings_are_safe(sqlite: Place) -> None:
    sqlite.store()
    assert sqlite.rows("PRAGMA journal_mode") == [("wal",)]


def test_sqlite_waits_for_another_writer(sqlite: Place) -> None:
    store = sqlite.store()
    with sqlite.other_program() as connection:
        connection.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.4, lambda: None)
        timer.start()
        done: list[list[int]] = []
        thread = threading.Thread(target=lambda: done.append(store.open([new()])))
        thread.start()
        timer.join()
        assert done == []
        connection.execute("COMMIT")
        thread.join()
    assert len(done) == 1


# PostgreSQL


def test_postgres_lets_others_pass_while_it_waits_for_the_table(
    postgres: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.rows(postgres.seven)
    postgres.rows(FOREIGN_ROW)
    monkeypatch.setattr(postgres_store, "ALONE_MILLISECONDS", 150)
    monkeypatch.setattr(postgres_store, "PAUSE_SECONDS", 0.1)
    store = postgres.store(prepared=False)
    with postgres.other_program() as reader:
        reader.cursor().execute("BEGIN; SELECT * FROM sessions")
        thread = threading.Thread(target=store.prepare)
        thread.start()
        waits = []
        for _ in range(10):
            began = time.monotonic()
            postgres.rows(FOREIGN_ROW)
            waits.append(time.monotonic() - began)
            time.sleep(0.05)
        assert thread.is_alive()
        reader.cursor().execute("COMMIT")
        thread.join()
    assert max(waits) < 1
    assert store.open([new()])[0] > 11


def test_postgres_names_who_does_not_let_go(postgres: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs(postgres)
    monkeypatch.setattr(postgres_store, "ALONE_MILLISECONDS", 50)
    monkeypatch.setattr(postgres_store, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(postgres_store, "UPGRADE_LOCK_SECONDS", 0.2)
    store = postgres.store(prepared=False)
    with postgres.other_program() as reader:
        cursor = reader.cursor()
        cursor.execute("SET application_name = 'airflow'; BEGIN; SELECT * FROM sessions")
        with pytest.raises(
            SessionsError, match=rf"pid {reader.info.backend_pid} \(airflow .*nothing was changed"
        ):
            store.prepare()
        cursor.execute("COMMIT")
    store.prepare()


def test_postgres_goes_on_without_an_index_that_cannot_be_built_and_builds_it_later(
    postgres: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs(postgres)
    postgres.rows("CREATE TABLE other (id INT)")
    monkeypatch.setattr(postgres_store, "INDEX_MILLISECONDS", 100)
    store = postgres.store(prepared=False)
    with postgres.other_program() as reader:
        reader.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM other")
        store.prepare()
        assert "sessions_of_slice is not built yet" in caplog.text
        assert store.open([new()])
        reader.cursor().execute("COMMIT")
    unbuilt = "SELECT count(*) FROM pg_index WHERE indrelid = 'sessions'::regclass AND NOT indisvalid"
    assert postgres.rows(unbuilt)[0][0] > 0
    store.prepare()
    assert postgres.rows(unbuilt) == [(0,)]
    assert postgres.rows("SELECT count(*) FROM pg_indexes WHERE tablename = 'sessions'") == [(7,)]


def test_postgres_needs_no_rights_on_a_table_that_is_ready(
    postgres_server: PostgresServer, postgres: Place
) -> None:
    postgres.store()
    role = f"role_{postgres.rows('SELECT current_database()')[0][0]}"
    postgres.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        postgres.rows(f"GRANT SELECT, INSERT, UPDATE ON sessions TO {role}")
        postgres.rows(f"GRANT USAGE ON sessions_id_seq TO {role}")
        connection = postgres.connection.model_copy(update={"user": role})
        limited = Place(connection, postgres_server)
        assert limited.store().open([new()])
        limited.end()
        postgres.rows("DROP INDEX sessions_by_run")
        with pytest.raises(SessionsError, match=r"(?s)must be owner.*once as its owner"):
            limited.store()
        limited.end()
    finally:
        postgres.rows(f"DROP OWNED BY {role}")
        postgres.rows(f"DROP ROLE {role}")


def test_sqlite_file_that_is_none_is_refused(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    path = tmp_path / "state" / "sessions.sqlite"
    path.parent.mkdir()
    path.write_text("not a database, and long enough to be looked at. " * 40)
    with pytest.raises(SessionsError, match="of another kind"):
        place.store()
    assert path.read_text().startswith("not a database")


def test_sqlite_shares_a_file_with_other_tables(sqlite: Place) -> None:
    sqlite.rows("CREATE TABLE theirs (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    sqlite.rows("INSERT INTO theirs DEFAULT VALUES")
    assert sqlite.store().open([new()]) == [1]
    assert sqlite.rows("SELECT * FROM theirs") == [(1,)]
