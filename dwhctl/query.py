"""An ad hoc query over a connection of the project, streamed: read only unless it may write.

The statements run in a thread of their own, because a driver that waits in C handles no signal. Their answers go to the
caller in parts; when the caller ends early (Ctrl-C, a timeout, enough rows), the statement ends on the server too.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from dwhctl.core.errors import LockHeldError, TargetBusyError, TimedOutError, UsageError
from dwhctl.core.waiting import caught_signals
from dwhctl.core.words import quoted
from dwhctl.project.days import format_duration
from dwhctl.project.names import find_connection, meant
from dwhctl.runtime.locks import StateDir
from dwhctl.runtime.slots import Slots
from dwhctl.systems.base.source import Cursor, Row, StatementResult, checked, wants_transaction
from dwhctl.systems.base.system import CursorOptions, system_of

if TYPE_CHECKING:
    from dwhctl.project.connections import Connection
    from dwhctl.project.loads import Shard
    from dwhctl.project.model import Project

_BATCH_ROWS = 2_000
#: Batches that wait for the caller.
_AHEAD = 2
_CLOSE_SECONDS = 0.2
_CANCEL_SECONDS = 2.0


class QueryRequest(Struct, frozen=True):
    """A query. `sql` is rendered; `limit` is the most rows of each answer, None for all."""

    connection: str
    sql: str
    database: str | None = None
    write: bool = False
    limit: int | None = None
    wait: timedelta = timedelta(0)
    timeout: timedelta | None = None


class QueryColumns(Struct, frozen=True):
    """The start of an answer, and its columns."""

    names: tuple[str, ...]


class Rows(Struct, frozen=True):
    """Rows of the answer."""

    rows: Sequence[Row]


class AnswerEnd(Struct, frozen=True):
    """The end of an answer; `cut` when it has more rows than `limit`."""

    rows: int
    cut: bool


class Changed(Struct, frozen=True):
    """The end of a statement without an answer; `rows` is how many it wrote, None where that is unknown."""

    rows: int | None


Part = QueryColumns | Rows | AnswerEnd | Changed


def find_shard(project: Project, shards: Iterable[Shard], name: str, place: str) -> Shard:
    """Return the shard of that name. Raise UsageError, with `place` as where it is missing."""
    found = {shard.name: shard for shard in shards}
    if name not in found:
        raise UsageError(f"there is no shard {quoted(name)} {place}; {meant(project, name, found)}")
    return found[name]


@contextmanager
def running_query(project: Project, request: QueryRequest) -> Iterator[Iterator[Part]]:
    """Run the request's statements in the block, and yield the parts of their answers.

    Raise UsageError before anything is connected, LockHeldError when the connection has no slot left, AttemptError for
    an error of the system, TimedOutError, Interrupted.
    """
    connection = find_connection(project, request.connection)
    cursor = system_of(connection).open_cursor(
        connection, request.database, CursorOptions(request.write, request.timeout, project.state_dir)
    )
    statements = checked(cursor, request.sql)
    with caught_signals(), ExitStack() as stack:
        _hold_slot(project, connection, request.wait, stack)
        execution = _Execution(cursor, statements, request)
        try:
            yield execution.parts()
        finally:
            execution.stop()


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


class _Execution:
    def __init__(self, cursor: Cursor, statements: Sequence[str], request: QueryRequest) -> None:
        self._cursor = cursor
        self._statements = statements
        self._request = request
        self._parts: queue.Queue[Part | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        # A daemon: where the driver cannot be interrupted, the end of the process ends the query.
        self._thread = threading.Thread(target=self._run, name="query", daemon=True)
        self._thread.start()

    def parts(self) -> Iterator[Part]:
        """Yield the parts as they come. Raise what ended the statements, and TimedOutError."""
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
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            # PostgreSQL is interrupted over a second connection, which may hang as well.
            threading.Thread(target=self._cursor.interrupt, name="cancel", daemon=True).start()
            self._thread.join(_CANCEL_SECONDS)

    def _run(self) -> None:
        end = None
        try:
            with closing(self._cursor):
                if not all(map(self._put, self._produce())):
                    return
        except BaseException as error:
            end = error
        self._put(end)

    def _put(self, part: Part | BaseException | None) -> bool:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._parts.put(part, timeout=0.1)
                return True
        return False

    def _produce(self) -> Iterator[Part | None]:
        """Run the statements. Yield the parts of their answers, and None where the rest is of no interest."""
        cursor, write, limit = self._cursor, self._request.write, self._request.limit
        cursor.open()
        if write and wants_transaction(self._statements):
            cursor.begin()
        batch_rows = _BATCH_ROWS if limit is None else min(_BATCH_ROWS, limit + 1)
        for statement in self._statements:
            for answer in cursor.execute(statement, batch_rows):
                is_cut = yield from self._answer(answer)
                if is_cut and not write:
                    yield None
                    return
        if write:
            cursor.commit()

    def _answer(self, answer: StatementResult) -> Generator[Part, None, bool]:
        if not answer.columns:
            yield Changed(answer.changed)
            return False
        yield QueryColumns(answer.columns)
        limit, count, is_cut = self._request.limit, 0, False
        for batch in answer.batches:
            wanted = batch if limit is None else batch[: limit - count]
            if wanted:
                yield Rows(wanted)
            count += len(wanted)
            if is_cut := len(wanted) < len(batch):
                break
        yield AnswerEnd(count, is_cut)
        if self._request.write:
            for _ in answer.batches:  # the next answer comes after these
                pass
        return is_cut
