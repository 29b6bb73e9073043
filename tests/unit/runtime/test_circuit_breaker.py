"""When a connection is parked, probed, given up, and works again."""

from __future__ import annotations

import pytest

from dwhctl.core.errors import (
    AttemptError,
    ConfigError,
    ConnectError,
    DatabaseMissingError,
    LoginRefusedError,
    QueryError,
    TimedOutError,
    TlsError,
    WorkerDiedError,
)
from dwhctl.load.attempts import SliceJob
from dwhctl.runtime.circuit_breaker import CircuitBreaker
from dwhctl.runtime.messages import Failure
from tests.unit.projects import a_load
from tests.unit.runs_kit import planned

REFUSED = Failure("LoginRefusedError", "Login failed for user 'sa'", permanent=True)


def a_job(connection: str = "server_0", shard: str = "abakan") -> SliceJob:
    return SliceJob(planned(shard, connection, a_load(target="dwh")))


def fail(breaker: CircuitBreaker, error: AttemptError, now: float = 0.0, name: str = "server_0") -> list[str]:
    return list(breaker.failed(name, Failure.of(error), now, 10.0))


def parked() -> CircuitBreaker:
    breaker = CircuitBreaker()
    assert fail(breaker, LoginRefusedError("Login failed for user 'sa'")) == [
        "connection server_0 is parked: Login failed for user 'sa'"
    ]
    return breaker


def test_three_connect_failures_in_a_row_park() -> None:
    breaker = CircuitBreaker()
    told = [fail(breaker, ConnectError(f"down {n}")) for n in range(4)]
    assert told == [[], [], ["connection server_0 is parked: down 2"], []]
    reason = breaker.reason("server_0")
    assert reason is not None
    assert reason.message == "down 2"
    assert breaker.may_start(a_job("server_1"), 0)


def test_a_failure_of_tls_parks_at_once() -> None:
    assert fail(CircuitBreaker(), TlsError("no TLS")) == ["connection server_0 is parked: no TLS"]


def test_a_success_between_them_starts_the_count_anew() -> None:
    breaker = CircuitBreaker()
    fail(breaker, ConnectError())
    fail(breaker, ConnectError())
    assert list(breaker.connected("server_0")) == []
    assert not fail(breaker, ConnectError())
    assert not fail(breaker, ConnectError())
    assert fail(breaker, ConnectError())


@pytest.mark.parametrize("error", [WorkerDiedError(), TimedOutError(), DatabaseMissingError()])
def test_failures_that_say_nothing_neither_park_nor_excuse(error: AttemptError) -> None:
    breaker = CircuitBreaker()
    assert not any(fail(breaker, error) for _ in range(10))
    fail(breaker, ConnectError())
    fail(breaker, error)
    fail(breaker, ConnectError())
    assert fail(breaker, ConnectError())


def test_a_refused_login_parks_at_once() -> None:
    breaker = parked()
    assert not breaker.may_start(a_job(), 9.9)
    assert breaker.next_probe("server_0") == 10.0


def test_one_probe_at_a_time() -> None:
    breaker = parked()
    assert breaker.may_start(a_job(), 10.0)
    breaker.started(a_job(), 10.0)
    assert not breaker.may_start(a_job(), 1000.0)
    assert breaker.next_probe("server_0") is None
    assert not fail(breaker, ConnectError(), now=20.0)
    assert not breaker.may_start(a_job(), 29.0)
    assert breaker.may_start(a_job(), 30.0)


def down() -> CircuitBreaker:
    breaker = CircuitBreaker()
    assert [fail(breaker, ConnectError("down")) for _ in range(3)][-1]
    return breaker


def test_failures_of_slices_that_were_under_way_are_no_probes() -> None:
    breaker = down()
    for _ in range(50):
        fail(breaker, ConnectError())
    assert not breaker.is_given_up("server_0", 1)


def test_given_up_after_as_many_probes_as_retries() -> None:
    breaker = down()
    for probe in range(3):
        assert not breaker.is_given_up("server_0", 3)
        breaker.started(a_job(), 0.0)
        assert not breaker.is_given_up("server_0", probe), "while the probe is under way"
        fail(breaker, ConnectError(), now=10.0 * probe)
    assert breaker.is_given_up("server_0", 3)
    assert not breaker.is_given_up("server_1", 0)


def test_without_retries_it_is_given_up_at_once() -> None:
    assert down().is_given_up("server_0", 0)


def test_a_refused_login_is_given_up_at_once_where_a_probe_needs_none() -> None:
    breaker = CircuitBreaker(with_probe={"server_0"})
    fail(breaker, LoginRefusedError())
    fail(breaker, LoginRefusedError(), name="an_api")
    assert breaker.is_given_up("server_0", 3)
    assert not breaker.is_given_up("an_api", 3), "it may be one account's refusal"


def test_a_probe_that_connects_ends_the_parking() -> None:
    breaker = parked()
    breaker.started(a_job(), 10.0)
    assert list(breaker.connected("server_0")) == ["connection server_0 works again"]
    assert breaker.reason("server_0") is None
    assert breaker.may_start(a_job(), 0)
    assert not list(breaker.connected("server_0"))
    assert not fail(breaker, ConnectError())


def test_a_probe_whose_worker_died_lets_another_follow() -> None:
    breaker = parked()
    breaker.started(a_job(), 40.0)
    assert not fail(breaker, WorkerDiedError(), now=50.0)
    assert breaker.next_probe("server_0") == 60.0
    assert breaker.is_given_up("server_0", 1)


def test_a_probe_that_never_asked_leaves_the_next_one_due() -> None:
    breaker = CircuitBreaker()
    assert list(breaker.failed("server_0", REFUSED, now=0.0, delay=1.0))
    assert breaker.may_start(a_job(), 1.0)
    breaker.started(a_job(), 1.0)
    assert not breaker.may_start(a_job(), 2.0)
    breaker.not_asked(a_job())
    assert breaker.may_start(a_job(), 2.0)


def test_attempts_count_where_source_and_target_are_one_connection() -> None:
    breaker, job = parked(), SliceJob(planned("abakan", "server_0", a_load(target="server_0")))
    breaker.started(job, 10.0)
    assert not list(breaker.finished(job, Failure.of(ConnectError("down")), 20.0))
    assert breaker.is_given_up("server_0", 1)
    assert not breaker.may_start(job, 20.0), "the next attempt waits for the load's retry_delay"


# The target's connection


def test_a_warehouse_that_refuses_parks_the_warehouse_and_no_source() -> None:
    breaker = CircuitBreaker()
    failure = Failure.of(LoginRefusedError("Login failed for user 'dwh'", connection="dwh"))
    breaker.started(a_job(), 0.0)
    assert list(breaker.finished(a_job(), failure, 1.0)) == [
        "connection dwh is parked: Login failed for user 'dwh'"
    ]
    assert breaker.reason("server_0") is None
    assert not breaker.may_start(a_job("server_1"), 2.0), "no slice can be staged, whatever it is read from"


def test_publications_count_too() -> None:
    breaker = CircuitBreaker()
    down = Failure.of(ConnectError("down", connection="dwh"))
    busy = Failure("TargetBusyError", "locked", permanent=False)
    told = [list(breaker.target_refused(a_job(), one, 0.0)) for one in (down, busy, down, down)]
    assert told == [[], [], [], ["connection dwh is parked: down"]]


def test_a_slice_that_is_staged_ends_the_parking_of_both() -> None:
    breaker = CircuitBreaker()
    for name in ("server_0", "dwh"):
        list(breaker.failed(name, REFUSED, 0.0, 10.0))
    breaker.started(a_job(), 20.0)
    told = list(breaker.finished(a_job(), None, 21.0))
    assert told == ["connection server_0 works again", "connection dwh works again"]


def test_a_failure_at_the_source_says_nothing_of_the_warehouse() -> None:
    breaker = CircuitBreaker()
    list(breaker.failed("dwh", REFUSED, 0.0, 10.0))
    breaker.started(a_job(), 20.0)
    assert not list(breaker.finished(a_job(), Failure.of(QueryError("no such table")), 21.0))
    assert breaker.reason("dwh") == REFUSED
    assert breaker.may_start(a_job(), 21.0), "the warehouse was not asked: its probe is still due"


# A connection that has not shown to work


def test_it_has_one_slice_under_way_while_others_can_use_the_workers() -> None:
    breaker = CircuitBreaker()
    assert breaker.is_first_choice(a_job())
    breaker.started(a_job(), 5.0)
    assert not breaker.is_first_choice(a_job(shard="chita"))
    assert breaker.is_first_choice(a_job("server_1"))
    assert not breaker.was_asked_before(a_job(), 5.0)
    assert breaker.was_asked_before(a_job(), 5.1)
    list(breaker.finished(a_job(), None, 6.0))
    breaker.started(a_job(), 6.0)
    assert breaker.is_first_choice(a_job(shard="chita"))


def test_a_secret_that_cannot_be_read_is_no_sign_of_life() -> None:
    """The connection was not used: with the next secret its login may be refused, once for each database."""
    missing = Failure.of(ConfigError("the file /run/secrets/dwh does not exist"))
    breaker = parked()
    breaker.started(a_job(), 10.0)
    assert list(breaker.finished(a_job(), missing, 11.0)) == []
    assert not breaker.login_known("server_0")
    new = CircuitBreaker()
    new.started(a_job(), 0.0)
    assert list(new.finished(a_job(), missing, 1.0)) == []
    assert (new.works("server_0"), new.login_known("server_0")) == (False, None)


@pytest.mark.parametrize("error", [TimedOutError(), WorkerDiedError(), ConnectError()])
def test_a_failure_that_shows_nothing_puts_it_back(error: AttemptError) -> None:
    breaker = CircuitBreaker()
    list(breaker.connected("server_0"))
    for _ in range(2):
        breaker.started(a_job(), 0.0)
    list(breaker.finished(a_job(), Failure.of(error), 1.0))
    assert not breaker.is_first_choice(a_job())
    breaker.not_asked(a_job())
    assert breaker.is_first_choice(a_job()), "nobody is asking it now"


def test_a_source_that_was_put_off_yields_to_the_others_for_a_time() -> None:
    breaker = CircuitBreaker()
    breaker.started(a_job(), 10.0)
    breaker.put_off(a_job(), 11.0)
    assert not breaker.is_first_choice(a_job(), 14.9)
    assert breaker.is_first_choice(a_job(), 15.0)
    assert breaker.was_asked_before(a_job(), 1.0), "without others it is tried at once"
    assert breaker.times_put_off("server_0") == 1
    assert breaker.reason("server_0") is None
    breaker.started(a_job(), 15.0)
    list(breaker.connected("server_0"))
    assert breaker.times_put_off("server_0") == 0


def test_after_a_failure_to_connect_the_others_come_first_for_four_times_as_long_as_it_took() -> None:
    breaker = CircuitBreaker()
    breaker.started(a_job(), 10.0)
    list(breaker.finished(a_job(), DOWN, 20.0))
    assert not breaker.is_first_choice(a_job(), 59.9)
    assert breaker.is_first_choice(a_job(), 60.0)


# Knocking

DOWN = Failure(
    "ConnectError", "connection mssql_0 cannot be reached: refused", permanent=False, connection="mssql_0"
)


def test_nothing_starts_before_the_server_gave_a_sign_of_life() -> None:
    breaker = CircuitBreaker({"mssql_0"})
    job = a_job("mssql_0")
    assert not breaker.may_start(job, 0.0)
    assert breaker.may_start(a_job(), 0.0), "at others one cannot probe"
    assert breaker.to_probe(["mssql_0", "server_0", "dwh"], 0.0) == ["mssql_0"]
    assert breaker.to_probe(["mssql_0"], 9.0) == [], "one probe at a time"
    assert not list(breaker.probed("mssql_0", None, 1.0, 10.0))
    assert breaker.may_start(job, 1.0)
    assert breaker.to_probe(["mssql_0"], 9.0) == []


def test_three_knocks_without_an_answer_park_and_further_ones_are_the_probes() -> None:
    breaker, now, told = CircuitBreaker({"mssql_0"}), 0.0, list[str]()
    for _ in range(3):
        while not breaker.to_probe(["mssql_0"], now):
            now += 0.05
        told += list(breaker.probed("mssql_0", DOWN, now, 10.0))
    assert told == [f"connection mssql_0 is parked: {DOWN.message}"]
    assert now < 1
    assert breaker.next_probe("mssql_0") == now + 10
    assert breaker.to_probe(["mssql_0"], now + 9.9) == []
    assert not breaker.is_given_up("mssql_0", 1)
    assert breaker.to_probe(["mssql_0"], now + 10) == ["mssql_0"]
    assert not breaker.is_given_up("mssql_0", 0), "while the probe is under way"
    assert not list(breaker.probed("mssql_0", DOWN, now + 10, 10.0))
    assert breaker.is_given_up("mssql_0", 1)


def test_a_server_that_answers_again_is_probed_by_a_slice() -> None:
    breaker, job = CircuitBreaker({"mssql_0"}), a_job("mssql_0")
    assert list(breaker.failed("mssql_0", REFUSED, 0.0, 10.0))
    assert breaker.to_probe(["mssql_0"], 10.0) == ["mssql_0"]
    assert not breaker.may_start(job, 10.0)
    assert not list(breaker.probed("mssql_0", None, 10.0, 10.0))
    assert breaker.may_start(job, 10.0)
    breaker.started(job, 10.0)
    assert list(breaker.finished(job, None, 11.0)) == ["connection mssql_0 works again"]


def test_a_worker_that_came_back_without_it_makes_it_knock_again() -> None:
    breaker, job = CircuitBreaker({"mssql_0"}), a_job("mssql_0")
    assert breaker.to_probe(["mssql_0"], 0.0)
    assert not list(breaker.probed("mssql_0", None, 0.0, 10.0))
    breaker.started(job, 0.0)
    assert not list(breaker.finished(job, Failure.of(TimedOutError()), 5.0))
    assert not breaker.may_start(job, 5.0)
    assert breaker.to_probe(["mssql_0"], 5.0) == ["mssql_0"]


def test_a_source_of_which_several_jobs_fail_at_once_yields_no_longer_than_it_was_waited_for() -> None:
    breaker = CircuitBreaker()
    for at in (5000.0, 5000.1, 5000.2):
        breaker.started(a_job(), at)
    list(breaker.finished(a_job(), None, 5001.0))
    for at in (5002.0, 5003.0):
        list(breaker.finished(a_job(), Failure.of(ConnectError()), at))
    assert breaker.is_first_choice(a_job(), 5003.1), "not after as many seconds as the machine is up"


def test_two_jobs_of_a_source_that_are_put_off_yield_no_longer_than_one() -> None:
    breaker = CircuitBreaker()
    for at in (5000.0, 5010.0):
        breaker.started(a_job(), at)
    for at in (5011.0, 5012.0):
        breaker.put_off(a_job(), at)
    assert breaker.is_first_choice(a_job(), 5016.0)
