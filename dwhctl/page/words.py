"""The sentences on top of the page, and the moment from which it is too old."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Literal

from msgspec import Struct

from dwhctl.core.words import counted, first_of, shown_time
from dwhctl.cron import fire_times, jobs_of, machine_zone
from dwhctl.monitor.coverage import Coverage
from dwhctl.monitor.freshness import Sla, promised
from dwhctl.page.failing import FailingGroup
from dwhctl.project.model import Project
from dwhctl.sessions.history import PastRun
from dwhctl.verify.last import LastVerify

#: So many starts of a schedule are looked at for its shortest interval.
_STARTS = 12


class Headline(Struct, frozen=True):
    """The sentences on top; `mood` is the worst of them."""

    mood: Literal["good", "warn", "bad"]
    sentences: tuple[str, ...]


def headline(
    project: Project,
    now: datetime,
    coverage: Coverage | None,
    failing: Sequence[FailingGroup],
    slas: Sequence[Sla],
    last_run: PastRun | None,
    reports: Mapping[str, bool],
    verified: Sequence[LastVerify],
) -> Headline:
    """Return what a reader must know first: what is complete, fails, is late or wrong, and whether runs start.

    `reports` says of each whether it is up to date.
    """
    if last_run is None:
        return Headline("warn", ("Nothing was loaded yet.", *_first_start(project, now)))
    overdue = list(_overdue(project, now, last_run))
    bad = [*_failing(failing), *_late(slas), *_different(verified)]
    gaps = list(_older_gaps(coverage, now, project)) if coverage else []
    complete = list(_complete(coverage, now, project)) if coverage else []
    is_short = any(not is_whole for _, is_whole in complete)
    old = [name for name, is_current in reports.items() if not is_current]
    sentences = [*overdue, *(text for text, _ in complete), *_reports(reports, old), *bad, *gaps]
    if not failing:
        sentences.append("Nothing fails.")
    is_bad = bool(overdue or bad or is_short)
    mood: Literal["good", "warn", "bad"] = "bad" if is_bad else "warn" if gaps or old else "good"
    return Headline(mood, tuple(sentences))


def _complete(coverage: Coverage, now: datetime, project: Project) -> Iterator[tuple[str, bool]]:
    """Yield how many slices of yesterday are complete, and whether all are."""
    yesterday = now.astimezone(project.zone).date() - timedelta(days=1)
    cells = [
        row.cells[place]
        for row in coverage.rows
        for place, day in enumerate(coverage.days)
        if day == yesterday
    ]
    over = [cell for cell in cells if cell.over]
    waiting = sum(cell.is_expected and not cell.over for cell in cells)
    done = sum(cell.complete for cell in over)
    if over:
        rest = f" ({waiting:,} not over yet)" if waiting else ""
        yield f"{done:,} of {counted(len(over), 'slice')} of {yesterday} complete{rest}.", done == len(over)


def _older_gaps(coverage: Coverage, now: datetime, project: Project) -> Iterator[str]:
    """Yield how many slices of earlier days are missing."""
    yesterday = now.astimezone(project.zone).date() - timedelta(days=1)
    older = [day for _, day, cell in coverage.slices() if cell.is_gap and day < yesterday]
    if older:
        yield f"{counted(len(older), 'slice')} of earlier days missing, the oldest of {min(older)}."


def _failing(failing: Sequence[FailingGroup]) -> Iterator[str]:
    if not failing:
        return
    tasks = sum(len(group.shards) or 1 for group in failing)
    since = min(group.since for group in failing)
    reports = sum(group.is_report for group in failing)
    parts = [counted(tasks - reports, "shard")] if tasks > reports else []
    parts += [counted(reports, "report")] if reports else []
    verb = "fails" if tasks == 1 else "fail"
    yield f"{' and '.join(parts)} {verb}, since {since}."


def _late(slas: Sequence[Sla]) -> Iterator[str]:
    for kind in ("load", "report"):
        missed = [sla for sla in slas if sla.kind == kind and sla.missed]
        if missed:
            yield f"{counted(len(missed), kind)} late: {first_of([sla.name for sla in missed], 3)}."


def _reports(reports: Mapping[str, bool], old: Sequence[str]) -> Iterator[str]:
    """Yield whether the reports are up to date."""
    if old and len(reports) == 1:
        yield f"The report {old[0]} is not up to date."
    elif old:
        yield f"{len(old)} of {len(reports)} reports not up to date: {first_of(old, 3)}."
    elif reports:
        yield (
            "The report is up to date."
            if len(reports) == 1
            else f"All {len(reports)} reports are up to date."
        )


def _different(verified: Sequence[LastVerify]) -> Iterator[str]:
    """Yield what differed from the sources when it was verified last."""
    for last in verified:
        if last.different or last.others:
            days = f"{last.start}" if last.start == last.end else f"{last.start} to {last.end}"
            yield f"{last.load} of {days} differs from its sources, by the last verify."


def _overdue(project: Project, now: datetime, last_run: PastRun) -> Iterator[str]:
    """Yield that no run started when the schedules say that one must have, twice."""
    starts = sorted(
        at
        for schedule in {job.schedule for job in jobs_of(project)}
        for at in _starts(schedule, last_run.started + timedelta(minutes=5), 2)
    )
    if len(starts) > 1 and starts[1] < now - timedelta(minutes=5):
        last, due = (shown_time(at, project.zone)[:16] for at in (last_run.started, starts[0]))
        yield f"No run has started since {last}; one was scheduled at {due}: is cron running?"


def _first_start(project: Project, now: datetime) -> Iterator[str]:
    starts = [at for job in jobs_of(project) for at in _starts(job.schedule, now, 1)]
    if starts:
        yield f"The first scheduled run starts at {shown_time(min(starts), project.zone)[:16]}."
    else:
        yield "Type: dwhctl load --date yesterday"


def stale_at(project: Project, made: datetime) -> datetime | None:
    """Return from when on the page is too old: after twice the shortest interval of a schedule, and two starts of it.

    None without a schedule. By the starts a schedule of working hours is not too old in the morning.
    """
    schedules = {job.schedule for job in jobs_of(project)}
    if promised(project):
        schedules.add(project.watch_schedule)
    moments = []
    for schedule in schedules:
        starts = _starts(schedule, made, _STARTS)
        if len(starts) > 1:
            shortest = min(second - first for first, second in pairwise(starts))
            moments.append(max(made + 2 * shortest, starts[1]))
    return min(moments, default=None)


def _starts(schedule: str, after: datetime, count: int) -> list[datetime]:
    return [at.astimezone(UTC) for at in islice(fire_times(schedule, after, machine_zone()), count)]
