"""Refresh one report once: what a thread of `refresh-reports` does.

One transaction replaces the whole table: delete all rows, insert those of the source, check their number, commit.
Readers see the old rows or the new ones; a failure before the commit leaves the old ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dwhctl.core import errors
from dwhctl.core.columns import Column, Kind
from dwhctl.core.faults import reach
from dwhctl.load.cast import fits
from dwhctl.load.column_fit import UUID_OCTETS
from dwhctl.systems.base.target import Narrowing, Refresh, RefreshColumns, Target

if TYPE_CHECKING:
    from dwhctl.project.loads import Report
    from dwhctl.project.names import ReportSql


def refresh_report(target: Target, report: Report, sql: ReportSql, fence: Callable[[], None]) -> int:
    """Refresh a report and return the number of its rows.

    `fence` is called right before the commit and raises when this run may not publish any more. Raise AttemptError.
    """
    reach("refresh.begin")
    if sql.create:
        reach("refresh.create")
        target.run_statements(sql.create)
    with target.refresh(report.target, sql.source, report.timeout) as refresh:
        reach("refresh.held")
        columns, narrowed = common_columns(report.target, refresh.columns())
        reach("refresh.delete")
        refresh.delete()
        reach("refresh.insert")
        rows = refresh.insert(columns, narrowed)
        if rows < report.min_rows:
            raise errors.TooFewRowsError(
                f"the source gives {rows} rows, fewer than min_rows = {report.min_rows}; {report.target} keeps its"
                " old content"
            )
        reach("refresh.commit")
        fence()
        _commit(refresh, report)
        reach("refresh.committed")
    return rows


def common_columns(table: str, columns: RefreshColumns) -> tuple[list[str], list[Narrowing]]:
    """Return the table's columns that the source has, and which of them are narrower than the source's.

    Raise SchemaDriftError with the columns that one side lacks, and those whose types are of different kinds.
    """
    source = {column.name.lower(): column for column in columns.source}
    known = {column.name.lower(): column for column in columns.table}
    pairs = [Narrowing(source[name], known[name]) for name in known if name in source]
    wrong = [
        *_missing_columns(table, columns),
        *(_other_kind(table, pair) for pair in pairs if not _fits(pair)),
    ]
    if wrong:
        raise errors.SchemaDriftError(
            f"{'; '.join(wrong)}: change the source or the table; columns go by name, and nothing was changed"
        )
    return [pair.table.name for pair in pairs], [pair for pair in pairs if _may_change(pair)]


def _missing_columns(table: str, columns: RefreshColumns) -> Iterator[str]:
    source = Counter(column.name.lower() for column in columns.source)
    known = {column.name.lower() for column in columns.table}
    filled = {name.lower() for name in columns.filled}
    yield from (f"the source gives the column {name} twice" for name, times in source.items() if times > 1)
    if extra := [column.name for column in columns.source if column.name.lower() not in known]:
        yield f"the source has {', '.join(extra)}, which {table} lacks"
    names = [column.name for column in columns.table]
    if lacking := [name for name in names if name.lower() not in source and name.lower() not in filled]:
        yield f"{table} has {', '.join(lacking)}, which the source lacks"


def _other_kind(table: str, pair: Narrowing) -> str:
    return (
        f"column {pair.table.name} is {pair.source.declared} in the source and {pair.table.declared} in {table}"
        " (write the CAST or ROUND that is wanted into the source)"
    )


def _fits(pair: Narrowing) -> bool:
    """Compare declared types as for a load. A decimal without places may also go into an integer: a sum of integers."""
    source, table = pair.source.known, pair.table.known
    if pair.source.untyped or pair.source.declared.lower() == pair.table.declared.lower():
        return True
    if source is None or table is None:
        return False
    is_whole = source.kind is Kind.DECIMAL and source.type.scale == 0
    return fits(source, replace(table, rewrites="")) or (is_whole and table.kind is Kind.INTEGER)


def _may_change(pair: Narrowing) -> bool:
    """Return whether a value of the source's type may not fit the table's, so that each is checked."""
    source, table = pair.source.known, pair.table.known
    if source is None or table is None or pair.source.untyped:
        return False
    if _has_tighter_bounds(source, table):
        return True
    if table.kind in (Kind.TEXT, Kind.BINARY):
        # UUIDs are texts of 36 characters.
        octets = UUID_OCTETS if source.kind is Kind.UUID else source.octets
        shorter = table.octets is not None and (octets is None or octets > table.octets)
        if table.characters is not None:
            shorter |= source.characters is None or source.characters > table.characters
        return shorter or (table.padded and not (source.padded and source.octets == table.octets))
    if table.kind is Kind.DECIMAL and source.kind is Kind.DECIMAL:
        whole = [column.type.precision - column.type.scale for column in (source, table)]
        return bool(source.type.scale > table.type.scale or whole[0] > whole[1])
    if source.kind is not table.kind:
        return source.kind is not Kind.DATE
    return bool(source.type != table.type) and source.kind is not Kind.FLOAT


def _has_tighter_bounds(source: Column, table: Column) -> bool:
    """Return whether a value of the source's type may be beyond what the table's column holds."""
    if table.allowed is not None:
        return source.allowed != table.allowed
    if source.kind is not table.kind or table.least is None or source.least is None:
        return False
    return bool(source.least < table.least or source.most > table.most)  # type: ignore[operator]


def _commit(refresh: Refresh, report: Report) -> None:
    try:
        refresh.commit()
    except Exception as error:  # a defect, too, may have let it happen
        raise errors.CommitInDoubtError(
            f"the commit failed, or its answer was lost: {report.target} has its old content or its new, whole in"
            f" both cases, and another refresh makes it new ({error})"
        ) from error
