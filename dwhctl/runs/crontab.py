"""The user's crontab, and in it the block of a project: lines between two markers, and only these are ever changed."""

from __future__ import annotations

import difflib
import shlex
import subprocess
from typing import TYPE_CHECKING

from dwhctl.errors import CrontabError
from dwhctl.runs.schedules import Job, jobs_of, watch_jobs
from dwhctl.runs.state_dir import CRON_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dwhctl.project.model import Project

#: Debian's cron refuses a command that is longer: MAX_COMMAND in its cron.h.
MAX_COMMAND = 998
_SECONDS = 30
_NOTE = "# Made by `dwhctl crontab install`: edits here are lost."
_NONE_YET = "no crontab for"


def block_of(project: Project, program: Sequence[str]) -> list[str]:
    """Give the lines of a project's block with its markers, or none when nothing has a schedule.

    `program` starts dwhctl from anywhere.
    """
    jobs = [*jobs_of(project), *watch_jobs(project)]
    lines = [line for job in jobs for line in _lines(project, job, program)]
    return [_begin(project.root), _NOTE, *lines, _end(project.root)] if lines else []


def with_block(crontab: str, root: Path, block: Sequence[str]) -> str:
    """Give a crontab with the project's block replaced by this one, put at the end when it has none yet.

    Every other line stays as it is. Raise CrontabError when only one of the markers stands there.
    """
    lines = crontab.splitlines()
    begin, end = _begin(root), _end(root)
    places = [number for number, line in enumerate(lines) if line.strip() in (begin, end)]
    if not places:
        return _text([*lines, *block])
    if [lines[place].strip() for place in places] != [begin, end]:
        raise CrontabError(
            f"the crontab's block of {root} is damaged: keep the lines '{begin}' and '{end}' once each, in this order,"
            " or remove both (crontab -e)"
        )
    return _text([*lines[: places[0]], *block, *lines[places[1] + 1 :]])


def difference(before: str, after: str) -> list[str]:
    """Give what changes, as `diff -u` writes it; nothing when nothing does."""
    lines = difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        "the crontab as it is",
        "the crontab as it will be",
        lineterm="",
    )
    return list(lines)


def read_crontab() -> str:
    """Give the user's crontab, empty when there is none. Raise CrontabError."""
    done = _crontab("-l")
    if done.returncode == 0:
        return _decoded(done.stdout)
    said = _decoded(done.stderr).strip()
    if _NONE_YET in said:
        return ""
    raise CrontabError(f"the crontab cannot be read: {said or f'crontab -l ended with {done.returncode}'}")


def write_crontab(text: str) -> None:
    """Make this the user's crontab, or remove it when nothing is left. Raise CrontabError; then it is as it was."""
    done = _crontab("-", text) if text else _crontab("-r")
    if done.returncode:
        said = _decoded(done.stderr).strip()
        raise CrontabError(f"the crontab was refused and is as before: {said}")


def _lines(project: Project, job: Job, program: Sequence[str]) -> Iterator[str]:
    """Write a job as a line; as several when a line cannot hold so many names."""
    command = _command(project, job, program)
    if len(command) <= MAX_COMMAND or len(job.names) <= 1:
        yield f"{job.schedule} {command}"
        return
    middle = len(job.names) // 2
    for names in (job.names[:middle], job.names[middle:]):
        yield from _lines(project, Job(job.schedule, names, job.command, job.options), program)


def _command(project: Project, job: Job, program: Sequence[str]) -> str:
    words = [*program, *job.arguments, "--quiet", "--project", str(project.root)]
    log = project.state_dir / "logs" / CRON_LOG
    # cron(8) makes a newline of a % that no backslash precedes.
    return f"{shlex.join(words)} >> {shlex.quote(str(log))} 2>&1".replace("%", r"\%")


def _begin(root: Path) -> str:
    return f"# BEGIN dwhctl {root}"


def _end(root: Path) -> str:
    return f"# END dwhctl {root}"


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _crontab(argument: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", argument],
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise CrontabError(
            "there is no program crontab on this machine; install cron (Debian: apt install cron, Red Hat: dnf install"
            " cronie), or give the lines of `dwhctl crontab show` to your own scheduler"
        ) from None
    except subprocess.TimeoutExpired:
        raise CrontabError(f"the program crontab did not answer within {_SECONDS} s") from None


def _decoded(text: bytes) -> str:
    # What stands outside the block may be in any encoding, and goes back as it came.
    return text.decode(errors="surrogateescape")
