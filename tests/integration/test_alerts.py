"""What channels are told of runs, and what becomes of it in the outbox: on both sessions databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.alerts import notifier
from dwhctl.alerts.delivery import send_due
from dwhctl.alerts.message import Receipt
from dwhctl.alerts.outbox import DeliveryState, Outbox, from_json
from dwhctl.core.errors import AlertInDoubtError, AlertNotSentError, ConfigError, ExitCode, Interrupted
from dwhctl.sessions import State
from tests.integration.alerts_kit import SHARDS, Desk, a_desk, an_alert, slices, stopped, with_shards
from tests.integration.sessions_kit import DAY, Place, new, postgres_place, sqlite_place, write
from tests.postgres import PostgresServer

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for all these tests: to make one takes longer than a test."""
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
def desk(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return a_desk(place, tmp_path, monkeypatch)


# Rules


def test_150_shards_failing_for_three_reasons_are_one_message_and_their_recovery_is_one(desk: Desk) -> None:
    third = len(SHARDS) // 3
    reasons = [
        slices("failed", *SHARDS[number * third : (number + 1) * third], error=error)
        for number, error in enumerate(("ConnectError", "QueryError", "TimedOutError"))
    ]
    [told] = desk.tell(*reasons)
    assert told.state is DeliveryState.SENT
    text = desk.post.last
    assert "0 of 150 loaded" in text
    assert text.count("50 shards") == 3
    assert "ConnectError it is" in text
    assert "and more" not in text.replace("... and ", "").splitlines(), "only the error's first line"
    assert desk.tell(*reasons) == []
    assert desk.tell(slices("failed", *SHARDS[:20])) == [], "fewer are no news"
    [recovered] = desk.tell(slices("done", *SHARDS))
    assert "recovered" in recovered.subject
    assert desk.tell(slices("done", *SHARDS)) == []
    assert len(desk.post.sent) == 2


def test_news_is_a_new_shard_class_or_load(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001", "shard_002"))
    assert desk.tell(slices("failed", "shard_001")) == []
    assert len(desk.tell(slices("failed", "shard_001", "shard_003"))) == 1
    assert len(desk.tell(slices("failed", "shard_001", error="QueryError"))) == 1
    assert len(desk.tell(slices("failed", "shard_001", work="calls"))) == 1
    assert desk.tell(slices("failed", "shard_001", "shard_002", "shard_003")) == []


RUNS = st.lists(
    st.fixed_dictionaries({shard: st.sampled_from((*"AB", "well", "left")) for shard in SHARDS[:3]}),
    max_size=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RUNS)
def test_what_goes_out_is_what_plain_sets_say(desk: Desk, runs: list[dict[str, str]]) -> None:
    for table in ("dwhctl_alerts", "dwhctl_alert_failures"):
        desk.change(f"DELETE FROM {table}")
    told: set[tuple[str, str]] = set()
    last: dict[str, str] = {}
    for found in runs:
        items = [
            slices("done", shard) if state == "well" else slices("failed", shard, error=state)
            for shard, state in found.items()
            if state != "left"
        ]
        sent = desk.tell(*items)
        last |= {shard: state for shard, state in found.items() if state != "left"}
        fails = {(shard, state) for shard, state in found.items() if state in "AB"}
        over = {
            shard
            for shard, error in told
            if all(last[other] == "well" for other, same in told if same == error)
        }
        assert bool(sent) == bool(over or fails - told), (found, told)
        told = {(shard, error) for shard, error in told if shard not in over}
        told |= fails if sent else set()


def test_what_is_unchanged_is_told_again_after_a_while(desk: Desk) -> None:
    failing = slices("failed", "shard_001")
    desk.tell(failing)
    desk.pass_time(23 * HOUR)
    assert desk.tell(failing) == []
    desk.pass_time(2 * HOUR)
    assert len(desk.tell(failing)) == 1
    assert "unchanged since the last message" in desk.post.last
    assert desk.tell(failing) == []


def test_a_digest_has_streaks_and_since_from_the_sessions(desk: Desk) -> None:
    for back, state in ((5, State.FAILED), (4, State.LOADED), (2, State.FAILED), (1, State.ABANDONED)):
        write(desk.store, new("shard_001", day=DAY - back * timedelta(days=1)), state)
    write(desk.store, new("shard_001", attempt=1), State.UP_FOR_RETRY)
    write(desk.store, new("shard_001", attempt=2), State.FAILED)
    write(desk.store, new("shard_002"), State.FAILED)
    desk.tell(slices("failed", "shard_001", "shard_002"))
    [(text,)] = desk.place.rows("SELECT digest FROM dwhctl_alerts")
    [reason] = from_json(text).reasons
    assert (reason.streak, reason.since) == (3, DAY - timedelta(days=2))


def test_a_digest_counts_the_streak_of_a_day_before_one_that_is_well(desk: Desk) -> None:
    """As `report failures` does; and only that day shows that it is over."""
    yesterday = DAY - timedelta(days=1)
    for back, state in ((2, State.FAILED), (1, State.FAILED), (0, State.LOADED)):
        write(desk.store, new("shard_001", day=DAY - back * timedelta(days=1)), state)
    desk.tell(slices("failed", "shard_001", day=yesterday))
    [(text,)] = desk.place.rows("SELECT digest FROM dwhctl_alerts")
    [reason] = from_json(text).reasons
    assert (reason.streak, reason.since) == (2, DAY - timedelta(days=2))
    assert desk.tell(slices("done", "shard_001")) == []
    assert len(desk.tell(slices("done", "shard_001", day=yesterday))) == 1


def test_a_gap_in_the_past_has_not_recovered_by_todays_load(desk: Desk) -> None:
    old = DAY - timedelta(days=30)
    write(desk.store, new("shard_001", day=DAY), State.LOADED)
    write(desk.store, new("shard_001", day=old), State.FAILED)
    desk.tell(slices("failed", "shard_001", day=old))
    assert desk.tell(slices("done", "shard_001")) == []
    assert len(desk.tell(slices("done", "shard_001", day=old))) == 1


def test_each_channel_is_told_what_it_is_there_for(desk: Desk) -> None:
    desk = desk.with_alerts(
        an_alert("failures"),
        an_alert("of_calls", loads=("calls",)),
        an_alert("of_reports", reports=("city_orders",)),
        an_alert("success", ("all_success",)),
        an_alert("all", ("all_done",)),
        an_alert("deadlines", ("sla_miss",)),
    )
    desk = replace(desk, project=with_shards(desk.project, "shard_001"))
    desk.tell(slices("failed", "shard_001"), slices("done", "shard_001", work="calls"))
    assert [name for name, _ in desk.post.sent] == ["failures", "all"]
    desk.post.sent.clear()
    desk.tell(slices("done", "shard_001"), slices("failed", "shard_001", work="calls"))
    assert [name for name, _ in desk.post.sent] == ["failures", "of_calls", "all"]
    desk.post.sent.clear()
    desk.tell(slices("done", "shard_001"), slices("done", "shard_001", work="calls"))
    assert [name for name, _ in desk.post.sent] == ["failures", "of_calls", "success", "all"]
    assert [row.subject for row in desk.rows()[-4:]][2].endswith("all 2 slices loaded")
    desk.post.sent.clear()
    desk.tell()
    assert desk.post.sent == [], "a run that found nothing to do tells nobody"
    desk.tell(slices("failed", "shard_001"), missed=True)
    assert [name for name, _ in desk.post.sent] == ["all", "deadlines"]


def test_a_success_with_slices_that_were_not_come_to_is_none(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("success", ("all_success",), loads=("orders",)))
    desk = replace(desk, project=with_shards(desk.project, "shard_001", "shard_002"))
    assert desk.tell(slices("done", "shard_001"), slices("left", "shard_002")) == []
    assert len(desk.tell(slices("done", "shard_001", "shard_002"))) == 1


def test_a_command_that_is_stopped_is_told_once_and_when_it_works_again(desk: Desk) -> None:
    def tell(error: str) -> int:
        return len(notifier.notify(desk.project, desk.store, stopped(error)))

    assert [tell("ConfigError"), tell("ConfigError"), tell("LockHeldError")] == [1, 0, 1]
    [again] = desk.tell(slices("done", "shard_001"))
    assert "recovered" in again.subject
    assert [tell("ConfigError"), len(desk.tell())] == [1, 1]


def test_a_death_is_told_once_a_day_and_has_no_recovery(desk: Desk) -> None:
    deaths = stopped("RunDied", passing=True).stops
    done = slices("done", "shard_001")
    assert [len(desk.tell(done, stops=deaths)) for _ in range(3)] == [1, 0, 0]
    assert desk.tell(done) == []
    desk.pass_time(25 * HOUR)
    assert len(desk.tell(done, stops=deaths)) == 1


def test_a_shard_that_left_the_project_does_not_keep_the_others_from_recovering(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001", "long_gone"))
    assert len(desk.tell(slices("done", "shard_001"))) == 1


# Outbox


def test_what_was_not_sent_is_sent_by_the_next_run(desk: Desk) -> None:
    desk.post.answers = [AlertNotSentError("no network")]
    [told] = desk.tell(slices("failed", "shard_001"))
    assert (told.state, desk.states()) == (DeliveryState.QUEUED, ["queued"])
    assert "the next run tries again: no network" in told.words()
    desk.pass_time(2 * HOUR)
    assert desk.tell(slices("failed", "shard_001"))[0].state is DeliveryState.SENT
    assert "late: this was so at 20" in desk.post.last
    [row] = desk.rows()
    assert (row.state, row.attempts, row.answer) == ("sent", 2, "message 1")
    assert row.sent_at is not None
    assert desk.send() == []


def test_a_channel_that_wants_to_be_left_alone_is(desk: Desk) -> None:
    desk.post.answers = [AlertNotSentError("too many", timedelta(hours=3))]
    desk.tell(slices("failed", "shard_001"))
    assert desk.tell(slices("failed", "shard_002")) == [], "what is new waits as well, in its order"
    desk.pass_time(2 * HOUR)
    assert desk.send() == []
    desk.pass_time(2 * HOUR)
    assert [one.state.value for one in desk.send()] == ["sent", "sent"]


def test_what_is_in_doubt_is_sent_once_more_marked(desk: Desk) -> None:
    desk.post.answers = [AlertInDoubtError("reset"), AlertInDoubtError("reset again")]
    assert desk.tell(slices("failed", "shard_001"))[0].state is DeliveryState.UNKNOWN
    assert desk.send()[0].state is DeliveryState.UNKNOWN
    assert [desk.send(), desk.send(), desk.post.sent] == [[], [], []]
    assert [(row.state, row.attempts) for row in desk.rows()] == [("unknown", 2)]
    desk.post.answers = [AlertInDoubtError("reset")]
    desk.tell(slices("failed", "shard_002"))
    assert desk.send()[0].state is DeliveryState.SENT
    assert "may be a repetition" in desk.post.last


def test_a_run_killed_while_sending_loses_nothing(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001"), send=False)
    outbox = Outbox(desk.store)
    [row] = outbox.due("chat", 10)
    assert outbox.claim(row, "of the dead") == 0
    assert desk.send() == [], "it may be alive"
    desk.pass_time(HOUR)
    assert desk.send()[0].state is DeliveryState.SENT
    assert "may be a repetition" in desk.post.last
    # Killed once more in the repetition: it is not sent for ever.
    desk.tell(slices("failed", "shard_002"), send=False)
    for _ in range(2):
        [row] = outbox.due("chat", 10)
        outbox.claim(row, "of the dead")
        desk.pass_time(HOUR)
    assert [one.state.value for one in desk.send()] == ["unknown"]
    assert (len(desk.post.sent), desk.send()) == (1, [])


def test_of_many_runs_one_takes_a_row(desk: Desk) -> None:
    for shard in SHARDS[:5]:
        desk.tell(slices("failed", shard), send=False)
    stores = [desk.place.store() for _ in range(4)]
    barrier = threading.Barrier(4)
    errors: list[Exception] = []

    def run(store_number: int) -> None:
        barrier.wait()
        try:
            send_due(desk.project, stores[store_number])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(desk.post.sent) == 5
    assert [(row.state, row.attempts) for row in desk.rows()] == [("sent", 1)] * 5


def test_of_two_runs_that_end_at_once_one_tells(desk: Desk) -> None:
    stores = [desk.place.store() for _ in range(4)]
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        barrier.wait()
        outcome = stopped("ConfigError")
        notifier.write(desk.project, stores[number], outcome)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.rows()) == 1


def test_one_channel_that_fails_holds_up_no_other(desk: Desk) -> None:
    desk = desk.with_alerts(an_alert("first"), an_alert("second"))
    for shard in SHARDS[:2]:
        desk.tell(slices("failed", shard), send=False)
    desk.post.answers = [AlertNotSentError("no network")]
    desk.send()
    assert [name for name, _ in desk.post.sent] == ["second", "second"]
    assert [row.attempts for row in desk.rows()] == [1, 1, 0, 1], "a dead channel is tried once a run"


def test_a_message_that_cannot_be_read_stands_in_nobodys_way(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001"), send=False)
    desk.change("UPDATE dwhctl_alerts SET digest = '{}'")
    refused, sent = desk.tell(slices("failed", "shard_002"))
    assert (refused.state, "another version" in refused.answer) == (DeliveryState.REFUSED, True)
    assert sent.state is DeliveryState.SENT


def test_what_cannot_be_sent_for_days_is_given_up(desk: Desk) -> None:
    desk.post.answers = [AlertNotSentError("no network"), ConfigError("TG_TOKEN is not set")]
    desk.tell(slices("failed", "shard_001"))
    desk.pass_time(73 * HOUR)
    [told] = desk.send()
    assert told.words().startswith("alert chat: given up")
    assert desk.states() == ["given_up"]
    assert desk.send() == []


def test_an_unset_secret_keeps_the_message_for_the_next_run(desk: Desk) -> None:
    desk.post.answers = [ConfigError("TG_TOKEN is not set")]
    assert desk.tell(slices("failed", "shard_001"))[0].state is DeliveryState.QUEUED


def test_a_defect_and_an_interruption_leave_the_message_in_doubt(desk: Desk) -> None:
    desk.post.answers = [ZeroDivisionError("oh")]
    [told] = desk.tell(slices("failed", "shard_001"))
    assert (told.state, told.answer) == (
        DeliveryState.UNKNOWN,
        "a defect in dwhctl: ZeroDivisionError: oh",
    )
    desk.send()
    desk.tell(slices("failed", "shard_002"), send=False)
    desk.tell(slices("failed", "shard_003"), send=False)
    desk.post.answers = [Interrupted(ExitCode.TERMINATED)]
    assert [one.answer for one in desk.send()] == ["interrupted while it was sent"]
    assert desk.states() == ["sent", "unknown", "queued"]


def test_a_channel_that_was_taken_out_is_not_waited_for(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001"), send=False)
    other = desk.with_alerts(an_alert("other"))
    assert [one.answer for one in other.send()] == ["there is no [alerts.chat] any more"]


def test_a_chat_that_moved_and_recipients_that_were_refused_are_told(desk: Desk) -> None:
    desk.post.answers = [Receipt("message 7", migrated_to="-100", refused=("a@b.c: unknown",))]
    [told] = desk.tell(slices("failed", "shard_001"))
    expected = "message 7; the chat has moved: set chat_id to -100; refused for a@b.c: unknown"
    assert told.answer == expected


def test_the_outbox_is_listed_newest_first(desk: Desk) -> None:
    desk.tell(slices("failed", "shard_001"))
    desk.tell(slices("done", "shard_001"))
    newest, oldest = Outbox(desk.store).newest(10)
    assert newest.id > oldest.id
    assert newest.created.utcoffset() == timedelta(0)
    assert abs(newest.created - datetime.now(UTC)) < timedelta(minutes=1)
    assert (newest.channel, newest.state, newest.attempts) == ("chat", "sent", 1)
    assert "recovered" in newest.subject
    assert len(Outbox(desk.store).newest(1)) == 1


# Without the database


def test_what_was_told_directly_is_told_once_and_recovers_through_the_database(desk: Desk) -> None:
    outcome = stopped("SessionsError")
    assert [len(notifier.notify(desk.project, None, outcome)) for _ in range(3)] == [1, 0, 0]
    assert desk.rows() == []
    [again] = desk.tell(slices("done", "shard_001"))
    assert "recovered" in again.subject
    assert list((desk.project.state_dir / "alerts").iterdir()) == []
    assert desk.tell(slices("done", "shard_001")) == []


def test_what_could_not_be_sent_directly_is_tried_at_the_next_end(desk: Desk) -> None:
    desk.post.answers = [AlertNotSentError("no network")]
    states = [
        one.state for _ in range(3) for one in notifier.notify(desk.project, None, stopped("SessionsError"))
    ]
    assert states == [DeliveryState.QUEUED, DeliveryState.SENT]


def test_a_project_without_channels_writes_nothing(desk: Desk) -> None:
    desk = desk.with_alerts()
    assert desk.tell(slices("failed", "shard_001")) == []
    assert desk.place.rows("SELECT * FROM dwhctl_alert_failures") == []
