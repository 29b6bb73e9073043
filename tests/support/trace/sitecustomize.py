"""Writes which files of dwhctl have a function that ran, in a process of dwhctl under test and in its workers.

Python imports this file at its start when the tests put its folder on PYTHONPATH. DWHCTL_TEST_TRACE is the file to
append to: a line for each file and role. What runs while a module is imported does not count.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

_ROLE = "worker" if any("worker_process" in argument for argument in sys.orig_argv) else "parent"


class Trace:
    """A profile function that writes each file once."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._known: set[CodeType] = set()
        self._files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call" or code in self._known:
            return
        path = code.co_filename
        if "/dwhctl/" not in path or path in self._files or not code.co_flags & inspect.CO_OPTIMIZED:
            self._known.add(code)
            return
        if not _is_importing(frame):
            self._known.add(code)
            self._files.add(path)
            with self._path.open("a") as file:
                file.write(f"{_ROLE} {path}\n")


def _is_importing(frame: FrameType) -> bool:
    current: FrameType | None = frame
    while current is not None:
        if current.f_code.co_filename.startswith("<frozen importlib"):
            return True
        current = current.f_back
    return False


if _path := os.environ.get("DWHCTL_TEST_TRACE"):
    _trace = Trace(_path)
    threading.setprofile(_trace)
    sys.setprofile(_trace)
