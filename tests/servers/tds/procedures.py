"""System procedures, called by EXEC within a batch or by a remote procedure call.

https://learn.microsoft.com/sql/relational-databases/system-stored-procedures/system-stored-procedures-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb

from . import describe
from .convert import Typed, convert
from .describe import Parameter
from .errors import TdsError, error
from .parse_batch import parse
from .rpc import Given, Request
from .sink import Silent
from .types import INT, WIDE, SqlType

if TYPE_CHECKING:
    from .session import Session
    from .sink import Sink

_ROWS = 0xC1
_PREFIX = ("sys.", "dbo.", "master.")
#: Errors of a statement that cannot be compiled: sp_prepare and sp_prepexec add 8180 to them.
COMPILING = frozenset(
    {102, 105, 109, 110, 120, 121, 137, 156, 195, 206, 207, 208, 209, 213, 257, 264, 402, 4104, 8117, 8120}
)


@dataclass(frozen=True)
class Prepared:
    """A statement that waits for sp_execute."""

    declared: str
    sql: str
    parameters: tuple[Parameter, ...]


@dataclass
class Call:
    """A procedure that runs: what it was given, and the values that it gives back."""

    session: Session
    name: str
    given: tuple[Given, ...]
    sink: Sink
    returned: list[tuple[str, Typed]] = field(default_factory=list)

    def arranged(self, *order: str, more: bool = False) -> dict[str, Given]:
        """The parameters by name. Raises 119, 8143, 8144, 8145 and, unless `more` may follow, for too many."""
        found: dict[str, Given] = {}
        names_from = 0
        for at, each in enumerate(self.given, 1):
            if each.name is None and names_from:
                raise error(119, at)
            names_from = names_from or (at if each.name else 0)
            if more and at > len(order):
                break
            if each.name is None and at > len(order):
                raise error(8144, self.name)
            name = each.name or order[at - 1]
            if name not in order:
                raise error(8145, name, self.name)
            if name in found:
                raise error(8143, name)
            found[name] = each
        return found

    def text(self, given: Given | None) -> str | None:
        """A parameter's text; None for NULL and for none."""
        value = given.value if given else None
        if value is None or value.null:
            return None
        found: object = self.session.ask(f"SELECT CAST({value.sql} AS VARCHAR)")[0][0]
        return None if found is None else str(found)

    def statement(self, given: Given | None, name: str) -> str | None:
        """A parameter that must be a wide text. Raises 214."""
        value = given.value if given else None
        if value is not None and not value.null and value.type.name not in WIDE:
            raise error(214, name, "ntext/nchar/nvarchar")
        return self.text(given)

    def number(self, given: Given | None) -> int | None:
        """A parameter that must be an int. Raises 8114."""
        if given is None or given.value is None:
            return None
        found = self.text(Given(None, passed(self.session, given.value, INT)))
        return None if found is None else int(found)


def passed(session: Session, value: Typed, kind: SqlType) -> Typed:
    """A value as a parameter of this type takes it. Raises 8114 where it cannot be converted, 206 and 257."""
    if value.null:
        return Typed(f"CAST(NULL AS {kind.stored})", kind)
    made = convert(value, kind)
    if value.type != kind:
        try:
            session.ask(f"SELECT {made.sql}")
        except duckdb.Error as failure:
            if isinstance(failure, duckdb.InterruptException):
                raise
            raise error(8114, value.type.name, kind.name, state=5) from failure
    return Typed(f"({made.sql})", kind)


def run(session: Session, name: str, given: tuple[Given, ...], sink: Sink) -> int:
    """Run a procedure; return its status. Raises 2812 where there is none, and what it refuses."""
    plain = name
    for prefix in _PREFIX:
        plain = plain.removeprefix(prefix)
    known = _KNOWN.get(plain.lstrip("."))
    if known is None:
        raise error(2812, name)
    call = Call(session, plain, given, sink)
    with sink.procedure():
        status = known(call)
    sink.status(status, [(each, value, session) for each, value in call.returned])
    return status


def statement_of(session: Session, request: Request) -> str:
    """The statement that a call runs, as faults and the log of traffic name it."""
    call = Call(session, request.procedure, request.given, Silent())
    at = {"sp_executesql": 0, "sp_prepare": 2, "sp_prepexec": 2}.get(request.procedure)
    if at is not None and len(request.given) > at:
        return call.text(request.given[at]) or ""
    if request.procedure == "sp_execute" and request.given:
        prepared = session.prepared.get(int(call.text(request.given[0]) or 0))
        return prepared.sql if prepared else ""
    return f"EXEC {request.procedure}"


def _executesql(call: Call) -> int:
    first = call.arranged("@stmt", "@params", more=True)
    sql = call.statement(first.get("@stmt"), "@statement")
    if sql is None:
        raise error(214, "@statement", "ntext/nchar/nvarchar")
    declared = call.statement(first.get("@params"), "@params") or ""
    prepared = Prepared(declared, sql, tuple(describe.parameters(declared)))
    return _inside(call, prepared, call.given[2:])


def _inside(call: Call, prepared: Prepared, given: tuple[Given, ...]) -> int:
    """Run a statement with its parameters; what they are afterwards goes back where it is wanted."""
    session = call.session
    bound = _bound(session, prepared, given)
    wanted = {name: each.output for name, each in _by_name(prepared, given).items()}
    after = session.run_inside(prepared.sql, call.sink, bound)
    call.returned.extend((name, after[name]) for name in bound if wanted.get(name))
    return session.error


def _by_name(prepared: Prepared, given: Sequence[Given]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    known = [each.name for each in prepared.parameters]
    for at, each in enumerate(given):
        if each.name is None and at >= len(known):
            raise error(8144, "")
        name = each.name or known[at]
        if name not in known:
            raise error(8145, name, "")
        if name in found:
            raise error(8143, name)
        found[name] = each
    return found


def _bound(session: Session, prepared: Prepared, given: Sequence[Given]) -> dict[str, Typed]:
    named = _by_name(prepared, given)
    bound: dict[str, Typed] = {}
    for each in prepared.parameters:
        one = named.get(each.name)
        if one is not None and one.output and not each.output:
            raise error(8162, each.name)
        value = one.value if one else None
        if value is None:
            raise error(8178, f"({prepared.declared}){prepared.sql}"[:512], each.name)
        bound[each.name] = passed(session, value, each.type)
    return bound


def _prepare(call: Call) -> int:
    order = ("@handle", "@params", "@stmt", "@options")
    first = call.arranged(*order)
    _free_old(call, first)
    prepared = _read(call, first)
    try:
        variables = {each.name: each.null for each in prepared.parameters}
        columns = describe.first_columns(call.session, prepared.sql, variables)
    except TdsError as failure:
        return _unprepared(call, failure)
    if columns and (call.number(first.get("@options")) or 0) & 1:
        call.sink.columns(columns)
        call.sink.done(0, command=_ROWS)
    call.returned.append(("@handle", _handle(call.session.keep(prepared))))
    return 0


def _prepexec(call: Call) -> int:
    first = call.arranged("@handle", "@params", "@stmt", more=True)
    _free_old(call, first)
    session = call.session
    prepared = _read(call, first)
    try:
        parse(prepared.sql, quoted_identifier=session.quoted_identifier)
    except TdsError as failure:
        return _unprepared(call, failure)
    values = call.given[3:]
    call.returned.append(("@handle", _handle(session.keep(prepared))))
    session.preparing = True
    try:
        return _inside(call, prepared, values)
    finally:
        session.preparing = False


def _free_old(call: Call, first: dict[str, Given]) -> None:
    """A handle that comes in is not needed any more."""
    old = call.number(first.get("@handle"))
    if old is not None:
        call.session.prepared.pop(old, None)


def _unprepared(call: Call, failure: TdsError) -> int:
    """Say why a statement cannot be prepared."""
    call.session.error = failure.number
    call.sink.message(failure)
    call.sink.message(error(8180))
    call.sink.failed()
    return failure.number


def _read(call: Call, first: dict[str, Given]) -> Prepared:
    declared = call.statement(first.get("@params"), "@params") or ""
    sql = call.statement(first.get("@stmt"), "@statement")
    if sql is None:
        raise error(214, "@statement", "ntext/nchar/nvarchar")
    return Prepared(declared, sql, tuple(describe.parameters(declared)))


def _handle(number: int) -> Typed:
    return Typed(f"CAST({number} AS INTEGER)", INT)


def _find(call: Call) -> tuple[int, Prepared]:
    number = call.number(call.given[0]) if call.given else None
    if number is None:
        raise error(214, "@handle", "int")
    prepared = call.session.prepared.get(number)
    if prepared is None:
        raise error(8179, number)
    return number, prepared


def _execute(call: Call) -> int:
    _, prepared = _find(call)
    return _inside(call, prepared, call.given[1:])


def _unprepare(call: Call) -> int:
    number, _ = _find(call)
    del call.session.prepared[number]
    return 0


def _describe(call: Call) -> int:
    given = [(each.name, call.text(each)) for each in call.given]
    columns, rows = describe.describe(call.session, given)
    call.sink.columns(columns)
    call.sink.rows(rows, columns)
    call.sink.done(rows.num_rows, command=_ROWS)
    return 0


def _undeclared(call: Call) -> int:
    first = call.arranged("@tsql", "@params")
    sql = call.statement(first.get("@tsql"), "@tsql") or ""
    columns, rows = describe.undeclared(call.session, sql, call.text(first.get("@params")) or "")
    call.sink.columns(columns)
    call.sink.rows(rows, columns)
    call.sink.done(rows.num_rows, command=_ROWS)
    return 0


def _get_lock(call: Call) -> int:
    first = call.arranged("@resource", "@lockmode", "@lockowner", "@locktimeout", "@dbprincipal")
    session = call.session
    resource, owner = _locked(call, first)
    timeout = session.lock_timeout
    given = call.number(first.get("@locktimeout"))
    if given is not None:
        timeout = None if given < 0 else given / 1000
    mode = call.text(first.get("@lockmode")) or ""
    locks = session.server.application_locks
    return locks.take(session.number, resource, mode, owner, timeout, session.check)


def _release_lock(call: Call) -> int:
    first = call.arranged("@resource", "@lockowner", "@dbprincipal")
    resource, owner = _locked(call, first)
    return call.session.server.application_locks.release(call.session.number, resource, owner)


def _locked(call: Call, first: dict[str, Given]) -> tuple[tuple[str, str], str]:
    owner = (call.text(first.get("@lockowner")) or "transaction").casefold()
    if owner == "transaction" and not call.session.depth:
        raise TdsError(
            1230, "You attempted to acquire a transactional application lock without an active transaction."
        )
    return (call.session.database.name.casefold(), call.text(first.get("@resource")) or ""), owner


_KNOWN: dict[str, Callable[[Call], int]] = {
    "sp_describe_first_result_set": _describe,
    "sp_describe_undeclared_parameters": _undeclared,
    "sp_execute": _execute,
    "sp_executesql": _executesql,
    "sp_getapplock": _get_lock,
    "sp_prepare": _prepare,
    "sp_prepexec": _prepexec,
    "sp_releaseapplock": _release_lock,
    "sp_unprepare": _unprepare,
}
