"""Refresh one report once: what a thread of `refresh-reports` does.

One transaction replaces the whole table: delete all rows, insert those of the source, look at their number, commit.
Readers see the old rows or the new ones; whatever fails before the commit leaves the old ones.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dwhctl.errors import CommitInDoubtError, SchemaDriftError, TooFewRowsError
from dwhctl.faults import reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from dwhctl.project.model import Report
    from dwhctl.project.report_sql import ReportSql
    from dwhctl.targets.contract import Refresh, RefreshColumns, Target


def refresh_report(target: Target, report: Report, sql: ReportSql, fence: Callable[[], None]) -> int:
    """Refresh a report and give the number of its rows.

    `fence` is called right before the commit and raises when this run may not publish any more. Raise AttemptError.
    """
    reach("refresh.begin")
    if sql.create:
        reach("refresh.create")
        target.run_statements(sql.create)
    with target.refresh(report.target, sql.source, report.timeout) as refresh:
        reach("refresh.held")
        columns = common_columns(report.target, refresh.columns())
        reach("refresh.delete")
        refresh.delete()
        reach("refresh.insert")
        rows = refresh.insert(columns)
        if rows < report.min_rows:
            raise TooFewRowsError(
                f"the source gives {rows} rows, fewer than min_rows = {report.min_rows}; {report.target} keeps its"
                " old content"
            )
        reach("refresh.commit")
        fence()
        _commit(refresh, report)
        reach("refresh.committed")
    return rows


def common_columns(table: str, columns: RefreshColumns) -> list[str]:
    """Give the table's columns that the source has. Raise SchemaDriftError that names those that one side lacks."""
    source = Counter(name.lower() for name in columns.source)
    known = {name.lower() for name in columns.table}
    filled = {name.lower() for name in columns.filled}
    wrong = [f"the source gives the column {name} twice" for name, times in source.items() if times > 1]
    if extra := [name for name in columns.source if name.lower() not in known]:
        wrong.append(f"the source has {', '.join(extra)}, which {table} lacks")
    if lacking := [
        name for name in columns.table if name.lower() not in source and name.lower() not in filled
    ]:
        wrong.append(f"{table} has {', '.join(lacking)}, which the source lacks")
    if wrong:
        raise SchemaDriftError(
            f"{'; '.join(wrong)}: change the source or the table; columns go by name, and nothing was changed"
        )
    return [name for name in columns.table if name.lower() in source]


def _commit(refresh: Refresh, report: Report) -> None:
    try:
        refresh.commit()
    except Exception as error:  # a defect, too, may have let it happen
        raise CommitInDoubtError(
            f"the commit failed, or its answer was lost: {report.target} has its old content or its new, whole in"
            f" both cases, and another refresh makes it new ({error})"
        ) from error
