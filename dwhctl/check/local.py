"""`config check` on this machine without a server: database files, certificates, unread files, file modes."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import ssl
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from msgspec import Struct

from dwhctl.airflow.writing import EXPORTS
from dwhctl.core.files import closed_to, user_name
from dwhctl.core.words import did_you_mean, shown_path, shown_text
from dwhctl.project.connections import EmbeddedConnection, NetworkConnection
from dwhctl.project.files import CONNECTION_PREFIX, VARIABLE_PREFIX, named_values
from dwhctl.project.find import MAIN_FILE, VARIABLE
from dwhctl.project.model import Project
from dwhctl.project.names import declared_at
from dwhctl.project.problems import MAIN, Place
from dwhctl.project.read import is_in_file
from dwhctl.runtime.locks import CRON_LOG, StateDir
from dwhctl.systems.base.system import system_of
from dwhctl.systems.sqlite.system import SqliteConnection

#: Of a Service that is called dwhctl, or dwhctl-page, in every pod of its namespace.
_OF_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_[A-Z]+(_\w+)?)?$")
_SQLITE = b"SQLite format 3\0"
#: For the databases of a folder; no server is asked here.
_LIST_SECONDS = 1.0
_READ = ("dwhctl.toml", "reports.toml")
_LOOKS_READ = (".toml", ".yml", ".yaml")
#: Like a mistyped .toml: what an editor keeps, and files of other programs.
_OTHERS_FILES = (".toml~", ".html", ".tmpl")


@dataclass
class LocalFiles:
    """The problems of files on this machine; warnings for what may differ where the loads run."""

    problems: list[str] = field(default_factory=list)
    missing_shards: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def local_files(project: Project) -> LocalFiles:
    """Check the files and folders that a load needs, without creating or opening any."""
    found = LocalFiles([*_warehouses(project), *_state(project), *_ca_files(project)])
    _sources(project, found)
    return found


def _sources(project: Project, found: LocalFiles) -> None:
    missing: dict[tuple[str, str], list[str]] = {}
    for group, shards in project.shard_groups.items():
        for shard in shards:
            connection = project.connections[shard.connection]
            if (path := connection.shard_file(shard.database)) is None:
                continue
            place = f"shards.{group}.{connection.name}"
            if _is_missing(path.parent):
                missing.setdefault((place, connection.name), []).append(shard.name)
            elif _is_missing(path):
                databases = system_of(connection).list_databases(connection, _LIST_SECONDS)
                hint = did_you_mean(shard.database, databases) or "add it, or correct the path"
                found.missing_shards.append(
                    f"{MAIN}: {place}: the file {_shown(project, path)} of the shard {shard.name} is"
                    f" missing; {hint}"
                )
            elif not os.access(path, os.R_OK):
                found.warnings.append(f"{place}: this user cannot read {_shown(project, path)}")
    for (place, name), names in missing.items():
        of = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        found.warnings.append(
            f"{place}: the folder of connections.{name}.path does not exist here, so the shard {of} cannot be loaded"
        )


def _warehouses(project: Project) -> Iterator[str]:
    places: dict[str, Place] = {}
    for work in project.work():
        places.setdefault(work.warehouse, declared_at(work).at(work.warehouse_key))
    for name, place in places.items():
        connection = project.connections[name]
        # The first run creates the state folder.
        if not isinstance(connection, EmbeddedConnection) or connection.path.is_relative_to(
            project.state_dir
        ):
            continue
        folder = connection.path.parent
        if _is_missing(folder):
            yield f"{place}: there is no folder {_shown(project, folder)} for the file of {name}; create it"


def _state(project: Project) -> Iterator[str]:
    """Yield the problems of the state folder and of a sessions file."""
    if blocking := _file_in_the_way(project.state_dir):
        shown, place = _shown(project, blocking), MAIN.at("project", "state_dir")
        yield f"{place}: {shown} is a file; choose a folder or move the file away"
    sessions = project.sessions
    if not isinstance(sessions, SqliteConnection):
        return
    place, shown = MAIN.at("connections", sessions.name, "path"), _shown(project, sessions.path)
    if blocking := _file_in_the_way(sessions.path.parent):
        yield f"{place}: {_shown(project, blocking)} is a file, but a folder in the path; choose another path"
    elif os.path.isdir(sessions.path):  # noqa: PTH112
        yield f"{place}: {shown} is a folder; choose a file"
    elif _is_another_kind(sessions.path):
        yield f"{place}: {shown} is not a SQLite database; choose another file or move it away"


def _is_missing(path: Path) -> bool:
    """Return whether nothing exists there; what this user may not see may exist."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _file_in_the_way(folder: Path) -> Path | None:
    # Path.exists raises for a folder that this user may not enter.
    existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), None)  # noqa: PTH110
    return existing if existing and not os.path.isdir(existing) else None  # noqa: PTH112


def _is_another_kind(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(len(_SQLITE))
    except OSError:
        return False
    return begin not in (b"", _SQLITE)


def _ca_files(project: Project) -> Iterator[str]:
    """Yield the CA files without a certificate; missing ones were found when the project was read."""
    keys = [(MAIN.at("pings", "tls_cafile"), project.pings.tls_cafile)]
    for name, connection in project.connections.items():
        if isinstance(connection, NetworkConnection) and (key := connection.tls_words.ca_key):
            keys.append((MAIN.at("connections", name, key), getattr(connection, key)))
    for name, alert in project.alerts.items():
        keys.append((MAIN.at("alerts", name, "tls_cafile"), getattr(alert, "tls_cafile", None)))
    for place, path in keys:
        if path is None or not os.access(path, os.R_OK):
            continue
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ssl.SSLError, OSError):
            yield f"{place}: the file has no certificate in PEM form; export the CA certificate as PEM"


def warnings_of_machine(project: Project) -> list[str]:
    """Return what of this machine's files, environment and packages may fail or leak, with the remedies."""
    found = (missing_packages, open_files, unread_files, unread_variables, page_folder)
    return [line for warnings in found for line in warnings(project)]


def unread_files(project: Project) -> list[str]:
    """Return the files below config/ that look like configuration and are not read, with the remedy."""
    config, found = project.root / "config", []
    for path in sorted(config.rglob("*")):
        parts = path.relative_to(config).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if not _looks_read(path) or parts[0] == "alerts" or is_hidden or path.is_dir():
            continue
        is_load = len(parts) == 2 and parts[0] == "loads" and path.suffix == ".toml"
        if is_load or "/".join(parts) in _READ:
            continue
        found.append(f"{_shown(project, path)} is not read: {_where_to(parts, path)}")
    return found


def _looks_read(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in _LOOKS_READ or path.name.endswith(".toml.txt"):
        return True
    return suffix not in _OTHERS_FILES and bool(did_you_mean(suffix, [".toml"]))


def _where_to(parts: tuple[str, ...], path: Path) -> str:
    if parts[0] in ("load", "loads"):
        return f"a load is config/loads/{path.name.partition('.')[0]}.toml, in TOML and not in a folder below"
    for name in _READ:
        if did_you_mean(path.stem, [Path(name).stem]):
            return f"rename it to config/{name}"
    return "dwhctl reads config/dwhctl.toml, config/reports.toml and config/loads/*.toml"


def unread_variables(project: Project) -> list[str]:
    """Return the variables of the environment that look like ours, and are not read or make an unused connection."""
    read = {VARIABLE, *(secret.variable for secret in project.secrets())}
    ours = (CONNECTION_PREFIX, VARIABLE_PREFIX, "DWHCTL_TEST_")
    found = [
        f"environment: {name} is not read: dwhctl reads {VARIABLE}, {CONNECTION_PREFIX}NAME and {VARIABLE_PREFIX}NAME"
        for name in sorted(os.environ)
        if name.startswith("DWHCTL_")
        and name not in read
        and (name in ours or not name.startswith(ours))
        and not _OF_KUBERNETES.search(name)
    ]
    used = {project.sessions_connection, *(work.warehouse for work in project.work())}
    used |= {shard.connection for shards in project.shard_groups.values() for shard in shards}
    values = list(named_values(CONNECTION_PREFIX, os.environ))
    missing = used - {value.name for value in values}
    for value in values:
        meant = [name for name in missing if not _is_sibling(value.name, name)]
        if value.name not in used and (hint := did_you_mean(value.name, meant)):
            found.append(f"environment: {value.variable} makes a connection that nothing uses; {hint}")
    return found


def _is_sibling(name: str, used: str) -> bool:
    """Return whether the name is none that is mistyped: `mssql_1` beside `mssql_0`, `dwh_ro` beside `dwh`."""
    return name.startswith(used) or re.sub(r"\d+", "", name) == re.sub(r"\d+", "", used)


def missing_packages(project: Project) -> Iterator[str]:
    """Yield the connections whose driver is not installed here, with what to install."""
    for connection in project.connections.values():
        if problem := system_of(connection).missing_package(connection):
            yield f"{MAIN}: {problem}"


def page_folder(project: Project) -> Iterator[str]:
    """Yield that the folder is missing into which every run writes the page."""
    path = project.page.path
    if path is not None and _is_missing(path.parent):
        yield f"{MAIN.at('page', 'path')}: there is no folder {_shown(project, path.parent)}; create it"


def _shown(project: Project, path: Path) -> str:
    return shown_text(shown_path(path, project.root))


_MODE_READ, _WRITE, _ENTER = 4, 2, 1
_EVERYBODY = "every user of this machine"


class _Item(Struct, frozen=True):
    what: str
    path: Path
    #: Whether others may read it.
    is_public: bool = False


def open_files(project: Project) -> list[str]:
    """Return who else can read or write each file, with the remedy. Checks modes, not ACLs."""
    found = [line for item in _items(project) for line in _open_item(item)]
    owner = (project.root / MAIN_FILE).stat().st_uid
    if owner not in (0, os.geteuid()):
        name, own = user_name(owner), user_name(os.geteuid())
        found.append(f"the project {project.root} belongs to {name}, who decides what it runs as {own}")
    return list(dict.fromkeys([*found, *_open_configuration(project)]))


def _items(project: Project) -> Iterator[_Item]:
    for secret in project.secrets():
        if secret.path is not None:
            yield _Item(secret.place, secret.path)
    for secret in filter(is_in_file, project.secrets()):
        yield _Item("a secret in the configuration", project.root / secret.place.partition(":")[0])
    for name in (".env", EXPORTS):
        yield _Item("secrets for the environment", project.root / name)
    sessions = project.sessions
    if isinstance(sessions, SqliteConnection):
        yield _Item("the sessions", sessions.path)
    for name in sorted({load.target for load in project.loads.values()}):
        connection = project.connections[name]
        if isinstance(connection, EmbeddedConnection):
            yield _Item(f"the warehouse {name}", connection.path)
    state = StateDir(project.state_dir)
    for what, path in (("staged rows", state.staging), ("logs", state.logs), ("logs", state.logs / CRON_LOG)):
        yield _Item(what, path)
    yield _Item("the state folder", state.path, is_public=True)


def _open_item(item: _Item) -> Iterator[str]:
    path = item.path.resolve()
    reader = None if item.is_public else _who(path, _MODE_READ)
    writer = _who(path, _WRITE)
    if reader or writer:
        may = "read and write" if reader and writer else "read" if reader else "write"
        yield f"{item.what}: {reader or writer} can {may} {path}: chmod {_others()}-rwx {shlex.quote(str(path))}"
    if os.access(path, os.F_OK) and (above := _replaceable(path)) is not None:
        yield _in_open_folder(item.what, path, above)


def _open_configuration(project: Project) -> Iterator[str]:
    """Yield configuration and SQL that others can write: they decide what runs, and with which passwords."""
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


def _in_open_folder(what: str, path: Path, folder: Path) -> str:
    who = _who(folder, _WRITE)
    command = f"chmod {_others()}-w {shlex.quote(str(folder))}"
    return f"{what}: {who} can write the folder {folder}, and so replace {path}: {command}"


def _replaceable(path: Path) -> Path | None:
    """Return the nearest folder above in which others can replace the path."""
    for folder in path.parents:
        if not folder.stat().st_mode & stat.S_ISVTX and _who(folder, _WRITE):
            return folder
    return None


def _others() -> str:
    return "go" if closed_to() & 0o070 else "o"


def _who(path: Path, wanted: int) -> str | None:
    """Return who else has these rights for a file; the folders above must be open to them as well."""
    try:
        chain = [found.stat() for found in (path, *path.parents)]
    except OSError:  # it does not exist, or is not visible
        return None
    if stat.S_ISDIR(chain[0].st_mode):
        wanted |= _ENTER
    if _passes(chain, wanted, None):
        return _EVERYBODY
    if not closed_to() & 0o070:
        return None  # a group may, by [project] group_access
    for gid in dict.fromkeys(found.st_gid for found in chain):
        if _passes(chain, wanted, gid) and (name := _group_with_others(gid)):
            return f"the group {name}"
    return None


def _passes(chain: Sequence[os.stat_result], wanted: int, gid: int | None) -> bool:
    needs = [wanted, *[_ENTER] * (len(chain) - 1)]
    return all(_bits(found, gid) & need == need for found, need in zip(chain, needs, strict=True))


def _bits(found: os.stat_result, gid: int | None) -> int:
    return (found.st_mode >> 3 if found.st_gid == gid else found.st_mode) & 7


@cache
def _group_with_others(gid: int) -> str | None:
    """Return the name of a group with members other than this user and root, or None."""
    own = {user_name(os.geteuid()), "root"}
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return None
    members = {*group.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == gid)}
    return group.gr_name if gid and members - own else None
