"""Reading a good project, and every kind of wrong one: file, key or line, and the remedy."""

from __future__ import annotations

import pickle
from datetime import date, timedelta
from pathlib import Path

import pytest

from dwhctl.core.errors import ConfigError, ExitCode
from dwhctl.project.connections import NetworkConnection
from dwhctl.project.read import read_for_alerts, read_project
from dwhctl.systems.duckdb.system import DuckdbConnection
from tests.unit.projects import LOAD, MAIN, problems, the_problem, write, write_project


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("DWHCTL_"):
            monkeypatch.delenv(name)


def test_a_project_is_read_with_absolute_paths_and_defaults(tmp_path: Path) -> None:
    project = read_project(write_project(tmp_path))
    load = project.loads["orders"]
    assert project.state_dir == tmp_path / "state"
    assert project.sessions_connection == "sessions"
    assert load.extract == tmp_path / "sql/orders/extract.sql"
    assert load.create == tmp_path / "sql/orders/create.sql"
    assert (load.name, load.key, load.slice_zone, load.on_new_column) == ("orders", ("id",), "wall", "refuse")
    assert (load.retries, load.retry_delay, load.timeout) == (3, timedelta(seconds=10), timedelta(minutes=30))
    assert (load.max_shrink, load.start_date, load.params) == (0.5, None, {})
    assert project.warnings == ()


def test_shards_have_names_databases_zones_and_first_days(tmp_path: Path) -> None:
    project = read_project(write_project(tmp_path))
    shards = project.shards_of(project.loads["orders"])
    assert [(shard.name, shard.database, shard.connection, shard.zone) for shard in shards] == [
        ("abakan", "abakan", "server_0", "Europe/Moscow"),
        ("achinsk", "Achinsk_2", "server_0", "Europe/Moscow"),
        ("chita", "chita", "server_1", "Asia/Chita"),
    ]
    assert [shard.from_date for shard in shards] == [None, date(2020, 3, 1), None]
    assert shards[2].zoneinfo.key == "Asia/Chita"


def test_a_shard_of_one_name_and_of_a_last_day(tmp_path: Path) -> None:
    main = (write_project(tmp_path) / "config/dwhctl.toml").read_text()
    for last in ("2020-09-30", '"2020-09-30"'):
        changed = main.replace('"abakan"', f'{{ name = "abakan", until = {last} }}')
        (tmp_path / "config/dwhctl.toml").write_text(changed)
        shard = read_project(tmp_path).shard_groups["cities"][0]
        assert (shard.name, shard.database, shard.until_date) == ("abakan", "abakan", date(2020, 9, 30))
        assert [shard.has_ended(date(2020, month, day)) for month, day in ((9, 30), (10, 1))] == [False, True]


def test_dates_may_be_quoted_or_not(tmp_path: Path) -> None:
    write_project(tmp_path, load=LOAD + "start_date = 2020-02-08\n")
    assert read_project(tmp_path).loads["orders"].start_date == date(2020, 2, 8)
    write_project(tmp_path, load=LOAD + "start_date = '2020-02-08'\n")
    assert read_project(tmp_path).loads["orders"].start_date == date(2020, 2, 8)


def test_a_project_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    project = read_project(write_project(tmp_path))
    assert pickle.loads(pickle.dumps(project)) == project


def test_duckdb_connections_know_the_file_of_a_database(tmp_path: Path) -> None:
    connections = read_project(write_project(tmp_path)).connections
    folder, file = connections["server_0"], connections["dwh"]
    assert isinstance(folder, DuckdbConnection)
    assert isinstance(file, DuckdbConnection)
    assert folder.database_file("abakan") == tmp_path / "state/server_0/abakan.duckdb"
    assert file.database_file("main") == tmp_path / "state/warehouse.duckdb"


def test_all_problems_are_told_at_once_and_end_with_2(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace("[project]", "[projct]"), LOAD.replace("key", "kee"))
    with pytest.raises(ConfigError) as caught:
        read_project(tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value).splitlines() == [
        "config/dwhctl.toml: projct: unknown key; did you mean 'project'?",
        'config/loads/orders.toml: key: is missing; add key = ["id"]',
        "config/loads/orders.toml: kee: unknown key; did you mean 'key'?",
    ]


LOAD_MISTAKES = {
    "slice_bye = 'x'": "slice_bye: unknown key; did you mean 'slice_by'?",
    "name = 'orders'": "name: unknown key: the name follows from the file or table; drop 'name'",
    "retries = '3'": 'retries: expected a whole number, got the text "3"; write 3 without quotes',
    "retries = 1.5": "retries: expected a whole number, got the number 1.5",
    "retries = true": "retries: expected a whole number, got true",
    "retries = -1": "retries: the number -1 is out of range; the value must be at least 0",
    "max_shrink = 1.5": "max_shrink: the number 1.5 is out of range; the value must be at most 1",
    "max_shrink = -0.1": "max_shrink: the number -0.1 is out of range; the value must be at least 0",
    "max_shrink = nan": "max_shrink: the number nan",
    "max_shrink = '50%'": "max_shrink: expected a number",
    "timeout = 30": "timeout: is the number 30; write a duration in quotes: 10s",
    "timeout = '30 minutes'": "timeout: '30 minutes' is not a duration; write 10s",
    "timeout = '0s'": "timeout: must be longer than 0s",
    "start_date = '2020-02-30'": "start_date: '2020-02-30': the calendar has no such date; write a date",
    "start_date = '08.02.2020'": "start_date: '08.02.2020': not of the form YYYY-MM-DD",
    "start_date = 2020-02-08T00:00:00": "start_date: is 2020-02-08 00:00:00; write a date as 2020-02-08",
    "start_date = 20200208": "start_date: is the number 20200208; write a date",
    "slice_zone = 'Europe/Moskow'": "slice_zone: 'Europe/Moskow' is not a time zone of the IANA list; did",
    "slice_zone = 'wal'": "slice_zone: 'wal' is not a time zone of the IANA list; did you mean 'wall'?",
    "slice_zone = '../etc'": "slice_zone: '../etc' is not a time zone",
    "on_new_column = 'ad'": 'on_new_column: expected one of "refuse", "add"; got the text "ad"; did you mean',
    "schedule = '0 */6 * *'": "schedule: '0 */6 * *' has 4 of the 5 fields",
    "schedule = '@reboot'": "schedule: '@reboot' has no times of its own; write one of @",
    "schedule = '61 * * * *'": "schedule: '61 * * * *': '61' is not a valid minute of a crontab (0 to 59",
    "schedule = '0 5-3 * * *'": "schedule: '0 5-3 * * *': '5-3' is not a valid hour",
    "verify_columns = 'amount'": 'verify_columns: expected a list, got the text "amount"; put it in [ ]',
    "params = 3": "params: expected a table, got the number 3",
}


@pytest.mark.parametrize(("line", "words"), LOAD_MISTAKES.items(), ids=LOAD_MISTAKES)
def test_a_wrong_key_of_a_load_is_told_with_its_remedy(tmp_path: Path, line: str, words: str) -> None:
    write_project(tmp_path, load=LOAD + line + "\n")
    assert the_problem(tmp_path).startswith(f"config/loads/orders.toml: {words}")


REPLACED = [
    ('key = ["id"]', "key = []", "key: is empty; write at least one value"),
    ('key = ["id"]', 'key = "id"', 'key: expected a list, got the text "id"; put it in [ ]'),
    ('key = ["id"]', 'key = ["id", "id"]', "key: contains 'id' twice"),
    ('key = ["id"]', 'key = ["Etl_Source"]', "key: 'Etl_Source' is a service field"),
    ('key = ["id"]', "key = [1]", "key[0]: expected a text, got the number 1; put it in quotes"),
    ('slice_by = "start_time"', 'slice_by = "hash_id"', "slice_by: 'hash_id' is a service field"),
    (
        'table = "stage.orders"',
        'table = "orders"',
        "table: 'orders' is not a table with its schema; write it as",
    ),
    ('table = "stage.orders"', 'table = ""', "table: '' is not a table with its schema"),
    ('shards = "cities"', 'shards = "citties"', "shards: no shard group 'citties'; did you mean 'cities'?"),
    ('target = "dwh"', 'target = "dw"', "target: no connection 'dw'; did you mean 'dwh'?"),
    (
        'target = "dwh"',
        'target = "sessions"',
        "target: 'sessions' is of type sqlite, which cannot be a warehouse",
    ),
    (
        'target = "dwh"',
        'target = "server_0"',
        "target: 'server_0' is a folder; a warehouse is one",
    ),
    (
        "orders/extract.sql",
        "orders/extrct.sql",
        "extract: the file sql/orders/extrct.sql is missing; did you mean",
    ),
    ("orders/extract.sql", "orders", "extract: sql/orders is not a file; write the path of a file"),
    ("orders/extract.sql", "", "extract: is empty; write a path"),
    ("orders/create.sql", "made/up.sql", "create: the file sql/made/up.sql is missing; create it or correct"),
]


@pytest.mark.parametrize(("old", "new", "words"), REPLACED, ids=[new for _, new, _ in REPLACED])
def test_a_wrong_value_of_a_load_is_told_with_its_remedy(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    write_project(tmp_path, load=LOAD.replace(old, new))
    assert the_problem(tmp_path).startswith(f"config/loads/orders.toml: {words}")


BROKEN = {
    "a = x": "line 1, column 5: Invalid value; write a text in quotes",
    "a = 'x\nb = 3": "line 2 (the file's end): Expected \"'\"; a closing ' is missing",
    '\na = "x\nb = 3': "line 2, column 7: Illegal character '\\n'; a closing quote is missing",
    "a = 2020-02-30": "line 1, column 5: Invalid date or datetime; write an existing date as 2020-02-08",
    "a = 1\na = 2\n": "line 2, column 6: Cannot overwrite a value; the table has the key twice",
    "a = [1,\n": "line 2 (the file's end)",
    "a = 1 b = 2": "line 1, column 7: Expected newline",
    "[x": "line 1",
}


@pytest.mark.parametrize(("text", "words"), BROKEN.items(), ids=BROKEN)
def test_broken_toml_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    write_project(tmp_path, load=text)
    assert the_problem(tmp_path).startswith(f"config/loads/orders.toml: {words}")


def test_broken_toml_in_the_main_file_brings_no_other_complaints(tmp_path: Path) -> None:
    write_project(tmp_path, main=MAIN + '\npassword = "hunter2\n')
    line = the_problem(tmp_path)
    assert line.startswith("config/dwhctl.toml: line ")
    assert "hunter2" not in line


def test_a_missing_main_file(tmp_path: Path) -> None:
    line = the_problem(tmp_path)
    assert line.startswith("config/dwhctl.toml: the file is missing; create it")


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "config/loads/orders.toml").write_bytes('a = 1\nb = "город"'.encode("cp1251"))
    assert (
        the_problem(tmp_path)
        == "config/loads/orders.toml: line 2: not UTF-8; save the file in the encoding UTF-8"
    )


@pytest.mark.parametrize("name", [".#orders.toml", "._orders.toml", ".orders.toml"])
def test_a_load_s_file_that_an_editor_hides_is_not_read(tmp_path: Path, name: str) -> None:
    write_project(tmp_path)
    # Emacs' lock of a file that is being edited is a link that leads nowhere.
    (tmp_path / "config/loads" / name).symlink_to("somebody@a-host.4711:1790000000")
    assert list(read_project(tmp_path).loads) == ["orders"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    write_project(tmp_path, main="\ufeff" + MAIN)
    assert read_project(tmp_path).timezone == "Europe/Moscow"


MAIN_REPLACED = [
    ('"Europe/Moscow"', '"Moscow"', "project.timezone: 'Moscow' is not a time zone of the IANA list;"),
    ("[project]", "max_workers = 2\n[project]", "max_workers: unknown key; it belongs below [project]"),
    (
        "[project]",
        "[project]\nmax_workers = 0",
        "project.max_workers: the number 0 is out of range; the value must",
    ),
    (
        "[project]",
        "[project]\ncolour = 0",
        "project.colour: unknown key; known: group_access, keep_logs, max_workers, state_dir, timezone",
    ),
    (
        'connection = "sessions"',
        'connection = "etl"',
        "sessions.connection: no connection 'etl'; known: dwh,",
    ),
    (
        'connection = "sessions"',
        'connection = "dwh"',
        "sessions.connection: 'dwh' is of type duckdb, which cannot be",
    ),
    ('connection = "sessions"', "", 'sessions.connection: is missing; add connection = "etl"'),
    ('"sqlite"', '"sqlight"', 'connections.sessions.type: expected one of "duckdb", "sqlite"'),
    ('type = "sqlite"\n', "", 'connections.sessions.type: is missing; add type = one of "duckdb", "sqlite"'),
    ('"sqlite"', "3", "connections.sessions.type: expected one of"),
    ('path = "state/sessions.sqlite"', "", "connections.sessions.path: is missing; add path ="),
    (
        '"state/sessions.sqlite"',
        '":memory:"',
        "connections.sessions.path: ':memory:' is a new, empty database",
    ),
    ('"state/sessions.sqlite"', "7", "connections.sessions.path: is a number; write a path in quotes"),
    (
        "[connections.sessions]",
        "connections.x = 3\n[connections.sessions]",
        "sessions.connections: unknown key; did you mean 'connection'?",
    ),
    (
        'path = "state/server_0"',
        'pathh = "x"\npath = "y"',
        "connections.server_0.pathh: unknown key; did you mean",
    ),
    (
        'path = "state/server_0"',
        'path = "y"\nmemory_limit = "1"',
        "connections.server_0.memory_limit: <1 character, not shown> is no",
    ),
    ("server_1 = [{", "server_2 = [{", "shards.cities.server_2: no connection 'server_2'; did you mean"),
    (
        "server_1 = [{",
        "sessions = [{",
        "shards.cities.sessions: 'sessions' is of type sqlite, which cannot be",
    ),
    (
        '"abakan"',
        '"achinsk"',
        "shards.cities.server_0[1]: two shards are named 'achinsk', here and in shards.citi",
    ),
    (
        '"abakan"',
        '"Abakan"',
        "shards.cities.server_0[0]: <6 characters, not shown> is not a shard's name: a name is made of a-z, 0-9",
    ),
    (
        '"abakan"',
        '"a__b"',
        "shards.cities.server_0[0]: <4 characters, not shown> is not a shard's name: a name contains no '__'",
    ),
    ('"abakan"', "3", "shards.cities.server_0[0]: expected a database, got a number; write"),
    ('"abakan"', '""', "shards.cities.server_0[0].database: is empty"),
    (
        '"2020-03-01"',
        '"2020-02-30"',
        "shards.cities.server_0[1].from: <10 characters, not shown>: the calendar has no such date",
    ),
    (
        '"2020-03-01"',
        '"2020-03-01", until = 2020-02-29',
        "shards.cities.server_0[1].until: 2020-02-29 is before from, 2020-03-01",
    ),
    (
        '"abakan"',
        '{ zone = "UTC" }',
        'shards.cities.server_0[0].name: is missing; add name = "SHARD", database =',
    ),
    ("from =", "from_date =", "shards.cities.server_0[1].from_date: unknown key; did you mean 'from'?"),
    (
        'zone = "Asia/Chita"',
        'zone = "Chita"',
        "shards.cities.server_1[0].zone: <5 characters, not shown> is not a time zone",
    ),
    (
        'database = "chita"',
        'database = "a/b"',
        "shards.cities.server_1[0]: <3 characters, not shown> is not the name of a file in",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), MAIN_REPLACED, ids=[new for _, new, _ in MAIN_REPLACED])
def test_a_wrong_main_file_is_told_with_its_remedy(tmp_path: Path, old: str, new: str, words: str) -> None:
    write_project(tmp_path, main=MAIN.replace(old, new, 1))
    assert the_problem(tmp_path).startswith(f"config/dwhctl.toml: {words}")


def test_equal_shard_names_show_a_name_that_is_free(tmp_path: Path) -> None:
    main = MAIN.partition("[shards")[0] + '[shards.flights]\nserver_0 = ["aa"]\nserver_1 = ["aa"]\n'
    write_project(tmp_path, main, LOAD.replace("cities", "flights"))
    assert the_problem(tmp_path).endswith('write { name = "server_1_aa", database = "aa" }')


def test_two_shards_in_one_duckdb_file(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace("state/server_0", "state/server_0.duckdb"))
    assert the_problem(tmp_path).startswith(
        "config/dwhctl.toml: shards.cities.server_0[1]: its file is already the shard 'abakan';"
    )


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (
            "[[shards]]",
            "config/dwhctl.toml: shards: expected a table, got a list; write it as [shards] with keys",
        ),
        (
            "[shards]\nx = 3",
            "config/dwhctl.toml: shards.x: expected a table, got a number; write it as [shards.x]",
        ),
        (
            "[shards.x]\ndwh = 3",
            "config/dwhctl.toml: shards.x.dwh: expected a list of databases, got a number",
        ),
        ("[variables]\n[alerts]\nx = 3", "config/dwhctl.toml: alerts.x: expected a table, got a number"),
        ("[[alerts.x]]", "config/dwhctl.toml: alerts.x: expected a table, got a list"),
    ],
)
def test_something_else_where_a_table_belongs(tmp_path: Path, main: str, words: str) -> None:
    write_project(tmp_path, MAIN.partition("[shards")[0] + main + "\n")
    assert any(line.startswith(words) for line in problems(tmp_path)), problems(tmp_path)


def test_a_database_that_is_listed_twice(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace('"abakan"', '"abakan", "abakan"'))
    assert the_problem(tmp_path).endswith(
        "here and in shards.cities.server_0[0]: the same database; drop one"
    )


def test_an_upper_case_database_is_told_how_it_gets_a_name(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace('"abakan"', '"Old Town"'))
    assert the_problem(tmp_path).endswith('write { name = "abakan", database = "Abakan" }')


def test_a_group_without_shards(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN + "[shards.towns]\n")
    assert the_problem(tmp_path).startswith("config/dwhctl.toml: shards.towns: the group has no shard; add")


def test_two_loads_with_one_target_table(tmp_path: Path) -> None:
    write_project(tmp_path)
    write(tmp_path, "config/loads/refunds.toml", LOAD.replace("stage.orders", "Stage.Orders"))
    assert the_problem(tmp_path) == (
        "config/loads/refunds.toml: table: Stage.Orders on 'dwh' is already the target of load 'orders'; "
        "give load 'refunds' a table of its own"
    )


def test_a_load_whose_file_has_no_name_for_a_load(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "config/loads/orders.toml").rename(tmp_path / "config/loads/Orders-2.toml")
    assert the_problem(tmp_path).startswith(
        "config/loads/Orders-2.toml: 'Orders-2' is not a load's name: a name is"
    )
    assert "rename the file to orders_2.toml" in the_problem(tmp_path)


def test_a_task_name_that_the_sessions_table_cannot_hold(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace('"abakan"', f'"{"x" * 193}"'))
    assert "has 201 characters, the sessions table holds 200; shorten" in the_problem(tmp_path)
    write_project(tmp_path, MAIN.replace('"abakan"', f'"{"x" * 192}"'))
    assert read_project(tmp_path).loads


def test_two_tasks_with_one_name(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace('"abakan"', '"b", "_b"'))
    write(tmp_path, "config/loads/orders_.toml", LOAD.replace("stage.orders", "stage.others"))
    assert "have the same task name as orders and _b; drop the '_'" in the_problem(tmp_path)


def test_one_connection_is_named_once_however_many_shards_it_has(tmp_path: Path) -> None:
    write_project(tmp_path, MAIN.replace("server_0 = [", "server_x = ["))
    assert len(problems(tmp_path)) == 1


def test_reports_are_read_and_checked(tmp_path: Path) -> None:
    write_project(tmp_path)
    report = (
        '[reports.x]\nconnection = "dwh"\nsource = "r.v"\ntarget = "r.t"\nneeds = [{ load = "orders" }]\n'
    )
    write(tmp_path, "config/reports.toml", report)
    assert read_project(tmp_path).reports["x"].needs[0].at_least == 1.0
    wrong = report.replace("orders", "order").replace("r.t", "stage.orders").replace('"dwh"', '"server_"')
    write(tmp_path, "config/reports.toml", wrong)
    assert [line.partition("; ")[0] for line in problems(tmp_path)] == [
        "config/reports.toml: reports.x.connection: no connection 'server_'",
        "config/reports.toml: reports.x.needs[0].load: no load 'order'",
    ]
    write(tmp_path, "config/reports.toml", report.replace("load =", "lod ="))
    assert "reports.x.needs[0].lod: unknown key; did you mean 'load'?" in problems(tmp_path)[1]


ALERTS = """
[variables]
chat = "-100"
[alerts.failures]
type = "telegram"
when = ["one_failed"]
token = { env = "TG_TOKEN" }
chat_id = -1001762374628
[alerts.mail]
type = "email"
when = ["all_success"]
host = "smtp.example.com"
from = "dwh@example.com"
to = ["a@example.com"]
"""


def test_alerts_are_read_and_checked(tmp_path: Path) -> None:
    alerts = read_project(write_project(tmp_path, MAIN + ALERTS)).alerts
    assert alerts["failures"].model_dump()["chat_id"] == "-1001762374628"
    assert alerts["mail"].model_dump()["port"] == 587
    write_project(tmp_path, MAIN + ALERTS.replace('"one_failed"', '"one_fail"').replace("from =", "sender ="))
    assert [line.partition("; ")[0].removeprefix("config/dwhctl.toml: ") for line in problems(tmp_path)] == [
        'alerts.failures.when[0]: expected one of "all_success", "one_failed", "all_done", "sla_miss"',
        "alerts.mail.from: is missing",
        "alerts.mail.sender: unknown key",
    ]


def test_a_channel_is_for_loads_and_reports_that_there_are(tmp_path: Path) -> None:
    keys = 'loads = ["orders"]\nrepeat_after = "90m"\n'
    alerts = read_project(write_project(tmp_path, MAIN + ALERTS + keys)).alerts
    assert (alerts["mail"].loads, alerts["mail"].repeat_after) == (("orders",), timedelta(minutes=90))
    assert alerts["failures"].repeat_after == timedelta(hours=24)
    write_project(tmp_path, MAIN + ALERTS + 'loads = ["orders", "order"]\nreports = ["x"]\n')
    assert problems(tmp_path) == [
        "config/dwhctl.toml: alerts.mail.loads[1]: no load <5 characters, not shown>; did you mean 'orders'?",
        "config/dwhctl.toml: alerts.mail.reports[0]: no report <1 character, not shown>; there is none yet",
    ]


def test_of_a_broken_project_the_channels_can_be_read(tmp_path: Path) -> None:
    broken = MAIN.replace("timezone =", "timezon =").replace('"duckdb"', '"duck"') + ALERTS + "[nonsense]\n"
    project = read_for_alerts(write_project(tmp_path, broken, load="shards = 1"))
    assert project is not None
    assert list(project.alerts) == ["failures", "mail"]
    assert (project.loads, project.sessions.name) == ({}, "sessions")
    assert project.state_dir == tmp_path / "state"
    # A channel that is wrong itself cannot tell; the others do.
    wrong = read_for_alerts(write_project(tmp_path, MAIN + ALERTS.replace('host = "smtp', 'hosst = "smtp')))
    assert wrong is not None
    assert list(wrong.alerts) == ["failures"]
    assert read_for_alerts(write_project(tmp_path, MAIN + "[alerts")) is None


def test_hosts_and_host_exclude_each_other(tmp_path: Path) -> None:
    server = '[connections.m]\ntype = "mssql"\nuser = "sa"\n'
    write_project(tmp_path, MAIN + server)
    assert the_problem(tmp_path).endswith('connections.m.host: is missing; add host = "SERVER"')
    write_project(tmp_path, MAIN + server + 'host = "a"\nhosts = ["a"]\n')
    assert "connections.m.host: cannot be combined with hosts; keep one" in the_problem(tmp_path)
    write_project(tmp_path, MAIN + server + 'hosts = ["a", "b:1444", "[::1]:5"]\n')
    connection = read_project(tmp_path).connections["m"]
    assert isinstance(connection, NetworkConnection)
    assert connection.addresses == (("a", 1433), ("b", 1444), ("::1", 5))


def test_a_certificate_file_must_be_there(tmp_path: Path) -> None:
    vertica = (
        '[connections.v]\ntype = "vertica"\nhost = "v"\nuser = "u"\ndatabase = "d"\ntls_cafile = "ca.pem"\n'
    )
    write_project(tmp_path, MAIN + vertica)
    assert "connections.v.tls_cafile: the file <6 characters, not shown> is missing" in the_problem(tmp_path)


def test_pings_have_a_proxy_and_authorities_of_their_own(tmp_path: Path) -> None:
    keys = '[pings]\nproxy = "http://ann:secret-of-ann@proxy:3128"\ntls_cafile = "config/ca.pem"\n'
    write_project(tmp_path, MAIN + keys)
    assert "pings.tls_cafile: the file config/ca.pem is missing" in the_problem(tmp_path)
    write(tmp_path, "config/ca.pem", "x")
    project = read_project(tmp_path)
    assert project.pings.tls_cafile == tmp_path / "config" / "ca.pem"
    assert project.pings.proxy is not None
    assert project.pings.proxy in list(project.secrets())
    assert project.pings.proxy.place == "config/dwhctl.toml: pings.proxy"
    assert any("pings.proxy" in line for line in project.warnings), "a login stands in the file itself"


def test_answer_timeout_is_some_time(tmp_path: Path) -> None:
    server = '[connections.p]\ntype = "postgres"\nhost = "p"\nuser = "u"\ndatabase = "d"\n'
    write_project(tmp_path, MAIN + server + 'answer_timeout = "0s"\n')
    assert "connections.p.answer_timeout" in the_problem(tmp_path)
    write_project(tmp_path, MAIN + server + 'answer_timeout = "30s"\n')
    connection = read_project(tmp_path).connections["p"]
    assert getattr(connection, "answer_timeout", None) == timedelta(seconds=30)
