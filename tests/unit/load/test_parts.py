"""Slices in parts in the dispatch loop: what their workers take from others, and leave to them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from dwhctl.core.columns import Column, Kind
from dwhctl.load import staging, workers
from dwhctl.load.part_steps import cut
from dwhctl.load.workers import Worker
from dwhctl.runtime import messages
from dwhctl.runtime.events import Event, SlicesPublished
from dwhctl.runtime.slots import WORKERS, Slots
from dwhctl.sessions.values import State
from tests.unit.dispatch_kit import Bench, read_log, ready_server
from tests.unit.runs_kit import anything


class _Published(list[Event]):
    """Events, and when slices were published."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def append(self, event: Event) -> None:
        if isinstance(event, SlicesPublished):
            self.at.append(time.monotonic())
        super().append(event)


BIG = {"server_0/abakan": ["ok 0.15"]}


def test_parts_are_given_to_the_workers_that_there_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path, BIG, jobs=3, parts={"abakan": 5}).run()
    assert bench.states() == {"abakan": ["loaded"]}
    assert bench.most_at_once() == 3
    assert len(read_log(bench.state)) == 2 * (1 + 5)  # the login before the parts


def test_a_part_without_a_slot_costs_no_process(tmp_path: Path) -> None:
    made: list[Worker] = []

    def make() -> Worker | None:
        if (worker := ready_server().fork()) is not None:
            made.append(worker)
        return worker

    limits = {"server_0": 1}
    bench = Bench(tmp_path, BIG, jobs=3, limits=limits, parts={"abakan": 4}, make=make).run()
    assert bench.states() == {"abakan": ["loaded"]}
    assert len(made) == 1


def test_a_publication_has_its_slot_after_one_part_not_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The big slice uses all that the warehouse allows; the small one is read before."""
    monkeypatch.setattr(staging, "MAX_READY_SECONDS", 0.1)
    todo = BIG | {"server_1/chita": ["ok 0.3"]}
    bench = Bench(tmp_path, todo, jobs=2, limits={"dwh": 2}, parts={"abakan": 8})
    bench.events = published = _Published()
    bench.run()
    assert bench.count(State.LOADED) == 2
    assert len([at for at in bench.starts("abakan") if at > published.at[0]]) > 2


@pytest.mark.parametrize("name", ["dwh", "server_0", WORKERS])
def test_another_run_gets_a_slot_between_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.1)
    limits = {"server_0": 2, "dwh": 2}
    bench = Bench(tmp_path, BIG, jobs=2, limits=limits, parts={"abakan": 12})
    other = Slots(bench.state, {**limits, WORKERS: 2})
    taken: list[float] = []

    def wait_for_one() -> None:
        while len(bench.starts()) < 4:
            time.sleep(0.01)
        while (slot := other.try_take(name)) is None:
            time.sleep(0.01)
        taken.append(time.monotonic())
        slot.release()

    waiting = threading.Thread(target=wait_for_one)
    waiting.start()
    bench.run()
    waiting.join()
    assert bench.states() == {"abakan": ["loaded"]}
    # Some parts were left to read.
    assert len([at for at in bench.starts() if at > taken[0]]) > 2


def test_one_worker_goes_on_however_many_wait(tmp_path: Path) -> None:
    """Another run waits for a slot all the time, and there is only one."""
    bench = Bench(tmp_path, BIG, jobs=1, limits={"dwh": 1}, parts={"abakan": 4})
    other, ended = Slots(bench.state, {"dwh": 1}), threading.Event()

    def wait_for_one() -> None:
        while not bench.starts():
            time.sleep(0.01)
        while (slot := other.try_take("dwh")) is None:
            time.sleep(0.01)
        ended.set()
        slot.release()

    waiting = threading.Thread(target=wait_for_one)
    waiting.start()
    bench.run()
    waiting.join()
    assert bench.states() == {"abakan": ["loaded"]}
    assert ended.is_set()


def test_a_part_that_fails_ends_the_others_and_leaves_no_slot_held(tmp_path: Path) -> None:
    todo = {"server_0/abakan": ["ok", "ok 5", "transient 0.3", "ok 5", "ok"]}
    limits = {"server_0": 3, "dwh": 3}
    started = time.monotonic()
    bench = Bench(tmp_path, todo, jobs=3, limits=limits, parts={"abakan": 3}).run()
    assert time.monotonic() - started < 4
    assert bench.states() == {"abakan": ["up_for_retry SourceError", "loaded"]}
    free = Slots(bench.state, {**limits, WORKERS: 3})
    assert all(free.try_take_all("server_0", "dwh", WORKERS) for _ in range(3))


def test_a_source_has_answered_before_it_looks_for_the_limits_of_the_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(messages.NOTES, "answered", lambda: heard.append("answered"))

    def key_limits(*_: object) -> tuple[int, int]:
        heard.append("limits")
        return 1, 9

    columns = [Column("id", Kind.INTEGER, pa.int64(), "bigint")]
    source = anything(columns=lambda *_: columns, key_limits=key_limits)
    order = anything(split_by="id", login_known=None, query=None, parts=2, key=("id",))
    assert len(cut(order, source)) == 2
    assert heard == ["answered", "limits"]
