"""Makes things go wrong in a process of dwhctl under test, and in its workers, which inherit the environment.

Python imports this file at its start when the tests put its folder on PYTHONPATH; nothing in dwhctl knows of it.
DWHCTL_TEST_FAULTS is JSON: where to log each point that is reached, and what to do at some of them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

#: The run: a worker is forked from a child of it that has imported this file.
_RUN = os.getppid()
_ROLE = "worker" if any("worker_process" in argument for argument in sys.orig_argv) else "parent"


class Faults:
    """Logs each point, and does what a rule says at its n-th time, counted over all processes of the run."""

    def __init__(self, text: str) -> None:
        wanted = json.loads(text)
        self._log = Path(wanted["log"])
        self._rules = wanted["rules"]

    def __call__(self, point: str) -> None:
        count = self._count(point)
        for rule in self._rules:
            if rule["point"] == point and count in range(rule["nth"], rule["until"] + 1):
                self._do(rule["do"])

    def _count(self, point: str) -> int:
        with self._log.open("a+") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            log.write(f"{point} {_ROLE} {os.getpid()}\n")
            log.flush()
            log.seek(0)
            return sum(line.split()[0] == point for line in log)

    def _do(self, action: str) -> None:
        parent = _RUN if _ROLE == "worker" else os.getpid()
        if action == "kill":
            os.kill(parent, signal.SIGKILL)
        elif action == "kill group":
            os.killpg(os.getpgid(parent), signal.SIGKILL)
        elif action == "kill worker":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "warn":
            logging.getLogger("a.driver").warning("the server says %s", os.environ.get("A_TOKEN"))
            return
        elif action != "pause":
            raise ValueError(action)
        self._pause()

    def _pause(self) -> None:
        """Wait until the test says go on; a kill takes its time, too."""
        while not self._log.with_suffix(".go").exists():
            time.sleep(0.01)


if "DWHCTL_TEST_FAULTS" in os.environ:
    import dwhctl.core.faults

    dwhctl.core.faults.handler = Faults(os.environ["DWHCTL_TEST_FAULTS"])
