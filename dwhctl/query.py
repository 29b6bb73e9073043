"""An ad hoc query over a connection of the project, streamed: read only unless it may write.

The statements run in a thread of their own, for a driver that waits in C hears no signal. What comes of them goes to
the caller in parts; when the caller ends early (Ctrl-C, a deadline, enough rows), the statement is ended on the server
too.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dwhctl.core.errors import LockHeldError, TargetBusyError, TimedOutError, UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import quoted
from dwhctl.project.days import format_duration
from dwhctl.project.names import find_connection, meant
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.slots import Slots
from dwhctl.systems.base.source import Cursor, Row, StatementResult, checked, wants_transaction
from dwhctl.systems.base.system import system_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dwhctl.project.connections import Connection
    from dwhctl.project.loads import Shard
    from dwhctl.project.model import Project

_BATCH_ROWS = 2_000
#: Batches that wait for the caller.
_AHEAD = 2
_GOODBYE_SECONDS = 0.2
_CANCEL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What was asked. `sql` is rendered; `limit` is how many rows of each answer are wanted, None for all."""

    connection: str
    sql: str
    database: str | None = None
    write: bool = False
    limit: int | None = None
    wait: timedelta = timedelta(0)
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class QueryColumns:
    """An answer begins, with these columns."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the answer."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The answer ends; `cut` when there are more rows than were wanted."""

    rows: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """A statement without an answer is done; `rows` is how many it wrote, None where the system does not say."""

    rows: int | None


Part = QueryColumns | Rows | AnswerEnd | Changed


def find_shard(project: Project, connection: str, name: str) -> Shard:
    """Return the shard of that name behind the connection. Raise UsageError."""
    shards = {
        shard.name: shard
        for group in project.shard_groups.values()
        for shard in group
        if shard.connection == connection
    }
    if name not in shards:
        raise UsageError(
            f"there is no shard {quoted(name)} behind {connection}; {meant(project, name, shards)}"
        )
    return shards[name]


@contextmanager
def running_query(project: Project, request: QueryRequest) -> Iterator[Iterator[Part]]:
    """Run the request's statements in the block, and give what comes of them.

    Raise UsageError before anything is touched, LockHeldError when the connection has no slot left, AttemptError in
    the words of the system, TimedOutError, Interrupted.
    """
    connection = find_connection(project, request.connection)
    cursor = system_of(connection).open_cursor(
        connection,
        request.database,
        write=request.write,
        timeout=request.timeout,
        state_dir=project.state_dir,
    )
    statements = checked(cursor, request.sql)
    with caught_signals(), ExitStack() as stack:
        _hold_slot(project, connection, request.wait, stack)
        work = _Work(cursor, statements, request)
        work.start()
        try:
            yield work.parts()
        finally:
            work.stop()


def _hold_slot(project: Project, connection: Connection, wait: timedelta, stack: ExitStack) -> None:
    if connection.max_connections is None:
        return
    state = StateDir(project.state_dir)
    state.make()
    slots = Slots(state.slots, {connection.name: connection.max_connections})
    try:
        stack.enter_context(slots.held(connection.name, wait.total_seconds()))
    except TargetBusyError as error:
        raise LockHeldError(f"{error}; wait for one with --wait 5m") from None


class _Work:
    """The statements at work in their thread."""

    def __init__(self, cursor: Cursor, statements: Sequence[str], request: QueryRequest) -> None:
        self._cursor = cursor
        self._statements = statements
        self._request = request
        self._parts: queue.Queue[Part | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        # A daemon: where the driver cannot be interrupted, the end of the process ends the query.
        self._thread = threading.Thread(target=self._work, name="query", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def parts(self) -> Iterator[Part]:
        """Give the parts as they come. Raise what ended the statements, and TimedOutError."""
        timeout = self._request.timeout
        until = None if timeout is None else time.monotonic() + timeout.total_seconds()
        while True:
            try:
                part = self._parts.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                shown = format_duration(timeout or timedelta(0))
                raise TimedOutError(f"the query took longer than --timeout {shown}; it was ended") from None
            if part is None:
                return
            if isinstance(part, BaseException):
                raise part
            yield part

    def stop(self) -> None:
        """End what is still running, here and on the server; for seconds at most."""
        self._stopped.set()
        self._thread.join(_GOODBYE_SECONDS)
        if self._thread.is_alive():
            # PostgreSQL is asked over a second connection, which may hang as well.
            threading.Thread(target=self._cursor.interrupt, name="cancel", daemon=True).start()
            self._thread.join(_CANCEL_SECONDS)

    # In the thread

    def _work(self) -> None:
        try:
            try:
                self._run()
            finally:
                self._cursor.close()
            self._put(None)
        except _Stopped:
            return
        except BaseException as error:
            self._tell_end(error)

    def _tell_end(self, error: BaseException) -> None:
        try:
            self._put(error)
        except _Stopped:
            return

    def _run(self) -> None:
        cursor, write = self._cursor, self._request.write
        cursor.open()
        if write and wants_transaction(self._statements):
            cursor.begin()
        for statement in self._statements:
            for answer in cursor.execute(statement, self._batch_rows()):
                self._hand_out(answer)
        if write:
            cursor.commit()

    def _batch_rows(self) -> int:
        limit = self._request.limit
        return _BATCH_ROWS if limit is None else min(_BATCH_ROWS, limit + 1)

    def _hand_out(self, answer: StatementResult) -> None:
        if not answer.columns:
            self._put(Changed(answer.changed))
            return
        self._put(QueryColumns(answer.columns))
        limit, given, cut = self._request.limit, 0, False
        for batch in answer.batches:
            wanted = batch if limit is None else batch[: limit - given]
            if wanted:
                self._put(Rows(wanted))
            given += len(wanted)
            if cut := len(wanted) < len(batch):
                break
        self._put(AnswerEnd(given, cut))
        if cut and not self._request.write:
            # Nothing comes after it, and the rest of its rows need not be read.
            self._put(None)
            raise _Stopped
        for _ in answer.batches:
            pass

    def _put(self, part: Part | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._parts.put(part, timeout=0.1)
            except queue.Full:
                continue
            return
        raise _Stopped


class _Stopped(Exception):  # noqa: N818 - no error: nobody wants any more
    pass
