"""ClickHouse for the tests: the real engine (chdb) behind its HTTP interface, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from dwhctl.core.secrets import Secret
from dwhctl.systems.clickhouse.system import ClickHouseConnection

USER, PASSWORD = "dwh", "Geheim 1'2"
_START_SECONDS = 60.0


@dataclass
class ClickHouseServer:
    """A server on a folder. `kill` leaves what a crash of the server leaves; `start` goes on with it."""

    folder: Path
    profile: dict[str, Any] = field(default_factory=dict)
    certificate: Path | None = None
    zone: str = "UTC"
    port: int = 0
    _process: subprocess.Popen[str] | None = None

    def start(self) -> ClickHouseServer:
        """Start, on the port that it had before."""
        order = {
            "folder": str(self.folder), "port": self.port, "profile": self.profile, "user": USER, "password": PASSWORD,
            "certificate": str(self.certificate) if self.certificate else None,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.clickhouse.serve", json.dumps(order)],
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=Path(__file__).parents[3],
                env={**os.environ, "TZ": self.zone},
            )  # fmt: skip
        said: IO[str] | None = self._process.stdout
        assert said is not None
        line = said.readline()
        assert line, (self.folder / "server.log").read_text()
        self.port = int(line)
        return self

    def connection(self, **keys: Any) -> ClickHouseConnection:
        """A connection to it."""
        given: dict[str, Any] = {"name": "dwh", "host": "127.0.0.1", "port": self.port, "user": USER}
        return ClickHouseConnection(**{**given, "password": Secret(PASSWORD), **keys})

    def query(self, sql: str, **settings: Any) -> list[list[str | None]]:
        """Run a statement over HTTP; every value of the answer as the server's text."""
        url = f"http://127.0.0.1:{self.port}/?{urlencode({**settings, 'default_format': 'JSONCompactStringsEachRow'})}"
        return texts_of(url, sql, USER, PASSWORD)

    def fault(self, kind: str, match: str, times: int = 1) -> None:
        """Order a fault of the next statements that match: `drop` before it, `lose` its answer, `hang` after it."""
        asked = urlencode({"kind": kind, "match": match, "times": times})
        with urlopen(Request(f"http://127.0.0.1:{self.port}/fault?{asked}", method="POST"), timeout=10):
            pass

    def kill(self) -> None:
        """Kill the process, as the kernel or a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGKILL)

    def _end(self, how: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.kill(process.pid, how)
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()


def texts_of(url: str, sql: str, user: str, password: str) -> list[list[str | None]]:
    """Run a statement over HTTP; every value of the answer as the server's text."""
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    try:
        with urlopen(Request(url, data=sql.encode(), headers=headers), timeout=60) as answer:
            lines = answer.read().decode(errors="surrogateescape").split("\n")
    except HTTPError as error:
        raise AssertionError(f"{error.read().decode()}: {sql}") from error
    return [[None if value == "ᴺᵁᴸᴸ" else value for value in json.loads(line)] for line in lines if line]
