"""What `config check` finds on this machine without a server: databases in files, certificates, files not read."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import ssl
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.airflow.writing import EXPORTS
from dwhctl.core.files import closed_to, user_name
from dwhctl.core.words import did_you_mean, shown_path, shown_text
from dwhctl.project.connections import EmbeddedConnection, NetworkConnection
from dwhctl.project.find import MAIN_FILE
from dwhctl.project.read import is_in_file
from dwhctl.runtime.locks import CRON_LOG, StateDir
from dwhctl.systems.duckdb.system import DuckdbConnection
from dwhctl.systems.sqlite.system import SqliteConnection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.model import Project


_SQLITE = b"SQLite format 3\0"
_READ = ("dwhctl.toml", "reports.toml")
_LOOKS_READ = (".toml", ".yml", ".yaml")


@dataclass
class LocalFiles:
    """What is wrong with files of this machine. What may be otherwise where the loads run is a warning."""

    problems: list[str] = field(default_factory=list)
    missing_shards: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def local_files(project: Project) -> LocalFiles:
    """Look for the files and folders that a load needs. Make and open nothing."""
    found = LocalFiles()
    _sources(project, found)
    _warehouses(project, found)
    found.problems += _state(project)
    found.problems += _authorities(project)
    return found


def _sources(project: Project, found: LocalFiles) -> None:
    missing: dict[tuple[str, str], list[str]] = {}
    for group, shards in project.shard_groups.items():
        for shard in shards:
            connection = project.connections[shard.connection]
            if not isinstance(connection, DuckdbConnection):
                continue
            path, place = connection.database_file(shard.database), f"shards.{group}.{connection.name}"
            if _is_missing(path.parent):
                missing.setdefault((place, connection.name), []).append(shard.name)
            elif _is_missing(path):
                databases = (each.stem for each in path.parent.glob("*.duckdb"))
                hint = did_you_mean(shard.database, databases) or "put it there, or correct the path"
                found.missing_shards.append(
                    f"config/dwhctl.toml: {place}: the file {_shown(project, path)} of the shard {shard.name} is"
                    f" missing; {hint}"
                )
            elif not os.access(path, os.R_OK):
                found.warnings.append(f"{place}: this user cannot read {_shown(project, path)}")
    for (place, name), names in missing.items():
        of = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        found.warnings.append(
            f"{place}: there is no folder here as connections.{name}.path says, so the shard {of} cannot be loaded"
        )


def _warehouses(project: Project, found: LocalFiles) -> None:
    uses = [(load.target, f"config/loads/{load.name}.toml: target") for load in project.loads.values()]
    uses += [
        (report.connection, f"config/reports.toml: reports.{report.name}.connection")
        for report in project.reports.values()
    ]
    for name, place in dict(reversed(uses)).items():
        connection = project.connections[name]
        # The state folder is made by the first run.
        if not isinstance(connection, DuckdbConnection) or connection.path.is_relative_to(project.state_dir):
            continue
        if _is_missing(connection.path.parent):
            folder = _shown(project, connection.path.parent)
            found.problems.append(f"{place}: there is no folder {folder} for the file of {name}; make it")


def _state(project: Project) -> Iterator[str]:
    """Yield what stands in the way of the state folder and of sessions in a file."""
    if blocking := _file_in_the_way(project.state_dir):
        yield (
            f"config/dwhctl.toml: project.state_dir: {_shown(project, blocking)} is a file; name a folder"
            " or move the file away"
        )
    sessions = project.sessions
    if not isinstance(sessions, SqliteConnection):
        return
    place, shown = f"config/dwhctl.toml: connections.{sessions.name}.path", _shown(project, sessions.path)
    if blocking := _file_in_the_way(sessions.path.parent):
        yield f"{place}: {_shown(project, blocking)} is a file, and a folder in the path; name another path"
    elif os.path.isdir(sessions.path):  # noqa: PTH112
        yield f"{place}: {shown} is a folder; name a file"
    elif _is_another_kind(sessions.path):
        yield f"{place}: {shown} is no SQLite database; name another file or move it away"


def _is_missing(path: Path) -> bool:
    """Tell whether nothing is there; what this user may not see may be there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _file_in_the_way(folder: Path) -> Path | None:
    for each in (folder, *folder.parents):
        if os.path.exists(each):  # noqa: PTH110
            return None if os.path.isdir(each) else each  # noqa: PTH112
    return None


def _is_another_kind(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(len(_SQLITE))
    except OSError:
        return False
    return begin not in (b"", _SQLITE)


def _authorities(project: Project) -> Iterator[str]:
    """Yield files of certificates that hold none; that they are there was checked when the project was read."""
    for name, connection in project.connections.items():
        key = connection.tls_words.ca_key if isinstance(connection, NetworkConnection) else None
        if key and (problem := _no_certificates(getattr(connection, key))):
            yield f"config/dwhctl.toml: connections.{name}.{key}: {problem}"
    for name, alert in project.alerts.items():
        if problem := _no_certificates(getattr(alert, "tls_cafile", None)):
            yield f"config/dwhctl.toml: alerts.{name}.tls_cafile: {problem}"
    if problem := _no_certificates(project.pings.tls_cafile):
        yield f"config/dwhctl.toml: pings.tls_cafile: {problem}"


def _no_certificates(path: Path | None) -> str | None:
    if path is None or not os.access(path, os.R_OK):
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return "the file holds no certificate in PEM form; export the authority's certificate as PEM"
    return None


def unread_files(project: Project) -> list[str]:
    """Say which files below config/ look like configuration and are not read, with what to do."""
    config, found = project.root / "config", []
    for path in sorted(config.rglob("*")):
        parts = path.relative_to(config).parts
        if (
            path.suffix.lower() not in _LOOKS_READ
            or parts[0] == "alerts"
            or any(each[0] == "." for each in parts)
        ):
            continue
        is_load = len(parts) == 2 and parts[0] == "loads"
        if path.is_dir() or parts in [(each,) for each in _READ] or (is_load and path.suffix == ".toml"):
            continue
        found.append(f"{_shown(project, path)} is not read: {_where_to(parts, path)}")
    return found


def _where_to(parts: tuple[str, ...], path: Path) -> str:
    if parts[0] in ("load", "loads"):
        return f"a load is config/loads/{path.stem}.toml, in TOML and in no folder below"
    for name in _READ:
        if did_you_mean(path.stem, [Path(name).stem]):
            return f"rename it to config/{name}"
    return "dwhctl reads config/dwhctl.toml, config/reports.toml and config/loads/*.toml"


def _shown(project: Project, path: Path) -> str:
    return shown_text(shown_path(path, project.root))


_MODE_READ, _WRITE, _ENTER = 4, 2, 1
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
    if isinstance(sessions, SqliteConnection):
        yield _Item("the sessions", sessions.path)
    for name in sorted({one.target for one in project.loads.values()}):
        connection = project.connections[name]
        if isinstance(connection, EmbeddedConnection):
            yield _Item(f"the warehouse {name}", connection.path)
    state = StateDir(project.state_dir)
    for what, path in (("staged rows", state.staging), ("logs", state.logs), ("logs", state.logs / CRON_LOG)):
        yield _Item(what, path)
    yield _Item("the state folder", state.path, is_public=True)


def _of(item: _Item) -> Iterator[str]:
    path = item.path.resolve()
    reader = None if item.is_public else _who(path, _MODE_READ)
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
