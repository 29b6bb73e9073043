"""The queue of slices: turns, retries, draining."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from dwhctl.engine.jobs import JobQueue
from dwhctl.load.attempts import SliceJob
from tests.unit.projects import a_load
from tests.unit.runs_kit import DAY, planned


def jobs(*names: str) -> list[SliceJob]:
    """Jobs by `connection/shard`."""
    return [
        SliceJob(planned(shard, connection))
        for connection, _, shard in (name.partition("/") for name in names)
    ]


def anyone(job: SliceJob) -> bool:
    return True


def name(job: SliceJob | None) -> str | None:
    return f"{job.connection}/{job.planned.shard.name}" if job else None


def test_connections_take_turns_and_keep_their_order() -> None:
    queue = JobQueue(jobs("a/1", "a/2", "a/3", "b/1", "c/1", "c/2"))
    found = [name(queue.pop(anyone)) for _ in range(7)]
    assert found == ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3", None]


def test_a_connection_that_may_not_start_is_passed_over() -> None:
    queue = JobQueue(jobs("a/1", "b/1", "b/2"))
    assert [name(queue.pop(lambda job: job.connection == "b")) for _ in range(3)] == ["b/1", "b/2", None]
    assert len(queue) == 1
    assert queue.has_queued


def test_a_retry_waits_then_goes_first() -> None:
    queue = JobQueue(jobs("a/1", "a/2"))
    retried = queue.pop(anyone)
    assert retried is not None
    queue.wait(retried, 10.0)
    assert (len(queue), queue.next_waking()) == (2, 10.0)
    queue.wake(9.9)
    assert queue.first("a").planned.shard.name == "2"
    queue.wake(10.0)
    assert name(queue.pop(anyone)) == "a/1"
    assert queue.next_waking() is None


def test_queued_counts_what_only_waits_for_a_worker() -> None:
    (one, two) = jobs("a/1", "a/2")
    queue = JobQueue([one, two, SliceJob(planned("3", "a", day=date(2020, 7, 15)))])
    work = ("orders", DAY)
    assert queue.queued(work) == 2
    taken = queue.pop(anyone)
    assert taken is not None
    assert queue.queued(work) == 1
    queue.wait(taken, 1.0)
    assert queue.queued(work) == 1
    queue.wake(1.0)
    assert queue.queued(work) == 2
    queue.drain("a")
    assert queue.queued(work) == 0


def test_draining_takes_the_waiting_too_and_leaves_the_others() -> None:
    queue = JobQueue(jobs("a/1", "a/2", "b/1", "b/2"))
    for until in (5.0, 3.0):
        job = queue.pop(anyone)
        assert job is not None
        queue.wait(job, until)
    assert [name(job) for job in queue.drain("a")] == ["a/2", "a/1"]
    assert queue.drain("a") == []
    assert queue.connections() == ["b", "dwh"]
    assert (len(queue), queue.next_waking()) == (2, 3.0)


def test_the_first_job_of_a_connection_may_be_one_that_waits() -> None:
    queue = JobQueue(jobs("a/1"))
    job = queue.pop(anyone)
    assert job is not None
    queue.wait(job, 1.0)
    assert queue.first("a") is job
    assert queue.connections() == ["a", "dwh"]
    assert not queue.has_queued


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40))
def test_every_job_comes_out_once_and_in_its_connections_order(names: list[tuple[str, int]]) -> None:
    made = [SliceJob(planned(str(number), connection)) for connection, number in names]
    queue = JobQueue(made)
    found = [queue.pop(anyone) for _ in made]
    assert {id(job) for job in found} == {id(job) for job in made}
    for connection in "abc":
        assert [job for job in found if job and job.connection == connection] == [
            job for job in made if job.connection == connection
        ]
    assert not len(queue)


def test_a_warehouse_that_is_given_up_takes_the_jobs_of_every_source() -> None:
    other = a_load(name="other", target="lake")
    queue = JobQueue([*jobs("a/1", "b/1"), SliceJob(planned("2", "a", other))])
    assert queue.first("lake").planned.load is other
    assert [name(job) for job in queue.drain("dwh")] == ["a/1", "b/1"]
    assert queue.connections() == ["a", "lake"]


def test_the_next_of_routes_are_one_of_each_route_in_their_turns() -> None:
    queue = JobQueue(jobs("a/1", "a/2", "b/1", "c/1"))
    assert [name(job) for job in queue.next_of_routes()] == ["a/1", "b/1", "c/1"]
    queue.pop(anyone)
    assert [name(job) for job in queue.next_of_routes()] == ["b/1", "c/1", "a/2"]
    queue.drain("c")
    assert [name(job) for job in queue.next_of_routes()] == ["b/1", "a/2"]


def test_jobs_that_wake_together_keep_their_order() -> None:
    queue = JobQueue(jobs("a/1", "a/2", "a/3"))
    for _ in range(2):
        job = queue.pop(anyone)
        assert job is not None
        queue.wait(job, 1.0)
    queue.wake(1.0)
    assert [name(queue.pop(anyone)) for _ in range(3)] == ["a/1", "a/2", "a/3"]
