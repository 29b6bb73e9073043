"""What people are told of loads: by a Telegram and a mail server on loopback, as cron runs dwhctl."""

from __future__ import annotations

import base64
import json
import shlex
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import trustme

from dwhctl.alerts.outbox import Outbox
from dwhctl.core.errors import SessionsError
from dwhctl.core.secrets import MASKED
from dwhctl.runtime.events import Event, RunResult, SliceClosed, SliceStarted
from dwhctl.sessions import open_store
from tests.cli_support import dwh
from tests.servers.bot_api import TOKEN, BotApi, Chat
from tests.servers.mail import MailServer
from tests.support.faulty import (
    Faults,
    flocked,
    held_locks,
    own_postgres,
    postgres_sessions,
    wait_for_end,
    wait_until,
)
from tests.support.projects import DAY, Sandbox
from tests.support.reports import a_place

CHANNEL = """
[alerts.failures]
type = "telegram"
when = ["one_failed"]
token = {{ env = "TG_TOKEN" }}
chat_id = -100
api_base = "{url}"
"""
LOAD = ("load", "--date", str(DAY), "--retries", "0")
#: Without workers, where it is not about them: a process of less is sooner there.
INLINE = (*LOAD, "--inline")
LONG = pytest.mark.long


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[BotApi]:
    monkeypatch.setenv("TG_TOKEN", TOKEN)
    with BotApi() as server:
        yield server


@pytest.fixture
def sandbox(tmp_path: Path, api: BotApi) -> Sandbox:
    """Three shards, of which one has no database, and a chat for failures."""
    sandbox = Sandbox(tmp_path / "project", load_keys="retries = 0").write().fill(3)
    add_channel(sandbox, CHANNEL.format(url=api.url))
    sandbox.shard_file("chita").rename(tmp_path / "chita")
    return sandbox


def add_channel(sandbox: Sandbox, text: str) -> None:
    path = sandbox.root / "config" / "dwhctl.toml"
    path.write_text(path.read_text() + text)


def mend(sandbox: Sandbox) -> None:
    (sandbox.root.parent / "chita").rename(sandbox.shard_file("chita"))


def texts(api: BotApi) -> list[str]:
    return [one.text for one in api.sent]


def outbox(sandbox: Sandbox) -> list[tuple[str, str | None, int]]:
    """State, answer and attempts, oldest first."""
    with open_store(sandbox.project().sessions) as store:
        return [(row.state, row.answer, row.attempts) for row in Outbox(store).newest(100)][::-1]


def told(report: RunResult) -> list[str]:
    return [one.words() for one in report.alerts]


def test_a_failure_is_told_once_and_its_recovery_once(
    sandbox: Sandbox, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh(*INLINE, "--project", sandbox.root) == 1
    assert "alert failures: sent: message 4711" in capsys.readouterr().out
    [text] = texts(api)
    assert "project: orders: 1 slice failed" in text
    assert f"2 of 3 loaded, {DAY}" in text
    assert "chita.duckdb" in text
    assert f"dwhctl report failures --project {sandbox.root}" in text
    assert sandbox.load().alerts == []
    mend(sandbox)
    assert "sent" in told(sandbox.load())[0]
    assert "recovered" in texts(api)[1]
    assert sandbox.load().alerts == []
    assert held_locks(sandbox.root / "state") == []


def test_the_kind_of_work_is_not_read_from_the_commands_text(
    sandbox: Sandbox, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.root = sandbox.root.rename(sandbox.root.parent / "refresh-reports watch")
    arguments = (*INLINE, "--project", sandbox.root)
    monkeypatch.setattr(sys, "argv", ["dwhctl", *map(str, arguments)])
    assert dwh(*arguments) == 1
    [text] = texts(api)
    assert ": orders: 1 slice failed" in text
    assert "2 of 3 loaded" in text


def test_the_server_of_many_shards_is_one_reason_although_not_all_were_tried(
    tmp_path: Path, api: BotApi
) -> None:
    """Of a parked connection's slices some failed by themselves, and the others were never tried."""
    names = [f"city_{number}" for number in range(8)]
    sandbox = (
        Sandbox(tmp_path / "project", servers={"server_0": ["abakan"]}, load_keys="retries = 0")
        .write()
        .fill(3)
    )
    path = sandbox.root / "config" / "dwhctl.toml"
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: it refuses
        dead = (
            '[connections.dead]\ntype = "mssql"\nhost = "127.0.0.1"\nuser = "u"\npassword = "pw-of-nobody"\n'
            f'encryption = "off"\nport = {nobody.getsockname()[1]}\n'
        )
        path.write_text(
            path.read_text().replace("[shards.cities]", f"{dead}\n[shards.cities]\ndead = {names!r}")
        )
        add_channel(sandbox, CHANNEL.format(url=api.url))
        first, second = sandbox.load(), sandbox.load()
    assert "ParkedError" in {one.failure.error_class for one in first.failures}
    [text] = texts(api)
    assert text.count("8 shards") == 1
    assert "parked" not in text
    assert (second.failed, second.alerts) == (8, [])


def test_a_channel_that_fails_changes_nothing_but_the_summary(
    sandbox: Sandbox, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.faults = ["429 10072"]
    assert dwh(*INLINE, "--quiet", "--project", sandbox.root) == 1
    shown = capsys.readouterr().out
    assert "alert failures: not sent, the next run tries again: Telegram asks for a pause" in shown
    mend(sandbox)
    assert sandbox.load().alerts == [], "it asked for hours"
    assert [state for state, _, _ in outbox(sandbox)] == ["queued", "queued"]
    age(sandbox, hours=3)
    assert len(sandbox.load().alerts) == 2
    assert "late: this was so at" in texts(api)[0]
    assert "recovered" in texts(api)[1]


def age(sandbox: Sandbox, hours: int) -> None:
    """Let what waits in the outbox have waited for so long."""
    with closing(sqlite3.connect(sandbox.root / "state" / "sessions.sqlite", isolation_level=None)) as db:
        for column in ("created", "not_before", "lease_until"):
            db.execute(
                f"UPDATE dwhctl_alerts SET {column} = strftime('%Y-%m-%d %H:%M:%f000+00:00', {column}, ?)",
                (f"-{hours} hours",),
            )


def test_while_a_channel_hangs_no_lock_is_held_and_who_is_killed_then_loses_nothing(
    sandbox: Sandbox, api: BotApi
) -> None:
    api.faults = ["hang at accept"]
    process = sandbox.start(*INLINE)
    try:
        wait_until(lambda: not api.faults, "the message is on its way", seconds=30)
        assert process.poll() is None
        assert held_locks(sandbox.root / "state") == []
        assert sandbox.load().alerts == [], "another run may work, and does not take the message"
    finally:
        process.kill()
        wait_for_end(process)
    assert [(state, attempts) for state, _, attempts in outbox(sandbox)] == [("sending", 1)]
    age(sandbox, hours=1)
    assert len(sandbox.load().alerts) == 1
    assert "may be a repetition" in texts(api)[0]
    assert [(state, attempts) for state, _, attempts in outbox(sandbox)] == [("sent", 2)]


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("sessions.tell.begin", marks=LONG),
        "sessions.tell.commit",
        pytest.param("sessions.tell.done", marks=LONG),
        pytest.param("alert.send", marks=LONG),
        "alert.sent",
        pytest.param("sessions.alert.begin", marks=LONG),
        pytest.param("sessions.alert.done", marks=LONG),
    ],
)
def test_killed_around_the_alert_nobody_is_left_untold(
    sandbox: Sandbox, api: BotApi, tmp_path: Path, point: str
) -> None:
    process = sandbox.start(*INLINE, env=Faults(tmp_path / "log").at(point, "kill").env())
    wait_for_end(process)
    assert process.returncode == -9
    for _ in range(2):
        age(sandbox, hours=1)
        sandbox.load()
    about_the_shard = [text for text in texts(api) if "chita.duckdb" in text]
    assert about_the_shard
    repeated = [text for text in about_the_shard if "may be a repetition" in text]
    assert bool(repeated) == (point.startswith("alert.") or point == "sessions.alert.done")
    # Of the death itself there is a digest as well, with all that fails.
    others = [text for text in about_the_shard if "had died" not in text and text not in repeated]
    assert len(others) <= 1


def test_a_dead_run_is_told(sandbox: Sandbox, api: BotApi, tmp_path: Path) -> None:
    mend(sandbox)
    process = sandbox.start(*LOAD, env=Faults(tmp_path / "log").at("publish.commit", "kill").env())
    wait_for_end(process)
    report = sandbox.load()
    assert (report.failed, len(report.alerts)) == (0, 1)
    [text] = texts(api)
    assert "had died" in text
    assert f"dwhctl load --date {DAY}" in text
    assert sandbox.load().alerts == []


def test_a_run_that_a_person_interrupts_tells_nobody(sandbox: Sandbox, api: BotApi, tmp_path: Path) -> None:
    api.faults = ["429 1000"]
    sandbox.load()
    age(sandbox, hours=1)
    faults = Faults(tmp_path / "log").at("stage.extract", "pause", nth=1, until=3)
    process = sandbox.start(*LOAD, env=faults.env())
    faults.wait_for("stage.extract")
    process.send_signal(signal.SIGTERM)
    wait_for_end(process)
    assert process.returncode == 143
    assert texts(api) == [], "nor does it send what waits: a person waits"
    assert [state for state, _, _ in outbox(sandbox)] == ["queued"]


def test_without_the_sessions_database_the_digest_goes_out_directly(sandbox: Sandbox, api: BotApi) -> None:
    state = sandbox.root / "state"
    (state / "sessions.sqlite").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(SessionsError):
            sandbox.load()
    [text] = texts(api)
    assert "sessions.sqlite" in text
    (state / "sessions.sqlite").rmdir()
    mend(sandbox)
    sandbox.load()
    assert "recovered" in texts(api)[1]
    assert list((state / "alerts").iterdir()) == []


def test_a_run_that_loses_its_sessions_database_is_told_directly(sandbox: Sandbox, api: BotApi) -> None:
    def lose(event: Event) -> None:
        if isinstance(event, SliceClosed):
            (sandbox.root / "state" / "sessions.sqlite").rename(sandbox.root / "gone")

    report = sandbox.load(listen=lose)
    assert report.stopped
    assert len(report.alerts) == 1
    assert "was removed or replaced" in texts(api)[0]


@LONG
def test_a_server_of_the_sessions_that_crashes_is_told_of_directly(sandbox: Sandbox, api: BotApi) -> None:
    mend(sandbox)
    with own_postgres() as postgres:
        path = sandbox.root / "config" / "dwhctl.toml"
        wanted = postgres_sessions(postgres.server, "postgres")
        path.write_text(path.read_text().replace(sandbox.sessions, wanted))

        def crash(event: Event) -> None:
            if isinstance(event, SliceStarted) and not texts(api):
                postgres.kill()

        report = sandbox.load(listen=crash)
        assert report.stopped
        assert len(report.alerts) == 1
        with pytest.raises(SessionsError):
            sandbox.load()
        told_while_down = len(texts(api))
        assert told_while_down == 2, "the run that stopped, and the one that could not begin: two reasons"
        with pytest.raises(SessionsError):
            sandbox.load()
        assert len(texts(api)) == told_while_down
        postgres.start_again()
        sandbox.load()
    assert len(texts(api)) == told_while_down + 1
    assert "recovered" in texts(api)[-1] or "had died" in texts(api)[-1]


def test_a_broken_configuration_is_told_by_a_scheduled_command_only(
    sandbox: Sandbox, api: BotApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(sandbox)
    path = sandbox.root / "config" / "loads" / "orders.toml"
    well = path.read_text()
    path.write_text(well.replace("slice_by", "slice_bye"))
    by_hand = (*INLINE, "--project", sandbox.root)
    scheduled = (*by_hand, "--scheduled")
    # Without a terminal as well: in a pipe, over ssh, from another program.
    assert dwh(*by_hand) == 2
    assert "alert" not in capsys.readouterr().err
    assert texts(api) == []
    assert [dwh(*scheduled), dwh(*scheduled)] == [2, 2]
    assert "alert failures: sent" in capsys.readouterr().err
    [text] = texts(api)
    assert "slice_bye: unknown key" in text
    assert f"dwhctl config check --project {sandbox.root}" in text
    assert "--scheduled" not in text, "who copies the command watches it"
    # Nor of a look, nor of a command that does no work.
    assert dwh("load", "--date", "nonsense", "--dry-run", "--scheduled", "--project", sandbox.root) == 2
    assert dwh("render", "load", "--date", "nonsense", "--scheduled", "--project", sandbox.root) == 2
    assert len(texts(api)) == 1
    path.write_text(well)
    monkeypatch.setattr(sys, "argv", ["dwhctl", *map(str, scheduled)])
    assert dwh(*scheduled) == 0
    assert "recovered" in texts(api)[1]


@pytest.mark.parametrize("command", ["load", "refresh-reports", "watch"])
def test_a_wrong_option_in_the_crontab_is_told(sandbox: Sandbox, api: BotApi, command: str) -> None:
    assert dwh(command, "--dat", "today", "--project", sandbox.root) == 2
    assert texts(api) == []
    assert dwh(command, "--dat", "today", "--scheduled", "--project", sandbox.root) == 2
    [text] = texts(api)
    assert "--dat" in text


def test_a_line_of_crontab_show_tells_of_wrong_usage(
    sandbox: Sandbox, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sandbox.root / "config" / "loads" / "orders.toml"
    path.write_text(f'{path.read_text()}\nschedule = "@daily"\n')
    assert dwh("crontab", "show", "--project", sandbox.root) == 0
    [line] = [one for one in capsys.readouterr().out.splitlines() if one.startswith("@daily")]
    words = shlex.split(line.partition(" >> ")[0])
    path.write_text(path.read_text().replace("slice_by", "slice_bye"))
    assert dwh(*words[words.index("load") :]) == 2
    [text] = texts(api)
    assert "slice_bye: unknown key" in text


def test_the_third_held_lock_in_a_row_is_told(
    sandbox: Sandbox, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend(sandbox)
    by_hand = (*INLINE, "--project", str(sandbox.root))
    arguments = (*by_hand, "--scheduled")
    monkeypatch.setattr(sys, "argv", ["dwhctl", *arguments])
    with flocked(sandbox.root / "state" / "locks" / "work" / f"orders.{DAY}.lock"):
        assert [dwh(*by_hand), dwh(*by_hand), dwh(*by_hand), len(texts(api))] == [75, 75, 75, 0]
        assert [dwh(*arguments), dwh(*arguments), len(texts(api))] == [75, 75, 0]
        assert [dwh(*arguments), dwh(*arguments), len(texts(api))] == [75, 75, 1]
    assert f"load orders of {DAY} is being done by" in texts(api)[0]
    assert dwh(*arguments) == 0
    assert "recovered" in texts(api)[1]
    with flocked(sandbox.root / "state" / "locks" / "work" / f"orders.{DAY}.lock"):
        assert [dwh(*arguments), dwh(*arguments), len(texts(api))] == [75, 75, 2]


def test_the_tutorials_message_is_sent_for_a_failure_and_not_for_its_recovery(
    sandbox: Sandbox, api: BotApi
) -> None:
    path = sandbox.root / "config" / "dwhctl.toml"
    path.write_text(
        path.read_text().replace('type = "telegram"', 'type = "telegram"\ntemplate = "fire.jinja"')
    )
    fire = "🔥 Наташ, просыпайся, мы {{ dag.dag_id }} уронили ({{ ds }})"
    sandbox.put("config/alerts/fire.jinja", fire)
    sandbox.load()
    mend(sandbox)
    sandbox.load()
    failed, recovered = texts(api)
    assert failed == f"🔥 Наташ, просыпайся, мы orders уронили ({DAY})"
    assert "уронили" not in recovered
    assert "orders: chita" in recovered
    sandbox.put(
        "config/alerts/fire.jinja", fire + "{% block recovered %}🧯 {{ dag.dag_id }}: спи{% endblock %}"
    )
    sandbox.shard_file("chita").rename(sandbox.root.parent / "chita")
    sandbox.load()
    mend(sandbox)
    sandbox.load()
    assert texts(api)[2:] == [failed, "🧯 orders: спи"]


def test_two_processes_at_once_send_each_message_once(sandbox: Sandbox, api: BotApi) -> None:
    api.faults = ["429 10072"]
    sandbox.load()
    sandbox.shard_file("abakan").rename(sandbox.root / "abakan")
    sandbox.load()
    waiting = [state for state, _, _ in outbox(sandbox)]
    assert waiting == ["queued", "queued"]
    age(sandbox, hours=3)
    others = [DAY - timedelta(days=back) for back in (1, 2)]
    processes = [
        sandbox.start("load", "--date", str(day), "--shard", "achinsk", "--inline") for day in others
    ]
    for process in processes:
        wait_for_end(process)
    assert [process.returncode for process in processes] == [0, 0]
    assert [state for state, _, _ in outbox(sandbox)] == ["sent"] * len(waiting)
    assert len(texts(api)) == len(waiting)


def test_the_outbox_is_listed(sandbox: Sandbox, api: BotApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("report", "alerts", "--format", "json", "--project", sandbox.root) == 0
    assert json.loads(capsys.readouterr().out) == []
    api.chats["-100"] = Chat(gone="bot was kicked from the group chat")
    sandbox.load()
    mend(sandbox)
    assert dwh("report", "alerts", "--format", "json", "--open", "--project", sandbox.root) == 0
    [row] = json.loads(capsys.readouterr().out)
    expected = {"channel": "failures", "state": "refused", "attempts": 1, "sent_at": None}
    assert {key: row[key] for key in expected} == expected
    assert "add the bot to the group again" in row["answer"]
    assert row["subject"] == "🔴 project: orders: 1 slice failed"
    assert dwh("report", "alerts", "--limit", "1", "--project", sandbox.root) == 0
    assert "refused" in capsys.readouterr().out


def test_reports_are_told_of_as_loads_are(tmp_path: Path, api: BotApi) -> None:
    api.chats["-200"] = Chat()
    success = (
        CHANNEL.replace("failures", "success").replace("one_failed", "all_success").replace("-100", "-200")
    )
    with a_place("duckdb", tmp_path / "project", load_keys="retries = 0") as place:
        for channel in (CHANNEL, success):
            add_channel(place.sandbox, channel.format(url=api.url))
        place.put({"numbers": 'needs = [{ load = "orders", at_least = 0.0 }]'})
        place.refresh()
        place.put({"numbers": "min_rows = 10_000\nretries = 0"})
        place.refresh()
        place.refresh()
        place.put({"numbers": "min_rows = 1"})
        place.refresh()
    chats = [one.chat_id for one in api.sent]
    assert chats == ["-200", "-100", "-100", "-200"]
    without, failed, recovered, well = texts(api)
    assert f"1 of 1 refreshed, {DAY}" in without
    assert "Without 3 shards" in without
    assert "abakan, achinsk, chita" in without
    assert "numbers on warehouse" in failed
    assert "fewer than min_rows = 10000" in failed
    assert "numbers recovered" in recovered
    assert "1 report refreshed" in well


def test_all_success_of_reports_waits_for_the_last_one_and_a_recovery_says_what_fails(
    tmp_path: Path, api: BotApi
) -> None:
    """As cron and a person run them: two of three break, one run mends one, the next run the other."""
    api.chats["-200"] = Chat()
    success = (
        CHANNEL.replace("failures", "success").replace("one_failed", "all_success").replace("-100", "-200")
    )
    mended, broken = "", "min_rows = 10_000\nretries = 0"
    with a_place("duckdb", tmp_path / "project", load_keys="retries = 0") as place:
        for channel in (CHANNEL, success):
            add_channel(place.sandbox, channel.format(url=api.url))
        place.put({"numbers": broken, "calls": broken, "rates": mended})
        place.refresh()
        place.refresh("calls", day=DAY + timedelta(days=1))
        place.put({"numbers": mended, "calls": mended, "rates": mended})
        place.refresh("numbers")
        place.refresh("calls")
    assert [one.chat_id for one in api.sent] == ["-100", "-100", "-100", "-100", "-200"]
    both, tomorrow, one, calls, last = texts(api)
    assert "calls, numbers: 2 reports failed" in both or "numbers, calls: 2 reports failed" in both
    assert ("calls: 1 report failed" in tomorrow, "unchanged" in tomorrow) == (True, False)
    later = DAY + timedelta(days=1)
    assert f"numbers recovered; calls of 2 days from {DAY} to {later} still fails" in one
    assert f"all 3 reports refreshed\n3 of 3 refreshed, {DAY}" in last
    assert f"calls recovered; calls of {later} still fails" in calls


# Secrets

PASSWORD = "пароль: p&s/w0rd+?"
IN_A_VARIABLE = "hunter2&\"'<x>"
MAIL = """
[variables]
pin = {{ env = "PIN" }}
[alerts.mail]
type = "email"
when = ["all_done"]
host = "localhost"
port = {port}
from = "dwh@example.com"
to = ["a@example.com"]
user = "dwh"
password = {{ env = "SMTP_PASSWORD" }}
tls_cafile = "{ca}"
"""


def test_no_secret_is_seen_anywhere_whatever_fails(
    sandbox: Sandbox, api: BotApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    monkeypatch.setenv("PIN", IN_A_VARIABLE)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    # What the source complains about quotes the query, and the query a secret.
    sandbox.put(
        "sql/orders/extract.sql", 'SELECT "{{ var.value.pin | replace(\'"\', \'""\') }}" FROM orders\n'
    )
    with MailServer(authority, login=("dwh", PASSWORD)) as mail:
        add_channel(sandbox, MAIL.format(port=mail.port, ca=tmp_path / "ca.pem"))
        shown = ""
        for bot, smtp, how in (
            ("echo", {"DATA": "554 no"}, INLINE),
            ("reset", {"MAIL": "reset"}, INLINE),
            ("", {}, LOAD),
        ):
            api.faults, mail.faults = [bot] if bot else [], dict(smtp)
            done = sandbox.run(*how, "--debug", "-v")
            assert done.returncode == 1
            shown += done.stdout + done.stderr
            age(sandbox, hours=2)  # a channel that refused is left alone for an hour
        monkeypatch.setenv("TG_TOKEN", TOKEN[:-1] + "x")
        mail.login = ("dwh", "another")
        shown += sandbox.run(*INLINE, "--debug").stderr
        assert "Traceback" not in shown
        assert len(mail.mails) >= 1
        mails = "".join(part.get_content() for one in mail.mails for part in one.iter_parts())
    everything = [shown, mails, *texts(api)]
    everything += [
        path.read_bytes().decode("utf-8", "replace") for path in sandbox.root.rglob("*") if path.is_file()
    ]
    # What was to be hidden came by, and was.
    assert MASKED in shown
    assert MASKED in "".join(texts(api)) + mails
    for form in (
        form for secret in (TOKEN, TOKEN.partition(":")[2], PASSWORD, IN_A_VARIABLE) for form in forms(secret)
    ):
        assert [text[:80] for text in everything if form in text] == []


def forms(secret: str) -> set[str]:
    """A secret as it may be written."""
    octets = secret.encode()
    alone = base64.b64encode(octets).decode()
    login = base64.b64encode(b"\0dwh\0" + octets).decode()
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), alone, login, octets.hex()}
