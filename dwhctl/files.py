"""Files and folders that somebody else may have prepared: names from outside, reading and writing with bounds.

A project's files may be symbolic links; those of the state folder may not (`follow=False`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
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
        # The umask decides who else may use a new file (dwhctl.private).
        return os.open(path, flags | _ALWAYS | (0 if follow else os.O_NOFOLLOW), 0o666)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one: {error}", repr(str(path))) from None
