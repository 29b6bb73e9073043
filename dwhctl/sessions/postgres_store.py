"""The sessions table in PostgreSQL: for production, and for dwhctl on several machines.

Other programs use the table meanwhile, and none of them ever waits for long. New columns need the table alone for an
instant; while dwhctl waits for it everybody else queues behind, so it gives up soon and tries again. Indexes are built
while others write.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errors as pg_errors
from psycopg2.extensions import PYDATE, PYDATETIMETZ, new_type
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from dwhctl.core import faults
from dwhctl.core.errors import SessionsError
from dwhctl.core.waiting import poll
from dwhctl.core.words import shown_time
from dwhctl.sessions.schema import Schema, indexes, missing, percent_style, read_statements
from dwhctl.sessions.store import Rows, SessionStore
from dwhctl.sessions.values import COMMENT_LENGTH, FIRST, LAST, Held, as_day, as_time, cut_comment, storable
from dwhctl.systems.postgres.client import BoundedConnection, connect, timeouts, translate_error, where

if TYPE_CHECKING:
    from dwhctl.systems.postgres.system import PostgresConnection

# How long everybody else may queue behind one attempt; the pause after it; the time for all attempts.
ALONE_MILLISECONDS = 1000
PAUSE_SECONDS = 2.0
UPGRADE_LOCK_SECONDS = 60.0
# A build of an index waits for every transaction that began before it; no other program waits for the build.
INDEX_MILLISECONDS = 30_000
# How long one index may be built: some 100 million sessions take minutes.
INDEX_TIME = timedelta(hours=1)
# How long another upgrade of the same table may take.
OTHER_UPGRADE_SECONDS = 600.0
_KEY = 0x6477_6863_746C  # "dwhctl": the advisory lock of an upgrade
# Two programs that locked the same rows in a different order: the server ends the transaction of one of them.
_CONFLICTS = (pg_errors.DeadlockDetected, pg_errors.SerializationFailure)
_CANNOT_NOW = (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected, pg_errors.QueryCanceled)
_log = logging.getLogger(__name__)


class PostgresSchema(Schema):
    """The tables in a PostgreSQL database."""

    typed = True
    remedy = "Set another database in the connection, give its user another search_path"

    def __init__(self, connection: BoundedConnection, sql: Mapping[str, str], place: str) -> None:
        super().__init__(sql, place, lambda statement: connection.execute(statement).fetchall())
        self._connection = connection

    def make(self) -> None:
        """Create the table or upgrade it; one dwhctl at a time."""
        with self._alone_among_upgrades() as is_alone:
            if not is_alone:
                return
            if not self._has_table():
                created = [self._sql["create_table"], self._sql["add_columns"], *indexes(self._sql).values()]
                self._run("; ".join(["BEGIN", *created, *self._tables_to_make(), "COMMIT"]))
                return
            if missing(self._columns()):
                self._add_columns()
            for statement in self._tables_to_make():
                self._run(f"BEGIN; {statement}; COMMIT")
            for name, statement in self._indexes_to_make().items():
                self._change_index(name, statement)
            for name, statement in self._indexes_to_drop().items():
                if not self._change_index(name, statement):
                    break  # the next one would wait as long for the same transaction

    def _add_columns(self) -> None:
        parts = [
            "BEGIN",
            f"SET LOCAL lock_timeout = {ALONE_MILLISECONDS}",
            "LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE",
            self._sql["add_columns"],
            self._sql["raise_sequence"],
            "COMMIT",
        ]

        def try_once() -> bool:
            with suppress(pg_errors.LockNotAvailable):
                self._run("; ".join(parts))
                return True
            return False

        words = "it uses the table sessions, which is to get new columns"
        if not poll(try_once, UPGRADE_LOCK_SECONDS, PAUSE_SECONDS, lambda: f"{self._users()}: {words}"):
            raise SessionsError(
                f"{self._place}: the table is to get dwhctl's columns, and {self._users()} "
                "did not release it for a minute; nothing was changed. End that transaction and try again"
            )

    def _users(self) -> str:
        rows = self._rows(self._sql["users"])
        return (
            ", ".join(f"pid {pid} ({' '.join(filter(None, of))})" for pid, *of in rows) or "another program"
        )

    def _change_index(self, name: str, statement: str) -> bool:
        """Build or drop one index while others write. Return whether that is done.

        All works without an index, and with one too many: where an old transaction of another program prevents the
        change, dwhctl goes on, and the next `prepare` tries again. Nor does it need the right to drop one.
        """
        is_new = statement.startswith("CREATE")
        expected = _CANNOT_NOW if is_new else (*_CANNOT_NOW, pg_errors.InsufficientPrivilege)
        self._run(f"{timeouts(INDEX_TIME)}; SET lock_timeout = {INDEX_MILLISECONDS}")
        try:
            # What an interrupted build left behind costs every write and serves no query.
            if (name, False) in self._rows(self._sql["indexes"]):
                self._run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", INDEX_TIME)
            self._run(statement.replace(" INDEX", " INDEX CONCURRENTLY", 1), INDEX_TIME)
        except expected as error:
            reason = str(error).partition("\n")[0]
            done = "built" if is_new else "dropped"
            _log.warning("%s: the index %s is not %s yet: %s", self._place, name, done, reason)
            return False
        finally:
            if not self._connection.closed:
                self._run(timeouts(self._connection.answer_timeout))
        return True

    @contextmanager
    def _alone_among_upgrades(self) -> Iterator[bool]:
        """Hold the lock of upgrades; yield False if another holds it and only builds indexes."""
        # Polled: a statement that waits holds a snapshot, and the other's build of an index would wait for that.
        has_columns = False

        def try_once() -> bool:
            nonlocal has_columns
            if self._rows(f"SELECT pg_try_advisory_lock({_KEY})")[0][0]:
                return True
            has_columns = self._has_table() and not missing(self._columns())
            return has_columns

        words = f"another dwhctl, which upgrades the table in {self._place}"
        if not poll(try_once, OTHER_UPGRADE_SECONDS, 0.1, lambda: words):
            raise SessionsError(f"{self._place}: another dwhctl takes too long to upgrade the table")
        try:
            yield not has_columns
        finally:
            if not has_columns and not self._connection.closed:
                self._run(f"SELECT pg_advisory_unlock({_KEY})")

    def _run(self, sql: str, timeout: timedelta | None = None) -> None:
        try:
            self._connection.execute(sql, timeout=timeout)
        except psycopg2.Error:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise


class PostgresStore(SessionStore):
    """The store in one PostgreSQL database, over one connection.

    The connection is in autocommit: every operation is one statement, so one transaction and one round trip. The store
    is lost when one of them is not answered within `answer_timeout`.
    """

    is_shared = True
    _prune = ("prune",)
    _writes_arrays = True
    _driver_error = psycopg2.Error

    def __init__(self, address: PostgresConnection, *, host: str, answer_timeout: timedelta) -> None:
        self._plain = read_statements("postgres")
        super().__init__(host, {name: percent_style(sql) for name, sql in self._plain.items()})
        self._address = address
        self._held: set[str] = set()
        self._connection = connect(address, self._plain["connect"], answer_timeout)
        for kind in _TYPES:
            self._connection.read_as(kind)
        encoding = self._connection.info.parameter_status("server_encoding")
        self._ascii_only = encoding not in {"UTF8", "SQL_ASCII"}
        self._ellipsis = "..." if self._ascii_only else "…"

    @property
    def _schema(self) -> Schema:
        return PostgresSchema(self._connection, self._plain, where(self._address))

    def _make(self) -> None:
        faults.reach("sessions.prepare.begin")
        self._schema.make()
        faults.reach("sessions.prepare.done")

    def raise_id_floor(self, above: int) -> None:
        self.read("raising the lowest next id", "raise_id_floor", {"above": above})

    def try_hold_run(self, run_id: str) -> bool:
        with self._lock:
            if run_id in self._held:
                self.check_alive()
                return True
            doing = f"taking the lock of run {run_id}"
            [(is_taken, pid)] = self.read(doing, "hold", {"key": lock_key(run_id)})
            self._refuse_pooler(int(pid))
            if is_taken:
                self._held.add(run_id)
            return bool(is_taken)

    def _refuse_pooler(self, pid: int) -> None:
        # Behind a pooler the lock belongs to a server connection that is not ours to hold.
        if pid != self._connection.info.backend_pid:
            self.close_connection()
            raise SessionsError(
                f"{where(self._address)}: this is a connection pooler, and the lock of a run needs a direct "
                f"connection; name the server itself in connections.{self._address.name}"
            )

    def release_run(self, run_id: str) -> None:
        with self._lock:
            if run_id in self._held:
                self.read(f"releasing run {run_id}", "release", {"key": lock_key(run_id)})
                self._held.discard(run_id)

    def hold_work(self, names: Sequence[str]) -> Held | None:
        values = {"names": list(names), "keys": [work_key(name) for name in names]}
        with self._lock:
            rows = self.read("taking the locks of the work", "hold_work", values)
            refused = next((name for name, is_taken in rows if not is_taken), None)
            if refused is None:
                return None
            self.release_work([name for name, is_taken in rows if is_taken])
            return Held(refused, self._holder(work_key(refused)))

    def _holder(self, key: int) -> str:
        rows = self.read("reading who holds a lock", "holder", {"key": key})
        if not rows:
            return "another dwhctl, which has just released it"
        name, since = rows[0]
        return f"{name} (since {shown_time(since)})"

    def release_work(self, names: Sequence[str]) -> None:
        keys = [work_key(name) for name in names]
        self.read("releasing the locks of the work", "release_work", {"keys": keys})

    def check_alive(self) -> None:
        self.read("checking the connection", "alive", {})

    def hurry(self) -> None:
        self._connection.hurry()

    def _begin(self) -> None:
        self._connection.execute("BEGIN")

    @contextmanager
    def _written(
        self, doing: str, whats: Sequence[str], steps: Sequence[tuple[str, Mapping[str, object]]]
    ) -> Iterator[Rows]:
        # One statement commits at once: one round trip less.
        [what], [(statement, values)] = whats, steps
        with self._operation(doing):
            faults.reach(f"sessions.{what}.begin")
            try:
                rows = self._execute(statement, values)
            except _CONFLICTS:
                rows = self._executed_again(statement, values)
            faults.reach(f"sessions.{what}.done")
        yield rows

    def _executed_again(self, statement: str, values: Mapping[str, object]) -> Rows:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt  # not at start-up

        attempts = Retrying(
            retry=retry_if_exception_type(_CONFLICTS), stop=stop_after_attempt(2), reraise=True
        )
        return attempts(self._execute, statement, values)

    @contextmanager
    def _operation(self, doing: str) -> Iterator[None]:
        with self._lock, translate_error(self._connection, self._address, doing):
            yield

    def _encode(self, value: object) -> object:
        if isinstance(value, list):
            return [self._encode(item) for item in value]
        return self._storable(value) if isinstance(value, str) else value

    def _storable(self, text: str) -> str:
        text = storable(text)
        return text.encode("ascii", "backslashreplace").decode("ascii") if self._ascii_only else text

    def _comment(self, text: str | None) -> str | None:
        """Return a comment as the database's encoding can hold it: no letter may keep a session open."""
        text = cut_comment(text)
        if text is None or not self._ascii_only:
            return text
        plain = self._storable(text.replace("…", "..."))
        return plain if len(plain) <= COMMENT_LENGTH else plain[: COMMENT_LENGTH - 3] + "..."


def _bounded(kind: Any, name: str, make: Callable[[Any], Any], first: Any, last: Any) -> Any:
    """Return a type of psycopg2 that reads `infinity` or the year 10000 as the limit of Python's times."""

    def read(text: Any, cursor: Cursor) -> Any:
        if text is None:
            return None
        try:
            return make(kind(text, cursor))
        except (ValueError, OverflowError, psycopg2.Error):
            return first if text.startswith("-") or text.endswith("BC") else last

    return new_type(kind.values, name, read)


_TYPES = (
    _bounded(PYDATETIMETZ, "dwhctl_time", as_time, FIRST, LAST),
    _bounded(PYDATE, "dwhctl_day", as_day, FIRST.date(), LAST.date()),
)


def lock_key(run_id: str) -> int:
    """Return the key of the run's advisory lock: the same on every machine and in every version of dwhctl."""
    return _key(f"dwhctl run {run_id}")


def work_key(name: str) -> int:
    """Return the key of the advisory lock of a load's day, or of a report, by the name of its lock."""
    return _key(f"dwhctl work {name}")


def _key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
