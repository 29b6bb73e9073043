"""The highest etl_id that this machine has handed out: a sessions database restored from a backup has forgotten it.

`<state_dir>/etl_ids` is one line of fixed width: the highest id, an id above it, and an id of this start of the
machine. Each batch of ids overwrites the line in one write, which survives the end of the process; only when an id
passes the second number a new one is forced to the disk. After a power cut the file may hold an older line: then ids go
on above its second number.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dwhctl.errors import AttemptError, SessionsError, StateDirError
from dwhctl.files import open_for_update, open_regular
from dwhctl.runs.events import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dwhctl.sessions.store import SessionStore

#: So many ids are handed out between two waits for the disk.
_AT_ONCE = 10_000
#: The file is not believed when it is so far above the ids of the sessions database and of the warehouse: a month of
#: 336,000 sessions a day. An id is a 32-bit number in many a sessions table, and must not be used up by one line.
MOST_AHEAD = 10_000_000
_FORM = re.compile(rb"([0-9]{19}) ([0-9]{19}) ([0-9a-f-]{36})\n")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NO_BOOT = "-" * 36
_LOCK_SECONDS = 10.0
_MOST_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the file says. `floor` is what ids must go on above."""

    highest: int = 0
    reserved: int = 0
    boot: str = _NO_BOOT

    @property
    def floor(self) -> int:
        """Return the highest id that may have been handed out."""
        return self.highest if self.boot == _boot() else max(self.highest, self.reserved)


class EtlIds:
    """The file of one state folder. Threads and processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> Remembered:
        """Return what the file says; nothing when there is none. Raise StateDirError when it cannot be read."""
        try:
            with self._lock, open_regular(self._path, follow=False) as file, _locked(file, fcntl.LOCK_SH):
                return _parsed(file.read(_MOST_BYTES))
        except FileNotFoundError:
            return Remembered()
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def note(self, etl_id: int) -> None:
        """Remember that ids up to this one are handed out, before they are used. Raise StateDirError."""
        self._write(lambda known: etl_id > known.highest, etl_id)

    def correct(self, etl_id: int) -> None:
        """Remember this id in place of what the file says. Raise StateDirError."""
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
    """Lock the file, which others hold for a moment only, until it is closed. Raise OSError."""
    until = time.monotonic() + _LOCK_SECONDS
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
    store: SessionStore, ids: EtlIds, in_warehouse: Callable[[], int], tell: Callable[[Notice], None]
) -> None:
    """Raise the ids of a sessions database that would hand out again what this machine has handed out.

    `in_warehouse` returns the highest etl_id of the loads' tables; it is asked only where the file does not agree with
    the database. Raise SessionsError when the file cannot be believed and the warehouse not be asked.
    """
    last = store.last_id()
    try:
        known = ids.read()
    except StateDirError as error:
        held = _asked(in_warehouse, str(error))
        _lift(store, last, held)
        tell(Notice(f"{error}; etl_ids go on above {max(last, held)}, the highest that is known"))
        ids.correct(max(last, held))
        return
    if last >= known.highest and known.floor <= last + MOST_AHEAD:
        # As it should be; after a power cut a few ids may be missing from the file.
        _lift(store, last, known.floor)
        return
    try:
        held = in_warehouse()
    except AttemptError as error:
        if known.floor > last + MOST_AHEAD:
            raise _not_believed(known, last, error) from error
        held = 0
    if known.floor > max(last, held) + MOST_AHEAD:
        tell(
            Notice(
                f"{_doubtful(known)}, more than {MOST_AHEAD:,} above the highest of the sessions database ({last})"
                f" and of the warehouse ({held}): it is not believed, and corrected"
            )
        )
        _lift(store, last, held)
        ids.correct(max(last, held))
        return
    floor = max(known.floor, held)
    _lift(store, last, floor)
    tell(
        Notice(
            f"the sessions database would hand out the etl_id {last + 1} again: this machine has handed out"
            f" {known.highest}. It was restored from a backup, or is another one: etl_ids go on above {floor}."
            " What was loaded since the backup counts as not loaded: dwhctl report gaps"
        )
    )


def _lift(store: SessionStore, last: int, floor: int) -> None:
    if floor > last:
        store.lift_ids(floor)


def _asked(in_warehouse: Callable[[], int], why: str) -> int:
    try:
        return in_warehouse()
    except AttemptError as error:
        raise SessionsError(
            f"{why}; nor can the warehouse be asked which etl_ids it holds: {error}"
        ) from error


def _doubtful(known: Remembered) -> str:
    return f"the state folder remembers the etl_id {known.floor}"


def _not_believed(known: Remembered, last: int, error: AttemptError) -> SessionsError:
    return SessionsError(
        f"{_doubtful(known)}, the sessions database only {last}, and the warehouse cannot be asked which it holds:"
        f" {error}"
    )


def _parsed(content: bytes) -> Remembered:
    if not content:
        return Remembered()  # made, and not yet written
    if (found := _FORM.fullmatch(content)) is None:
        raise ValueError("its content is not what dwhctl writes")
    return Remembered(int(found[1]), int(found[2]), found[3].decode())


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
