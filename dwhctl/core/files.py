"""Files and folders that somebody else may have prepared: names from outside, reading and writing with bounds.

A project's files may be symbolic links; those of the state folder may not (`follow=False`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


#: No configuration, SQL, secret or text of a lock is larger.
MOST_BYTES = 16 * 2**20
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
#: Neither a FIFO without a writer nor a terminal holds the program up.
_ALWAYS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def is_run_id(text: str) -> bool:
    """Tell whether dwhctl gives ids of this form to its runs: `20200713T060000-0a1b2c3d`."""
    return _RUN_ID.fullmatch(text) is not None


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` directly inside the folder. Raise ValueError for one that leads elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a name inside {folder}")
    return folder / name


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading. Raise OSError, whose `strerror` says why, also for every other kind of file."""
    descriptor = _opened(path, os.O_RDONLY, follow=follow)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


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
    """Write a file of the state folder, never through a symbolic link. Raise OSError."""
    with os.fdopen(_opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def open_for_update(path: Path) -> BinaryIO:
    """Open a regular file of the state folder for reading and writing in place; make it. Raise OSError."""
    descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "r+b", buffering=0)


def append(path: Path, octets: bytes) -> int:
    """Append to a file of the state folder, and return its size. Raise OSError."""
    with os.fdopen(_opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:
        file.write(octets)
        file.flush()
        return os.fstat(file.fileno()).st_size


def touch(path: Path, at: int | None = None) -> None:
    """Set the time of a file of the state folder (nanoseconds since 1970, or now); make the file. Raise OSError."""
    descriptor = _opened(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.utime(descriptor, ns=(time.time_ns(),) * 2 if at is None else (at, at))
    finally:
        os.close(descriptor)


def _opened(path: Path, flags: int, *, follow: bool = False) -> int:
    try:
        # The umask decides who else may use a new file (dwhctl.core.files).
        return os.open(path, flags | _ALWAYS | (0 if follow else os.O_NOFOLLOW), 0o666)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one: {error}", repr(str(path))) from None


_ALONE = 0o077
_WITH_GROUP = 0o007
_LONGEST_PREFIX = 100

_umask = _ALONE
_is_in_force = False


def use_private_umask() -> None:
    """From now on this process and all that it starts make files for their user alone, or for a group as well."""
    global _is_in_force
    _is_in_force = True
    os.umask(_umask)


def set_group_access(allowed: bool) -> None:
    """Give the group of a file what its owner may, or nothing: `[project] group_access`."""
    global _umask
    _umask = _WITH_GROUP if allowed else _ALONE
    if _is_in_force:
        os.umask(_umask)


def closed_to() -> int:
    """Return the mode bits that no file of ours has."""
    return _umask


def tighten(path: Path) -> None:
    """Take from an own file or folder what others may do with it. What belongs to another user stays as it is.

    Never opens the file: to close a SQLite file drops the locks that this process holds on it.
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
    """Write a file so that a reader, or a kill, finds the old text or the new one. Raise OSError.

    The new text goes into a file that nobody else can have put there, and takes the old one's place: a symbolic link
    is replaced, not followed. Without a `mode` the umask decides.
    """
    import tempfile

    descriptor, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:_LONGEST_PREFIX]}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(descriptor, 0o666 & ~_umask if mode is None else mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def owner_of(path: Path) -> str:
    """Say who owns what cannot be used, or the nearest folder above it that can be seen, with its mode."""
    for each in (path, *path.parents):
        with suppress(OSError, ValueError):
            found = each.stat()
            return f"{each} belongs to {user_name(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o})"
    return f"nothing of {path} can be seen"


def user_name(uid: int) -> str:
    """Return the name of a user, or the number when it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def denied(path: Path) -> str:
    """Say who owns what this process may not use, who this process is, and what to do."""
    return (
        f"{owner_of(path)}, and this is {user_name(os.geteuid())}: run dwhctl as the user who owns the project's state,"
        " or share it between users of one group: [project] group_access = true (dwhctl docs security)"
    )
