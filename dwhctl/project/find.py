"""The search for the project's folder."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import owner_of, user_name
from dwhctl.core.words import may_show, shown_text

MAIN_FILE = Path("config") / "dwhctl.toml"
VARIABLE = "DWHCTL_PROJECT"


def find_project(explicit: Path | None) -> Path:
    """Return the project's folder: the explicit one, DWHCTL_PROJECT's, or the nearest one upwards from here."""
    if explicit is not None:
        return _checked(explicit, "--project")
    named = os.environ.get(VARIABLE)
    if named:
        return _checked(Path(named), VARIABLE)
    try:
        here = Path.cwd()
    except OSError as error:
        remedy = "go into a project, or choose one with --project DIR"
        raise ConfigError(f"the current folder cannot be used ({error.strerror}); {remedy}") from None
    closed: Path | None = None
    for folder in (here, *here.parents):
        try:
            if not _has_main_file(folder):
                continue
        except PermissionError:
            closed = closed or folder
            continue
        if closed is not None:
            raise ConfigError(
                f"{closed} cannot be read ({owner_of(closed)}), so it is unknown whether it is the project; run dwhctl"
                f" as that user, or choose one: --project {shlex.quote(str(folder))}"
            )
        _refuse_foreign(folder)
        return folder
    unread = f" ({closed} cannot be read)" if closed is not None else ""
    raise ConfigError(
        f"no project here: neither {here} nor a folder above it has {MAIN_FILE}{unread}; "
        f"go into a project, choose one with --project DIR or {VARIABLE}, or make one with: dwhctl init"
    )


def _refuse_foreign(folder: Path) -> None:
    """Raise ConfigError for a found project of another user, whose files would decide what runs.

    Root's projects are trusted; root with sudo trusts those of the user who called it, as git does.
    """
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        trusted.add(int(os.environ["SUDO_UID"]))
    for path in (folder, folder / MAIN_FILE.parent, folder / MAIN_FILE):
        # The owner of a link decides where it points.
        for found in (path.lstat(), path.stat()):
            if found.st_uid not in trusted:
                raise ConfigError(
                    f"the project {folder}, found from here upwards, is not yours: {path} belongs to"
                    f" {user_name(found.st_uid)}, who decides what its files run; if you trust it, choose it:"
                    f" dwhctl --project {shlex.quote(str(folder))} ..., or {VARIABLE}={shlex.quote(str(folder))}"
                )


def _has_main_file(folder: Path) -> bool:
    """Return whether it is a project's folder. Raise PermissionError, which `Path.is_file` hides in newer Pythons."""
    try:
        return stat.S_ISREG((folder / MAIN_FILE).stat().st_mode)
    except PermissionError:
        raise
    except OSError:
        return False


def _checked(folder: Path, origin: str) -> Path:
    path = folder.expanduser().absolute()
    shown = shown_text(str(path))
    try:
        if _has_main_file(path):
            return Path(os.path.normpath(path))
    except PermissionError as error:
        raise ConfigError(
            f"{origin}: {shown} cannot be read ({error.strerror}): {owner_of(path / MAIN_FILE)}; run dwhctl as that"
            f" user, or give {user_name(os.geteuid())} access"
        ) from None
    missing = f"has no {MAIN_FILE}" if os.path.isdir(path) else "is not a folder"  # noqa: PTH112
    if above := next((found for found in path.parents if os.path.isfile(found / MAIN_FILE)), None):  # noqa: PTH113
        raise ConfigError(f"{origin}: {shown} {missing}; the project is {shown_text(str(above))}")
    given = shlex.quote(str(folder)) if may_show(str(folder)) else "DIR"
    raise ConfigError(
        f"{origin}: {shown} {missing}; choose a project's folder, or make one with: dwhctl init {given}"
    )
