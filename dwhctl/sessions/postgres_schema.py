"""Makes the sessions table in PostgreSQL, or makes it out of one that others use meanwhile.

The one rule: nobody who uses the table ever waits for long. New columns need the table alone for an instant;
while dwhctl waits for that instant everybody else queues up behind it, so it gives up soon and tries again.
The indexes are built while others write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from psycopg2 import Error
from psycopg2 import errors as pg_errors

from dwhctl.core.errors import SessionsError
from dwhctl.core.waiting import waited
from dwhctl.sessions.schema import ExistingColumn, indexes, is_ours, misfits, missing, scripts_to_make
from dwhctl.systems.postgres.client import BoundedConnection, timeouts

# How long everybody else may queue behind one attempt; the pause after it; the time for all attempts.
ALONE_MILLISECONDS = 1000
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
# A build of an index waits for every transaction that began before it; nobody waits for the build.
INDEX_MILLISECONDS = 30_000
# How long one index may be built: some 100 million sessions take minutes.
INDEX_TIME = timedelta(hours=1)
# How long another upgrade of the same table may take.
OTHER_UPGRADE_SECONDS = 600.0
_KEY = 0x6477_6863_746C  # "dwhctl": the advisory lock of whoever upgrades
_log = logging.getLogger(__name__)


class Upgrade:
    """One look at the table, and what is to be done about it."""

    def __init__(self, connection: BoundedConnection, sql: Mapping[str, str], place: str) -> None:
        self._connection = connection
        self._sql = sql
        self._place = place

    def exists(self) -> bool:
        """Whether dwhctl's own columns stand there, those of this version or of an earlier one."""
        return self._exists() and is_ours(self._fitting_columns())

    def is_ready(self) -> bool:
        """Whether nothing is left to do. Needs no rights but to read."""
        return self.is_readable() and not self._indexes_to_make()

    def is_readable(self) -> bool:
        """Whether the table has its columns, and the tables beside it are there."""
        return self._exists() and not missing(self._fitting_columns()) and not self._tables_to_make()

    def run(self) -> None:
        """Create the table or bring it up to date; one dwhctl at a time."""
        with self._alone_among_upgrades() as alone:
            if not alone:
                return
            if not self._exists():
                self._create()
                return
            if missing(self._fitting_columns()):
                self._add_columns()
            for statement in self._tables_to_make():
                self._run(f"BEGIN; {statement}; COMMIT")
            for name, statement in self._indexes_to_make().items():
                self._make_index(name, statement)

    def _exists(self) -> bool:
        kind = self._rows(self._sql["table"])
        if kind and kind[0][0] != "r":
            raise SessionsError(self._refusal(["it is not an ordinary table"]))
        return bool(kind)

    def _fitting_columns(self) -> list[ExistingColumn]:
        columns = [ExistingColumn(*row) for row in self._rows(self._sql["columns"])]
        problems = misfits(columns, typed=True)
        if problems:
            raise SessionsError(self._refusal(problems))
        return columns

    def _refusal(self, problems: list[str]) -> str:
        return (
            f"{self._place}: a table `sessions` of another kind stands there: {'; '.join(problems)}. "
            "Name another database in the connection, give its user another search_path, or rename that table"
        )

    def _create(self) -> None:
        created = [
            self._sql["create_table"],
            self._sql["add_columns"],
            *indexes(self._sql).values(),
            *self._tables_to_make(),
        ]
        self._run("; ".join(["BEGIN", *created, "COMMIT"]))

    def _add_columns(self) -> None:
        parts = [
            "BEGIN",
            f"SET LOCAL lock_timeout = {ALONE_MILLISECONDS}",
            "LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE",
            self._sql["add_columns"],
            self._sql["lift_sequence"],
            "COMMIT",
        ]
        until = time.monotonic() + PATIENCE_SECONDS
        with waited(PATIENCE_SECONDS) as waiting:
            while True:
                try:
                    self._run("; ".join(parts))
                    return
                except pg_errors.LockNotAvailable:
                    if time.monotonic() > until:
                        raise SessionsError(self._in_use()) from None
                waiting.note(
                    lambda: f"{self._users()}: it uses the table sessions, which is to get new columns"
                )
                time.sleep(PAUSE_SECONDS)

    def _users(self) -> str:
        users = [
            f"pid {pid} ({' '.join(filter(None, facts))})" for pid, *facts in self._rows(self._sql["users"])
        ]
        return ", ".join(users) or "another program"

    def _in_use(self) -> str:
        return (
            f"{self._place}: the table is to get dwhctl's columns, and {self._users()} "
            "did not let go of it for a minute; nothing was changed. End that transaction and try again"
        )

    def _make_index(self, name: str, statement: str) -> None:
        """Build one index while others write.

        An index is speed, not truth: when somebody's old transaction keeps it from being built, dwhctl goes
        on without it, and the next `prepare` tries again.
        """
        self._run(f"{timeouts(INDEX_TIME)}; SET lock_timeout = {INDEX_MILLISECONDS}")
        try:
            if self._is_left_over(name):
                self._run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", INDEX_TIME)
            self._run(statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1), INDEX_TIME)
        except (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected, pg_errors.QueryCanceled) as error:
            reason = str(error).partition("\n")[0]
            _log.warning("%s: the index %s is not built yet: %s", self._place, name, reason)
        finally:
            self._reset_timeouts()

    def _is_left_over(self, name: str) -> bool:
        # What a build that broke off left behind costs every write and serves no query.
        return (name, False) in self._rows(self._sql["indexes"])

    def _reset_timeouts(self) -> None:
        if not self._connection.closed:
            self._run(timeouts(self._connection.answer_timeout))

    def _tables_to_make(self) -> list[str]:
        present = {name for (name,) in self._rows(self._sql["tables"])}
        return scripts_to_make(self._sql, present)

    def _indexes_to_make(self) -> dict[str, str]:
        valid = {name for name, is_valid in self._rows(self._sql["indexes"]) if is_valid}
        return {name: sql for name, sql in indexes(self._sql).items() if name not in valid}

    @contextmanager
    def _alone_among_upgrades(self) -> Iterator[bool]:
        """Holds the lock of whoever upgrades; False if another holds it and only builds indexes."""
        if not self._take_lock():
            yield False
            return
        try:
            yield True
        finally:
            if not self._connection.closed:
                self._run(f"SELECT pg_advisory_unlock({_KEY})")

    def _take_lock(self) -> bool:
        # Asked for again and again instead of waited for: a statement that waits holds a snapshot, and the
        # other's build of an index would wait for that.
        until = time.monotonic() + OTHER_UPGRADE_SECONDS
        with waited(OTHER_UPGRADE_SECONDS) as waiting:
            while not self._rows(f"SELECT pg_try_advisory_lock({_KEY})")[0][0]:
                if self._exists() and not missing(self._fitting_columns()):
                    return False
                if time.monotonic() > until:
                    raise SessionsError(f"{self._place}: another dwhctl takes too long to upgrade the table")
                waiting.note(lambda: f"another dwhctl, which upgrades the table in {self._place}")
                time.sleep(0.1)
        return True

    def _run(self, sql: str, timeout: timedelta | None = None) -> None:
        try:
            self._connection.execute(sql, timeout=timeout)
        except Error:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()
