"""The gaps as a person reads them: shards that lack the same days together, each range over its command."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from rich.text import Text

from dwhctl.cli.output import counted
from dwhctl.runs.gaps import Gap, fill_command, fold_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from dwhctl.project.model import Project

_HEADS = ("load", "shards", "start", "end", "slices")
_NAMED = 3
#: What the names of a gap's shards may take of a line.
_NAMED_WIDTH = 26
_COMMAND = "cyan"


def gaps_picture(
    project: Project,
    gaps: Sequence[Gap],
    span: Sequence[date],
    place: Path | None = None,
    *,
    some_shards: bool = False,
    width: int | None = None,
) -> list[Text]:
    """Draw the gaps that were found in a span of days; commands are never broken.

    `place` is the project's folder where the command was told it. With `some_shards` others were not looked at, and a
    command must not fill theirs.
    """
    looked = f"{span[0]} to {span[-1]}"
    if not gaps:
        return [Text(f"no gaps: every slice expected from {looked} is complete")]
    together = fold_shards(gaps)
    total = counted(sum(gap.slices for gap in gaps), "slice")
    lines = [Text(f"{total} to fill in {counted(len(together), 'gap')}, {looked}", style="bold"), Text()]
    lines += _table(project, together, place, width, some_shards=some_shards)
    for load in dict.fromkeys(gap.load for gap in together):
        of_load = [gap for gap in together if gap.load == load]
        if len(of_load) > 1:
            lines += [Text(), Text(f"all of {load}:")]
            lines.append(_command(fill_command(_whole(of_load), place, named=some_shards)))
    return lines


def _table(
    project: Project, gaps: Sequence[Gap], place: Path | None, width: int | None, *, some_shards: bool
) -> Iterator[Text]:
    rows = [_row(project, gap) for gap in gaps]
    columns = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    fits = width is None or len(_joined(_HEADS, columns)) <= width
    if fits:
        yield Text(_joined(_HEADS, columns), style="dim")
    for row, gap in zip(rows, gaps, strict=True):
        load, shards, *rest = _aligned(row, columns) if fits else row
        if fits:
            yield Text.assemble((load, "dim"), "  ", (shards, "bold"), "  ", "  ".join(rest))
        else:
            yield Text.assemble((load, "dim"), "  ", (shards, "bold"))
            days = f"{gap.start}" if gap.start == gap.end else f"{gap.start} to {gap.end}"
            yield Text(f"  {days}, {counted(gap.slices, 'slice')}")
        named = some_shards or _must_name(gap, gaps)
        yield _command(fill_command(gap, place, named=named))


def _must_name(gap: Gap, gaps: Sequence[Gap]) -> bool:
    """Tell whether the days alone do not say which slices are meant: another gap of the load shares one of them."""
    others = (one for one in gaps if one is not gap and one.load == gap.load)
    return any(one.start <= gap.end and gap.start <= one.end for one in others)


def _row(project: Project, gap: Gap) -> tuple[str, ...]:
    shards = ", ".join(gap.shards)
    if len(gap.shards) > 1 and len(gap.shards) == len(_shards(project, gap)):
        shards = f"all {len(gap.shards)}"
    elif len(gap.shards) > _NAMED + 1 or len(shards) > _NAMED_WIDTH:
        named = min(
            _NAMED, sum(width <= _NAMED_WIDTH for width in accumulate(len(one) + 2 for one in gap.shards))
        )
        named = max(named, 1)
        more = len(gap.shards) - named
        shards = ", ".join(gap.shards[:named]) + (f" and {more} more" if more else "")
    return gap.load, shards, str(gap.start), str(gap.end), f"{gap.slices:,}"


def _whole(gaps: Sequence[Gap]) -> Gap:
    """Give one range around all gaps of a load: with --only-missing it fills just these."""
    shards = tuple(dict.fromkeys(shard for gap in gaps for shard in gap.shards))
    return Gap(gaps[0].load, shards, min(gap.start for gap in gaps), max(gap.end for gap in gaps))


def _shards(project: Project, gap: Gap) -> list[str]:
    return [shard.name for shard in project.shards_of(project.loads[gap.load])]


def _joined(row: Sequence[str], columns: Sequence[int]) -> str:
    return "  ".join(_aligned(row, columns)).rstrip()


def _aligned(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    *texts, number = zip(row, columns, strict=True)
    return [*(f"{text:{width}}" for text, width in texts), f"{number[0]:>{number[1]}}"]


def _command(command: str) -> Text:
    return Text(f"  {command}", style=_COMMAND)
