"""Put right what a dead run left behind: its staging goes, its sessions are closed.

A run that ended with a commit in doubt left sessions as well, and is reaped in the same way.

A run is alive exactly while it holds its run lock. To reap it is to take that lock, so that nobody else does and
it can publish nothing any more; to drop its staging; then to close its sessions: as loaded where their rows stand
in the target, else as abandoned.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.core.errors import (
    AttemptError,
    CommitInDoubtError,
    ConnectError,
    LockHeldError,
    LoginRefusedError,
    RunDied,
    SessionsError,
    is_error,
)
from dwhctl.core.faults import reach
from dwhctl.core.files import is_run_id
from dwhctl.project.names import load_of
from dwhctl.runtime.events import Notice, RunReaped
from dwhctl.runtime.locks import Holder, Lock, holder_of, report_names, work_name
from dwhctl.sessions.values import Closing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from dwhctl.project.model import Project
    from dwhctl.runtime.locks import StateDir
    from dwhctl.runtime.slots import Slots
    from dwhctl.sessions.store import SessionStore
    from dwhctl.sessions.values import Session
    from dwhctl.systems.base.target import Target


#: How long a run that died on this machine may take to be gone from the sessions database as well.
_GONE_SECONDS = 3.0
#: How long one that stands in the way may take: somebody else may be reaping it, session by session of a warehouse.
_OUT_OF_THE_WAY_SECONDS = 60.0
#: How many ids that are none a notice shows, and how much of each.
_SHOWN_IDS, _LONGEST_ID = 5, 60


class Reaper:
    """Reaps dead runs. `blocked` says why a load or report must wait: sessions of it could not be closed."""

    def __init__(
        self,
        project: Project,
        state: StateDir,
        store: SessionStore,
        targets: Mapping[str, Target],
        slots: Slots,
        tell: Callable[[Notice], None],
    ) -> None:
        self._project = project
        self._state = state
        self._store = store
        self._targets = targets
        self._slots = slots
        self._tell = tell
        self.blocked: dict[str, AttemptError] = {}
        self._out_of_reach: dict[str, AttemptError] = {}

    def reap_dead_runs(self, own_run: str, work: Collection[str] = ()) -> None:
        """Reap every run that is not alive. `work` names the locks of work that the own run holds.

        Raise LockHeldError when a run that had the same work before does not end.
        """
        left = {path.name.removesuffix(".lock") for path in self._state.run_locks.glob("*.lock")}
        for run_id in self._of_our_form(left | set(self._store.unfinished_runs()) - {own_run}):
            if run_id == own_run:
                continue
            if run_id not in left:
                self._refuse_other_machines(run_id)
            lock = Lock(self._state.run_lock(run_id))
            if not self._take(run_id, lock, work):
                continue
            done = False
            try:
                holder = holder_of(lock.path)
                if holder is not None and holder.host == socket.gethostname():
                    remove_semaphores_of(holder.pid)
                done = self._reap(run_id, holder)
                self._store.release_run(run_id)
            finally:
                # Whoever waits for this file finds nothing left to reap.
                lock.release(remove=done)

    def _of_our_form(self, run_ids: Iterable[str]) -> list[str]:
        """Return the ids that dwhctl gives to runs, in order; say once which others there are, and leave these alone.

        Whoever may write to the table chooses the text: no path, statement or command is made of it.
        """
        ours: list[str] = []
        others: list[str] = []
        for run_id in sorted(run_ids):
            (ours if is_run_id(run_id) else others).append(run_id)
        if others:
            shown = ", ".join(_clipped(each) for each in others[:_SHOWN_IDS])
            more = f" and {len(others) - _SHOWN_IDS:,} more" if len(others) > _SHOWN_IDS else ""
            self._tell(
                Notice(
                    f"not a run id of dwhctl, left alone: {shown}{more}; if no other program needs them, delete these"
                    " rows of the sessions table, or these files of the folder locks/runs"
                )
            )
        return ours

    def _refuse_other_machines(self, run_id: str) -> None:
        """Raise SessionsError for a run of another machine over a database that serves one only.

        A run whose lock stands in this state folder is this machine's, whatever it was called then.
        """
        here = socket.gethostname()
        host = next((one.host for one in self._store.of_run(run_id)), None)
        if self._store.is_shared or host in (None, here):
            return
        path = shlex.quote(str(self._state.run_lock(run_id)))
        raise SessionsError(
            f"run {run_id} of the machine {host} has open sessions in this SQLite file, and {here} cannot tell whether"
            " it is alive: SQLite serves one machine. Keep the sessions of several machines in PostgreSQL; if that run"
            f" is dead for certain (this machine had another name then): touch {path}"
        )

    def _take(self, run_id: str, lock: Lock, work: Collection[str]) -> bool:
        """Take the run's lock, here and in the sessions database; False for a run that is alive, or gone.

        A run with open sessions of work that is ours by now let go of that work's lock: it is dying, and lets go of its
        own lock next, or another run reaps it. Until then it may be at a commit, and nobody may begin.
        """
        started = time.monotonic()
        while not self._try_take(run_id, lock):
            sessions, waited = self._store.unfinished(run_id), time.monotonic() - started
            if ours := [one for one in sessions if self._work_of(one) in work]:
                if waited > _OUT_OF_THE_WAY_SECONDS:
                    raise LockHeldError(
                        f"load {ours[0].load} of {ours[0].day} was being done by run {run_id} on {ours[0].host}, which"
                        " has not ended yet; try again later"
                    )
            elif waited > _GONE_SECONDS or not self._died_here(sessions, lock):
                return False
            time.sleep(0.1)
        return True

    def _try_take(self, run_id: str, lock: Lock) -> bool:
        if not lock.try_take():
            return False
        if self._store.try_hold_run(run_id):
            return True
        lock.release()
        return False

    def _died_here(self, sessions: Sequence[Session], lock: Lock) -> bool:
        """Tell whether it is a run of this machine whose file lock is free: its server connection goes as well."""
        if {one.host for one in sessions} != {socket.gethostname()} or not lock.try_take():
            return False
        lock.release()
        return True

    def _work_of(self, session: Session) -> str:
        if (load := load_of(self._project, session.load)) is not None:
            return work_name(load, session.day)
        return next(iter(report_names([session.load])))

    def _reap(self, run_id: str, holder: Holder | None) -> bool:
        reach("reap.drop")
        undropped = self._drop_staging(run_id)
        places = {load.name: load.target for load in self._project.loads.values()}
        places |= {report.name: report.connection for report in self._project.reports.values()}
        for name, place in places.items():
            # What the run left behind there may still be at work: at a commit, say, whose answer nobody got.
            if (error := undropped.get(place)) is not None:
                self.blocked[name] = error
        sessions = self._store.unfinished(run_id)
        closings = self._decide([one for one in sessions if self._target_of(one.load) not in undropped])
        reach("reap.close")
        self._store.close(closings)
        if len(closings) < len(sessions):
            left = len(sessions) - len(closings)
            reasons = "; ".join(sorted({str(one) for one in self.blocked.values()}))
            self._tell(
                Notice(
                    f"{_ending(run_id, sessions)}; {left} of its sessions wait for their warehouse: {reasons}"
                )
            )
            return False
        if undropped:
            where = ", ".join(sorted(undropped))
            self._tell(Notice(f"run {run_id} died; its staging in {where} cannot be dropped yet"))
            return False
        waiting = self._store.fail_waiting(run_id, "its run died before the retry")
        if closings or waiting or holder:
            text = _what_was_left(_ending(run_id, sessions), closings, waiting)
            # A run that ended in doubt has told so itself: it is no death to alert of.
            told = sessions and not waiting and all(map(_is_in_doubt, sessions))
            self._tell(Notice(text) if told else RunReaped(text, run_id, holder))
        return True

    def _target_of(self, work: str) -> str | None:
        if (load := load_of(self._project, work)) is not None:
            return load.target
        report = self._project.reports.get(work)
        return report.connection if report else None

    def _drop_staging(self, run_id: str) -> dict[str, AttemptError]:
        undropped: dict[str, AttemptError] = {}
        for name, target in self._targets.items():
            try:
                # A warehouse that nobody can get at is waited for once, not once for each dead run.
                if (known := self._out_of_reach.get(name)) is not None:
                    raise known
                with self._slots.held(name):
                    target.drop_run(run_id)
            except AttemptError as error:
                undropped[name] = error
                if isinstance(error, ConnectError | LoginRefusedError):
                    self._out_of_reach[name] = error
        return undropped

    def _decide(self, sessions: Sequence[Session]) -> list[Closing]:
        by_load: dict[str, list[Session]] = {}
        for one in sessions:
            by_load.setdefault(one.load, []).append(one)
        closings = []
        for load, group in by_load.items():
            try:
                # A report's rows carry no etl_id: whether it was refreshed nobody can tell, and the next refresh will.
                slices = [one.id for one in group if one.shard is not None]
                rows = self._published_rows(load, slices) if slices else {}
            except AttemptError as error:
                self.blocked[load] = error
                continue
            closings += [_closing(one, rows.get(one.id)) for one in group]
        return closings

    def _published_rows(self, load: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        found = load_of(self._project, load)
        if found is None:
            return {}
        with self._slots.held(found.target):
            return self._targets[found.target].published_rows(found.table, etl_ids)


def _clipped(run_id: str) -> str:
    text = run_id if len(run_id) <= _LONGEST_ID else f"{run_id[:_LONGEST_ID]}…"
    return repr(text)


def _is_in_doubt(session: Session) -> bool:
    return is_error(session.error_class, CommitInDoubtError)


def _ending(run_id: str, sessions: Sequence[Session]) -> str:
    in_doubt = sessions and all(map(_is_in_doubt, sessions))
    return f"run {run_id} had {'ended with a commit in doubt' if in_doubt else 'died'}"


def _what_was_left(ending: str, closings: Sequence[Closing], waiting: int) -> str:
    if not closings and not waiting:
        return f"{ending} after its last slice"
    loaded = sum(one.state is State.LOADED for one in closings)
    return (
        f"{ending}: {loaded} of its sessions turned out loaded,"
        f" {len(closings) - loaded} abandoned, {waiting} waited for a retry"
    )


def _closing(session: Session, rows: int | None) -> Closing:
    now = datetime.now(UTC)
    if rows is None:
        error_class, comment = RunDied.__name__, "its run died"
        if _is_in_doubt(session):
            error_class, comment = (
                str(session.error_class),
                "its commit was in doubt: its rows were not found",
            )
            if session.shard is None:
                comment = "its commit was in doubt: the report has its old content or its new"
        return Closing(session.id, State.ABANDONED, now, error_class=error_class, comment=comment)
    return Closing(session.id, State.LOADED, now, loaded_rows=rows, extracted_rows=rows)


_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps named semaphores, of which a worker has seven


def remove_semaphores_of(pid: int) -> None:
    """Remove what loky left in /dev/shm of a run that was killed with all its workers: own files of a dead process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        for path in _SHARED_MEMORY.glob(f"sem.loky-{pid}-*"):
            with suppress(OSError):
                if path.lstat().st_uid == os.geteuid():
                    path.unlink()
    except PermissionError:
        return  # it is another user's by now
