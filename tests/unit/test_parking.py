"""When a connection is parked, probed, given up, and works again."""

from __future__ import annotations

import pytest

from dwhctl.errors import (
    AttemptError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    TimedOutError,
    WorkerDiedError,
)
from dwhctl.runs.parking import Parking
from dwhctl.runs.values import Failure


def fail(parking: Parking, error: AttemptError, now: float = 0.0, name: str = "server_0") -> bool:
    return parking.failed(name, Failure.of(error), now, 10.0)


def parked() -> Parking:
    parking = Parking()
    assert fail(parking, LoginRefusedError("Login failed for user 'sa'"))
    return parking


def test_three_connect_failures_in_a_row_park() -> None:
    parking = Parking()
    assert [fail(parking, ConnectError(f"down {n}")) for n in range(4)] == [False, False, True, False]
    reason = parking.reason("server_0")
    assert reason is not None
    assert reason.message == "down 2"
    assert parking.may_start("server_1", 0)


def test_a_success_between_them_starts_the_count_anew() -> None:
    parking = Parking()
    fail(parking, ConnectError())
    fail(parking, ConnectError())
    assert not parking.connected("server_0")
    assert not fail(parking, ConnectError())
    assert not fail(parking, ConnectError())
    assert fail(parking, ConnectError())


@pytest.mark.parametrize("error", [WorkerDiedError(), TimedOutError(), DatabaseMissingError()])
def test_failures_that_say_nothing_neither_park_nor_excuse(error: AttemptError) -> None:
    parking = Parking()
    assert not any(fail(parking, error) for _ in range(10))
    fail(parking, ConnectError())
    fail(parking, error)
    fail(parking, ConnectError())
    assert fail(parking, ConnectError())


def test_a_refused_login_parks_at_once() -> None:
    parking = parked()
    assert not parking.may_start("server_0", 9.9)
    assert parking.next_probe("server_0") == 10.0


def test_one_probe_at_a_time() -> None:
    parking = parked()
    assert parking.may_start("server_0", 10.0)
    parking.started("server_0")
    assert not parking.may_start("server_0", 1000.0)
    assert parking.next_probe("server_0") is None
    assert not fail(parking, ConnectError(), now=20.0)
    assert not parking.may_start("server_0", 29.0)
    assert parking.may_start("server_0", 30.0)


def test_failures_of_slices_that_were_under_way_are_no_probes() -> None:
    parking = parked()
    for _ in range(50):
        fail(parking, LoginRefusedError())
    assert not parking.is_given_up("server_0", 1)


def test_given_up_after_as_many_probes_as_retries() -> None:
    parking = parked()
    for probe in range(3):
        assert not parking.is_given_up("server_0", 3)
        parking.started("server_0")
        assert not parking.is_given_up("server_0", probe), "while the probe is under way"
        fail(parking, LoginRefusedError(), now=10.0 * probe)
    assert parking.is_given_up("server_0", 3)
    assert not parking.is_given_up("server_1", 0)


def test_without_retries_it_is_given_up_at_once() -> None:
    assert parked().is_given_up("server_0", 0)


def test_a_probe_that_connects_ends_the_parking() -> None:
    parking = parked()
    parking.started("server_0")
    assert parking.connected("server_0")
    assert parking.reason("server_0") is None
    assert parking.may_start("server_0", 0)
    assert not parking.connected("server_0")
    assert not fail(parking, ConnectError())


def test_a_probe_whose_worker_died_lets_another_follow() -> None:
    parking = parked()
    parking.started("server_0")
    assert not fail(parking, WorkerDiedError(), now=50.0)
    assert parking.next_probe("server_0") == 60.0
    assert parking.is_given_up("server_0", 1)


def test_a_probe_that_never_asked_leaves_the_next_one_due() -> None:
    parking = Parking()
    assert parking.failed("s", Failure("LoginRefusedError", "no", permanent=True), now=0.0, delay=1.0)
    assert parking.may_start("s", 1.0)
    parking.started("s")
    assert not parking.may_start("s", 2.0)
    parking.not_asked("s")
    assert parking.may_start("s", 2.0)
