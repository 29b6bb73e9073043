"""Items made ahead: order, overlap, errors, and that nothing runs on when it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from dwhctl.core.waiting import ahead


def test_it_gives_what_it_was_given() -> None:
    assert list(ahead(iter([1, None, 3]))) == [1, None, 3]
    assert list(ahead(iter(()))) == []


def test_the_next_is_made_while_one_is_used() -> None:
    def slow() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.1)
            yield number

    started = time.perf_counter()
    for _ in ahead(slow()):
        time.sleep(0.1)
    assert time.perf_counter() - started < 0.7


def test_it_makes_no_more_than_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    with closing(ahead(items())) as made_ahead:
        assert next(made_ahead) == 0
        time.sleep(0.05)
        assert made == [0, 1]


def test_an_error_comes_where_its_item_would_have() -> None:
    problem = ValueError("row 3")

    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise problem

    found: list[int] = []
    with pytest.raises(ValueError, match="row 3") as raised:
        found.extend(ahead(failing()))
    assert found == [1, 2]
    assert raised.value is problem


def test_nothing_runs_any_more_when_it_is_closed() -> None:
    ended = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        time.sleep(0.2)
        ended.set()
        yield 2

    running = ahead(slow())
    assert next(running) == 1
    running.close()
    assert ended.is_set()
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_of_several_ahead_one_at_most_runs_after_the_end() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            time.sleep(0.01)
            yield number

    with closing(ahead(items(), 4)) as running:
        assert next(running) == 0
        time.sleep(0.2)
        assert made == [0, 1, 2, 3, 4]
        assert [next(running), next(running)] == [1, 2]
    assert len(made) <= 8


def test_few_items_are_made_without_a_thread() -> None:
    def items() -> Iterator[int]:
        yield from range(4)

    running = ahead(items(), after=2)
    assert [next(running), next(running)] == [0, 1]
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
    assert next(running) == 2
    assert any(thread.name.startswith("ahead") for thread in threading.enumerate())
    assert list(running) == [3]
    assert list(ahead(iter([1, 2]), after=2)) == [1, 2]
