"""Reap dead runs: drop their staging and close their sessions.

A run is alive while it holds its run lock. To reap it, dwhctl takes that lock, so that no other run does and the dead
run can publish nothing any more; drops its staging; then closes its sessions: as loaded where their rows are in the
target, else as abandoned. A run that ended with a commit in doubt left sessions as well, and is reaped in the same way.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from dwhctl.core import errors
from dwhctl.core.faults import reach
from dwhctl.core.files import is_run_id
from dwhctl.project.names import load_of
from dwhctl.runtime.events import Notice, RunReaped
from dwhctl.runtime.locks import Holder, Lock, StateDir, holder_of, report_names, work_name
from dwhctl.sessions.values import Closing, Session, State

if TYPE_CHECKING:
    from dwhctl.project.model import Project
    from dwhctl.runtime.slots import Slots
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Target


#: How long the sessions database may take to see the death of a run of this machine.
_GONE_SECONDS = 3.0
#: How long a run that had the same work may take to end: another run may be reaping it, one warehouse session at a
#: time.
_OUT_OF_THE_WAY_SECONDS = 60.0
#: How many invalid ids a notice shows, and how much of each.
_SHOWN_IDS, _LONGEST_ID = 5, 60


@dataclass
class Reaper:
    """Reaps dead runs. `blocked`: the error for which sessions of a load or report could not be closed."""

    _project: Project
    _state: StateDir
    _store: SessionStore
    _targets: Mapping[str, Target]
    _slots: Slots
    _notify: Callable[[Notice], None]
    blocked: dict[str, errors.DwhctlError] = field(default_factory=dict)
    _out_of_reach: dict[str, errors.DwhctlError] = field(default_factory=dict)

    def reap_dead_runs(self, others: Iterable[str], locked: Collection[str], work: Collection[str]) -> None:
        """Reap those of the other runs that are not alive. `locked` have a lock in this state folder.

        `work`: the names of the work locks that the own run holds. Raise errors.LockHeldError when a run that had the
        same work before does not end.
        """
        for run_id in self._of_our_form(others):
            if run_id not in locked:
                self._refuse_other_machines(run_id)
            lock = Lock(self._state.run_lock(run_id))
            if not self._take(run_id, lock, work):
                continue
            done = False
            try:
                holder = holder_of(lock.path)
                done = self._reap(run_id, holder)
                self._store.release_run(run_id)
            finally:
                # A run that waits for this file finds nothing left to reap.
                lock.release(remove=done)

    def _of_our_form(self, run_ids: Iterable[str]) -> list[str]:
        """Return the ids in dwhctl's form, in order; report the others once, and ignore them.

        Any program that may write to the table chooses their text: it must not become a path, statement or command.
        """
        ours: list[str] = []
        others: list[str] = []
        for run_id in sorted(run_ids):
            (ours if is_run_id(run_id) else others).append(run_id)
        if others:
            shown = ", ".join(_clipped(run_id) for run_id in others[:_SHOWN_IDS])
            more = f" and {len(others) - _SHOWN_IDS:,} more" if len(others) > _SHOWN_IDS else ""
            text = f"not a run id of dwhctl, left alone: {shown}{more}; if no other program needs them, delete these"
            self._notify(
                Notice(f"{text} rows of the sessions table, or these files of the folder locks/runs")
            )
        return ours

    def _refuse_other_machines(self, run_id: str) -> None:
        """Raise errors.SessionsError for a run of another machine in a database that serves only one.

        A run with a lock in this state folder is of this machine, also under an earlier host name.
        """
        here = socket.gethostname()
        host = next((session.host for session in self._store.of_run(run_id)), None)
        if self._store.is_shared or host in (None, here):
            return
        path = shlex.quote(str(self._state.run_lock(run_id)))
        raise errors.SessionsError(
            f"run {run_id} of the machine {host} has open sessions in this SQLite file, and {here} cannot tell whether"
            " it is alive: SQLite serves one machine. Keep the sessions of several machines in PostgreSQL; if that run"
            f" is dead for certain (this machine had another name then): touch {path}"
        )

    def _take(self, run_id: str, lock: Lock, work: Collection[str]) -> bool:
        """Take the run's lock, here and in the sessions database; return False for a run that is alive, or gone.

        A run with open sessions of work whose lock is ours by now is dying: it releases its own lock next, or another
        run reaps it. Until then it may be committing, and no other run may begin.
        """
        started = time.monotonic()
        while not self._try_take(run_id, lock):
            sessions, waited = self._store.unfinished(run_id), time.monotonic() - started
            if ours := [session for session in sessions if self._work_of(session) in work]:
                if waited > _OUT_OF_THE_WAY_SECONDS:
                    raise errors.LockHeldError(
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
        """Return whether it is a run of this machine with a free file lock: its server connection ends as well."""
        if {session.host for session in sessions} != {socket.gethostname()} or not lock.try_take():
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
            # The dead run's statement may still be executing there, such as a commit.
            if (error := undropped.get(place)) is not None:
                self.blocked[name] = error
        sessions = self._store.unfinished(run_id)
        closings = self._decide(
            [session for session in sessions if self._target_of(session.load) not in undropped]
        )
        reach("reap.close")
        self._store.close(closings)
        if len(closings) < len(sessions):
            left = len(sessions) - len(closings)
            reasons = "; ".join(sorted({str(error) for error in self.blocked.values()}))
            text = f"{_ending(run_id, sessions)}; {left} of its sessions wait for their warehouse: {reasons}"
            self._notify(Notice(text))
            return False
        if undropped:
            where = ", ".join(sorted(undropped))
            self._notify(Notice(f"run {run_id} died; its staging in {where} cannot be dropped yet"))
            return False
        waiting = self._store.fail_waiting(run_id, "its run died before the retry")
        if closings or waiting or holder:
            text = _what_was_left(_ending(run_id, sessions), closings, waiting)
            # A run that ended in doubt has reported that already: it needs no alert.
            is_known = sessions and not waiting and all(map(_is_in_doubt, sessions))
            self._notify(Notice(text) if is_known else RunReaped(text, run_id, holder))
        return True

    def _target_of(self, work: str) -> str | None:
        if (load := load_of(self._project, work)) is not None:
            return load.target
        report = self._project.reports.get(work)
        return report.connection if report else None

    def _drop_staging(self, run_id: str) -> dict[str, errors.DwhctlError]:
        undropped: dict[str, errors.DwhctlError] = {}
        for name, target in self._targets.items():
            try:
                # dwhctl waits for an unreachable warehouse once, not once for each dead run.
                if (known := self._out_of_reach.get(name)) is not None:
                    raise known
                with self._slots.held(name):
                    target.drop_run(run_id)
            except (errors.AttemptError, errors.ConfigError) as error:
                undropped[name] = error
                if isinstance(error, errors.ConnectError | errors.LoginRefusedError):
                    self._out_of_reach[name] = error
        return undropped

    def _decide(self, sessions: Sequence[Session]) -> list[Closing]:
        closings = []
        for load, group in groupby(sorted(sessions, key=attrgetter("load")), key=attrgetter("load")):
            of_load = list(group)
            try:
                # A report's rows have no etl_id: whether it was refreshed is unknown until the next refresh.
                slices = [session.id for session in of_load if session.shard is not None]
                rows = self._published_rows(load, slices) if slices else {}
            except (errors.AttemptError, errors.ConfigError) as error:
                self.blocked[load] = error
                continue
            closings += [_closing(session, rows.get(session.id)) for session in of_load]
        return closings

    def _published_rows(self, load: str, etl_ids: Sequence[int]) -> Mapping[int, int]:
        found = load_of(self._project, load)
        if found is None:
            return {}
        with self._slots.held(found.target):
            return self._targets[found.target].published_rows(found.table, etl_ids)


def _clipped(run_id: str) -> str:
    return repr(run_id if len(run_id) <= _LONGEST_ID else f"{run_id[:_LONGEST_ID]}…")


def _is_in_doubt(session: Session) -> bool:
    return errors.is_error(session.error_class, errors.CommitInDoubtError)


def _ending(run_id: str, sessions: Sequence[Session]) -> str:
    in_doubt = sessions and all(map(_is_in_doubt, sessions))
    return f"run {run_id} had {'ended with a commit in doubt' if in_doubt else 'died'}"


def _what_was_left(beginning: str, closings: Sequence[Closing], waiting: int) -> str:
    if not closings and not waiting:
        return f"{beginning} with no session open"
    loaded = sum(closing.state is State.LOADED for closing in closings)
    return (
        f"{beginning}: {loaded} of its sessions turned out loaded,"
        f" {len(closings) - loaded} abandoned, {waiting} waited for a retry"
    )


def _closing(session: Session, rows: int | None) -> Closing:
    now = datetime.now(UTC)
    if rows is None:
        error_class, comment = errors.RunDied.__name__, "its run died"
        if _is_in_doubt(session):
            rest = "its rows were not found" if session.shard else "the report has its old content or its new"
            error_class, comment = str(session.error_class), f"its commit was in doubt: {rest}"
        return Closing(session.id, State.ABANDONED, now, error_class=error_class, comment=comment)
    return Closing(session.id, State.LOADED, now, loaded_rows=rows, extracted_rows=rows)
