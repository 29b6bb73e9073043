"""Watching on a frozen clock: what is missed is told once, again after a day, and once when it is well again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from dwhctl.alerts import channels
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import dwh
from tests.integration.alerts_kit import Post
from tests.postgres import PostgresServer
from tests.support.faulty import postgres_sessions
from tests.support.projects import Sandbox

#: 07:00 in Moscow.
DEADLINE = datetime(2020, 7, 14, 4, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
YESTERDAY = date(2020, 7, 13)
SHARDS = ("abakan", "achinsk", "chita")
KEYS = 'retries = 0\nstart_date = 2020-07-13\ndeadline = "07:00"\nschedule = "0 */6 * * *"'
CHANNEL = """
[alerts.{name}]
type = "email"
when = {when}
host = "localhost"
from = "a@b.c"
to = ["d@e.f"]
"""


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    post = Post()
    monkeypatch.setattr(channels, "open_channel", post.open)
    return post


SQLITE = 'type = "sqlite"\npath = "state/sessions.sqlite"'


def a_sandbox(root: Path, keys: str = KEYS, sessions: str = SQLITE) -> Sandbox:
    sandbox = Sandbox(root, load_keys=keys, sessions=sessions).write()
    path = sandbox.root / "config" / "dwhctl.toml"
    channels = [
        CHANNEL.format(name="chat", when='["one_failed", "sla_miss"]'),
        CHANNEL.format(name="success", when='["all_success"]'),
        CHANNEL.format(name="failures", when='["one_failed"]'),
        CHANNEL.format(name="everything", when='["all_done"]'),
    ]
    path.write_text(path.read_text() + "".join(channels))
    return sandbox


def loaded(
    sandbox: Sandbox, at: datetime, *shards: str, day: date = YESTERDAY, state: State = State.LOADED
) -> None:
    """Write what a load would have left in the sessions."""
    with open_store(sandbox.project().sessions) as store:
        store.prepare()
        new = [
            NewSession("run", "orders", shard, day, 1, f"{shard}-{day}-{at}-{state}", at) for shard in shards
        ]
        store.close([Closing(one, state, at + MINUTE) for one in store.open(new)])


def watch(sandbox: Sandbox, at: datetime) -> int:
    with time_machine.travel(at, tick=False):
        return dwh("watch", "--project", sandbox.root)


def to(post: Post) -> list[str]:
    """Who was told since last asked."""
    names = [name for name, _ in post.sent]
    post.sent.clear()
    return names


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_missed_deadline_is_told_once_and_so_is_its_recovery(
    tmp_path: Path,
    post: Post,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    dialect: str,
) -> None:
    sessions = SQLITE
    if dialect == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        sessions = postgres_sessions(server, request.getfixturevalue("postgres_database"))
    sandbox = a_sandbox(tmp_path / "project", sessions=sessions)
    loaded(sandbox, DEADLINE - HOUR, "abakan")
    assert watch(sandbox, DEADLINE - MINUTE) == 0
    assert to(post) == []
    assert watch(sandbox, DEADLINE) == 1
    message = post.last
    assert to(post) == ["chat", "everything"]
    assert message.splitlines()[0].endswith("project: orders: 2 tasks not in time")
    words = "2 of 3 shards not complete by 07:00: 2 slices, the oldest 2020-07-13, since 2020-07-14 07:00:00 +03:00"
    command = "dwhctl backfill orders -s 2020-07-13 -e 2020-07-13 --only-missing --project " + str(
        sandbox.root
    )
    assert words in message
    assert command in message
    assert "1 of 3 in time" in message
    assert capsys.readouterr().out.splitlines()[1:3] == [f"orders: {words}", f"  {command}"]
    assert watch(sandbox, DEADLINE + 5 * MINUTE) == 1
    loaded(sandbox, DEADLINE + 6 * MINUTE, "achinsk")
    assert watch(sandbox, DEADLINE + 10 * MINUTE) == 1
    assert to(post) == [], "fewer are no news"
    assert watch(sandbox, DEADLINE + DAY - MINUTE) == 1
    assert to(post) == []
    assert watch(sandbox, DEADLINE + DAY + MINUTE) == 1
    assert "abakan" in post.last, "it lacks the next day now"
    assert to(post) == ["chat", "everything"]
    loaded(sandbox, DEADLINE + DAY + HOUR, "chita")
    loaded(sandbox, DEADLINE + DAY + HOUR, *SHARDS, day=YESTERDAY + DAY)
    assert watch(sandbox, DEADLINE + DAY + 2 * HOUR) == 0
    assert "recovered" in post.last
    assert to(post) == ["chat", "everything"]
    assert watch(sandbox, DEADLINE + DAY + 3 * HOUR) == 0
    assert to(post) == []
    if dialect == "postgres":
        assert not (sandbox.root / "state").exists(), "it may be another machine than that of the loads"


def test_all_in_time_is_told_to_nobody_and_heals_no_failure(tmp_path: Path, post: Post) -> None:
    """A load that fails now is told by the load; that yesterday is complete says nothing of it."""
    sandbox = a_sandbox(tmp_path / "project", KEYS + '\nmax_age = "30h"')
    at = DEADLINE + HOUR
    loaded(sandbox, at, *SHARDS)
    with time_machine.travel(at, tick=False):
        assert dwh("load", "--date", "today", "--inline", "--project", sandbox.root) == 1
    assert to(post) == ["chat", "failures", "everything"]
    for minutes in (5, 10):
        assert watch(sandbox, at + minutes * MINUTE) == 0
    assert to(post) == []
    # Nor does a load's success heal what the watch has told.
    assert watch(sandbox, at + 31 * HOUR) == 1
    assert to(post) == ["chat", "everything"]
    sandbox.fill(3, days=[YESTERDAY + 2 * DAY])
    with time_machine.travel(at + 31 * HOUR + MINUTE, tick=False):
        assert dwh("load", "--date", "today", "--inline", "--project", sandbox.root) == 0
    assert [message.subject for name, message in post.sent if name == "chat"] == [
        "[dwhctl] project: orders recovered on 3 shards; 3 slices of 2020-07-14 still fail"
    ]
    to(post)
    assert watch(sandbox, at + 31 * HOUR + 5 * MINUTE) == 1, "yesterday is not complete still"
    assert to(post) == []


def test_a_load_that_grows_old_is_missed_without_any_deadline(tmp_path: Path, post: Post) -> None:
    sandbox = a_sandbox(tmp_path / "project", 'max_age = "8h"')
    assert watch(sandbox, DEADLINE) == 1, "it has never run"
    assert "3 of 3 shards older than 8h: the oldest last loaded never" in post.last
    assert not (sandbox.root / "state" / "sessions.sqlite").exists()
    assert watch(sandbox, DEADLINE + 5 * MINUTE) == 1
    assert to(post) == ["chat", "everything"]
    loaded(sandbox, DEADLINE + HOUR, *SHARDS, day=YESTERDAY + DAY)
    assert watch(sandbox, DEADLINE + 2 * HOUR) == 0
    assert to(post) == ["chat", "everything"]
    assert watch(sandbox, DEADLINE + 10 * HOUR) == 1
    assert "the oldest last loaded 2020-07-14 08:00:00 +03:00, since 2020-07-14 16:00:00 +03:00" in post.last


def test_without_its_sessions_a_watch_fails_and_tells(
    tmp_path: Path, post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = a_sandbox(tmp_path / "project")
    path = sandbox.root / "state" / "sessions.sqlite"
    path.parent.mkdir()
    path.write_text("no database at all, but long enough to be looked at\n" * 99)
    assert watch(sandbox, DEADLINE) == 1
    assert "Error: sessions in" in capsys.readouterr().err
    assert watch(sandbox, DEADLINE + MINUTE) == 1
    assert to(post) == ["chat", "failures", "everything"]
    path.unlink()
    loaded(sandbox, DEADLINE, *SHARDS)
    assert watch(sandbox, DEADLINE + 2 * MINUTE) == 0
    assert to(post) == ["chat", "failures", "everything"], "it is well again"


def listing(out: str, form: str) -> Sequence[dict[str, object]]:
    if form == "csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(out))]
    found: list[dict[str, object]] = json.loads(out)
    return found


@time_machine.travel(DEADLINE + HOUR, tick=False)
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    sandbox = a_sandbox(tmp_path / "project", KEYS + '\nmax_age = "2d"')
    loaded(sandbox, DEADLINE - HOUR, "abakan", "achinsk")
    command = ("report", "sla", "--format", form, "--project", sandbox.root)
    assert dwh(*command, "--exit-code") == 1
    out = capsys.readouterr().out
    if form == "table":
        line = out.splitlines()[-1].split()
        assert line[:4] == ["load", "orders", "missed", "1"]
        return
    [row] = listing(out, form)
    assert {key: str(value) for key, value in row.items() if value not in (None, "")} == {
        "kind": "load", "name": "orders", "state": "missed", "missing": "1", "expected": "3",
        "oldest": "2020-07-13", "since": "2020-07-14T04:00:00+00:00", "deadline": "07:00",
        "next_deadline": "2020-07-15T04:00:00+00:00", "max_age": "2d",
        "command": "dwhctl backfill orders -s 2020-07-13 -e 2020-07-13 --only-missing"
        f" --project {sandbox.root}",
    }  # fmt: skip
    loaded(sandbox, DEADLINE - HOUR, "chita")
    assert dwh(*command, "--exit-code") == 0
    [row] = listing(capsys.readouterr().out, form)
    assert (row["state"], row["age"], row["last_success"]) == ("met", "2h", "2020-07-14T03:00:00+00:00")


def test_the_crontab_has_a_line_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = a_sandbox(tmp_path / "project")
    assert dwh("crontab", "show", "--project", sandbox.root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("*/5 * * * * ")
    assert f"watch --scheduled --quiet --project {sandbox.root}" in lines[-2]
    assert dwh("crontab", "next", "--project", sandbox.root) == 0
    assert "watch" not in capsys.readouterr().out


def test_without_deadlines_there_is_nothing_to_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = a_sandbox(tmp_path / "project", "")
    assert watch(sandbox, DEADLINE) == 0
    assert "no load and no report has a deadline or a max_age" in capsys.readouterr().err
    assert dwh("crontab", "show", "--project", sandbox.root) == 0
    assert "watch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("deadline = '7:00'", "deadline: '7:00' is not a time of day; write one from"),
        ("deadline = '24:00'", "deadline: '24:00' is not a time of day"),
        ("deadline = 7", 'deadline: is the number 7; write a time of day in quotes: "07:00"'),
        ("max_age = '8'", "max_age: '8' is not a duration"),
        ("max_age = '0s'", "max_age: must be longer than 0s"),
        ("ping_url = 'hc-ping.com/x'", "ping_url: is not a URL"),
        ("ping_url = 7", "ping_url: expected a text, { env"),
        ("deadlin = '07:00'", "did you mean 'deadline'?"),
    ],
)
def test_mistakes_are_told_by_their_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, says: str
) -> None:
    sandbox = Sandbox(tmp_path / "project", load_keys=key).write()
    assert dwh("config", "check", "--project", sandbox.root) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "hc-ping" not in err
