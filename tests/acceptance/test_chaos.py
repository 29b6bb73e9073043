"""Commands that are killed, stopped and cut off at random moments: no row is lost or doubled, and the next run repairs.

Each round starts one to three commands at once and disturbs them after random times; then one run that nothing
disturbs must repair what they left. All rows of a slice hold its version and its number of rows, so that half a slice,
or two in one, is seen; another thread looks at the target all the time.

DWHCTL_TEST_CHAOS_SEED repeats a run's choices, not its timing; DWHCTL_TEST_CHAOS_ROUNDS sets how many rounds it has.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import duckdb
import psycopg2
import pytest

from dwhctl.sessions import Session, State
from tests.support.faulty import (
    OwnPostgres,
    held_locks,
    own_postgres,
    postgres_sessions,
    processes_of_group,
    wait_until,
)
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import Sandbox
from tests.support.wire import a_wire, needs_faults

pytestmark = pytest.mark.long

SEED = int(os.environ.get("DWHCTL_TEST_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
ROUNDS = int(os.environ.get("DWHCTL_TEST_CHAOS_ROUNDS", "12"))
SERVERS = {"server_0": ["abakan", "achinsk"], "server_1": ["chita"]}
KEYS = 'retries = 2\nretry_delay = "1s"\ntimeout = "30s"\nmax_shrink = 1.0'
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Rows of a slice: shard, day, number, distinct keys, least and greatest version, number as written, etl_id.
SLICES = (
    "SELECT etl_source, CAST(start_time AS DATE), count(*), count(DISTINCT hash_id), min(amount), max(amount),"
    " min(customer), max(customer), min(etl_id), max(etl_id) FROM stage.orders"
    " GROUP BY etl_source, CAST(start_time AS DATE)"
)
#: What a reader meets while a server is restarted, or another process writes the file.
NOT_NOW = (duckdb.IOException, duckdb.CatalogException, psycopg2.Error)


@dataclass
class Chaos:
    """A project on one kind of warehouse. `terminate` ends server connections of the runs, `log` is what was done."""

    sandbox: Sandbox
    table: str = "orders"
    create: str | None = None
    terminate: Callable[[random.Random], None] | None = None
    random: random.Random = field(default_factory=lambda: random.Random(SEED))
    log: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    #: The versions of a slice: from when until when it was what the source holds, version, number of rows.
    versions: dict[tuple[str, date], list[list[Any]]] = field(default_factory=dict)
    seen: set[tuple[str, date]] = field(default_factory=set)
    usual: float = 2.0

    @property
    def days(self) -> list[date]:
        """The days that are loaded; they are over."""
        return [datetime.now(UTC).date() - timedelta(days=number) for number in range(1, 6)]

    # Sources

    def make(self) -> Chaos:
        """Fill every slice."""
        for shard in self.sandbox.shards():
            if self.create is not None:
                self.sandbox.in_shard(shard, self.create)
            for day in self.days:
                self.change(shard, day)
        return self

    def change(self, shard: str, day: date) -> None:
        """Replace a slice at the source by its next version, in one transaction."""
        history = self.versions.setdefault((shard, day), [])
        version, rows = len(history) + 1, self.random.choice([1, 3, 20, 60])
        values = ", ".join(
            f"({day.toordinal() * 1000 + number}, '{rows}', {version}, '{day}T{number % 24:02}:00:00')"
            for number in range(rows)
        )
        first = day.toordinal() * 1000
        before = time.time()
        self.sandbox.in_shard(
            shard,
            f"BEGIN TRANSACTION; DELETE FROM {self.table} WHERE id >= {first} AND id < {first + 1000};"
            f" INSERT INTO {self.table} (id, customer, amount, start_time) VALUES {values}; COMMIT",
        )
        if history:
            history[-1][1] = time.time()
        history.append([before, float("inf"), version, rows])

    # Commands and what happens to them

    def command(self) -> list[str]:
        """Choose a command."""
        choose = self.random.choice
        newest, oldest = sorted(choose(range(1, 6)) for _ in range(2))
        jobs, json = ["--jobs", str(choose([1, 2, 3, 4]))], choose([[], ["--format", "json"]])
        missing = choose([[], [], ["--only-missing"]])
        return choose(
            [
                ["load", "--date", f"-{newest}d", *jobs, *json],
                ["load", "--date", "yesterday", "--lookback", "2", *jobs, *missing],
                ["backfill", "-s", f"-{oldest}d", "-e", f"-{newest}d", *jobs, *missing, *json],
                ["backfill", "-s", "-5d", "-e", "yesterday", "--reverse", *jobs],
                ["verify", "-s", f"-{oldest}d", "-e", f"-{newest}d"],
                choose(
                    [["watch"], ["report", "gaps"], ["page", "--output", str(self.sandbox.root / "p.html")]]
                ),
            ]
        )

    def disturb(self, process: Popen[str]) -> None:
        """Do something to a process, one of those below it, or the connections."""
        below = [child for child in processes_of_group(process.pid) if child != process.pid]
        whom = self.random.choice([[process.pid], [process.pid, *below], below[:1], below[-1:]])
        what = self.random.choice(["signal", "signal", "stop", "terminate"])
        if what == "terminate" and self.terminate is not None:
            self.log.append(f"connections terminated while {process.pid} runs")
            self.terminate(self.random)
            return
        one = signal.SIGSTOP if what == "stop" else self.random.choice(SIGNALS)
        self.log.append(f"{one.name} to {whom} of {process.pid}")
        for pid in whom:
            with suppress(ProcessLookupError):
                os.kill(pid, one)
        if one is signal.SIGSTOP:
            time.sleep(self.random.uniform(0.2, 3))
            for pid in whom:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def round(self) -> None:
        """Start commands, disturb them, and have a run repair what they leave."""
        for _ in range(self.random.randint(0, 3)):
            self.change(self.random.choice(self.sandbox.shards()), self.random.choice(self.days))
        commands = [self.command() for _ in range(self.random.choice([1, 1, 2, 3]))]
        self.log.append(" | ".join(" ".join(command) for command in commands))
        processes = [self.sandbox.start(*command) for command in commands]
        began = time.monotonic()
        for at in sorted(
            self.random.uniform(0, 1.1 * self.usual) for _ in range(self.random.choice([0, 1, 1, 2]))
        ):
            time.sleep(max(0.0, began + at - time.monotonic()))
            if running := [process for process in processes if process.poll() is None]:
                self.disturb(self.random.choice(running))
        for command, process in zip(commands, processes, strict=True):
            self.ended(command, process)
        self.usual = 0.7 * self.usual + 0.3 * min(time.monotonic() - began, 8.0)
        self.look(self.sandbox.sessions_newest_first())
        self.repair()

    def ended(self, command: list[str], process: Popen[str]) -> None:
        """Wait for a command, and look at what it says."""
        try:
            out, err = process.communicate(timeout=150)
        except TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            self.wrong.append(f"{command} hangs: {err}")
        self.log.append(f"{command} ended with {process.returncode}")
        if process.returncode not in (0, 1, 75, 130, 143, *(-each for each in SIGNALS)):
            self.wrong.append(f"{command} ended with {process.returncode}: {out}{err}")
        if re.search("Traceback|internal error", out + err):
            self.wrong.append(f"{command}: {out}{err}")

    def repair(self) -> None:
        """Load what is missing, undisturbed: then all is complete and nothing is left over."""
        done = self.sandbox.run("backfill", "-s", "-5d", "-e", "yesterday", "--only-missing")
        if done.returncode:
            self.wrong.append(f"the repair ended with {done.returncode}: {done.stdout}{done.stderr}")
        sessions = self.sandbox.sessions_newest_first()
        self.wrong += [f"still running: {one}" for one in sessions if one.state is State.RUNNING]
        found = self.look(sessions)
        self.wrong += [f"missing after the repair: {each}" for each in self.versions.keys() - found]
        state = self.sandbox.root / "state"
        wait_until(lambda: not held_locks(state), "no lock is held", seconds=5)
        self.wrong += [f"left: {file}" for file in (state / "staging").rglob("*") if file.is_file()]

    # What must hold

    def slices(self) -> list[tuple[Any, ...]]:
        """Read the target's slices, and refuse what is not exactly one version of one slice."""
        rows = self.sandbox.warehouse(SLICES)
        for row in rows:
            _, _, count, ids, oldest, newest, least, most, first, last = row
            if not (count == ids == int(least) == int(most) and oldest == newest and first == last):
                self.wrong.append(f"half a slice, or two in one: {row}")
        found = {(row[0], row[1]) for row in rows}
        self.wrong += [f"vanished: {each}" for each in self.seen - found]
        self.seen |= found
        return rows

    def look(self, sessions: list[Session]) -> set[tuple[str, date]]:
        """Compare the target with what the sessions say, newest first, and with the sources' versions."""
        rows: dict[tuple[str, date], tuple[Any, ...]] = {(row[0], row[1]): row for row in self.slices()}
        by_id = {one.id: one for one in sessions}
        for slice_, row in rows.items():
            session = by_id.get(row[8])
            if session is None or (session.shard, session.day) != slice_ or session.successful is False:
                self.wrong.append(f"rows of another or a failed session: {row}, {session}")
                continue
            until = session.finished.timestamp() if session.finished else time.time()
            if not any(
                (float(row[4]), row[2]) == (version, rows_)
                and begin <= until + 1
                and end >= session.started.timestamp() - 1
                for begin, end, version, rows_ in self.versions[slice_]
            ):
                self.wrong.append(f"a version that the source did not hold: {row}, {session}")
        for slice_ in self.versions:
            good = [one for one in sessions if (one.shard, one.day) == slice_ and one.successful]
            if good and (slice_ not in rows or rows[slice_][8] < good[0].id):
                self.wrong.append(f"lost: {good[0]}, the target has {rows.get(slice_)}")
        return set(rows)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the target all the time."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.3):
                with suppress(*NOT_NOW):
                    self.slices()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def run(self) -> None:
        """Play all rounds, after a load of some days."""
        assert self.sandbox.run("load", "--date", "yesterday", "--lookback", "2").returncode == 0
        with self.watched():
            for number in range(ROUNDS):
                self.log.append(f"round {number}")
                self.round()
                log = "\n".join(self.log[-12:])
                assert not self.wrong, f"seed {SEED}, round {number}:\n" + "\n".join([*self.wrong, log])


def test_embedded(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SERVERS, timezone="UTC", max_workers=4, load_keys=KEYS).write()
    for shard in sandbox.shards():
        sandbox.fill(0, shards=[shard])
    Chaos(sandbox).make().run()


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    with own_postgres() as server:
        yield server


def end_backends(postgres: OwnPostgres) -> Callable[[random.Random], None]:
    """Return what terminates some of the server's connections, but those of this process."""

    def terminate(chosen: random.Random) -> None:
        with closing(postgres.server.connect("postgres")) as db, db.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND application_name LIKE 'dwhctl%'"
            )
            for (pid,) in cursor.fetchall():
                if chosen.random() < 0.5:
                    cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))

    return terminate


def test_postgres(tmp_path: Path, postgres: OwnPostgres) -> None:
    sessions = postgres_sessions(postgres.server, postgres.server.make_database())
    sandbox = PostgresSandbox(
        tmp_path,
        SERVERS,
        timezone="UTC",
        max_workers=4,
        load_keys=KEYS,
        sessions=sessions,
        server=postgres.server,
    )
    sandbox.write().fill(0)
    Chaos(sandbox, terminate=end_backends(postgres)).make().run()


@needs_faults
def test_over_the_wire(tmp_path: Path) -> None:
    with a_wire(tmp_path, SERVERS, timezone="UTC", max_workers=4, load_keys=KEYS) as wire:
        Chaos(wire, table="dbo.Orders").make().run()
