"""Another user of this machine: what the files' modes let them do, and what they are told."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dwhctl

#: A user without a name: no account of the machine is taken.
OTHER = 54321


@contextmanager
def other_user(uid: int = OTHER) -> Iterator[None]:
    """Be another user, without groups, in this process; the test is skipped where only root may."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    # Python and the packages may be where only root can read.
    for module in pkgutil.walk_packages(dwhctl.__path__, "dwhctl."):
        if not module.name.endswith(("__main__", ".templates")):
            importlib.import_module(module.name)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter: pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="dwhctl_open_"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
