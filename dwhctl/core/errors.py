"""Every error that dwhctl raises on purpose.

The first line of a class's docstring is its default message. `permanent`: another attempt would fail as well.
`exit_code`: that of the command when the error ends it. The class's name is the `error_class` of the sessions table.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwhctl.core.columns import Column


class ExitCode(enum.IntEnum):
    """The exit code of a command."""

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
    """The command received SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__("interrupted")
        self.exit_code = exit_code


# Errors that end a command before it changes anything.


class UsageError(DwhctlError):
    """The command's arguments are wrong."""

    exit_code = ExitCode.USAGE


class ConfigError(DwhctlError):
    """The project's configuration is wrong.

    The message has file, key (or line) and remedy, one problem a line.
    """

    exit_code = ExitCode.USAGE


class LockHeldError(DwhctlError):
    """Another dwhctl is doing this work."""

    exit_code = ExitCode.LOCK_HELD


class StateDirError(DwhctlError):
    """The state folder cannot be used."""


class WorkersError(DwhctlError):
    """Worker processes cannot be started."""


class CrontabError(DwhctlError):
    """The user's crontab cannot be read or changed."""


class SessionsError(DwhctlError):
    """The sessions database refused an operation."""


class SessionsLostError(SessionsError):
    """The connection to the sessions database is lost."""


# Errors of a channel: kept in the outbox, they never end a run.


class AlertError(DwhctlError):
    """The message was not sent."""


class AlertRefusedError(AlertError):
    """The channel refuses: its configuration is wrong, and another attempt would fail as well."""


class AlertNotSentError(AlertError):
    """The message was not sent; a later attempt may succeed.

    `retry_after` is the pause that the channel asked for, if any.
    """

    permanent = False

    def __init__(self, message: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AlertInDoubtError(AlertError):
    """The message may have been sent: the answer to it was lost."""

    permanent = False


# Errors that end one attempt at a slice or report: raised in a worker or while publishing, kept in its session.


class About(enum.StrEnum):
    """The subject of a refused statement, where that decides what to correct."""

    SQL = "sql"
    TABLE = "table"
    PERMISSION = "permission"
    MEMORY = "memory"


class AttemptError(DwhctlError):
    """The attempt failed.

    Of refused SQL: `statement` is the refused statement of the user, `line` its line at fault from 1, where known,
    `place` file and line in words.
    """

    permanent = False
    about: About = About.SQL
    statement: str | None = None
    line: int | None = None
    place: str = ""


class _PermanentError(AttemptError):
    """The attempt failed, and so would every other."""

    permanent = True


class _ConnectionFailedError(AttemptError):
    """The connection was not made.

    `connection` is its name in the project: after several such failures its circuit breaker opens.
    """

    def __init__(self, message: str = "", connection: str | None = None) -> None:
        super().__init__(message)
        self.connection = connection


class ConnectError(_ConnectionFailedError):
    """The server cannot be reached."""


class TlsError(ConnectError):
    """The server offers no TLS, or its certificate is not accepted."""

    permanent = True


class LoginRefusedError(_ConnectionFailedError):
    """The server refused the login."""

    permanent = True


class DatabaseMissingError(_PermanentError):
    """The shard's database is missing or cannot be read."""


class SourceBusyError(AttemptError):
    """The source is in use by another."""


class SourceError(AttemptError):
    """The source failed while it was read."""


class QueryError(_PermanentError):
    """The source refused the query."""


class SchemaDriftError(AttemptError):
    """The source's columns are not the target's.

    `new_columns` holds the source's columns that the target lacks when they are the only difference.
    """

    permanent = True

    def __init__(self, message: str = "", new_columns: Sequence[Column] = ()) -> None:
        super().__init__(message)
        self.new_columns = tuple(new_columns)


class ValueRefusedError(_PermanentError):
    """A value would be changed on its way."""


class OutsideSliceError(_PermanentError):
    """A row lies outside the slice."""


class DoubledKeyError(_PermanentError):
    """A key is twice in the slice."""


class ShrunkSourceError(_PermanentError):
    """The source holds far fewer rows than the warehouse."""


class StagingError(AttemptError):
    """The slice could not be staged."""


class TargetBusyError(AttemptError):
    """The target is in use by another."""


class TargetError(AttemptError):
    """The target failed."""


class TargetRefusedError(_PermanentError):
    """The target refused the statement."""


class CountsDifferError(_PermanentError):
    """The staged rows are not the extracted rows."""


class CommitInDoubtError(AttemptError):
    """It is not known whether the commit happened."""


class TooFewRowsError(_PermanentError):
    """The report would have too few rows."""


class NotReady(_PermanentError):  # noqa: N818 - as in the sessions table
    """What the slice or report waits for was not there in time."""


class WorkerDiedError(AttemptError):
    """The worker process died."""


class TimedOutError(AttemptError):
    """The attempt took longer than its timeout."""


class QuarantinedError(_PermanentError):
    """The slice killed its worker twice and is not tried again in this run."""


class ParkedError(_PermanentError):
    """The circuit breaker of the connection is open: it failed too often in a row."""


class InterruptedAttemptError(_PermanentError):
    """interrupted"""


class InternalError(_PermanentError):
    """A defect in dwhctl."""


# Reasons in a digest or a session: never raised.


class RunDied(DwhctlError):  # noqa: N818 - as in the sessions table
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
    """Return whether the class of this name is one of the classes or a subclass. A name of another version is not."""
    found = globals().get(name or "")
    return isinstance(found, type) and issubclass(found, classes)
