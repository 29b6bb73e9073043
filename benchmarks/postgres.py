"""PostgreSQL to PostgreSQL: `dwhctl load` beside psycopg2's COPY out and binary COPY in alone.

python -m benchmarks.postgres [ROWS]      (5,000,000 by default, in one slice)
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil

from tests.postgres import PostgresServer, any_server
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import DAY


def copy_alone(server: PostgresServer, source: str, target: str) -> float:
    """Return the seconds of a binary COPY out into a file and a binary COPY in from it."""
    with (
        tempfile.TemporaryFile() as file,
        closing(server.connect(source)) as reader,
        closing(server.connect(target)) as writer,
    ):
        began = time.perf_counter()
        reader.cursor().copy_expert("COPY orders TO STDOUT (FORMAT binary)", file)
        file.seek(0)
        cursor = writer.cursor()
        cursor.execute(
            "CREATE TABLE alone (id bigint, customer text, amount numeric(18,2), start_time timestamp)"
        )
        cursor.copy_expert("COPY alone FROM STDIN (FORMAT binary)", file)
        return time.perf_counter() - began


class PeakPss:
    """Measures the highest sum of the proportional set sizes of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self.octets = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            total = 0
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.octets = max(self.octets, total)

    def end(self) -> int:
        """Stop, and return the peak in octets."""
        self._ended.set()
        self._thread.join()
        return self.octets


def main(rows: int) -> None:
    """Fill a shard, copy it, load it, and print the seconds."""
    with any_server() as server, tempfile.TemporaryDirectory() as folder:
        sandbox = PostgresSandbox(
            Path(folder) / "project", servers={"server_0": ["abakan"]}, server=server
        ).write()
        try:
            sandbox.fill(rows)
            alone = copy_alone(server, sandbox.databases["abakan"], sandbox.databases["warehouse"])
            began = time.perf_counter()
            process = sandbox.start("load", "--date", str(DAY))
            peak = PeakPss(process.pid)
            _, errors = process.communicate()
            seconds = time.perf_counter() - began
            octets = peak.end()
            if process.returncode:
                raise SystemExit(errors)
            print(f"{rows:,} rows: COPY out and in alone {alone:.1f} s")
            print(
                f"dwhctl load {seconds:.1f} s ({seconds / alone:.2f} times), peak PSS {octets / 2**20:.0f} MiB"
            )
        finally:
            sandbox.drop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000)
