"""docs/from-airflow.md from its first block to its last: the tutorial's table and sessions move to dwhctl and cron.

The blocks are written and run as they are on the page, with three exceptions: addresses are those of the test servers,
waits of retries and needs are "0s", and runs have no worker processes (`--inline`), because these would have the real
clock. `crontab` is a program that keeps a file.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import pymssql
import pytest
import time_machine
from cronsim import CronSim
from pandas.util import hash_pandas_object

from tests.cli_support import dwh
from tests.postgres import PostgresServer, any_server
from tests.servers.bot_api import TOKEN, BotApi
from tests.servers.mail import MailServer
from tests.support.projects import days_from
from tests.support.wire import Wire, a_wire, needs_faults

PAGE = Path(__file__).parents[2] / "docs/from-airflow.md"
DATA = Path(__file__).parents[1] / "data/airflow"
FIRST = date(2020, 2, 8)
#: When the DAG is paused; the days before are in its table.
PAUSED = datetime(2020, 2, 12, 5, tzinfo=UTC)
OLD_DAYS = days_from(FIRST, 4)
NEW_DAYS = days_from(FIRST + timedelta(days=4), 3)
#: The city and day that a retry loaded once more, and those that both runs of the day loaded whole.
THRICE = ("chita", date(2020, 2, 10))
TWICE = ("klin", date(2020, 2, 9))
ROWS = 12
SESSIONS = """\
CREATE TABLE IF NOT EXISTS sessions (
    id          SERIAL       NOT NULL PRIMARY KEY,
    task_name   VARCHAR(200) NOT NULL,
    started     TIMESTAMPTZ  NOT NULL DEFAULT current_timestamp,
    finished    TIMESTAMPTZ           DEFAULT current_timestamp,
    successful  BOOL,
    loaded_rows INT,
    comment     VARCHAR(500)
)"""
OLD_TABLE = """\
CREATE TABLE IF NOT EXISTS stage.Orders (
    id         INT,
    start_time TIMESTAMP,
    end_time   TIMESTAMP,
    type       INT,
    data       VARCHAR(32),
    etl_source VARCHAR(200),
    etl_id     INT,
    hash_id    INT PRIMARY KEY
)"""
ORDERS = """\
CREATE TABLE dbo.Orders (
    id bigint NOT NULL PRIMARY KEY, start_time datetime2, end_time datetime2, type int, data uniqueidentifier
)"""
COPY = """\
COPY stage.Orders({}) FROM STDIN DELIMITER '|' ENCLOSED '"' ABORT ON ERROR NULL 'NUL'"""
REPORTS = ("city_orders", "client_calls", "client_rates", "daily_orders", "order_duration")
VIEW = """\
CREATE VIEW reports.{0}_view AS
SELECT COUNT(*) AS orders, etl_source AS city FROM stage.Orders GROUP BY etl_source"""
CRONTAB = """\
#!/bin/sh
case "$1" in
-l) cat "{0}" 2>/dev/null || {{ echo "no crontab for root" >&2; exit 1; }} ;;
-r) rm "{0}" ;;
-) cat > "{0}" ;;
esac
"""


class Block(NamedTuple):
    """A fenced block: its language and text."""

    language: str
    text: str


def sections() -> dict[str, list[Block]]:
    """Return the page's fenced blocks in their order, by the heading that they are under."""
    found: dict[str, list[Block]] = {}
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        blocks = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", part)
        found[part.partition("\n")[0]] = [Block(*each) for each in blocks]
    return found


class Fired(NamedTuple):
    """A line of the crontab that came due: what it ran, and how that ended."""

    at: datetime
    command: str
    code: int


@dataclass
class Move:
    """The reader of the page: a project folder, a clock, a crontab, and what is there besides."""

    root: Path
    wire: Wire
    api: BotApi
    mail: MailServer
    capfd: pytest.CaptureFixture[str]
    etl: tuple[PostgresServer, str]
    now: datetime = PAUSED
    shown: str = ""
    pages: Mapping[str, list[Block]] = field(default_factory=sections)

    @property
    def crontab(self) -> Path:
        """The file of the user's crontab."""
        return self.root.parent / "crontab"

    def read(self, section: str, *, first: int = 0, last: int | None = None) -> list[str]:
        """Do what a section's blocks say; give what each command showed."""
        shown = []
        for block in self.pages[section][first:last]:
            named = re.match(r"(?:#|--|\{#) ((?:config|sql)/[\w./]+)(, at its end)?(?: #\})?\n", block.text)
            if named:
                self._write(self.root / named[1], block.text, add=bool(named[2]))
            elif block.language == "sql":
                self.wire.change_warehouse(block.text)
            elif block.language == "sh":
                shown += [self._run(line) for line in block.text.splitlines()]
        return shown

    def _write(self, path: Path, text: str, *, add: bool) -> None:
        """Write a file of the project; addresses are those of test servers here, and nothing waits."""
        text = text.replace('"telegram"\n', f'"telegram"\napi_base = "{self.api.url}"\n')
        text = text.replace(
            '"smtp.example.com"', f'"localhost"\nport     = {self.mail.port}\nsecurity = "none"'
        )
        text = re.sub(r"(?m)^(mssql_\d) = \[.*\]$", self._group, text)
        text = text.replace('"10s"', '"0s"').replace('"2h"', '"0s"')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text("utf-8") + "\n" if add else "") + text, encoding="utf-8")

    def _group(self, line: re.Match[str]) -> str:
        return f"{line[1]} = {json.dumps(self.wire.servers[line[1]])}"

    def _run(self, line: str) -> str:
        wanted = re.search(r"# ends with (\d+)$", line)
        words = shlex.split(line, comments=True)
        if words[0] != "dwhctl":
            subprocess.run(words, cwd=self.root, check=True)
            return ""
        code = self.start(words[1:])
        assert code == (int(wanted[1]) if wanted else 0), (line, self.shown)
        return self.shown

    def start(self, words: Sequence[str]) -> int:
        """Run a command of dwhctl now, without worker processes."""
        inline = ["--inline"] if words[0] in ("load", "backfill") else []
        self.capfd.readouterr()
        with time_machine.travel(self.now):
            code = dwh(*words, *inline)
        self.shown = "".join(self.capfd.readouterr())
        return code

    def cron(self, until: datetime) -> list[Fired]:
        """Let the time pass: start what the crontab says, and `watch` once a day, after the deadline."""
        lines = [
            line
            for line in self.crontab.read_text("utf-8").splitlines()
            if not line.startswith(("#", "MAILTO"))
        ]
        due: list[tuple[datetime, list[str]]] = []
        for line in lines:
            *times, command = line.split(maxsplit=5)
            words = shlex.split(command.partition(" >> ")[0].replace(r"\%", "%"))
            words = words[
                next(n for n, word in enumerate(words) if word in ("load", "refresh-reports", "watch")) :
            ]
            schedule = "5 7 * * *" if words[0] == "watch" else " ".join(times)
            due += [(at, words) for at in _times(schedule, self.now, until)]
        fired = []
        for self.now, words in sorted(due):
            fired.append(Fired(self.now, words[0], self.start(words)))
        self.now = until
        return fired

    def messages(self) -> list[str]:
        """Take what came to the chat since the last look."""
        texts = [one.text for one in self.api.sent]
        self.api.sent.clear()
        return texts

    def mails(self) -> int:
        """Count the mails that came since the last look; each says what the tutorial's said."""
        for one in self.mail.mails:
            assert (one["Subject"], one["To"]) == ("DWH Reports updated", "king@example.com")
            body = one.get_body(("plain",))
            assert body is not None
            assert body.get_content().strip() == "Господа хорошие, отчеты обновлены"
        count = len(self.mail.mails)
        self.mail.mails.clear()
        return count

    def old_sessions(self) -> int:
        """Count the sessions that the DAG wrote."""
        server, database = self.etl
        with closing(server.connect(database)) as link, link.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM sessions WHERE load IS NULL AND successful")
            [(count,)] = cursor.fetchall()
            return int(count)

    def break_reports(self) -> None:
        """Drop the five views."""
        self.wire.change_warehouse(*(f"DROP VIEW reports.{name}_view" for name in REPORTS))

    def mend_reports(self, *names: str) -> None:
        """Make views again."""
        self.wire.change_warehouse(*(VIEW.format(name) for name in names))


def _times(schedule: str, after: datetime, until: datetime) -> Iterator[datetime]:
    for at in CronSim(schedule, after):
        if at > until:
            return
        yield at


class Airflow:
    """What the tutorial's DAG left: rows in stage.Orders by its own statements, sessions in its own table."""

    def __init__(self, wire: Wire, postgres: PostgresServer, database: str) -> None:
        self.wire, self.postgres, self.database = wire, postgres, database
        postgres.run(SESSIONS, database)
        wire.change_warehouse("CREATE SCHEMA IF NOT EXISTS stage", OLD_TABLE, "CREATE SCHEMA reports")
        for name in REPORTS:
            wire.change_warehouse(
                f"CREATE TABLE reports.{name} (city VARCHAR(200), orders INT)", VIEW.format(name)
            )

    def fill_sources(self) -> None:
        """Give each city its orders of every day."""
        for shard in self.wire.shards():
            rows = ", ".join(
                f"({number}, '{at}', '{at + timedelta(seconds=500)}', {number % 200 - 100}, '{uuid.uuid4()}')"
                for number, at in enumerate(_moments(OLD_DAYS + NEW_DAYS), 1)
            )
            self.wire.in_shard(
                shard, "DROP TABLE dbo.Orders", ORDERS, f"INSERT INTO dbo.Orders VALUES {rows}"
            )

    def run(self) -> None:
        """Load every old day of every city, and two of them more than once."""
        with (
            closing(self.postgres.connect(self.database)) as etl,
            etl.cursor() as sessions,
            closing(self.wire._vertica()) as target,
        ):
            for day in OLD_DAYS:
                for shard in self.wire.shards():
                    for _ in range({THRICE: 3, TWICE: 2}.get((shard, day), 1)):
                        self._workflow(sessions, target, shard, day)

    def _workflow(self, sessions: Any, target: Any, shard: str, day: date) -> None:
        sessions.execute(
            "INSERT INTO sessions (task_name, finished) VALUES (%s, NULL) RETURNING id", (f"orders__{shard}",)
        )
        [session] = sessions.fetchone()
        df = self._read(shard, day)
        df["etl_source"] = shard
        df["etl_id"] = session
        # A hash with its index; half of these are too large for INT, and only go in as signed numbers.
        df["hash_id"] = hash_pandas_object(df[["etl_source", "id"]]).astype("int64")
        buffer = io.StringIO()
        df.to_csv(buffer, index=False, sep="|", na_rep="NUL", quoting=csv.QUOTE_MINIMAL, header=False,
                  float_format="%.8f", doublequote=False, escapechar="\\")  # fmt: skip
        buffer.seek(0)
        with closing(target.cursor()) as cursor:
            cursor.copy(COPY.format(", ".join(df.columns)), buffer)
        sessions.execute(
            "UPDATE sessions SET finished = DEFAULT, successful = TRUE, loaded_rows = %s WHERE id = %s",
            (len(df), session),
        )

    def _read(self, shard: str, day: date) -> pandas.DataFrame:
        """Return a day as MsSqlHook's client reads it."""
        # The DAG's CONVERT(DATE, start_time) = '...' selects the same rows; the test server has no such cast.
        query = (
            "SELECT id, start_time, end_time, type, data FROM dbo.Orders"
            f" WHERE start_time >= '{day}' AND start_time < '{day + timedelta(days=1)}'"
        )
        server = self.wire.own_sources[
            next(n for n, own in self.wire.servers.items() if shard in own)
        ].connection()
        link = pymssql.connect(
            server=str(server.host), port=str(server.port), user=server.user, database=shard, tds_version="7.4",
            password=server.password.reveal() if server.password else "",
        )  # fmt: skip
        with closing(link), link.cursor() as cursor:
            cursor.execute(query)
            return pandas.DataFrame(list(cursor), columns=[name for name, *_ in cursor.description or ()])


def _moments(days: Sequence[date]) -> Iterator[datetime]:
    for day in days:
        for number in range(ROWS):
            yield datetime(day.year, day.month, day.day, 2 * number % 24, 17)  # noqa: DTZ001


def exported(wire: Wire, postgres: PostgresServer, database: str) -> dict[str, dict[str, Any]]:
    """Return Airflow's connections."""

    def one(kind: str, at: Any, **more: Any) -> dict[str, Any]:
        password = at.password.reveal() if at.password else ""
        return {
            "conn_type": kind,
            "host": at.host,
            "port": at.port,
            "login": at.user,
            "password": password,
            **more,
        }

    assert wire.dwh is not None
    dwh_one = wire.dwh.connection()
    return {
        **{name: one("mssql", server.connection()) for name, server in wire.own_sources.items()},
        "dwh": one("vertica", dwh_one, schema=dwh_one.database, extra=json.dumps({"tlsmode": "disable"})),
        "etl": {
            "conn_type": "postgres", "host": postgres.host, "port": postgres.port, "login": postgres.user,
            "password": postgres.password or "", "schema": database,
            "extra": json.dumps({"sslmode": postgres.sslmode or "disable"}),
        },
        "tg_main": {"conn_type": "", "extra": json.dumps({"bot_token": TOKEN})},
    }  # fmt: skip


def cities_of_the_page() -> dict[str, list[str]]:
    """Return the cities by their servers."""
    text = "".join(block.text for block in sections()["Connections and variables"])
    return {name: json.loads(cities) for name, cities in re.findall(r"(?m)^(mssql_\d) = (\[.*\])$", text)}


def cities_of_the_tutorial() -> dict[str, list[str]]:
    """Return all 150."""
    lines = (DATA / "cities.txt").read_text("utf-8").splitlines()
    return {name: cities.split() for name, _, cities in (line.partition(": ") for line in lines)}


@pytest.fixture
def move(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Move]:
    """The tutorial's servers and what its DAG left in them, an empty project beside them."""
    root = tmp_path / "warehouse"
    root.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "crontab").write_text(CRONTAB.format(tmp_path / "crontab"))
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(root)
    with (
        any_server() as postgres,
        a_wire(tmp_path / "servers", request.param()) as wire,
        BotApi() as api,
        MailServer() as mail,
    ):
        database = postgres.make_database()
        airflow = Airflow(wire, postgres, database)
        airflow.fill_sources()
        airflow.run()
        (tmp_path / "connections.json").write_text(json.dumps(exported(wire, postgres, database)))
        variables = {"failures_chat": "-100", "all_the_kings_men": "king@example.com"}
        (tmp_path / "variables.json").write_text(json.dumps(variables))
        yield Move(root, wire, api, mail, capfd, (postgres, database))
        postgres.drop_database(database)


@needs_faults
@pytest.mark.parametrize(
    "move",
    [
        cities_of_the_page,
        pytest.param(cities_of_the_tutorial, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
    indirect=True,
    ids=["six_cities", "all_cities"],
)
def test_the_move(move: Move) -> None:
    move.read("Connections and variables")
    move.read("The load")
    shadow_run(move)
    move.read("The reports")
    move.read("Alerts")
    assert (len(move.messages()), move.mails()) == (1, 1)
    take_over(move)
    cron_begins(move)
    a_dead_server(move)
    five_reports(move)
    move.read("Load the old days again")
    check_the_end(move)


def shadow_run(move: Move) -> None:
    """The first comparison shows the cut column, and the day that was loaded three times."""
    *_, compared = move.read("The shadow run")
    assert "data: " in compared
    assert "end_time" not in compared


def take_over(move: Move) -> None:
    """What is equal is adopted; a day that was loaded twice is loaded, one of three times is refused once."""
    narrow, _, _, adopted, refused, accepted, _ = move.read("Take over")
    assert "VARCHAR(36)" in narrow.upper()
    slices = len(move.wire.shards()) * len(OLD_DAYS)
    assert f"{slices - 2} adopted" in adopted
    for times, (shard, day) in ((3, THRICE), (2, TWICE)):
        assert re.search(rf"orders +{shard} +{day} +rows +{ROWS} +{times * ROWS}", adopted)
    assert "1 slice loaded, 0 skipped (no rows), 1 failed" in refused
    assert "ShrunkSourceError" in refused
    assert "--allow-shrink" in refused
    assert "1 slice loaded" in accepted
    guarded, well = move.messages()
    assert guarded.startswith("🔥 Наташ, просыпайся, мы orders уронили")
    assert well.startswith("✅ Наташ, спи дальше, всё починили")
    old = len(move.wire.warehouse("SELECT id FROM stage.Orders WHERE LENGTH(data) = 32"))
    assert old == (slices - 2) * ROWS


def cron_begins(move: Move) -> None:
    """A quiet first day: the mail of the reports, no message."""
    installed, _ = move.read("cron instead of the scheduler")
    assert installed.count("+0 */12 * * *") == installed.count("+30 6 * * *") == 1
    assert ends(move.cron(PAUSED.replace(hour=18))) == {"refresh-reports": [0], "watch": [0], "load": [0]}
    assert (move.messages(), move.mails()) == ([], 1)


def ends(fired: Sequence[Fired]) -> dict[str, list[int]]:
    """Return how the lines of each command ended, in their order."""
    found: dict[str, list[int]] = {}
    for one in fired:
        found.setdefault(one.command, []).append(one.code)
    return found


def a_dead_server(move: Move) -> None:
    """Two days without a server: one digest of load and reports for each date, one of the deadline; then it is back."""
    lost = move.wire.own_sources["mssql_1"]
    cities = move.wire.servers["mssql_1"]
    lost.kill()
    with socket.socket() as held:
        # Bound without listening, it refuses, and no other server gets the port meanwhile.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((lost.host, lost.port))
        fired = move.cron(move.now + timedelta(days=2))
    # The first morning lacks a day of two cities of six; so does the second one.
    assert ends(fired) == {"load": [1, 1, 1, 1], "refresh-reports": [1, 1], "watch": [1, 1]}
    messages = move.messages()
    assert len(messages) == 5, "\n\n".join(messages)
    first, reports, late, second, *more_reports = messages
    for load in (first, second):
        assert load.startswith("🔥 Наташ, просыпайся, мы orders уронили")
        assert f"orders: {len(cities)} shards on mssql_1" in load
    assert reports.startswith("🔥 Наташ, просыпайся, мы city_orders, ")
    assert [text.partition("\n")[0] for text in more_reports] == [reports.partition("\n")[0]]
    assert cities[0] in late
    assert move.mails() == 0

    lost.revive()
    assert ends(move.cron(move.now + timedelta(hours=10))) == {"load": [0]}
    [back] = move.messages()
    assert back.startswith("🩹 Наташ, часть починили")
    assert "уронили" not in back
    blocks = move.pages["A server is down for two days"]
    assert len(blocks) == 2
    gaps, filled, _ = move.read("A server is down for two days", last=1)
    assert f"{2 * len(cities)} slices to fill" in gaps
    assert f"{2 * len(cities)} slices loaded" in filled
    [in_time] = move.messages()
    assert in_time.startswith("✅")
    assert ends(move.cron(move.now + timedelta(hours=4))) == {"refresh-reports": [0], "watch": [0]}
    [well] = move.messages()
    assert well.startswith("✅")
    assert move.mails() == 1


def five_reports(move: Move) -> None:
    """Five views are gone: one digest; the mail comes only when all five are refreshed."""
    before = report_rows(move)
    move.break_reports()
    assert ends(move.cron(move.now + timedelta(days=1)))["refresh-reports"] == [1]
    [broken] = move.messages()
    assert broken.startswith("🔥 Наташ, просыпайся, мы ")
    assert all(name in broken for name in REPORTS)
    assert (report_rows(move), move.mails()) == (before, 0)

    move.mend_reports(*REPORTS[:4])
    assert move.start(["refresh-reports"]) == 1
    [partly] = move.messages()
    assert partly.startswith("🩹 Наташ, часть починили")
    assert move.mails() == 0

    move.mend_reports(REPORTS[4])
    move.read("A server is down for two days", first=1)
    [mended] = move.messages()
    assert mended.startswith("✅")
    assert REPORTS[4] in mended
    assert move.mails() == 1


def report_rows(move: Move) -> list[list[tuple[Any, ...]]]:
    """Return what each report's table holds."""
    return [sorted(move.wire.warehouse(f"SELECT city, orders FROM reports.{name}")) for name in REPORTS]


def check_the_end(move: Move) -> None:
    """Every row is there once, whole, with a hash_id of its own; the old sessions are as they were."""
    days = len(OLD_DAYS + NEW_DAYS)
    [found] = move.wire.warehouse(
        "SELECT COUNT(*), COUNT(DISTINCT hash_id), MIN(LENGTH(data)), MAX(LENGTH(data)) FROM stage.Orders"
    )
    rows = len(move.wire.shards()) * days * ROWS
    assert found == (rows, rows, 36, 36)
    assert move.old_sessions() == len(move.wire.shards()) * len(OLD_DAYS) + 3
