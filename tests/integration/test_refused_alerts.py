"""Channels that refuse messages: what was refused was never told. On both sessions databases, with a frozen clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
import trustme

from dwhctl.alerts import channels, notifier
from dwhctl.alerts.channels import open_channel as open_real_channel
from dwhctl.alerts.delivery import Delivery
from dwhctl.alerts.digest import Item
from dwhctl.alerts.outbox import DeliveryState, Outbox, from_json
from dwhctl.core.errors import AlertNotSentError, AlertRefusedError
from dwhctl.core.secrets import Secret
from dwhctl.project.model import EmailAlert, TelegramAlert
from dwhctl.sessions import State
from tests.integration.alerts_kit import Desk, a_desk, an_alert, slices, stopped, with_shards
from tests.integration.sessions_kit import DAY, Place, new, postgres_place, sqlite_place, write
from tests.postgres import PostgresServer
from tests.servers.bot_api import TOKEN, BotApi, Chat
from tests.servers.mail import MailServer

START = datetime(2020, 7, 14, 6, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FAILING = slices("failed", "shard_001", "shard_002")


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = postgres_server.make_database()
    yield name
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        place = sqlite_place(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        place = postgres_place(server, request.getfixturevalue("database"))
        place.rows("DROP TABLE IF EXISTS dwhctl_alerts, dwhctl_alert_failures, sessions")
    yield place
    place.end()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(START, tick=False) as clock:
        yield clock


@pytest.fixture
def desk(
    clock: time_machine.Traveller, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    return a_desk(place, tmp_path, monkeypatch)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[BotApi]:
    monkeypatch.setenv("TG_TOKEN", TOKEN)
    with BotApi() as server:
        yield server


@pytest.fixture
def telegram(desk: Desk, api: BotApi, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The desk with a real channel."""
    monkeypatch.setattr(channels, "open_channel", open_real_channel)
    chat = TelegramAlert(
        name="chat",
        when=("one_failed",),
        token=Secret("TG_TOKEN", kind="env"),
        chat_id="-100",
        api_base=api.url,
    )
    return desk.with_alerts(chat)


def states(found: list[Delivery]) -> list[tuple[DeliveryState, bool]]:
    return [(one.state, one.tried) for one in found]


REFUSED, HELD, SENT = (
    (DeliveryState.REFUSED, True),
    (DeliveryState.REFUSED, False),
    (DeliveryState.SENT, True),
)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("token", "Unauthorized"),
        ("chat", "chat not found"),
        ("blocked", "bot was blocked by the user"),
    ],
)
def test_a_refused_digest_is_tried_once_an_hour_until_it_is_delivered_once(
    telegram: Desk,
    api: BotApi,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    reason: str,
) -> None:
    for back in (2, 1, 0):
        write(telegram.store, new("shard_001", day=DAY - back * timedelta(days=1)), State.FAILED)
    if wrong == "token":
        monkeypatch.setenv("TG_TOKEN", TOKEN[:-1] + "x")
    else:
        api.chats = {"-100": Chat(gone="bot was blocked by the user")} if wrong == "blocked" else {}
    api.requests.clear()
    assert states(telegram.tell(FAILING)) == [REFUSED]
    for _ in range(2):
        clock.shift(20 * MINUTE)
        [held] = telegram.tell(FAILING)
        assert states([held]) == [HELD]
    assert (reason in held.words(), "dwhctl alert-test chat" in held.words()) == (True, True)
    assert telegram.send() == [], "a run with nothing to tell says nothing"
    assert len(api.requests) == 1, "one attempt within the hour"
    clock.shift(21 * MINUTE)
    assert states(telegram.tell(FAILING)) == [REFUSED]
    assert len(api.requests) == 2
    [row] = telegram.rows()
    assert (row.state, reason in (row.answer or ""), row.attempts) == ("refused", True, 2)
    assert [one.id for one in Outbox(telegram.store).newest(10, only_open=True)] == [row.id]
    monkeypatch.setenv("TG_TOKEN", TOKEN)
    api.chats = {"-100": Chat()}
    clock.shift(61 * MINUTE)
    assert states(telegram.tell(FAILING)) == [SENT]
    [sent] = api.sent
    assert "unchanged" not in sent.text
    assert "late" not in sent.text
    assert "since 2020-07-11" in sent.text
    assert telegram.tell(FAILING) == []
    assert [one.state for one in telegram.tell(slices("done", "shard_001", "shard_002"))] == [
        DeliveryState.SENT
    ]
    assert ["recovered" in one.text for one in api.sent] == [False, True]


def test_a_mail_server_that_refuses_login_and_sender(
    desk: Desk, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(channels, "open_channel", open_real_channel)
    monkeypatch.setenv("SMTP_PASSWORD", "not-the-password")
    with time_machine.travel(datetime.now(UTC), tick=True):
        authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with MailServer(login=("dwh", "password-of-dwh")) as server:
        mail = EmailAlert.model_validate(
            {
                "name": "mail", "when": ("one_failed",), "host": "localhost", "port": server.port, "security": "none",
                "user": "dwh", "password": Secret("SMTP_PASSWORD", kind="env"), "from": "a@example.com",
                "to": ("b@example.com",),
            }
        )  # fmt: skip
        desk = desk.with_alerts(mail)
        [refused] = desk.tell(FAILING)
        assert (states([refused]), "535" in refused.answer) == ([REFUSED], True)
        clock.shift(30 * MINUTE)
        assert states(desk.tell(FAILING)) == [HELD]
        monkeypatch.setenv("SMTP_PASSWORD", "password-of-dwh")
        server.faults = {"MAIL": "550 not from here"}
        clock.shift(31 * MINUTE)
        [refused] = desk.tell(FAILING)
        assert (states([refused]), "550" in refused.answer) == ([REFUSED], True)
        server.faults = {}
        clock.shift(61 * MINUTE)
        assert states(desk.tell(FAILING)) == [SENT]
        assert len(server.mails) == 1
        assert desk.tell(FAILING) == []


def refuse(desk: Desk, times: int = 1) -> None:
    desk.post.answers = [AlertRefusedError("the bot was blocked") for _ in range(times)]


def test_of_what_was_refused_only_what_still_fails_is_told(desk: Desk, clock: time_machine.Traveller) -> None:
    refuse(desk)
    desk.tell(slices("failed", "shard_001"), slices("failed", "shard_002", error="QueryError"))
    clock.shift(2 * HOUR)
    assert states(
        desk.tell(slices("done", "shard_001"), slices("failed", "shard_002", error="QueryError"))
    ) == [SENT]
    assert "ConnectError" not in desk.post.last
    assert "QueryError it is" in desk.post.last
    assert desk.states() == ["sent"]
    [recovered] = desk.tell(slices("done", "shard_001", "shard_002"))
    assert "recovered" in recovered.subject
    assert "shard_001" not in desk.post.last, "that it failed was never told"


def test_what_recovered_before_it_was_delivered_is_not_told(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    refuse(desk)
    desk.tell(FAILING)
    clock.shift(2 * HOUR)
    assert desk.tell(slices("done", "shard_001", "shard_002")) == []
    assert desk.states() == ["superseded"]
    assert Outbox(desk.store).newest(10, only_open=True) == []
    clock.shift(2 * HOUR)
    assert (desk.send(), desk.post.sent) == ([], [])
    assert len(desk.tell(FAILING)) == 1, "the next failure is news"


def test_what_no_later_run_looks_at_is_sent_late(desk: Desk, clock: time_machine.Traveller) -> None:
    refuse(desk)
    desk.tell(FAILING)
    clock.shift(2 * HOUR)
    assert states(desk.tell(slices("done", "shard_001", work="calls"))) == [SENT]
    assert "late: this was so at 2020-07-14 06:00:00" in desk.post.last
    assert desk.tell(FAILING) == [], "it is told by now"


def test_a_recovery_that_was_refused_is_not_lost(desk: Desk, clock: time_machine.Traveller) -> None:
    desk.tell(FAILING)
    refuse(desk)
    desk.tell(slices("done", "shard_001", "shard_002"))
    clock.shift(30 * MINUTE)
    assert states(desk.tell(slices("failed", "shard_002", "shard_003"))) == [HELD]
    clock.shift(HOUR)
    assert states(desk.tell(slices("failed", "shard_002", "shard_003"))) == [SENT]
    [(text,)] = desk.place.rows("SELECT digest FROM dwhctl_alerts ORDER BY id DESC LIMIT 1")
    digest = from_json(text)
    assert [reason.shards for reason in digest.reasons] == [("shard_002", "shard_003")]
    assert [item.shards for item in digest.recoveries] == [("shard_001",)]
    # ... nor when what it came with is over by then.
    refuse(desk)
    desk.tell(slices("done", "shard_002", "shard_003"), slices("failed", "shard_004", error="QueryError"))
    clock.shift(2 * HOUR)
    assert states(desk.tell(slices("done", "shard_004"))) == [SENT]
    assert "recovered" in desk.post.sent[-1][1].subject
    assert "shard_002, shard_003" in desk.post.last
    assert "shard_004" not in desk.post.last


def test_a_repetition_that_was_refused_is_unchanged_and_its_recovery_is_told(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    desk.tell(FAILING)
    clock.shift(25 * HOUR)
    refuse(desk)
    assert states(desk.tell(FAILING)) == [REFUSED]
    clock.shift(HOUR)
    assert states(desk.tell(FAILING)) == [SENT]
    assert "unchanged since the last message" in desk.post.last
    clock.shift(25 * HOUR)
    refuse(desk)
    desk.tell(FAILING)
    clock.shift(HOUR)
    [recovered] = desk.tell(slices("done", "shard_001", "shard_002"))
    assert "recovered" in recovered.subject
    assert desk.states()[-1] == "sent"


def test_what_waits_for_the_network_for_a_day_is_neither_unchanged_nor_doubled(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    desk.post.answers = [AlertNotSentError("no network"), AlertNotSentError("no network")]
    desk.tell(FAILING)
    clock.shift(25 * HOUR)
    assert states(desk.tell(FAILING)) == [(DeliveryState.QUEUED, True)]
    assert states(desk.send()) == [SENT]
    assert "unchanged" not in desk.post.last
    assert len(desk.post.sent) == 1


def test_what_was_given_up_is_news_again(desk: Desk, clock: time_machine.Traveller) -> None:
    refuse(desk, times=2)
    desk.tell(FAILING)
    clock.shift(73 * HOUR)
    assert states(desk.send()) == [(DeliveryState.GIVEN_UP, True)]
    assert states(desk.tell(FAILING)) == [SENT]
    assert "unchanged" not in desk.post.last


def test_what_an_earlier_version_left_as_refused_is_told(desk: Desk, clock: time_machine.Traveller) -> None:
    refuse(desk)
    desk.tell(FAILING)
    desk.change("UPDATE dwhctl_alerts SET not_before = NULL")
    clock.shift(MINUTE)
    assert states(desk.tell(FAILING)) == [SENT]


def test_a_message_that_is_refused_holds_up_the_others_for_an_hour_only(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    refuse(desk)
    desk.tell(FAILING)
    desk.tell(slices("failed", "shard_001", work="calls"))
    clock.shift(HOUR)
    desk.post.answers = []
    assert [one.subject.partition(": ")[2].partition(":")[0] for one in desk.send()] == ["calls", "orders"]


def test_of_a_commands_refused_successes_the_newest_is_sent(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    desk = desk.with_alerts(an_alert("success", ("all_success",)))
    desk = replace(desk, project=with_shards(desk.project, "shard_001"))

    def both(day: date) -> list[Item]:
        return [
            one for work in ("orders", "calls") for one in slices("done", "shard_001", day=day, work=work)
        ]

    refuse(desk)
    desk.tell(both(DAY))
    clock.shift(HOUR)
    tomorrow = DAY + timedelta(days=1)
    assert states(desk.tell(both(tomorrow))) == [SENT]
    assert str(tomorrow) in desk.post.last
    assert (len(desk.post.sent), desk.states()) == (1, ["sent"])


def test_without_the_database_a_refusal_holds_for_an_hour_too(
    desk: Desk, clock: time_machine.Traveller
) -> None:
    refuse(desk)
    outcome = stopped("SessionsError")
    found = [notifier.notify(desk.project, None, outcome) for _ in range(3)]
    assert list(map(states, found)) == [[REFUSED], [HELD], [HELD]]
    assert "the bot was blocked" in found[-1][0].words()
    other = replace(outcome, command="dwhctl load calls --date today")
    assert states(notifier.notify(desk.project, None, other)) == [HELD], "it is the channel's hour"
    clock.shift(HOUR)
    assert states(notifier.notify(desk.project, None, outcome)) == [SENT]
    assert notifier.notify(desk.project, None, outcome) == []
