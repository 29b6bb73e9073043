"""A session: its database, its options, its transaction, and the batches that it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb

from . import procedures, statements
from .catalog import Database
from .convert import Typed, convert
from .errors import TdsError, error
from .failures import translate
from .options import DATE_FORMATS, LANGUAGES
from .parse_batch import parse
from .rpc import Given, Request
from .scope import Context
from .sink import Silent
from .storage import DATE_ORDER
from .surroundings import surroundings
from .syntax import Literal, Query
from .syntax_statements import (
    AlterDatabase,
    Command,
    CreateDatabase,
    DropDatabase,
    Execute,
    If,
    Nothing,
    Print,
    Raise,
    SetOption,
    SetVariable,
    Transaction,
    Use,
    WaitFor,
)
from .types import INT, declare, nvarchar

if TYPE_CHECKING:
    from .server import TdsServer
    from .sink import Sink

#: Errors that end their statement only; after every other the rest of the batch is not run.
_GO_ON = frozenset({220, 515, 544, 547, 1222, 2627, 2628, 3701, 3902, 3903, 8115, 8134})
#: Errors that undo the transaction too.
_ROLL_BACK = frozenset({241, 245, 1205, 3951, 3952})
#: What a procedure or a batch inside a batch sets only for itself.
_SCOPED = (
    "database", "isolation", "lock_timeout", "no_count", "quoted_identifier", "xact_abort",
    "date_first", "date_order", "language",
)  # fmt: skip
#: https://learn.microsoft.com/sql/t-sql/language-elements/raiserror-transact-sql and print-transact-sql
_LONGEST_ERROR, _LONGEST_PRINT = 2047, 8000
_BEGIN, _COMMIT, _ROLLBACK, _USE = 0xD4, 0xD5, 0xD2, 0xE1


class Session:
    """What a login, or the back door, works with."""

    def __init__(
        self,
        server: TdsServer,
        number: int,
        user: str,
        database: Database,
        application: str = "",
        language: str = "",
    ) -> None:
        self.server = server
        self.number = number
        self.user = user
        self.application = application
        self._login_language = language or server.languages.get(user, "us_english")
        self.database = self._first_database = database
        self.duck = server.catalog.root.cursor()
        self.check: Callable[[], None] = lambda: None
        self.sleep: Callable[[float], None] = time.sleep
        self.depth = 0
        self.row_count = 0
        #: @@ERROR: the number of the last statement's error, 0 without one.
        self.error = 0
        self.batch = ""
        self.undo: list[Callable[[], None]] = []
        #: Tables that the open transaction has dropped.
        self.dropped: list[tuple[Database, str]] = []
        self.variables: dict[str, Typed] = {}
        #: Whether sp_prepexec runs its first statement.
        self.preparing = False
        self._handles = 0
        self._default_options()
        self._duck_open = False
        self._began_as = ""

    def _default_options(self) -> None:
        self.isolation = "READ COMMITTED"
        self._speak(self._login_language)
        self.lock_timeout: float | None = None
        self.quoted_identifier = True
        self.no_count = False
        self.xact_abort = False
        self.identity_insert = ""
        #: Statements that sp_prepare and sp_prepexec have prepared, by handle.
        self.prepared: dict[int, procedures.Prepared] = {}

    def _speak(self, language: str) -> None:
        known = LANGUAGES.get(language.lower())
        if known is None:
            raise error(2740, language)
        self.language = language
        self.date_order, self.date_first = known

    def reset(self, *, keep_transaction: bool) -> None:
        """Be as after the login: what RESETCONNECTION of a pooled connection asks for. [MS-TDS] 2.2.3.1.2

        https://learn.microsoft.com/sql/connect/odbc/windows/driver-aware-connection-pooling-in-the-odbc-driver-for-sql-server
        """
        if not keep_transaction:
            with suppress(duckdb.Error):
                self._end_transaction(commit=False)
        self.server.application_locks.release_all(self.number, "session")
        self.database = self._first_database
        self._default_options()

    def close(self) -> None:
        """Roll back what is open and let go."""
        with suppress(duckdb.Error):
            self._end_transaction(commit=False)
        self.server.locks.release(self.number)
        self.server.application_locks.release_all(self.number)
        with suppress(duckdb.Error):
            self.duck.close()

    def run(self, sql: str, sink: Sink) -> None:
        """Run a batch; errors go to the sink as messages."""
        self.variables = {}
        try:
            commands = parse(sql, quoted_identifier=self.quoted_identifier)
        except TdsError as failure:
            self.error = failure.number
            sink.message(failure)
            sink.failed()
            return
        self._run_all(commands, sink)

    def _run_all(self, commands: list[Command] | tuple[Command, ...], sink: Sink) -> bool:
        for command in commands:
            try:
                if not self._run_one(command, sink):
                    return False
                self.error = 0
                self.preparing = False
            except TdsError as failure:
                self._failed(failure, sink)
                if failure.number not in _GO_ON or self.xact_abort:
                    return False
        return True

    def _failed(self, failure: TdsError, sink: Sink, *, called: bool = False) -> None:
        self.error = failure.number
        if self.abandon(failure):
            sink.transaction(10)
        sink.message(failure)
        if self.preparing and failure.number in procedures.COMPILING:
            sink.message(error(8180))
        self.preparing = False
        sink.failed(called=called)

    def abandon(self, failure: TdsError) -> bool:
        """Roll back where an error does so; whether there was something."""
        if not self.depth or not (failure.number in _ROLL_BACK or self.xact_abort or self._is_broken()):
            return False
        with suppress(duckdb.Error):
            self._end_transaction(commit=False)
        return True

    def _run_one(self, command: Command, sink: Sink) -> bool:
        action = command.action
        try:
            if isinstance(action, If):
                chosen = action.then if self._holds(action) else action.otherwise
                return self._run_all(chosen, sink)
            maker = getattr(self, f"_run_{type(action).__name__.lower()}", None)
            if maker is not None:
                maker(action, sink)
            else:
                statements.run(self, action, sink)
        except duckdb.Error as failure:
            if not isinstance(failure, duckdb.InterruptException):
                raise translate(failure) from failure
            self.check()
            raise TdsError(0, "Operation cancelled by user.", 11) from failure
        finally:
            if not self.depth:
                self.server.locks.release(self.number)
        return True

    def _is_broken(self) -> bool:
        """Whether DuckDB lets nothing more happen in its transaction: it has no savepoints."""
        if not self._duck_open:
            return False
        try:
            self.ask("SELECT 1")
        except duckdb.Error:
            return True
        return False

    def _holds(self, action: If) -> bool:
        from .compile_query import QueryCompiler
        from .scope import Scope

        context = self.context()
        sql = QueryCompiler(context, Scope()).predicate(action.condition)
        self.before_reading(context)
        return bool(self.ask(f"SELECT {sql}")[0][0])

    def context(self) -> Context:
        """What a statement of this session is compiled in."""
        DATE_ORDER.set(self.date_order)
        return surroundings(self, self.variables)

    def before_reading(self, context: Context) -> None:
        """Refuse or wait as SQL Server does at the first look at data; then see one state under snapshot isolation."""
        if self.isolation == "SNAPSHOT" and context.databases:
            if self.depth and self._began_as not in ("SNAPSHOT", ""):
                raise error(3951, self.database.name)
            for name in context.databases:
                database = self.server.catalog.database(name)
                if not database.snapshot:
                    raise error(3952, database.name)
            if any(
                table in self.server.catalog.database(name).memory_optimized for name, table in context.tables
            ):
                raise error(41332)
            if "READPAST" in context.hints:
                raise error(650)
            self._open_duck()
        if self.depth and not self._began_as and context.databases:
            self._began_as = self.isolation
        exclusive = {"TABLOCKX", "XLOCK"} & context.hints
        for table in context.tables if exclusive and self.depth else ():
            self.server.locks.write(self.number, table, self.lock_timeout, self.check)
        if self.isolation not in ("SNAPSHOT", "READ UNCOMMITTED"):
            locked = [each for each in context.tables if not self.server.catalog.database(each[0]).versioned]
            self.server.locks.read(self.number, locked, self.lock_timeout, self.check)

    def before_writing(self, database: Database, table: str) -> None:
        """Lock the table and open the transaction that the session is in."""
        if database.name.casefold() in ("", None) or self.user.casefold() in database.closed:
            raise error(916, self.user, database.name)
        self.server.locks.write(
            self.number, (database.name.casefold(), table.casefold()), self.lock_timeout, self.check
        )
        if self.depth:
            self._began_as = self._began_as or self.isolation
            self._open_duck()

    def _open_duck(self) -> None:
        if self.depth and not self._duck_open:
            self.duck.begin()
            self._duck_open = True

    def _end_transaction(self, *, commit: bool) -> None:
        self.depth = 0
        self._began_as = ""
        undo, self.undo = self.undo, []
        was_open, self._duck_open = self._duck_open, False
        try:
            if was_open and commit:
                self.duck.commit()
            elif was_open:
                self.duck.rollback()
        finally:
            for database, table in self.dropped:
                database.dropped.discard(table)
            self.dropped.clear()
            if not commit:
                for each in reversed(undo):
                    each()
            self.server.locks.release(self.number)
            self.server.application_locks.release_all(self.number, "transaction")

    def _run_transaction(self, action: Transaction, sink: Sink) -> None:
        if action.word == "BEGIN":
            self.depth += 1
            if self.depth == 1:
                sink.transaction(8)
            sink.done(command=_BEGIN)
        elif action.word == "COMMIT":
            if not self.depth:
                raise error(3902)
            self.depth -= 1
            if not self.depth:
                self.server.at_commit(self, lambda: self._end_transaction(commit=True))
                sink.transaction(9)
            sink.done(command=_COMMIT)
        else:
            if not self.depth:
                raise error(3903)
            self._end_transaction(commit=False)
            sink.transaction(10)
            sink.done(command=_ROLLBACK)

    def _run_use(self, action: Use, sink: Sink) -> None:
        database = self.server.catalog.database(action.database)
        if self.user.casefold() in database.closed:
            raise error(916, self.user, database.name)
        old, self.database = self.database, database
        sink.database(database.name, old.name)
        sink.done(command=_USE)

    def _run_setoption(self, action: SetOption, sink: Sink) -> None:
        names = action.option.split(",")
        if names == ["TRANSACTION ISOLATION LEVEL"]:
            self.isolation = action.value
        elif names == ["LOCK_TIMEOUT"]:
            timeout = int(action.value)
            self.lock_timeout = None if timeout < 0 else timeout / 1000
        elif names == ["DEADLOCK_PRIORITY"]:
            if action.value not in ("LOW", "NORMAL", "HIGH") and not action.value.lstrip("-").isdigit():
                raise error(102, action.value)
        elif names == ["LANGUAGE"]:
            self._speak(action.value)
        elif names == ["DATEFORMAT"]:
            if action.value.lower() not in DATE_FORMATS:
                raise error(2741, action.value)
            self.date_order = action.value.lower()
        elif names == ["DATEFIRST"]:
            if action.value not in tuple("1234567"):
                raise error(2742, action.value)
            self.date_first = int(action.value)
        elif names == ["IDENTITY_INSERT"]:
            table, _, value = action.value.rpartition(" ")
            self.identity_insert = table.split(".")[-1].casefold() if value == "ON" else ""
        if "QUOTED_IDENTIFIER" in names:
            self.quoted_identifier = action.value == "ON"
        if "NOCOUNT" in names:
            self.no_count = action.value == "ON"
        if "XACT_ABORT" in names:
            self.xact_abort = action.value == "ON"
        sink.done()

    def _run_setvariable(self, action: SetVariable, sink: Sink) -> None:
        from .compile_query import QueryCompiler
        from .scope import Scope

        if action.type is None and action.name not in self.variables:
            raise error(137, action.name)
        kind = action.type or self.variables[action.name].type
        value = Typed(f"CAST(NULL AS {kind.stored})", kind)
        if action.value is not None:
            made = convert(QueryCompiler(self.context(), Scope()).expr(action.value), kind, explicit=True)
            value = Typed(f"({made.sql})", kind)
        self.variables = {**self.variables, action.name: value}

    def _run_waitfor(self, action: WaitFor, sink: Sink) -> None:
        from .storage import read_moment

        text = self.constant(action.delay)
        moment = read_moment(text or "")
        if moment is None:
            raise TdsError(148, f"Incorrect time syntax in time string '{text}' used with WAITFOR.", 15)
        self.sleep(moment[1] / 10_000_000)
        sink.done()

    def constant(self, expr: object) -> str | None:
        """The text of an expression without tables."""
        from .compile_query import QueryCompiler
        from .scope import Scope

        value = QueryCompiler(self.context(), Scope()).expr(expr)  # type: ignore[arg-type]
        if value.null:
            return None
        sql = convert(value, nvarchar(-1), explicit=True).sql
        text: str | None = self.ask(f"SELECT {sql}")[0][0]
        return text

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Run DuckDB SQL to its end: a result that is left open keeps the connection busy."""
        return self.duck.execute(sql).fetchall()

    def _run_print(self, action: Print, sink: Sink) -> None:
        sink.message(TdsError(0, (self.constant(action.text) or "")[:_LONGEST_PRINT], 0))
        sink.done()

    def _run_raise(self, action: Raise, sink: Sink) -> None:
        words = [self.constant(each) or "" for each in action.arguments]
        if len(words[0]) > _LONGEST_ERROR:
            words[0] = words[0][: _LONGEST_ERROR - 3] + "..."
        if action.word == "THROW":
            raise TdsError(int(words[0]), words[1], 16, int(words[2]))
        severity = int(words[1])
        known = TdsError(50000, words[0], severity, int(words[2]))
        if severity > 10:
            raise known
        sink.message(known)
        sink.done()

    def _run_createdatabase(self, action: CreateDatabase, sink: Sink) -> None:
        if self.depth:
            raise TdsError(226, "CREATE DATABASE statement not allowed within multi-statement transaction.")
        self.server.catalog.create_database(action.name)
        sink.done()

    def _run_dropdatabase(self, action: DropDatabase, sink: Sink) -> None:
        if not action.if_exists or self.server.catalog.find(action.name):
            self.server.catalog.drop_database(action.name)
        sink.done()

    def _run_alterdatabase(self, action: AlterDatabase, sink: Sink) -> None:
        database = self.server.catalog.database(action.name) if action.name else self.database
        if action.option == "ALLOW_SNAPSHOT_ISOLATION":
            database.snapshot = action.on
        elif action.option == "READ_COMMITTED_SNAPSHOT":
            database.versioned = action.on
        else:
            raise error(195, action.option, "ALTER DATABASE option")
        sink.done()

    def _run_nothing(self, action: Nothing, sink: Sink) -> None:
        sink.done()

    def _run_execute(self, action: Execute, sink: Sink) -> None:
        if action.result is not None and action.result not in self.variables:
            raise error(137, action.result)
        if action.procedure == "EXEC":
            self.run_inside(self.constant(action.arguments[0][1]) or "", sink, {})
            return
        status = procedures.run(self, action.procedure, self._given(action), sink)
        if action.result is not None:
            self._run_setvariable(SetVariable(action.result, Literal("number", str(status))), Silent())

    def _given(self, action: Execute) -> tuple[Given, ...]:
        from .compile_query import QueryCompiler
        from .scope import Scope

        compiler = QueryCompiler(self.context(), Scope())
        return tuple(Given(name, compiler.expr(value)) for name, value in action.arguments)

    def call(self, request: Request, sink: Sink) -> None:
        """Run a remote procedure call; errors go to the sink as messages."""
        self.variables = {}
        try:
            if request.refused is not None:
                raise request.refused
            procedures.run(self, request.procedure, request.given, sink)
        except TdsError as failure:
            self._failed(failure, sink, called=True)

    def keep(self, prepared: procedures.Prepared) -> int:
        """Keep a prepared statement; return its handle."""
        self._handles += 1
        self.prepared[self._handles] = prepared
        return self._handles

    def run_inside(self, sql: str, sink: Sink, variables: dict[str, Typed]) -> dict[str, Typed]:
        """Run a batch inside a batch, with variables of its own; return what they are then.

        What it sets, and the database that it uses, end with it:
        https://learn.microsoft.com/sql/t-sql/statements/set-statements-transact-sql
        """
        commands = parse(sql, quoted_identifier=self.quoted_identifier)
        kept = {name: getattr(self, name) for name in _SCOPED}
        outer, self.variables = self.variables, variables
        try:
            self._run_all(commands, sink)
            return self.variables
        finally:
            self.variables = outer
            for name, value in kept.items():
                setattr(self, name, value)


__all__ = ["INT", "Query", "Session", "declare"]
