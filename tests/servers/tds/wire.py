"""One client's conversation: prelogin, login, then batches, with the faults that are switched on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from . import login as logins
from . import tokens
from .cache import Recorder
from .encode import encode, wire_sql
from .errors import TdsError, error
from .packets import ATTENTION, LOGIN7, PRELOGIN, RPC, SQL_BATCH, TRANSACTION, Packets
from .procedures import statement_of
from .rpc import BrokenStream, read_requests
from .scope import Output
from .session import Session
from .sink import Returned, Sink
from .storage import from_utf16

if TYPE_CHECKING:
    from ..base import Fault, Link
    from .server import TdsServer

#: Rows that are encoded at once, so that wide answers stay small in memory.
_ROWS = 4096
_SLOW_EVERY = 1000
#: How often a sleeping session looks whether the client is still there, seconds.
_LOOK = 0.1
#: https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-error-severities
_FATAL = 20
_BEGIN, _AND_BEGIN = 5, 1
_TRANSACTIONS = {_BEGIN: "BEGIN TRANSACTION", 7: "COMMIT TRANSACTION", 8: "ROLLBACK TRANSACTION"}
_LEVELS = {1: "READ UNCOMMITTED", 2: "READ COMMITTED", 3: "REPEATABLE READ", 4: "SERIALIZABLE", 5: "SNAPSHOT"}
_MID = ("reset", "close", "error", "deadlock", "hang_query", "slow")


class WireSink(Sink):
    """Encodes answers into packets; strikes the faults that wait for rows."""

    def __init__(self, conversation: Conversation, sql: str) -> None:
        self._talk = conversation
        self._packets = conversation.packets
        self.sql = sql
        self._held: bytes = b""
        self._sent = 0
        self._columns: Sequence[Output] = ()
        #: Whether an error or an interruption makes the answer unfit to be kept.
        self.spoilt = False
        #: Whether an error was so severe that the server ends the connection.
        self.fatal = False
        self.recorder: Recorder | None = None
        self._procedures = 0

    def columns(self, columns: Sequence[Output]) -> None:
        """COLMETADATA."""
        self._sent = 0
        self._columns = columns
        self._put(tokens.column_metadata(columns))

    def rows(self, batch: pa.RecordBatch, columns: Sequence[Output]) -> bool:
        """ROW tokens, up to where a fault strikes."""
        at = 0
        while at < batch.num_rows:
            count = min(_ROWS, batch.num_rows - at)
            fault = self._talk.fault(_MID, self.sql, later=True)
            if fault is not None:
                step = _SLOW_EVERY if fault.kind == "slow" else fault.after_rows - self._sent
                count = min(count, max(0, step))
            if count:
                self._put(encode(batch.slice(at, count), columns))
                self._sent += count
                at += count
            if fault is not None and (fault.kind == "slow" or self._sent >= fault.after_rows):
                self._packets.push()
                self._talk.strike(fault)
            if self._talk.cancelled():
                self.spoilt = True
                return False
        return True

    def done(self, count: int | None = None, *, command: int = 0) -> None:
        """DONE; held back, for the last one says that no more follows."""
        if self._talk.session.no_count:
            count = None
        self._settle(more=True)
        self._held = tokens.done(
            tokens.COUNTED if count is not None else 0, count or 0, command, self._done_token
        )

    @property
    def _done_token(self) -> int:
        return tokens.DONE_IN_PROC if self._procedures else tokens.DONE

    @contextmanager
    def procedure(self) -> Iterator[None]:
        """DONE is DONEINPROC within a procedure."""
        self._procedures += 1
        try:
            yield
        finally:
            self._procedures -= 1

    def message(self, message: TdsError) -> None:
        """ERROR or INFO."""
        self._put(tokens.message(message))
        self.spoilt = self.spoilt or message.severity > 10
        self.fatal = self.fatal or message.severity >= _FATAL

    def failed(self, *, called: bool = False) -> None:
        """The DONE after an error."""
        self._settle(more=True)
        self._held = tokens.done(tokens.FAILED, token=tokens.DONE_PROC if called else self._done_token)

    def database(self, new: str, old: str) -> None:
        """ENVCHANGE."""
        self._put(tokens.database_change(new, old))

    def transaction(self, kind: int) -> None:
        """ENVCHANGE."""
        self._put(tokens.transaction_change(kind, self._talk.link.number))

    def status(self, value: int, returned: Sequence[Returned] = ()) -> None:
        """RETURNSTATUS, RETURNVALUE and DONEPROC; of a procedure that another calls only DONEINPROC."""
        if not self._procedures:
            self._put(tokens.return_status(value))
            for at, (name, each, session) in enumerate(returned):
                column = Output(name, each.type)
                sql = wire_sql(f"SELECT {each.sql} AS c0", [column])
                batch = session.duck.sql(sql).to_arrow_table().combine_chunks().to_batches()[0]
                # Without the token ROW in front.
                self._put(tokens.return_value(at, name, column, encode(batch, [column])[1:]))
        self._settle(more=True)
        self._held = tokens.done(token=tokens.DONE_IN_PROC if self._procedures else tokens.DONE_PROC)

    def next_call(self) -> None:
        """Mark the DONEPROC of a call behind which another of its message follows."""
        held = bytearray(self._held)
        held[1] |= tokens.IN_BATCH
        self._held = bytes(held)

    def finish(self) -> None:
        """The last DONE."""
        if not self._held:
            self._held = tokens.done()
        self._settle(more=False)
        self._packets.flush()

    def _put(self, data: bytes) -> None:
        self._settle(more=True)
        self._write(data)

    def _settle(self, *, more: bool) -> None:
        if not self._held:
            return
        held, self._held = bytearray(self._held), b""
        if more:
            held[1] |= tokens.MORE
        self._write(bytes(held))

    def _write(self, data: bytes) -> None:
        if self.recorder is not None:
            self.recorder.write(data)
        self._packets.write(data)


class Conversation:
    """A connection from its first byte to its last."""

    def __init__(self, server: TdsServer, link: Link) -> None:
        self.server = server
        self.link = link
        self.packets = Packets(link)
        self._logged_in: Session | None = None
        self._user = ""
        self._application = ""
        self._cancelled = False

    @property
    def session(self) -> Session:
        """The session, after the login."""
        assert self._logged_in is not None
        return self._logged_in

    @property
    def _database(self) -> str:
        return self.session.database.name

    def run(self) -> None:
        """Talk until the connection ends: Gone comes out."""
        login = self._greet()
        self.server.note_login()
        refusal = self._refusal(login)
        if refusal:
            self.packets.reply(b"".join(map(tokens.message, refusal)) + tokens.done(tokens.FAILED))
            self.link.close()
        database = self.server.catalog.database(login.database or "master")
        session = self._logged_in = Session(
            self.server, self.link.number, login.user, database, login.application, login.language
        )
        session.check, session.sleep = self._check, self._sleep
        self.link.on_end = self.session.duck.interrupt
        try:
            with self.server.session(self.link), self.server.registered(self.session):
                self.packets.size = min(max(login.packet_size or 4096, 512), 32_767)
                greeting = tokens.welcome(database.name, self.packets.size, extended=login.extended)
                self.packets.reply(greeting)
                while True:
                    self._message()
        finally:
            self.link.on_end = None
            self.session.close()

    def _greet(self) -> logins.Login:
        kind, body = self.packets.read()
        if kind != PRELOGIN:
            self.link.close()
        wanted = logins.wanted_encryption(body)
        given = self.server.encryption(wanted)
        self.packets.reply(logins.prelogin_answer(given))
        encrypted = self.server.tls_context is not None and wanted != logins.ENCRYPT_NOT_SUPPORTED
        if encrypted:
            assert self.server.tls_context is not None
            self.packets.handshake(self.server.tls_context)
        elif given == logins.ENCRYPT_REQUIRED or wanted in (logins.ENCRYPT_ON, logins.ENCRYPT_REQUIRED):
            self.link.hang()
        kind, body = self.packets.read()
        if kind != LOGIN7:
            self.link.close()
        if encrypted and given == logins.ENCRYPT_OFF:
            self.link.drop_tls()
        login = logins.read_login(body)
        self._user, self._application = login.user, login.application
        self.server.last_login = login
        return login

    def _refusal(self, login: logins.Login) -> list[TdsError]:
        found = self.server.faults
        asked = {"database": login.database, "application": login.application}
        if found.take("hang_login", **asked):
            self.link.hang()
        bad = error(18456, login.user)
        fault = found.take("refuse_login", **asked)
        if fault is not None:
            return [_given(fault, bad)]
        if self.server.users.get(login.user) != login.password:
            return [bad]
        database = self.server.catalog.find(login.database or "master")
        if database is None or not database.online or login.user.casefold() in database.closed:
            # Both are sent, in this order; clients keep the one or the other.
            return [error(4060, login.database), bad]
        return []

    def _message(self) -> None:
        kind, body = self.packets.read()
        if self.packets.reset or self.packets.reset_but_transaction:
            self.session.reset(keep_transaction=self.packets.reset_but_transaction)
            self.packets.write(tokens.reset_done())
        if kind == ATTENTION:
            self._acknowledge()
        elif kind == SQL_BATCH:
            (headers,) = (int.from_bytes(body[:4], "little"),)
            self._batch(from_utf16(body[headers:]))
        elif kind == TRANSACTION:
            self._transaction(body[int.from_bytes(body[:4], "little") :])
        elif kind == RPC:
            self._rpc(body[int.from_bytes(body[:4], "little") :])
        else:
            self.link.close()

    def _acknowledge(self) -> None:
        self._cancelled = False
        self.packets.write(tokens.done(tokens.ATTENTION_SEEN))
        self.packets.flush()

    def _transaction(self, request: bytes) -> None:
        """TM_BEGIN_XACT, TM_COMMIT_XACT, TM_ROLLBACK_XACT, as the statements that do the same. [MS-TDS] 2.2.6.9"""
        kind = int.from_bytes(request[:2], "little")
        if kind not in _TRANSACTIONS:
            self.link.close()
        batches = [_TRANSACTIONS[kind]]
        if kind == _BEGIN:
            if level := _LEVELS.get(request[2]):
                batches.insert(0, f"SET TRANSACTION ISOLATION LEVEL {level}")
        else:
            flags_at = 3 + request[2]
            if request[flags_at] & _AND_BEGIN:
                batches.append(_TRANSACTIONS[_BEGIN])
        self._batch("; ".join(batches))

    def _batch(self, sql: str) -> None:
        def work() -> None:
            if not self.server.replay(self, sql):
                with self.server.recording(self.session, sql, sink):
                    self.session.run(sql, sink)

        sink = WireSink(self, sql)
        self._cancelled = False
        self._work(sql, sink, work)
        self._finish(sink)

    def _rpc(self, body: bytes) -> None:
        """Calls of procedures: each is answered, also behind one that failed."""
        self._cancelled = False
        sink = WireSink(self, "")
        try:
            requests = read_requests(body)
        except BrokenStream:
            self.link.close()
        except TdsError as failure:
            self._break_off(failure, sink)
            requests = []
        for at, request in enumerate(requests):
            if at:
                sink.next_call()
            sink.sql = statement_of(self.session, request)
            self._work(sink.sql, sink, partial(self.session.call, request, sink))
        self._finish(sink)

    def _work(self, sql: str, sink: WireSink, work: Callable[[], None]) -> None:
        self.server.note(sql, database=self._database, user=self._user, application=self._application,
                         session=self.link.number)  # fmt: skip
        self.session.batch = sql
        try:
            fault = self.fault(_MID, sql, later=False)
            if fault is not None:
                self.strike(fault)
            work()
        except TdsError as failure:
            # A fault's error comes through everything that runs.
            self._break_off(failure, sink)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as bug:
            self._break_off(TdsError(50000, f"the protocol server is broken: {bug!r}"), sink)

    def _finish(self, sink: WireSink) -> None:
        sink.finish()
        if sink.fatal:
            self.link.close()
        if self._cancelled:
            self._acknowledge()

    def _break_off(self, failure: TdsError, sink: WireSink) -> None:
        self.session.abandon(failure)
        self.session.error = failure.number
        sink.message(failure)
        sink.failed()

    def fault(self, kinds: tuple[str, ...], sql: str, *, later: bool) -> Fault | None:
        """A fault for this statement: before its answer, or (later) in the middle of it."""
        found = (
            self.server.faults.find(
                kind, database=self._database, statement=sql, application=self._application
            )
            for kind in kinds
        )
        fitting = [each for each in found if each is not None and bool(each.after_rows) == later]
        return min(fitting, key=lambda each: each.after_rows) if fitting else None

    def strike(self, fault: Fault) -> None:
        """What the fault does here and now; an error is raised, the ends of a connection are Gone."""
        if not self.server.faults.strike(fault):
            return
        match fault.kind:
            case "slow":
                self._sleep(fault.seconds)
            case "hang_query":
                self.link.hang()
            case "reset":
                self.link.reset()
            case "close":
                self.link.close()
            case "deadlock":
                raise error(1205, self.link.number)
            case _:
                raise _given(fault, TdsError(50000, "a fault of the test"))

    def cancelled(self) -> bool:
        """Whether the client sent ATTENTION meanwhile."""
        if not self._cancelled and self.link.pending():
            kind, _ = self.packets.read()
            self._cancelled = kind == ATTENTION
        return self._cancelled

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the client's timeout."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.link.sleep(min(left, _LOOK))
            self._check()

    def _check(self) -> None:
        """Called while a statement waits: Gone where the connection ended."""
        if self.link.pending() and self.cancelled():
            raise TdsError(0, "Operation cancelled by user.", 11)
        self.link.sleep(0)


def _given(fault: Fault, otherwise: TdsError) -> TdsError:
    if not fault.error:
        return otherwise
    number, severity, message = fault.error
    return TdsError(int(str(number)), str(message), int(str(severity)))


def is_commit(sql: str) -> bool:
    """Whether a batch ends a transaction."""
    return re.search(r"\bCOMMIT\b", sql, re.IGNORECASE) is not None
