"""Where the project is."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from dwhctl.errors import ConfigError

MAIN_FILE = Path("config") / "dwhctl.toml"
VARIABLE = "DWHCTL_PROJECT"


def find_project(explicit: Path | None) -> Path:
    """The project's folder: the explicit one, DWHCTL_PROJECT's, or the nearest one upwards from here."""
    if explicit is not None:
        return _checked(explicit, "--project")
    named = os.environ.get(VARIABLE)
    if named:
        return _checked(Path(named), VARIABLE)
    try:
        here = Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current folder cannot be used ({error.strerror}); go into a project, or name one with --project DIR"
        ) from None
    for folder in (here, *here.parents):
        if _is_file(folder / MAIN_FILE):
            return folder
    raise ConfigError(
        f"no project here: neither {here} nor a folder above it holds {MAIN_FILE}; "
        f"go into a project, name one with --project DIR or {VARIABLE}, or make one with: dwhctl init"
    )


def _checked(folder: Path, origin: str) -> Path:
    path = folder.expanduser().absolute()
    if _is_file(path / MAIN_FILE):
        return Path(os.path.normpath(path))
    missing = f"holds no {MAIN_FILE} that this user may read" if os.path.isdir(path) else "is no folder"  # noqa: PTH112
    raise ConfigError(
        f"{origin}: {path} {missing}; name a project's folder, or make one with:"
        f" dwhctl init {shlex.quote(str(folder))}"
    )


def _is_file(path: Path) -> bool:
    """Tell whether there is a file that may be looked at; in another user's folder there is none."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises PermissionError
