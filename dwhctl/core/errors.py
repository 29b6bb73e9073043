"""Every error that dwhctl raises on purpose: one small tree.

The first line of a class's docstring is its default message. `permanent` says that trying again is of no
use; `exit_code` is what the command ends with when the error reaches its end. The class's name is what the
sessions table keeps as `error_class`.
"""

from __future__ import annotations

import enum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from dwhctl.core.columns import Column


class ExitCode(enum.IntEnum):
    """What a command ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LOCK_HELD = 75
    INTERRUPTED = 130
    TERMINATED = 143


class DwhctlError(Exception):
    """Something failed."""

    exit_code: ExitCode = ExitCode.FAILED
    permanent: bool = True

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class Interrupted(BaseException):
    """A person or the system asked the command to stop."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("interrupted")
        self.exit_code = exit_code


# What ends a command before it has touched anything.


class UsageError(DwhctlError):
    """The command's arguments do not fit."""

    exit_code = ExitCode.USAGE


class ConfigError(DwhctlError):
    """The project's configuration is wrong.

    The message names file, key (or line) and remedy, one problem a line.
    """

    exit_code = ExitCode.USAGE


class LockHeldError(DwhctlError):
    """Another dwhctl does this work now."""

    exit_code = ExitCode.LOCK_HELD


class StateDirError(DwhctlError):
    """The state folder cannot be used."""


class WorkersError(DwhctlError):
    """Worker processes cannot be started."""


class CrontabError(DwhctlError):
    """The user's crontab cannot be read or changed."""


class SessionsError(DwhctlError):
    """The sessions database did not do what it was asked."""


class SessionsLostError(SessionsError):
    """The connection to the sessions database is lost."""


# What ends the sending of a message: raised by a channel, kept in the outbox, never the end of a run.


class AlertError(DwhctlError):
    """The message was not sent."""


class AlertRefusedError(AlertError):
    """The channel refuses: its configuration is wrong, and trying again is of no use."""


class AlertNotSentError(AlertError):
    """The message was surely not sent; later it may be.

    `retry_after` is how long the channel wants to be left alone, when it said so.
    """

    permanent = False

    def __init__(self, message: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AlertInDoubtError(AlertError):
    """The message may have been sent: the answer to it was lost."""

    permanent = False


# What ends one attempt at one slice or report: raised in a worker or while publishing, kept in its session.


class About(enum.StrEnum):
    """What a refused statement is about, where that decides what to correct."""

    SQL = "sql"
    TABLE = "table"
    PERMISSION = "permission"
    MEMORY = "memory"


class AttemptError(DwhctlError):
    """The attempt failed.

    Of refused SQL: `statement` is the one of the user's that was refused, `line` the line of it at fault from 1, as far
    as that is known, `place` the same as file and line in words.
    """

    permanent = False
    about: About = About.SQL
    statement: str | None = None
    line: int | None = None
    place: str = ""


class _AtTheDoorError(AttemptError):
    """The connection was not made.

    `connection` is its name in the project: a connection that fails so is parked.
    """

    def __init__(self, message: str = "", connection: str | None = None) -> None:
        super().__init__(message)
        self.connection = connection


class ConnectError(_AtTheDoorError):
    """The server cannot be reached."""


class TlsError(ConnectError):
    """The server offers no TLS, or its certificate is not accepted."""

    permanent = True


class LoginRefusedError(_AtTheDoorError):
    """The server refused the login."""

    permanent = True


class DatabaseMissingError(AttemptError):
    """The shard's database is missing or cannot be read."""

    permanent = True


class SourceBusyError(AttemptError):
    """The source is in use by another."""


class SourceError(AttemptError):
    """The source failed in mid-way."""


class QueryError(AttemptError):
    """The source refused the query."""

    permanent = True


class SchemaDriftError(AttemptError):
    """The source's columns are not the target's.

    `new_columns` holds the source's columns that the target lacks when they are the only difference.
    """

    permanent = True

    def __init__(self, message: str = "", new_columns: Sequence[Column] = ()) -> None:
        super().__init__(message)
        self.new_columns = tuple(new_columns)


class ValueRefusedError(AttemptError):
    """A value would not arrive as it was."""

    permanent = True


class OutsideSliceError(AttemptError):
    """A row lies outside the slice."""

    permanent = True


class DoubledKeyError(AttemptError):
    """A key stands twice in the slice."""

    permanent = True


class ShrunkSourceError(AttemptError):
    """The source holds far fewer rows than the warehouse."""

    permanent = True


class StagingError(AttemptError):
    """The slice could not be staged."""


class TargetBusyError(AttemptError):
    """The target is in use by another."""


class TargetError(AttemptError):
    """The target failed."""


class TargetRefusedError(AttemptError):
    """The target refused the statement."""

    permanent = True


class CountsDifferError(AttemptError):
    """The staged rows are not the extracted rows."""

    permanent = True


class CommitInDoubtError(AttemptError):
    """It is not known whether the commit happened."""


class TooFewRowsError(AttemptError):
    """The report would have too few rows."""

    permanent = True


class NotReady(AttemptError):  # noqa: N818 - the word that the sessions show
    """What the report needs is not complete."""

    permanent = True


class WorkerDiedError(AttemptError):
    """The worker process died."""


class TimedOutError(AttemptError):
    """The attempt took longer than its timeout."""


class QuarantinedError(AttemptError):
    """The slice killed its worker twice and is left alone in this run."""

    permanent = True


class ParkedError(AttemptError):
    """The connection is parked: it failed too often in a row."""

    permanent = True


class InterruptedAttemptError(AttemptError):
    """interrupted"""

    permanent = True


class InternalError(AttemptError):
    """A defect in dwhctl."""

    permanent = True


# What a digest or a session says of a command or a task: never raised.


class RunDied(DwhctlError):  # noqa: N818 - the word that the sessions show
    """Its run died."""


class Stopped(DwhctlError):  # noqa: N818
    """The run stopped before its end."""


class Missed(DwhctlError):  # noqa: N818
    """A load or report is not in time."""


class DeadlineMissed(Missed):
    """A deadline is over."""


class TooOld(Missed):
    """The last success is too old."""


def is_error(name: str | None, *classes: type[DwhctlError]) -> bool:
    """Tell whether the class of this name is one of the classes, or of a kind of them.

    Names come out of tables and from other processes: an unknown one, of another version, is none of them.
    """
    found = _by_name().get(name or "")
    return found is not None and issubclass(found, classes)


@cache
def _by_name() -> dict[str, type[DwhctlError]]:
    found: dict[str, type[DwhctlError]] = {}
    waiting: list[type[DwhctlError]] = [DwhctlError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting += kind.__subclasses__()
    return found
