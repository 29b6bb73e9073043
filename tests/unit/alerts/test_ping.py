"""Pings against a server that hangs, breaks and refuses: in order, once more after a failure, never for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dwhctl.alerts import ping as ping_room
from dwhctl.alerts.ping import Ping, Pinger
from dwhctl.core.secrets import Secret
from tests.servers.checks import UUID, Checks

DONE, FAILED = Ping("success", "12 of 12 slices loaded"), Ping("fail", "11 of 12 slices loaded")


@pytest.fixture
def checks() -> Iterator[Checks]:
    with Checks() as server:
        yield server


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping_room, "SECONDS", 0.5)
    monkeypatch.setattr(ping_room, "_PAUSE", 0.05)


def run(checks: Checks, ending: Ping, *names: str, timeout: float = 5.0) -> list[str]:
    """A run that starts, works a little and ends so."""
    pinger = Pinger({name: Secret(checks.url(name)) for name in names or (UUID,)})
    pinger.start()
    until = time.monotonic() + 2
    while checks.tried < len(names or (UUID,)) and time.monotonic() < until:
        time.sleep(0.005)
    return pinger.finish(dict.fromkeys(names or (UUID,), ending), timeout)


def test_start_and_end_carry_the_runs_id_and_the_summary(checks: Checks) -> None:
    assert run(checks, DONE) == []
    start, end = checks.pinged
    assert (start.signal, end.signal) == ("start", "")
    assert (start.rid, len(start.rid)) == (end.rid, 36)
    assert (start.body, end.body) == ("", "12 of 12 slices loaded")
    assert run(checks, FAILED) == []
    assert checks.signals() == ["start", "success", "start", "fail"]
    assert checks.pinged[2].rid != start.rid, "another run"


@pytest.mark.parametrize("fault", ["500", "429", "reset", "hang"])
def test_a_ping_that_fails_is_tried_once_more(checks: Checks, fault: str) -> None:
    checks.faults = ["", fault]
    assert run(checks, DONE) == []
    assert checks.signals() == ["start", "success"]
    assert checks.tried == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "it answers 500"),
        ("404", "it answers 404"),
        ("301", "it answers 301"),
        ("reset", "connection reset by peer"),
        ("hang", "no answer in time"),
    ],
)
def test_what_fails_twice_is_told_without_the_address(checks: Checks, fault: str, words: str) -> None:
    checks.faults = ["", fault, fault]
    assert run(checks, DONE, "orders") == [f"ping of orders failed: {words}"]
    assert checks.signals("orders") == ["start"]
    assert checks.tried == 3


def test_a_start_that_hangs_comes_before_the_end_or_not_at_all(checks: Checks) -> None:
    checks.faults = ["hang"]
    begun = time.monotonic()
    assert run(checks, DONE) == []
    # The start's second attempt is left out, for the end is there.
    assert checks.signals() == ["success"]
    assert time.monotonic() - begun < 2


def test_a_dead_service_holds_nobody_up(checks: Checks) -> None:
    names = [f"load_{number:02}" for number in range(40)]
    checks.faults = ["hang"] * 400
    begun = time.monotonic()
    [told] = run(checks, DONE, *names, timeout=0.6)
    assert time.monotonic() - begun < 4
    assert told == (
        "ping of load_00, load_01, load_02, load_03, load_04 ... and 35 more failed: no answer in time"
    )
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "ping")


def test_many_loads_are_pinged_each_once(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    # An answer that comes too late costs a second attempt, on a busy machine here too.
    monkeypatch.setattr("dwhctl.alerts.ping.SECONDS", 60.0)
    names = [f"load_{number:02}" for number in range(40)]
    pinger = Pinger({name: Secret(checks.url(name)) for name in names})
    pinger.start()
    endings = {name: FAILED if name == "load_07" else DONE for name in names}
    assert pinger.finish(endings, timeout=60.0) == []
    ends = {name: [signal for signal in checks.signals(name) if signal != "start"] for name in names}
    assert ends == {name: ["fail" if name == "load_07" else "success"] for name in names}
    for name in names:
        assert checks.signals(name)[:-1] in ([], ["start"])


def test_a_wrong_or_missing_address_is_told_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PING", raising=False)
    missing, wrong = Secret("PING", kind="env"), Secret("hc-ping.com/x")
    missing.place = "config/loads/orders.toml: ping_url"
    told = Pinger({"orders": missing, "calls": wrong}).finish(dict.fromkeys(("orders", "calls"), DONE))
    assert len(told) == 2
    assert any("orders" in line and "the environment variable PING is not set" in line for line in told)
    assert any("calls" in line and "is no URL" in line and "hc-ping" not in line for line in told)


def test_what_stands_in_the_address_stays_there(checks: Checks) -> None:
    pinger = Pinger({"orders": Secret(f"{checks.url()}/?create=1")})
    assert pinger.finish({"orders": DONE}) == []
    assert [one.signal for one in checks.pinged] == [""]


def test_a_body_holds_no_secret(checks: Checks) -> None:
    Secret("pw-of-the-source")
    assert run(checks, Ping("fail", "login failed: pw-of-the-source")) == []
    assert checks.pinged[-1].body == "login failed: ********"
