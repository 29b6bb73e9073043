"""Files that other users of the machine can read or write though they should not, secrets first."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.private import closed_to, user_name
from dwhctl.project.airflow.keeping import EXPORTS
from dwhctl.project.find import MAIN_FILE
from dwhctl.project.read import is_in_file
from dwhctl.runs.state_dir import CRON_LOG, StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.model import Project

_READ, _WRITE, _ENTER = 4, 2, 1
_EVERYBODY = "every user of this machine"


@dataclass(frozen=True, slots=True)
class _Item:
    what: str
    path: Path
    #: That others read it does no harm.
    is_public: bool = False


def open_files(project: Project) -> list[str]:
    """Say of each file who can read or write it, with the command that helps. Looks at modes, not at ACLs."""
    found = [line for item in _items(project) for line in _of(item)]
    return [*dict.fromkeys(found), *_of_files(project), *_of_owner(project)]


def _items(project: Project) -> Iterator[_Item]:
    for secret in project.secrets():
        if secret.path is not None:
            yield _Item(secret.place, secret.path)
    for secret in project.secrets():
        if is_in_file(secret):
            yield _Item("a secret in the configuration", project.root / secret.place.partition(":")[0])
    for name in (".env", EXPORTS):
        yield _Item("secrets for the environment", project.root / name)
    sessions = project.sessions
    if sessions.type == "sqlite":
        yield _Item("the sessions", sessions.path)
    for name in sorted({one.target for one in project.loads.values()}):
        connection = project.connections[name]
        if connection.type == "duckdb":
            yield _Item(f"the warehouse {name}", connection.path)
    state = StateDir(project.state_dir)
    for what, path in (("staged rows", state.staging), ("logs", state.logs), ("logs", state.logs / CRON_LOG)):
        yield _Item(what, path)
    yield _Item("the state folder", state.path, is_public=True)


def _of(item: _Item) -> Iterator[str]:
    path = item.path.resolve()
    reader = None if item.is_public else _who(path, _READ)
    writer = _who(path, _WRITE)
    if reader or writer:
        may = "read and write" if reader and writer else "read" if reader else "write"
        yield f"{item.what}: {reader or writer} can {may} {path}: chmod {_others()}-rwx {shlex.quote(str(path))}"
    if os.access(path, os.F_OK) and (above := _replaceable(path)) is not None:
        yield _in_open_folder(item.what, path, above)


def _of_files(project: Project) -> Iterator[str]:
    """Configuration and SQL that others can write: they decide what is run, and with which passwords."""
    folders = [folder for name in ("config", "sql") if (folder := project.root / name).is_dir()]
    paths = [path for folder in folders for path in (folder, *sorted(folder.rglob("*")))]
    written = [path for path in paths if not path.is_symlink() and _who(path.resolve(), _WRITE)]
    if written:
        who, more = _who(written[0].resolve(), _WRITE), len(written) - 1
        also = f" and {more} more of the project's files" if more else ""
        command = shlex.join(["chmod", "-R", f"{_others()}-w", *map(str, folders)])
        yield f"the project's files: {who} can write {written[0]}{also}: {command}"
    main = (project.root / MAIN_FILE).resolve()
    if (above := _replaceable(main)) is not None and above not in written:
        yield _in_open_folder("the project's files", main, above)


def _of_owner(project: Project) -> Iterator[str]:
    owner = (project.root / MAIN_FILE).stat().st_uid
    if owner not in (0, os.geteuid()):
        name, own = user_name(owner), user_name(os.geteuid())
        yield f"the project {project.root} belongs to {name}, who decides what it runs as {own}"


def _in_open_folder(what: str, path: Path, folder: Path) -> str:
    who = _who(folder, _WRITE)
    command = f"chmod {_others()}-w {shlex.quote(str(folder))}"
    return f"{what}: {who} can write the folder {folder}, and so put another file in the place of {path}: {command}"


def _replaceable(path: Path) -> Path | None:
    """Return the folder above it in which others can put another file in its place."""
    for folder in path.parents:
        if not folder.stat().st_mode & stat.S_ISVTX and _who(folder, _WRITE):
            return folder
    return None


def _others() -> str:
    return "go" if closed_to() & 0o070 else "o"


def _who(path: Path, wanted: int) -> str | None:
    """Say who beside its owner may do that with a file: the folders above it must let them in."""
    try:
        chain = [each.stat() for each in (path, *path.parents)]
    except OSError:  # it is not there, or cannot be seen
        return None
    if stat.S_ISDIR(chain[0].st_mode):
        wanted |= _ENTER
    if _passes(chain, wanted, None):
        return _EVERYBODY
    if not closed_to() & 0o070:
        return None  # a group may, by [project] group_access
    for gid in dict.fromkeys(one.st_gid for one in chain):
        if _passes(chain, wanted, gid) and (name := _group_with_others(gid)):
            return f"the group {name}"
    return None


def _passes(chain: Sequence[os.stat_result], wanted: int, gid: int | None) -> bool:
    needs = [wanted, *[_ENTER] * (len(chain) - 1)]
    return all(_bits(one, gid) & need == need for one, need in zip(chain, needs, strict=True))


def _bits(found: os.stat_result, gid: int | None) -> int:
    return (found.st_mode >> 3 if found.st_gid == gid else found.st_mode) & 7


@cache
def _group_with_others(gid: int) -> str | None:
    """Name a group that has members beside this user and root."""
    own = {user_name(os.geteuid()), "root"}
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return None
    members = {*group.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == gid)}
    return group.gr_name if gid and members - own else None
