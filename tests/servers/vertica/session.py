"""A session: from the login to the end of the connection, one statement after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from tests.servers.base import Fault, Gone, Link
from tests.servers.vertica import rows, wire
from tests.servers.vertica.catalog import Table, User
from tests.servers.vertica.kinds import INT
from tests.servers.vertica.lexer import Sql
from tests.servers.vertica.problems import (
    VerticaError,
    canceled,
    deadlock,
    from_duckdb,
    missing_relation,
    read_only_transaction,
)
from tests.servers.vertica.store import Work
from tests.servers.vertica.wire import Shown

if TYPE_CHECKING:
    from tests.servers.vertica.server import VerticaServer

#: Octets that gather before they are sent.
_GATHER = 1 << 17
_FAULTS = ("error", "reset", "close", "deadlock", "hang_query")


class Session:
    """What a client has while it is logged in."""

    def __init__(
        self, server: VerticaServer, link: Link, user: User, given: dict[str, str], key: int
    ) -> None:
        self.server = server
        self.link = link
        self.user = user
        # docs: WARNING 7166, "client_label exceeded maximum length; truncated to 255 characters"
        self.label = given.get("client_label", "")[:255]
        self.client_type = given.get("client_type", "")
        self.given = given
        self.os_user = given.get("client_os_user_name", "")
        self.os_host = given.get("client_os_hostname", "")
        self.protocol = int(given.get("protocol_version", "0"))
        self.client_pid = int(given.get("client_pid", "0") or 0)
        self.binary = given.get("binary_data_protocol") == "1"
        self.autocommit = given.get("autocommit") == "on"
        self.number = link.number
        self.key = key
        self.since = time.time()
        self.identifier = f"v_{server.database}_node0001-{key & 0xFFFF}:0x{self.number:x}"
        self.connection = server.store.connect()
        self.zone = "UTC"
        #: Whether transactions that begin now, and the one that is open, are read only.
        self.read_only = False
        self.work_is_read_only = False
        self.lock_timeout = server.lock_timeout
        self.current_statement = ""
        #: Rows of the last COPY.
        self.accepted: int | None = None
        self.rejected: int | None = None
        self.work: Work | None = None
        self._gathered: list[bytes] = []
        self._size = 0
        self._guard = threading.Lock()
        self._interruptible = False
        self._canceled = False
        self._described = False

    @property
    def transaction_id(self) -> int | None:
        """The number of the open transaction."""
        return self.work.number if self.work is not None else None

    @property
    def ssl_state(self) -> str:
        """As v_monitor.sessions has it: None, Server or Mutual."""
        tls = self.link.tls
        if tls is None:
            return "None"
        return "Mutual" if tls.getpeercert(binary_form=True) else "Server"

    # --- sending

    def put(self, data: bytes) -> None:
        """Send, together with what comes next."""
        self._gathered.append(data)
        self._size += len(data)
        if self._size > _GATHER:
            self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        data = b"".join(self._gathered)
        self._gathered, self._size = [], 0
        if data:
            self.link.send(data)

    def put_columns(self, columns: Sequence[Shown]) -> None:
        """Send what the columns are, unless a Describe has told it."""
        if not self._described:
            self.put(wire.row_description(columns, self.binary))

    def put_batches(self, columns: Sequence[Shown], batches: Iterator[Any]) -> int:
        """Send rows; returns how many."""
        count = 0
        for batch in batches:
            count += batch.num_rows
            for piece in rows.messages(columns, batch, self.binary, self.zone):
                self.put(piece)
        return count

    def put_count(self, tag: str, count: int) -> None:
        """The answer to INSERT, UPDATE and DELETE: one row with the number of rows."""
        self.put_columns([Shown("OUTPUT", INT)])
        self.put_number(count)
        self.put(wire.complete(tag))

    def put_number(self, count: int) -> None:
        """A row with one number."""
        batch = pa.record_batch([pa.array([count], pa.int64())], names=["OUTPUT"])
        self.put_batches([Shown("OUTPUT", INT)], iter([batch]))

    # --- being ended or canceled

    def interrupt(self) -> None:
        """Stop what runs (from another thread): the connection ends, or the statement is canceled."""
        with self._guard:
            if self._interruptible:
                self.connection.interrupt()
        self.server.locks.wake()

    def cancel(self) -> None:
        """Cancel the running statement, from another thread."""
        self._canceled = True
        self.interrupt()

    def check(self) -> None:
        """Raise when the statement is to stop."""
        if self.link.ending:
            raise Gone("ended by the server")
        if self._canceled:
            raise canceled()

    @contextmanager
    def running(self, sql: str) -> Iterator[None]:
        """The time of a statement; errors of the engine come out as Vertica's."""
        self.current_statement = sql
        self._canceled = False
        self._set_interruptible(True)
        try:
            self.check()
            yield
        except duckdb.InterruptException:
            self.check()
            raise canceled() from None
        except duckdb.Error as error:
            raise from_duckdb(error) from None
        finally:
            self._set_interruptible(False)
            self.current_statement = ""

    def _set_interruptible(self, value: bool) -> None:
        with self._guard:
            self._interruptible = value

    # --- faults

    def fault(self, *kinds: str, sql: str) -> Fault | None:
        """A fault of these kinds for this statement; it counts as struck."""
        return self.server.faults.take(
            *kinds, database=self.server.database, statement=sql, application=self.label
        )

    def meet_faults(self, sql: str) -> Fault | None:
        """Let strike what is switched on for this statement; returns the one that waits for octets of a COPY."""
        slow = self.fault("slow", sql=sql)
        if slow is not None:
            self.link.sleep(slow.seconds)
        found = self.server.faults.find(
            *_FAULTS, database=self.server.database, statement=sql, application=self.label
        )
        if found is None:
            return None
        if found.after_bytes:
            return found
        self.strike(found)
        return None

    def strike(self, fault: Fault) -> None:
        """Do what a fault says."""
        if not self.server.faults.strike(fault):
            return
        if fault.kind == "reset":
            self.link.reset()
        elif fault.kind == "close":
            self.link.close()
        elif fault.kind == "deadlock":
            raise deadlock()
        elif fault.kind == "hang_query":
            self._hang()
        elif fault.kind == "error":
            sqlstate, code, said = fault.error or ("XX000", 2000, "switched on by a test")
            raise VerticaError(str(sqlstate), int(str(code)), str(said))

    def _hang(self) -> None:
        while True:
            self.check()
            if self.link.pending():
                self.link.receive_some()
            self.link.sleep(0.02)

    # --- transactions

    def begin(self) -> Work:
        """The open transaction; begins one when there is none."""
        if self.work is None:
            self.work = self.server.store.begin()
            self.work_is_read_only = self.read_only
        return self.work

    def refuse_writing(self) -> None:
        """Raise when the open transaction, or the one that would begin, is read only."""
        if self.work_is_read_only if self.work is not None else self.read_only:
            raise read_only_transaction()

    def commit(self, sql: str | None = None) -> None:
        """Commit; `sql` is the statement whose faults may strike here."""
        if sql is not None and self.fault("lost_before_commit", sql=sql):
            self.rollback()
            self.link.reset()
        if sql is not None and (late := self.fault("late_commit", sql=sql)):
            self.link.sever()
            self.link.sleep(late.seconds)
        work, self.work = self.work, None
        try:
            if work is not None:
                self.server.store.commit(work, self.connection)
        finally:
            self.server.locks.release(self.number)
        if sql is not None and self.fault("lost_after_commit", sql=sql):
            self.link.reset()

    def rollback(self) -> None:
        """Undo the open transaction."""
        self._set_interruptible(False)
        work, self.work = self.work, None
        try:
            if work is not None:
                self.server.store.rollback(work, self.connection)
        finally:
            self.server.locks.release(self.number)

    def lock(self, table: Table, mode: str) -> None:
        """Wait for a lock on a table; it is held to the end of the transaction."""
        self.begin()
        self.server.locks.acquire(
            self.number, self._owner(), table.full_name, mode, self.lock_timeout, self.check
        )
        if self.server.catalog.find((table.schema, table.name)) is not table:
            # Dropped by the one who held it.
            raise missing_relation(table.full_name)

    def _owner(self) -> str:
        return f"user {self.user.name} ({self.label})"

    # --- statements

    def simple(self, sql: Sql, *, described: bool = False) -> None:
        """Run a statement and send its answer, without its columns where they are known; the caller sends errors."""
        from tests.servers.vertica.statements import execute

        self.server.note(
            sql.text,
            database=self.server.database,
            user=self.user.name,
            application=self.label,
            session=self.number,
        )
        self._described = described
        with self.running(sql.text):
            waiting = self.meet_faults(sql.text)
            execute(self, sql, waiting)
            if self.autocommit and self.work is not None:
                self.commit(sql.text)

    def close(self) -> None:
        """The end: what is not committed is undone."""
        self.link.on_end = None
        with suppress(duckdb.Error):
            self.rollback()
        self.connection.close()
