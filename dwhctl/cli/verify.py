"""`dwhctl verify`: compare sources and warehouse, or two tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from functools import partial

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.listing import Listing, ListingColumn
from dwhctl.cli.common.options import (
    DATE_HELP,
    Settings,
    complete_loads,
    format_option,
    shards_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.core.words import counted
from dwhctl.project.days import resolve_day
from dwhctl.project.model import Project
from dwhctl.project.names import with_shadow
from dwhctl.verify.findings import Check, FoldedFinding, SliceComparison, fold
from dwhctl.verify.last import repair_command
from dwhctl.verify.run import VerifyReport, VerifyRequest, verify, verify_against

FOLDED: Listing[tuple[object, ...]] = Listing("load", "check", ListingColumn("what", is_text=True))
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
@shards_option
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
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Queries at once; default: max_workers."
)
@format_option
@with_settings
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

    With --against two tables of the warehouse are compared: that of the one LOAD and one that another tool fills.
    The sources are not read.

    \b
    Examples:
      dwhctl verify --date yesterday
      dwhctl verify orders -s 2020-07-01 -e 2020-07-13 --shard 'mos*'
      dwhctl verify --date 2020-07-13 --format json
      dwhctl verify orders --against stage.orders --table stage.orders_new --date yesterday
    """
    project, names = settings.open_project(), tuple(dict.fromkeys(loads))
    if table is not None:
        if against is None:
            raise UsageError(
                "--table says which table is compared with that of --against: give --against too"
            )
        project, names = with_shadow(project, names, table)
    request = VerifyRequest(days=_days(project, day, start, end), loads=names, shards=shards, jobs=jobs)
    listen = tell if settings.verbose else lambda _: None
    compare = verify if against is None else partial(verify_against, table=against)
    report = compare(project, request, listen=listen)
    if form == "table":
        lines = folded_rows(report.results, everything=settings.verbose)
        FOLDED.show(lines, empty="")
    else:
        rows = _rows(report, everything=settings.verbose)
        (VERIFY if against is None else AGAINST).show(rows, form)
    _tell_the_rest(report, settings, form, against)
    return ExitCode.DONE if report.is_fine else ExitCode.FAILED


def _days(project: Project, day: str | None, start: str | None, end: str | None) -> tuple[date, ...]:
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
    for result in report.results:
        where = (result.load, result.shard, result.day)
        for found in result.findings:
            sides = (found.source, found.warehouse, found.detail)
            yield (*where, found.check.value, *sides, found.column, found.rows, found.key)
        if everything and result.is_equal:
            rows = str(result.rows)
            yield (*where, Check.EQUAL.value, rows, rows, None, None, result.rows, None)


def _tell_the_rest(report: VerifyReport, settings: Settings, form: str, against: str | None) -> None:
    for load in report.unseen:
        tell(
            f"load {load}: rows without a day were not looked for: its extract does not say"
            " `column >= :start AND column < :end`"
        )
    different = [result for result in report.results if result.word == "different" and result.day]
    # Of two tables only the sources show which is wrong.
    if different and form == "table" and not settings.quiet and against is None:
        first = different[0]
        if first.day is not None:
            again = repair_command(first.load, first.shard, first.day)
            tell(f"to repair a slice, load it again: {again}")
    if not settings.quiet:
        # With JSON and CSV nothing else is on stdout.
        (say if form == "table" else tell)(_summary(report))


def _summary(report: VerifyReport) -> str:
    found = Counter(finding.check for result in report.results for finding in result.findings)
    slices = [result for result in report.results if result.day and not result.has(Check.SHARD_ONLY_THERE)]
    counts = Counter(result.word for result in slices)
    equal_rows = sum(result.rows or 0 for result in slices if result.is_equal)
    parts = [f"{counts['equal']:,} equal ({counted(equal_rows, 'row')})"]
    parts += [
        f"{counts[word]:,} {word}" for word in ("different", "not compared", "incomplete") if counts[word]
    ]
    if without_day := found[Check.ROWS_IN_NO_SLICE]:
        parts.append(f"{counted(without_day, 'shard')} with rows in no slice")
    if only_there := found[Check.SHARD_ONLY_THERE]:
        parts.append(f"{only_there:,} of unknown shards in the other table alone")
    if sources := found[Check.UNKNOWN_SOURCE]:
        parts.append(f"{sources:,} unknown etl_source ({counted(report.unknown_rows(), 'row')})")
    parts += [f"{report.before_start:,} before their start date"] if report.before_start else []
    parts += [f"{report.after_end:,} after their shard's last day"] if report.after_end else []
    return f"{counted(len(slices), 'slice')}: {', '.join(parts)}"


def folded_rows(results: Iterable[SliceComparison], *, everything: bool) -> list[tuple[str, str, str]]:
    """Return the rows of the table. `everything`: equal slices too."""
    folded = fold(results, equal=everything)
    return [(group.load, group.finding.check.value, _what(group)) for group in folded]


def _what(group: FoldedFinding) -> str:
    found, where, size = group.finding, group.where(), _size(group)
    single = len(group.results) == 1
    example = " ".join(filter(None, (group.example.shard or "NULL", str(group.example.day or ""))))
    if found.check is Check.VALUES:
        if found.key is None:
            return f"{found.column}: {size}; {where}"
        pair = f"{found.key}: {found.source} / {found.warehouse}"
        return f"{found.column}: {size}, e.g. {pair} ({example}){'' if single else f'; {where}'}"
    if found.check is Check.MISSING:
        return f"{found.detail}: {where} ({size})"
    if found.check is Check.EQUAL:
        return f"{where} ({size})"
    text = "; ".join(filter(None, (found.sides, found.detail)))
    if single:
        return f"{where}: {text}"
    slices = f" ({counted(group.slices, 'slice')})" if group.slices else ""
    if found.check in (Check.INCOMPLETE, Check.NOT_COMPARED):
        return f"{where}{slices}: {text}"
    return f"{where}{slices}, e.g. {example}: {text}"


def _size(group: FoldedFinding) -> str:
    slices = counted(group.slices, "slice")
    if group.rows is None:
        return f"{slices}, rows not counted"
    part = "" if group.counted == len(group.results) else f" in {group.counted:,} of them"
    return f"{slices}, {counted(group.rows, 'row')}{part}"
