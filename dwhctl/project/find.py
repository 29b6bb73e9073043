"""Where the project is."""

from __future__ import annotations

import os
from pathlib import Path

from dwhctl.errors import ConfigError

from .words import shown_text

MAIN_FILE = Path("config") / "dwhctl.toml"
VARIABLE = "DWHCTL_PROJECT"


def find_project(explicit: Path | None) -> Path:
    """The project's folder: the explicit one, DWHCTL_PROJECT's, or the nearest one upwards from here."""
    if explicit is not None:
        return _checked(explicit, "--project")
    named = os.environ.get(VARIABLE)
    if named:
        return _checked(Path(named), VARIABLE)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / MAIN_FILE).is_file():
            return folder
    raise ConfigError(
        f"no project here: neither {here} nor a folder above it holds {MAIN_FILE}; "
        f"go into a project, name one with --project DIR or {VARIABLE}, or make one with: dwhctl init"
    )


def _checked(folder: Path, origin: str) -> Path:
    path = folder.expanduser().absolute()
    if (path / MAIN_FILE).is_file():
        return Path(os.path.normpath(path))
    missing = "is no folder" if not path.is_dir() else f"holds no {MAIN_FILE}"
    given = shown_text(str(folder))
    raise ConfigError(
        f"{origin}: {shown_text(str(path))} {missing}; name a project's folder, or make one with: dwhctl init {given}"
    )
