"""How every run that does work begins: take what it holds until its end, then put right what dead runs left."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dwhctl.engines.spill import remove_left_behind
from dwhctl.errors import AttemptError, LockHeldError, SessionsError, StateDirError
from dwhctl.faults import reach
from dwhctl.runs.locks import Lock, held_in_sessions, held_work, shown_holder
from dwhctl.runs.reap import Reaper
from dwhctl.runs.slots import WORKERS, connection_limits
from dwhctl.sessions import open_store
from dwhctl.waiting import waited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import ExitStack

    from dwhctl.project.model import Load, Project
    from dwhctl.runs.events import Notice
    from dwhctl.runs.slots import Slots
    from dwhctl.runs.state_dir import StateDir
    from dwhctl.sessions.store import SessionStore
    from dwhctl.targets.contract import Target

_LOCK_SECONDS = 30.0


def new_run_id() -> str:
    """Give the id of a new run: it begins with the time in UTC."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def limits_of(project: Project) -> dict[str, int | None]:
    """Give how many may use each connection, or be a worker, at once."""
    return connection_limits(project) | {WORKERS: project.max_workers}


@contextmanager
def _with_remedy(wait: float) -> Iterator[None]:
    """Say how to wait for a lock that is held."""
    try:
        yield
    except LockHeldError as error:
        longer = f"waited {wait:g} s for it; wait longer" if wait else "try again later, or wait for it"
        raise LockHeldError(f"{error}; {longer}: --wait 10m") from None


@dataclass(slots=True)
class Entry:
    """A run's way in. `leaves_lock` tells at its end whether the next run has something to reap.

    `check` may refuse the run once its locks are held; `unknown` gives loads whose tables may hold etl_ids that the
    sessions table does not know of.

    After `enter`, `blocked` says why a load or report must wait: a dead run's sessions of it could not be closed.
    """

    run_id: str
    command: str
    project: Project
    state: StateDir
    slots: Slots
    targets: Mapping[str, Target]
    tell: Callable[[Notice], None]
    leaves_lock: Callable[[], bool]
    check: Callable[[SessionStore], None] = lambda _store: None
    unknown: Callable[[SessionStore], Sequence[Load]] = lambda _store: ()
    blocked: dict[str, AttemptError] = field(default_factory=dict)

    def enter(self, stack: ExitStack, work: Mapping[str, str], wait: float) -> SessionStore:
        """Take the locks of its work, the sessions and its run lock, then reap dead runs.

        `work` are the locks' names, each with what is done under it in words; they are waited for `wait` seconds.
        """
        self.state.make()
        remove_left_behind(self.state.path)
        until = time.monotonic() + wait
        with _with_remedy(wait):
            stack.enter_context(held_work(self.state.work_locks, work, self.command, wait))
        store = stack.enter_context(open_store(self.project.sessions))
        store.prepare()
        with _with_remedy(wait):
            stack.enter_context(held_in_sessions(store, work, until - time.monotonic()))
        self.check(store)
        self._never_reuse_ids(store)
        self._hold_run(stack, store)
        reach("run.held")
        reaper = Reaper(self.project, self.state, store, self.targets, self.slots, self.tell)
        reaper.reap_dead_runs(self.run_id, work)
        self.blocked = reaper.blocked
        return store

    def _never_reuse_ids(self, store: SessionStore) -> None:
        """In a sessions table that does not know a table yet go on above the etl_ids that stand in it."""
        tables = {(load.target, load.table) for load in self._unknown_loads(store)}
        try:
            highest = max((self._highest_etl_id(target, table) for target, table in tables), default=0)
        except AttemptError as error:
            if not self._unknown_loads(store):
                return  # a run that could ask has lifted the ids by now, and keeps the warehouse busy
            raise SessionsError(
                f"the sessions table is new, and the warehouse cannot be asked which etl_ids it holds: {error}"
            ) from error
        if highest:
            store.lift_ids(highest)

    def _unknown_loads(self, store: SessionStore) -> Sequence[Load]:
        return self.unknown(store) if store.recent(1) else list(self.project.loads.values())

    def _highest_etl_id(self, target: str, table: str) -> int:
        with self.slots.held(target):
            return self.targets[target].highest_etl_id(table)

    def _hold_run(self, stack: ExitStack, store: SessionStore) -> None:
        lock = Lock(self.state.run_lock(self.run_id))
        # The id is new and random: only a run that looks for dead ones can hold its locks, and only for a moment.
        until = time.monotonic() + _LOCK_SECONDS
        with waited(_LOCK_SECONDS) as waiting:
            while not lock.try_take(self.command) or not store.try_hold_run(self.run_id):
                holder = shown_holder(lock.holder())
                if time.monotonic() > until:
                    raise StateDirError(f"cannot take the run's own lock {lock.path}: it is held by {holder}")
                waiting.note(partial("{}, which has the lock of this run".format, holder))
                lock.release()
                time.sleep(0.05)
        # The file is left behind when the run does not end in order: the next run reaps it then.
        stack.callback(lambda: lock.release(remove=not self.leaves_lock()))
