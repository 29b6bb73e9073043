"""The system of `tests/csv_system`, installed as a package of others is: found by its entry point."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dwhctl.project import connections

FOLDER = Path(__file__).parents[1] / "csv_system"


def install(folder: Path, points: Mapping[str, str] | None = None, name: str = "dwhctl-csv") -> Path:
    """Write what pip writes for a package into a folder of sys.path: metadata and entry points.

    Without `points` they are those of the package's pyproject.toml, whose modules stay where they are (as with
    `pip install --editable`).
    """
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["dwhctl.systems"] if points is None else points
    info = folder / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    lines = [f"{kind} = {target}" for kind, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[dwhctl.systems]", *lines, ""]))
    return folder


def search_path(*folders: Path) -> dict[str, str]:
    """Return the environment in which a process finds the package, installed in one of the folders."""
    given = [entry for entry in [os.environ.get("PYTHONPATH", "")] if entry]
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), str(FOLDER), *given])}


@contextmanager
def registered() -> Iterator[None]:
    """Read the installed systems anew in the block, and again after it."""
    forget()
    try:
        yield
    finally:
        forget()


def forget() -> None:
    """Forget the systems that were read before."""
    connections._installed.cache_clear()
    for found in (connections.SYSTEMS, connections.CONNECTION_TYPES):
        vars(found)["_find"].cache_clear()
