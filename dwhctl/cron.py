"""Schedules of loads and reports: their jobs, the times at which cron starts these, and the user's crontab."""

from __future__ import annotations

import difflib
import os
import pwd
import re
import shlex
import subprocess
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim
from filelock import AcquireReturnProxy, FileLock, Timeout
from msgspec import Struct

from dwhctl.core.errors import CrontabError, LockHeldError, UsageError
from dwhctl.core.words import SCHEDULED
from dwhctl.monitor.freshness import promised
from dwhctl.project.fields import SCHEDULE_WORDS
from dwhctl.runtime.locks import CRON_LOG, StateDir

if TYPE_CHECKING:
    from dwhctl.project.loads import Load
    from dwhctl.project.model import Project


_LOCALTIME = Path("/etc/localtime")
_DAY = timedelta(days=1)


class CronJob(Struct, frozen=True):
    """One line of the crontab. Loads that share schedule and options share a line."""

    schedule: str
    names: tuple[str, ...]
    command: str
    options: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of dwhctl."""
        return (self.command, *self.names, *self.options)


class ClockChange(NamedTuple):
    """A time of a schedule, by the machine's clock, that a clock change skips or doubles."""

    at: datetime
    what: Literal["skipped", "doubled"]


def jobs_of(project: Project) -> list[CronJob]:
    """Return the jobs of a project, loads before the reports that are made from them."""
    names: dict[tuple[str | None, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for load in project.loads.values():
        names[load.schedule, "load", _load_options(load)].append(load.name)
    for report in project.reports.values():
        names[report.schedule, "refresh-reports", ("--date", "yesterday")].append(report.name)
    return [
        CronJob(schedule, tuple(works), command, options)
        for (schedule, command, options), works in names.items()
        if schedule is not None
    ]


def scheduled_jobs(project: Project) -> list[CronJob]:
    """Return the jobs of a project, and that of `watch` where a load or a report has a deadline."""
    jobs = jobs_of(project)
    if promised(project):
        jobs.append(CronJob(project.watch_schedule, (), "watch", ()))
    return jobs


def _load_options(load: Load) -> tuple[str, ...]:
    options = ("--date", "today")
    if load.slice_by is None:
        return options
    if load.catch_up is None:
        return (*options, "--lookback", "1")
    return (*options, "--lookback", str(load.catch_up), "--only-missing")


def machine_zone() -> ZoneInfo:
    """Return the zone of cron on this machine: /etc/localtime, else UTC."""
    if not _LOCALTIME.exists():
        return ZoneInfo("UTC")
    name = str(_LOCALTIME.resolve()).partition("zoneinfo/")[2]
    with _LOCALTIME.open("rb") as file:
        return ZoneInfo.from_file(file, key=name or "local time")


def same_clock(zone: ZoneInfo, other: ZoneInfo, at: datetime) -> bool:
    """Return whether two zones' clocks show the same for a year: a zone may have several names."""
    days = (at + number * _DAY for number in range(366))
    return all(day.astimezone(zone).utcoffset() == day.astimezone(other).utcoffset() for day in days)


def fire_times(schedule: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the instants after `after`, as this zone's clocks show them, at which Debian's cron starts a job.

    A time of a fixed hour that a clock change skips comes right after it, one that it doubles comes once:
    https://manpages.debian.org/bookworm/cron/cron.8.en.html
    """
    return iter(CronSim(SCHEDULE_WORDS.get(schedule, schedule), after.astimezone(zone)))


def clock_changes(schedule: str, after: datetime, days: int, zone: ZoneInfo) -> Iterator[ClockChange]:
    """Yield the times of a schedule, within so many days, that a change of this zone's clocks skips or doubles.

    A schedule of every hour, or every few, follows the clock and misses nothing.
    """
    expression = SCHEDULE_WORDS.get(schedule, schedule)
    minute, hour, *_ = expression.split()
    if minute.startswith("*") or hour.startswith("*"):
        return
    first = after.astimezone(zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    for number in range(days):
        day = first + number * _DAY
        if day.replace(tzinfo=zone).utcoffset() == (day + _DAY).replace(tzinfo=zone).utcoffset():
            continue
        for at in CronSim(expression, day - timedelta(seconds=1)):
            if at >= day + _DAY:
                break
            if (what := _what_the_clock_does(at, zone)) is not None:
                yield ClockChange(at, what)


def _what_the_clock_does(at: datetime, zone: ZoneInfo) -> Literal["skipped", "doubled"] | None:
    first, second = (at.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return None
    back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None, fold=0)
    return "doubled" if back == at else "skipped"


#: Debian's cron refuses a command of more octets: MAX_COMMAND in its cron.h.
MAX_COMMAND = 998
_SECONDS = 30
_NOTE = "# Made by `dwhctl crontab install`: edits here are lost."
_NO_CRONTAB = re.compile(rb"(crontab: )?no crontab for \S+")
#: Categories of control characters, and of others that end a line somewhere.
LINE_BREAKING = ("Cc", "Zl", "Zp")


def block_of(project: Project, program: Sequence[str]) -> list[str]:
    """Return the lines of a project's block with its markers, or none when nothing has a schedule.

    `program` starts dwhctl from anywhere. Raise UsageError when a line would hold a control character.
    """
    lines = [line for job in scheduled_jobs(project) for line in _lines(project, job, program)]
    begin, end = _markers(project.root)
    block = [begin, _NOTE, *lines, end] if lines else []
    for line in block:
        if any(unicodedata.category(character) in LINE_BREAKING for character in line):
            raise UsageError(
                f"a control character cannot be in a crontab: {_visible(os.fsencode(line))}; move the project,"
                " its state_dir or dwhctl to a path without one"
            )
    return block


def with_block(crontab: bytes, root: Path, block: Sequence[str]) -> bytes:
    """Return a crontab with the project's block replaced by this one, put at the end when it has none yet.

    Every other byte stays as it is. A last line without a newline stays the last one, below a new block: cron may
    ignore such a line, and with a newline it would become a job. Raise CrontabError for a block without both markers.
    """
    lines = BytesIO(crontab).readlines()
    new = [os.fsencode(f"{line}\n") for line in block]
    markers = _markers(root)
    encoded = [os.fsencode(marker) for marker in markers]
    bare = [line.removesuffix(b"\n").removesuffix(b"\r").lstrip(b" \t") for line in lines]
    places = [number for number, line in enumerate(bare) if line in encoded]
    if not places:
        last = len(lines) - _is_unterminated(crontab)
        return b"".join([*lines[:last], *new, *lines[last:]])
    if [bare[place] for place in places] != encoded:
        raise CrontabError(
            f"the crontab's block of {root} is damaged: keep the lines '{markers[0]}' and '{markers[1]}' once each,"
            " in this order, or remove both (crontab -e)"
        )
    return b"".join([*lines[: places[0]], *new, *lines[places[1] + 1 :]])


def difference(before: bytes, after: bytes) -> list[str]:
    """Return what changes, as `diff -u` writes it, control characters as escapes; nothing when nothing changes."""
    changes = difflib.diff_bytes(
        difflib.unified_diff,
        BytesIO(before).readlines(),
        BytesIO(after).readlines(),
        b"the crontab as it is",
        b"the crontab as it will be",
        lineterm=b"\n",
    )
    lines = []
    for change in changes:
        lines.append(_visible(change.removesuffix(b"\n")))
        if not change.endswith(b"\n"):
            lines.append("\\ No newline at end of crontab")
    return lines


@contextmanager
def locked_crontab() -> Iterator[None]:
    """Let one dwhctl of this user at a time read and replace the crontab. Raise LockHeldError.

    The lock is in the home folder that the system knows: HOME may differ under sudo and cron. A user without a home
    folder gets no lock, only the comparisons of `replace_crontab`.
    """
    with ExitStack() as stack:
        with suppress(KeyError, OSError):
            home = Path(pwd.getpwuid(os.getuid()).pw_dir)
            if home.is_absolute():
                stack.enter_context(_lock(home / ".local" / "state" / "dwhctl" / "crontab.lock"))
        yield


def _lock(path: Path) -> AcquireReturnProxy[FileLock]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return FileLock(path, _SECONDS, 0o600, thread_local=False, fallback_to_soft=False).acquire()
    except Timeout:
        raise LockHeldError(
            f"another dwhctl of this user is changing the crontab: it has held {path} for {_SECONDS} s"
        ) from None


def read_crontab() -> bytes:
    """Return the user's crontab, empty when there is none. Raise CrontabError."""
    done = _crontab("-l")
    errors = done.stderr.strip()
    if not done.stdout and _NO_CRONTAB.fullmatch(errors):
        return b""
    if done.returncode or (errors and not done.stdout):
        reason = _visible(errors) or f"crontab -l ended with {done.returncode}"
        raise CrontabError(f"the crontab cannot be read: {reason}")
    return done.stdout


def replace_crontab(before: bytes, after: bytes) -> None:
    """Make `after` the user's crontab, or remove it when nothing is left. Raise CrontabError.

    What another program wrote since `before` was read is not overwritten, and what is there afterwards is compared.
    """
    if read_crontab() != before:
        raise CrontabError(
            "another program changed the crontab just now, so it is left alone; run this again"
        )
    done = _crontab("-", after) if after else _crontab("-r")
    if done.returncode:
        remedy = "; end its last line with a newline (crontab -e)" if _is_unterminated(after) else ""
        raise CrontabError(
            f"the crontab was refused and is as before: {_visible(done.stderr.strip())}{remedy}"
        )
    if read_crontab() != after:
        raise CrontabError(
            "the crontab is not what was written: another program changed it, or crontab did; compare `crontab -l`"
            " with `dwhctl crontab show`, and run this again"
        )


def _lines(project: Project, job: CronJob, program: Sequence[str]) -> Iterator[str]:
    """Yield the line of a job; several where a line cannot hold so many names."""
    command = _command(project, job, program)
    if len(os.fsencode(command)) <= MAX_COMMAND or len(job.names) <= 1:
        yield f"{job.schedule} {command}"
        return
    middle = len(job.names) // 2
    for names in (job.names[:middle], job.names[middle:]):
        yield from _lines(project, CronJob(job.schedule, names, job.command, job.options), program)


def _command(project: Project, job: CronJob, program: Sequence[str]) -> str:
    words = [*program, *job.arguments, SCHEDULED, "--quiet", "--project", str(project.root)]
    log = StateDir(project.state_dir).logs / CRON_LOG
    command = f"{shlex.join(words)} >> {shlex.quote(str(log))} 2>&1"
    # cron(8) turns a % without a backslash before it into a newline, and Debian's turns two backslashes into one. A
    # backslash is always inside quotes here: these end and begin again after it, so that it precedes neither.
    return command.replace("\\", "\\''").replace("%", r"\%")


def _markers(root: Path) -> tuple[str, str]:
    return f"# BEGIN dwhctl {root}", f"# END dwhctl {root}"


def _is_unterminated(crontab: bytes) -> bool:
    return crontab != b"" and not crontab.endswith(b"\n")


def _crontab(argument: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        # No pipe: when dwhctl ends before it has written all, `crontab -` would install what it has, or nothing.
        with os.fdopen(os.memfd_create("crontab"), "w+b") as whole:
            whole.write(text)
            whole.seek(0)
            return subprocess.run(
                ["crontab", argument],
                stdin=whole,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
    except FileNotFoundError:
        raise CrontabError(
            "there is no program crontab on this machine; install cron (Debian: apt install cron, Red Hat: dnf install"
            " cronie), or give the lines of `dwhctl crontab show` to your own scheduler"
        ) from None
    except OSError as error:
        raise CrontabError(f"the program crontab cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise CrontabError(
            f"`crontab {argument}` did not end within {_SECONDS} s and was stopped; check the crontab: crontab -l"
        ) from None


def _visible(text: bytes) -> str:
    """Return a text with an escape for each character that a terminal does not show, or obeys."""
    decoded = text.decode(errors="backslashreplace")
    return "".join(character if character.isprintable() else _escape(ord(character)) for character in decoded)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
