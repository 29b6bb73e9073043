"""`dwhctl verify`: is the warehouse what the sources are?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import (
    DATE_HELP,
    Settings,
    common_options,
    complete_loads,
    complete_shards,
    format_option,
    pass_settings,
)
from dwhctl.cli.common.output import counted
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.verify.findings import Check, FoldedFinding, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from dwhctl.project.model import Project
    from dwhctl.verify.findings import SliceComparison
    from dwhctl.verify.run import VerifyReport


VERIFY: Listing[tuple[object, ...]] = Listing(
    "load", "shard", "day", "check", "source", "warehouse", "detail", "column", "rows", "key"
)
AGAINST: Listing[tuple[object, ...]] = Listing(
    "load", "shard", "day", "check", "table", "against", "detail", "column", "rows", "key"
)


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("verify")
@click.argument("loads", nargs=-1, metavar="[LOAD]...", shell_complete=complete_loads)
@click.option("--date", "day", metavar="D", help=f"The day to verify: {DATE_HELP}")
@click.option("-s", "--start", metavar="D", help="The first day of a range.")
@click.option("-e", "--end", metavar="D", help="The last day of a range, included.")
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="GLOB",
    shell_complete=complete_shards,
    help="Only shards whose name fits; may be given several times.",
)
@click.option(
    "--against",
    metavar="SCHEMA.TABLE",
    help="Compare the one load's table with this one of the same warehouse, instead of with the sources.",
)
@click.option(
    "--table",
    metavar="SCHEMA.TABLE",
    help="With --against: compare the table of the load's shadow run, instead of its own.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Questions at once; default: max_workers."
)
@format_option
@common_options
@pass_settings
def command(
    settings: Settings,
    /,
    loads: tuple[str, ...],
    day: str | None,
    start: str | None,
    end: str | None,
    shards: tuple[str, ...],
    jobs: int | None,
    against: str | None,
    table: str | None,
    form: str,
) -> ExitCode:
    """Compare sources and warehouse slice by slice, for every LOAD (or the named ones).

    Each side counts its rows, finds its smallest and largest key and adds up a checksum of the keys, and of the load's
    verify_columns, in its own engine. Slices that are not complete are listed, and not compared. Only what is not equal
    is listed, with one example, and slices with one reason together: --format json and csv have a row for each slice
    and reason. With --verbose everything is listed. Ends with 1 when a complete slice differs or could not be compared.

    With --against two tables of the warehouse are compared so: that of the one LOAD and one that another tool fills.
    The sources are not asked.

    \b
    Examples:
      dwhctl verify --date yesterday
      dwhctl verify orders -s 2020-07-01 -e 2020-07-13 --shard 'mos*'
      dwhctl verify --date 2020-07-13 --format json
      dwhctl verify orders --against stage.orders --table stage.orders_new --date yesterday
    """
    from dwhctl.cli.common.output import tell
    from dwhctl.verify.run import VerifyRequest, verify

    project, names = _chosen(settings.open_project(), loads, against, table)
    request = VerifyRequest(days=_days(project, day, start, end), loads=names, shards=shards, jobs=jobs)
    listen = tell if settings.verbose else lambda _: None
    if against is None:
        report = verify(project, request, listen)
    else:
        from dwhctl.verify.compare import verify_against

        report = verify_against(project, request, against, listen)
    if form == "table":
        lines = folded_rows(report.verdicts, everything=settings.verbose)
        FOLDED.show(lines, empty="")
    else:
        rows = _rows(report, everything=settings.verbose)
        (VERIFY if against is None else AGAINST).show(rows, form)
    _tell_the_rest(report, settings, form, against)
    return ExitCode.DONE if report.is_fine else ExitCode.FAILED


def _chosen(
    project: Project, loads: tuple[str, ...], against: str | None, table: str | None
) -> tuple[Project, tuple[str, ...]]:
    """The project and the loads that are verified; with --table the shadow of the one that is named."""
    from dwhctl.project.names import with_shadow

    names = tuple(dict.fromkeys(loads))
    if table is None:
        return project, names
    if against is None:
        raise UsageError("--table says which table is compared with that of --against: give --against too")
    return with_shadow(project, names, table)


def _days(project: Project, day: str | None, start: str | None, end: str | None) -> tuple[date, ...]:
    from datetime import datetime, timedelta

    from dwhctl.project.days import resolve_day

    if (day is None) == (start is None and end is None) or (start is None) != (end is None):
        raise UsageError("give either --date D, or both -s D and -e D")
    now = datetime.now(project.zone)
    first = resolve_day(day or start or "", project.zone, now)
    last = resolve_day(day or end or "", project.zone, now)
    if last < first:
        raise UsageError(f"-e {last} lies before -s {first}")
    if first > now.date():
        raise UsageError(f"{first} lies in the future: today is {now.date()} in {project.timezone}")
    return tuple(first + timedelta(days=number) for number in range((last - first).days + 1))


def _rows(report: VerifyReport, *, everything: bool) -> Iterator[tuple[object, ...]]:
    from dwhctl.verify.findings import Check

    for one in report.verdicts:
        where = (one.load, one.shard, one.day)
        for found in one.findings:
            sides = (found.source, found.warehouse, found.detail)
            yield (*where, found.check.value, *sides, found.column, found.rows, found.key)
        if everything and one.is_equal:
            yield (*where, Check.EQUAL.value, str(one.rows), str(one.rows), None, None, one.rows, None)


def _tell_the_rest(report: VerifyReport, settings: Settings, form: str, against: str | None) -> None:
    from dwhctl.cli.common.output import say, tell

    for load in report.unseen:
        tell(
            f"load {load}: rows without a day were not looked for: its extract does not say"
            " `column >= :start AND column < :end`"
        )
    different = [one for one in report.verdicts if _word(one) == "different" and one.day is not None]
    # Which of two tables is wrong nobody knows but the sources.
    if different and form == "table" and not settings.quiet and against is None:
        one = different[0]
        tell(
            f"a slice is put right by loading it again: dwhctl load {one.load} --date {one.day} --shard {one.shard}"
        )
    if not settings.quiet:
        # Who reads JSON or CSV wants nothing else on stdout.
        (say if form == "table" else tell)(_summary(report))


def _summary(report: VerifyReport) -> str:
    from dwhctl.cli.common.output import counted
    from dwhctl.verify.findings import Check

    only_there = sum(one.has(Check.SHARD_ONLY_THERE) for one in report.verdicts)
    slices = [one for one in report.verdicts if one.day is not None and not one.has(Check.SHARD_ONLY_THERE)]
    counts = Counter(_word(one) for one in slices)
    equal_rows = sum(one.rows or 0 for one in slices if one.is_equal)
    parts = [f"{counts['equal']:,} equal ({counted(equal_rows, 'row')})"]
    parts += [
        f"{counts[word]:,} {word}" for word in ("different", "not compared", "incomplete") if counts[word]
    ]
    without_day = sum(one.has(Check.ROWS_IN_NO_SLICE) for one in report.verdicts)
    parts += [f"{counted(without_day, 'shard')} with rows in no slice"] if without_day else []
    parts += [f"{only_there:,} of unknown shards in the other table alone"] if only_there else []
    sources, rows = report.unknown_sources()
    parts += [f"{sources:,} unknown etl_source ({counted(rows, 'row')})"] if sources else []
    parts += [f"{report.before_start:,} before their start date"] if report.before_start else []
    parts += [f"{report.after_end:,} after their shard's last day"] if report.after_end else []
    return f"{counted(len(slices), 'slice')}: {', '.join(parts)}"


def _word(one: SliceComparison) -> str:
    from dwhctl.verify.findings import Check

    if one.is_equal:
        return "equal"
    if one.has(Check.INCOMPLETE):
        return "incomplete"
    return "not compared" if one.has(Check.NOT_COMPARED) else "different"


FOLDED: Listing[tuple[object, ...]] = Listing("load", "check", ListingColumn("what", is_text=True))


def folded_rows(verdicts: Iterable[SliceComparison], *, everything: bool) -> list[tuple[str, str, str]]:
    """Give the rows of the table. `everything`: equal slices too."""
    return [(one.load, one.finding.check.value, _what(one)) for one in fold(verdicts, equal=everything)]


def _what(one: FoldedFinding) -> str:
    found, where = one.finding, one.where()
    if found.check is Check.VALUES:
        return _values(one, where)
    if found.check is Check.MISSING:
        return f"{found.detail}: {where} ({_size(one)})"
    if found.check is Check.EQUAL:
        return f"{where} ({_size(one)})"
    sides = " / ".join(text for text in (found.source, found.warehouse) if text is not None)
    example = "; ".join(text for text in (sides, found.detail) if text)
    if len(one.verdicts) == 1:
        return f"{where}: {example}"
    size = f" ({counted(one.slices, 'slice')})" if one.slices else ""
    if found.check in (Check.INCOMPLETE, Check.NOT_COMPARED):
        return f"{where}{size}: {example}"
    return f"{where}{size}, e.g. {_example(one)}: {example}"


def _values(one: FoldedFinding, where: str) -> str:
    found = one.finding
    text = f"{found.column}: {_size(one)}"
    if found.key is None:
        return f"{text}; {where}"
    pair = f"{found.key}: {found.source} / {found.warehouse}"
    return f"{text}, e.g. {pair} ({_example(one)}){'' if len(one.verdicts) == 1 else f'; {where}'}"


def _size(one: FoldedFinding) -> str:
    """Count slices and rows, and never claim rows that were not counted."""
    slices = counted(one.slices, "slice")
    if one.rows is None:
        return f"{slices}, rows not counted"
    rows = counted(one.rows, "row")
    return (
        f"{slices}, {rows}"
        if one.counted == len(one.verdicts)
        else f"{slices}, {rows} in {one.counted:,} of them"
    )


def _example(one: FoldedFinding) -> str:
    verdict = one.example
    return " ".join(part for part in (verdict.shard or "NULL", str(verdict.day or "")) if part)
