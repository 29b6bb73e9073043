"""Files that others cannot read: the umask, the modes of an earlier version, new files where others may write."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
