"""Files and folders that another user may have prepared: names from outside, reading and writing with limits.

A project's files may be symbolic links; those of the state folder may not (`follow=False`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO, cast

#: The largest configuration, SQL, secret or text of a lock.
MOST_BYTES = 16 * 2**20
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
#: Neither a FIFO without a writer nor a terminal blocks the program.
_ALWAYS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def is_run_id(text: str) -> bool:
    """Return whether this is a run id of dwhctl, such as `20200713T060000-0a1b2c3d`."""
    return _RUN_ID.fullmatch(text) is not None


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` directly inside the folder. Raise ValueError for one that leads elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a name inside {folder}")
    return folder / name


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading. Raise OSError, whose `strerror` says why, also for every other kind of file."""
    return _opened(path, "rb", os.O_RDONLY, follow=follow)


def read_bytes(path: Path, most: int = MOST_BYTES, *, follow: bool = True) -> bytes:
    """Return what a regular file of at most so many bytes holds. Raise OSError."""
    with open_regular(path, follow=follow) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def read_text(
    path: Path,
    encoding: str = "utf-8",
    most: int = MOST_BYTES,
    *,
    follow: bool = True,
    errors: str = "strict",
) -> str:
    """Return the text of a regular file, its line ends as `\\n`. Raise OSError and UnicodeDecodeError."""
    text = read_bytes(path, most, follow=follow).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file of the state folder, never through a symbolic link, in place. Raise OSError.

    What it held beyond the text becomes line ends: to cut it off waits for the file system's journal, which other
    programs may keep busy.
    """
    # Buffered: else a disk that has room for a part of it is no error.
    with _opened(path, "r+b", os.O_RDWR | os.O_CREAT) as file:
        octets = text.encode("utf-8", "backslashreplace")
        file.write(octets.ljust(os.fstat(file.fileno()).st_size, b"\n"))


def open_for_update(path: Path) -> BinaryIO:
    """Open a regular file of the state folder for reading and writing in place; make it. Raise OSError."""
    return _opened(path, "r+b", os.O_RDWR | os.O_CREAT, buffering=0)


def append(path: Path, octets: bytes) -> int:
    """Append to a file of the state folder, and return its size. Raise OSError."""
    with _opened(path, "ab", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        file.write(octets)
        file.flush()
        return os.fstat(file.fileno()).st_size


def touch(path: Path, at: int | None = None) -> None:
    """Set the time of a file of the state folder (nanoseconds since 1970, or now); make the file. Raise OSError."""
    with _opened(path, "ab", os.O_WRONLY | os.O_CREAT) as file:
        os.utime(file.fileno(), ns=(time.time_ns(),) * 2 if at is None else (at, at))


def _opened(path: Path, mode: str, flags: int, *, follow: bool = False, buffering: int = -1) -> BinaryIO:
    def opener(name: str, _: int) -> int:
        # The umask decides who else may use a new file.
        return os.open(name, flags | _ALWAYS | (0 if follow else os.O_NOFOLLOW), 0o666)

    try:
        file = open(path, mode, buffering, opener=opener)  # noqa: SIM115 - with flags of its own
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one: {error}", repr(str(path))) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return cast("BinaryIO", file)


_ALONE = 0o077
_WITH_GROUP = 0o007
_LONGEST_PREFIX = 100
#: No process that still lives writes one text for so long.
_LEFT_SECONDS = 3600

_umask = _ALONE
_is_in_force = False


def use_private_umask() -> None:
    """Have this process and all that it starts make files for their user only, or for a group as well."""
    global _is_in_force
    _is_in_force = True
    os.umask(_umask)


def set_group_access(allowed: bool) -> None:
    """Give the group of new files the rights of their owner, or none: `[project] group_access`."""
    global _umask
    _umask = _WITH_GROUP if allowed else _ALONE
    if _is_in_force:
        os.umask(_umask)


def closed_to() -> int:
    """Return the mode bits that no file of dwhctl has."""
    return _umask


def tighten(path: Path) -> None:
    """Close an own file or folder to others. A file of another user stays as it is.

    Never opens the file: closing a SQLite file drops the locks that this process holds on it.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            mode = stat.S_IMODE(found.st_mode)
            if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and mode & _umask:
                os.chmod(f"/proc/self/fd/{descriptor}", mode & ~_umask)  # noqa: PTH101 - of this very file
        finally:
            os.close(descriptor)


def write_whole(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file at once: a reader, also after a kill, finds the old text or the new one. Raise OSError.

    The new text goes into a new file, which replaces the old one: a symbolic link is replaced, not followed. Without
    a `mode` the umask decides.
    """
    with _written_beside(path, text, mode) as new:
        os.replace(new, path)  # noqa: PTH105


def create_whole(path: Path, text: str) -> None:
    """Create a file at once, so that it has all of its text after a kill too. Raise FileExistsError, or OSError."""
    with _written_beside(path, text) as new:
        try:
            os.link(new, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with path.open("x", encoding="utf-8", newline="") as file:
                file.write(text)


@contextmanager
def _written_beside(path: Path, text: str, mode: int | None = None) -> Iterator[str]:
    """Yield a new file with the text, which is in the same folder, and is removed if it is still there.

    Also remove those that killed processes left there.
    """
    prefix, suffix = f".{path.name[:_LONGEST_PREFIX]}.", ".tmp"
    for left in path.parent.glob(f"{escape(prefix)}????????{suffix}"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > _LEFT_SECONDS:
                left.unlink()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(descriptor, 0o666 & ~_umask if mode is None else mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield name
    finally:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108


def owner_of(path: Path) -> str:
    """Describe owner and mode of a path, or of the nearest folder above it that can be seen."""
    for candidate in (path, *path.parents):
        with suppress(OSError, ValueError):
            found = candidate.stat()
            return (
                f"{candidate} belongs to {user_name(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o})"
            )
    return f"nothing of {path} can be seen"


def user_name(uid: int) -> str:
    """Return the name of a user, or the number when it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def denied(path: Path) -> str:
    """Return the message for a path that this process may not use: its owner, this user, and what to do."""
    return (
        f"{owner_of(path)}, and this is {user_name(os.geteuid())}: run dwhctl as the user who owns the project's state,"
        " or share it between users of one group: [project] group_access = true (dwhctl docs security)"
    )


def with_remedy(message: str) -> str:
    """Return a library's message about a file, and what to do when it says that the disk is full."""
    is_full = any(os.strerror(number) in message for number in (errno.ENOSPC, errno.EDQUOT))
    return f"{message}; make room on that disk" if is_full else message


#: The folder in the state folder that holds them.
SPILL = "spill"


class SpillFolder:
    """A private folder for what DuckDB spills to disk: rows of customers, which no other user may read.

    It has the mode 0700, is in the state folder, and belongs to one open connection. Its process holds a lock on it,
    which ends with the process: a folder without a lock was left by a killed process, and is removed with the next new
    one. `path` is "" without a state folder: then DuckDB does not spill.
    """

    def __init__(self, state_dir: Path | None) -> None:
        self.path = ""
        self._lock = -1
        if state_dir is None:
            return
        # A state folder that is missing, or that this user may only read, stays as it is.
        with suppress(OSError):
            (state_dir / SPILL).mkdir(exist_ok=True)
            remove_left_behind(state_dir)
            while not self.path:
                self._make(state_dir / SPILL)

    def _make(self, root: Path) -> None:
        path = tempfile.mkdtemp(dir=root)
        lock = _lock_folder(path)
        # Before the lock another process may have removed it as left behind.
        if lock is not None and Path(path).is_dir():
            self.path, self._lock = path, lock
        elif lock is not None:
            os.close(lock)

    def close(self) -> None:
        """Remove the folder with its content. Idempotent."""
        path, self.path = self.path, ""
        if path:
            shutil.rmtree(path, ignore_errors=True)
            os.close(self._lock)


def remove_left_behind(state_dir: Path) -> None:
    """Remove the spill folders whose process is dead."""
    for path in left_behind(state_dir):
        shutil.rmtree(path, ignore_errors=True)


def left_behind(state_dir: Path) -> Iterator[Path]:
    """Yield the spill folders whose process is dead; each is locked until the next."""
    try:
        found = sorted((state_dir / SPILL).iterdir())
    except OSError:
        return
    for path in found:
        if (lock := _lock_folder(path)) is not None:
            try:
                yield path
            finally:
                os.close(lock)


def _lock_folder(path: str | Path) -> int | None:
    """Lock a folder; None when it is gone, cannot be opened, or is locked by another process."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
