"""Begin a run: take the locks of its work, its sessions and its run lock, never reuse an etl_id, reap dead runs.

`RunContext.enter` does it. `EtlIds` is the file in which a machine remembers the highest etl_id that it handed out.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from dwhctl.core.errors import AttemptError, DwhctlError, LockHeldError, SessionsError, StateDirError
from dwhctl.core.faults import reach
from dwhctl.core.files import open_for_update, open_regular, remove_left_behind
from dwhctl.core.waiting import waited
from dwhctl.runtime.events import Notice
from dwhctl.runtime.locks import Lock, StateDir, held_in_sessions, held_work, shown_holder
from dwhctl.runtime.recovery import Reaper
from dwhctl.runtime.slots import Slots
from dwhctl.sessions import open_store

if TYPE_CHECKING:
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project
    from dwhctl.sessions.store import SessionStore
    from dwhctl.systems.base.target import Target


#: So many ids are handed out between two syncs of the file.
_AT_ONCE = 10_000
#: The file is ignored when it is so far above the ids of the sessions database and of the warehouse: a month of
#: 336,000 sessions a day. An id is a 32-bit number in many sessions tables; one wrong line must not use them up.
MOST_AHEAD = 10_000_000
_FORM = re.compile(rb"([0-9]{19}) ([0-9]{19}) ([0-9a-f-]{36})\n")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NO_BOOT = "-" * 36
_ETL_ID_LOCK_SECONDS = 10.0
_MOST_BYTES = 1024


class Remembered(Struct, frozen=True):
    """The content of the file `etl_ids`."""

    highest: int = 0
    reserved: int = 0
    boot: str = _NO_BOOT

    @property
    def floor(self) -> int:
        """Return the highest id that may have been handed out."""
        return self.highest if self.boot == _boot() else max(self.highest, self.reserved)


class EtlIds:
    """The file `etl_ids` of a state folder. Threads and processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> Remembered:
        """Return the content, or an empty one without a file. Raise StateDirError when it cannot be read."""
        try:
            with self._lock, open_regular(self._path, follow=False) as file, _locked(file, fcntl.LOCK_SH):
                return _parsed(file.read(_MOST_BYTES))
        except FileNotFoundError:
            return Remembered()
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def note(self, etl_id: int) -> None:
        """Record that ids up to this one are handed out, before rows with them are published. Raise StateDirError."""
        self._write(lambda known: etl_id > known.highest, etl_id)

    def correct(self, etl_id: int) -> None:
        """Replace the content by this id. Raise StateDirError."""
        self._write(lambda _known: True, etl_id)

    def _write(self, is_due: Callable[[Remembered], bool], etl_id: int) -> None:
        try:
            is_new = not self._path.exists()
            with self._lock, open_for_update(self._path) as file, _locked(file, fcntl.LOCK_EX):
                try:
                    known = _parsed(file.read(_MOST_BYTES))
                except ValueError:
                    known = Remembered()
                if not is_due(known):
                    return
                boot = _boot()
                is_sure = known.boot == boot and etl_id <= known.reserved <= etl_id + _AT_ONCE
                reserved = known.reserved if is_sure else etl_id + _AT_ONCE
                line = f"{etl_id:019} {reserved:019} {boot}\n".encode()
                os.pwrite(file.fileno(), line, 0)
                if not is_sure:
                    os.ftruncate(file.fileno(), len(line))
                    os.fsync(file.fileno())
            if is_new:
                _sync_folder(self._path.parent)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError | ValueError) -> StateDirError:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return StateDirError(
            f"{self._path}, which remembers the highest etl_id that was handed out, cannot be used: {why}; delete it if"
            " the sessions database was not restored from a backup"
        )


@contextmanager
def _locked(file: BinaryIO, how: int) -> Iterator[None]:
    """Lock the file until it is closed; others hold it for a moment only. Raise OSError."""
    until = time.monotonic() + _ETL_ID_LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise OSError(error.errno, "another process holds a lock on it") from error
            time.sleep(0.01)
    yield


def go_on_above(
    store: SessionStore, ids: EtlIds, in_warehouse: Callable[[], int], notify: Callable[[Notice], None]
) -> None:
    """Raise the ids of a sessions database that would hand out again what this machine has handed out.

    `in_warehouse` returns the highest etl_id of the loads' tables; it is called only where the file does not agree with
    the database. Raise SessionsError when the file is ignored and the warehouse cannot be asked.
    """
    last = store.last_id()

    def correct(held: int, why: str) -> None:
        _raise_floor(store, last, held)
        notify(Notice(why))
        ids.correct(max(last, held))

    try:
        known = ids.read()
    except StateDirError as error:
        held = _highest_of(in_warehouse, f"{error}; nor can the warehouse be asked which etl_ids it holds")
        correct(held, f"{error}; etl_ids go on above {max(last, held)}, the highest that is known")
        return
    if last >= known.highest and known.floor <= last + MOST_AHEAD:
        # The normal case; after a power cut a few ids may be missing from the file.
        _raise_floor(store, last, known.floor)
        return
    remembered = f"the state folder remembers the etl_id {known.floor}"
    if known.floor > last + MOST_AHEAD:
        held = _highest_of(
            in_warehouse,
            f"{remembered}, the sessions database only {last}, and the warehouse cannot be asked which it holds",
        )
    else:
        held = 0
        with suppress(AttemptError):
            held = in_warehouse()
    if known.floor > max(last, held) + MOST_AHEAD:
        correct(
            held,
            f"{remembered}, more than {MOST_AHEAD:,} above the highest of the sessions database ({last})"
            f" and of the warehouse ({held}): it is not believed, and corrected",
        )
        return
    floor = max(known.floor, held)
    _raise_floor(store, last, floor)
    notify(
        Notice(
            f"the sessions database would hand out the etl_id {last + 1} again: this machine has handed out"
            f" {known.highest}. It was restored from a backup, or is another one: etl_ids go on above {floor}."
            " What was loaded since the backup counts as not loaded: dwhctl report gaps"
        )
    )


def _raise_floor(store: SessionStore, last: int, floor: int) -> None:
    if floor > last:
        store.raise_id_floor(floor)


def _highest_of(in_warehouse: Callable[[], int], why: str) -> int:
    try:
        return in_warehouse()
    except AttemptError as error:
        raise SessionsError(f"{why}: {error}") from error


def _parsed(content: bytes) -> Remembered:
    if not content:
        return Remembered()  # made, and not yet written
    if (found := _FORM.fullmatch(content)) is None:
        raise ValueError("its content is not what dwhctl writes")
    return Remembered(int(found[1]), int(found[2]), found[3].decode())


@cache
def _boot() -> str:
    """Return an id of this start of the machine: what was written before it may not have reached the disk."""
    try:
        return _BOOT.read_text("ascii").strip()[:36].ljust(36, "-")
    except OSError:
        return _NO_BOOT


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LOCK_SECONDS = 30.0


def new_run_id() -> str:
    """Return the id of a new run: it begins with the time in UTC, to 1/256 of a second, so that ids sort."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}-{now.microsecond * 256 // 1_000_000:02x}{uuid.uuid4().hex[:6]}"


@contextmanager
def _with_remedy(wait: float) -> Iterator[None]:
    try:
        yield
    except LockHeldError as error:
        longer = f"waited {wait:g} s for it; wait longer" if wait else "try again later, or wait for it"
        raise LockHeldError(f"{error}; {longer}: --wait 10m") from None


@dataclass(slots=True)
class RunContext:
    """What a run needs to begin. `leaves_lock` returns at its end whether the next run has something to reap.

    `check` may refuse the run once its locks are held; `unknown` returns loads whose tables may hold etl_ids that the
    sessions table does not know.

    After `enter`, `blocked` says why a load or report must wait: a dead run's sessions of it could not be closed.
    """

    run_id: str
    command: str
    project: Project
    state: StateDir
    slots: Slots
    targets: Mapping[str, Target]
    notify: Callable[[Notice], None]
    leaves_lock: Callable[[], bool]
    check: Callable[[SessionStore], None] = lambda _store: None
    unknown: Callable[[SessionStore], Sequence[Load]] = lambda _store: ()
    blocked: dict[str, DwhctlError] = field(default_factory=dict)

    def enter(self, stack: ExitStack, work: Mapping[str, str], wait: float) -> SessionStore:
        """Take the locks of its work, the sessions and its run lock, then reap dead runs.

        `work` are the locks' names, each with what is done under it; they are waited for `wait` seconds.
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
        ids = EtlIds(self.state.etl_ids)
        go_on_above(store, ids, lambda: self._highest_in(list(self.project.loads.values())), self.notify)
        store.handed_out = ids.note
        self._hold_run(stack, store)
        reach("run.held")
        locked = self.state.locked_runs()
        if others := (locked | set(store.unfinished_runs())) - {self.run_id}:
            reaper = Reaper(self.project, self.state, store, self.targets, self.slots, self.notify)
            reaper.reap_dead_runs(others, locked, work)
            self.blocked = reaper.blocked
        return store

    def _never_reuse_ids(self, store: SessionStore) -> None:
        """Go on above the etl_ids of a table that the sessions table does not know yet."""
        try:
            highest = self._highest_in(self._unknown_loads(store))
        except AttemptError as error:
            if not self._unknown_loads(store):
                return  # another run has raised the ids by now, and keeps the warehouse busy
            raise SessionsError(
                f"the sessions table is new, and the warehouse cannot be asked which etl_ids it holds: {error}"
            ) from error
        if highest:
            store.raise_id_floor(highest)

    def _unknown_loads(self, store: SessionStore) -> Sequence[Load]:
        return self.unknown(store) if store.recent(1) else list(self.project.loads.values())

    def _highest_in(self, loads: Sequence[Load]) -> int:
        highest = 0
        for name in sorted({load.target for load in loads}):
            target, tables = self.targets[name], {load.table for load in loads if load.target == name}
            with self.slots.held(name), target.session():
                highest = max(highest, *map(target.highest_etl_id, sorted(tables)))
        return highest

    def _hold_run(self, stack: ExitStack, store: SessionStore) -> None:
        lock = Lock(self.state.run_lock(self.run_id))
        # The id is new and random: only a run that checks for dead ones can hold its locks, and only for a moment.
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
