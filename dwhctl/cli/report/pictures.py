"""The timeline as lines of text: a lane for each worker, a coloured bar with a letter for each session."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from rich.text import Text

from dwhctl.cli.common.output import counted, packed, shown_seconds
from dwhctl.cli.report.grid_picture import LOOKS, legend
from dwhctl.core.words import shown_time
from dwhctl.monitor.coverage import BADNESS, Gap, SliceStatus, fill_command, fold_shards, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from dwhctl.monitor.timeline import Bar, Lane, Timeline
    from dwhctl.project.model import Project


_FILE_WIDTH = 160
_BLOCKS = " ▁▂▃▄▅▆▇█"
_TICK_SPACE = 12
_STEPS = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14400,
    21600,
    43200,
    86400,
)
_NO_WORKER = "worker ?"


def timeline_picture(timeline: Timeline, size: tuple[int, int] | None = None) -> list[Text]:
    """Draw a run for a terminal of so many columns; None: for a file."""
    width = size[0] if size else _FILE_WIDTH
    paper = _Paper(timeline, width)
    lines = _titles(timeline, width)
    lines += [Text(), paper.axis()]
    lines += [paper.lane(lane) for lane in timeline.lanes]
    lines += paper.waits()
    statuses = {_status(bar) for bar in timeline.bars}
    unknown = any(lane.worker is None and lane.report is None for lane in timeline.lanes)
    more = [f"{_NO_WORKER}: no worker had it, or nobody wrote down which"] if unknown else []
    return [*lines, Text(), *legend(statuses, width, [*paper.most_waiting, *more])]


def _titles(timeline: Timeline, width: int) -> list[Text]:
    sessions = [bar.session for bar in timeline.bars]
    slices = {(one.load, one.shard, one.day) for one in sessions}
    hosts = ", ".join(sorted({one.host for one in sessions if one.host}))
    took = (timeline.end - timeline.start).total_seconds()
    title = f"run {timeline.run_id}" + (f" on {hosts}" if hosts else "") + f", {shown_time(timeline.start)}"
    states = Counter(map(_status, timeline.bars))
    parts = [
        f"{states[one]:,} {one.value.replace('_', ' ')}" for one in sorted(states, key=BADNESS.__getitem__)
    ]
    counts = (
        f"{counted(len(slices), _thing(timeline))}, {counted(len(sessions), 'attempt')}: {', '.join(parts)}"
    )
    return [
        *(Text(line, style="bold") for line in packed(f"{title}, {shown_seconds(took)}", width)),
        *(Text(line) for line in packed(counts + _effort(timeline, took), width)),
    ]


def _thing(timeline: Timeline) -> str:
    """Return what the bars are attempts at: a run loads slices or refreshes reports."""
    return "report" if all(bar.session.shard is None for bar in timeline.bars) else "slice"


def _effort(timeline: Timeline, took: float) -> str:
    """Say how busy the workers were."""
    workers = [lane for lane in timeline.lanes if lane.worker is not None]
    if not workers or not took:
        return ""
    busy = sum(bar.seconds for lane in workers for bar in lane.bars)
    return f"; workers {min(busy / took / len(workers), 1.0):.0%} busy"


def _status(bar: Bar) -> SliceStatus:
    return status_of(bar.session.state)


class _Paper:
    """Where a moment stands on lines of this width."""

    def __init__(self, timeline: Timeline, width: int) -> None:
        self._timeline = timeline
        names = [_name(lane) for lane in timeline.lanes] + ["to publish", "for retry"]
        self.most_waiting: list[str] = []
        self._left = max(map(len, names)) + 2
        self._width = max(width - self._left, 10)
        sessions = [bar.session for bar in timeline.bars]
        self._has_many_days = len({one.day for one in sessions}) > 1
        self._has_many_loads = len({one.load for one in sessions}) > 1
        self._seconds = max((timeline.end - timeline.start).total_seconds(), 0.001)

    def _column(self, at: datetime) -> int:
        """Give the column of a moment, the last one for the end."""
        share = (at - self._timeline.start).total_seconds() / self._seconds
        return max(0, min(int(share * self._width), self._width - 1))

    def axis(self) -> Text:
        """Number the seconds (or minutes, or hours) from the start."""
        # A run may seem to last for centuries: a clock was wrong, or another program wrote its sessions.
        widest = self._seconds * _TICK_SPACE / self._width
        step = next((one for one in _STEPS if one / self._seconds * self._width >= _TICK_SPACE), widest)
        text, tick = "", 0
        while tick * step <= self._seconds:
            column = int(tick * step / self._seconds * self._width)
            label = f"|{_clock(tick * step)}"
            if column + len(label) > self._width:
                break
            text = f"{text:{column}}{label}"
            tick += 1
        return Text(f"{'':{self._left}}{text}", style="dim")

    def lane(self, lane: Lane) -> Text:
        """Draw a lane; where several bars fall into one column, the one that ended worst."""
        drawn = Text(f"{_name(lane):{self._left}}", style="dim")
        at = 0
        for first, last, bars in self._columns(lane.bars):
            worst = max(bars, key=lambda bar: BADNESS[_status(bar)])
            room = last - first + 1
            drawn.append(" " * (first - at))
            # The end of a bar is parted from the next one's beginning.
            look = LOOKS[_status(worst)]
            text = self._label(worst, room - 1 if room > 2 else room)
            drawn.append(text, look.style)
            at = first + len(text)
        return drawn

    def _columns(self, bars: Sequence[Bar]) -> list[tuple[int, int, list[Bar]]]:
        """Give which columns which bars take, none on top of another."""
        places: list[tuple[int, int, list[Bar]]] = []
        for bar in sorted(bars, key=lambda bar: bar.start):
            first, last = self._column(bar.start), self._column(bar.end)
            if places and first <= places[-1][1]:
                begun, ended, there = places[-1]
                if last <= ended:
                    there.append(bar)
                    continue
                if begun == ended == first:
                    places[-1] = (begun, last, [*there, bar])
                    continue
                first = ended + 1
            places.append((first, last, [bar]))
        return places

    def _label(self, bar: Bar, room: int) -> str:
        """Write the letter, and as much of the slice's name as there is room for."""
        one, letter = bar.session, LOOKS[_status(bar)].letter
        again = f" #{one.attempt}" if one.attempt > 1 else ""
        day = f" {one.day:%m-%d}" if self._has_many_days else ""
        load = f" {one.load}" if self._has_many_loads and one.shard is not None else ""
        thing = one.shard or one.load
        names = (
            f"{letter}{load} {thing}{day}{again}",
            f"{letter} {thing}{again}",
            f"{letter}{again}",
        )
        cut = f"{letter} {thing}"[: max(room - len(again) - 1, 0)] + f"…{again}"
        fitting = [name for name in names if len(name) <= room]
        name = fitting[0] if fitting else letter
        if name not in names[:2] and room >= len(names[2]) + len(" ab…"):
            name = cut
        return f"{name}{' ' if len(name) < room else ''}".ljust(room, "─")[:room]

    def waits(self) -> list[Text]:
        """Draw how many slices waited: staged, to be published; and for their next attempt."""
        timeline = self._timeline
        kinds = (("to publish", timeline.waits_for_publishing()), ("for retry", timeline.waits_for_retry()))
        return [self._sparks(name, spans) for name, spans in kinds if spans]

    def _sparks(self, name: str, spans: Sequence[tuple[datetime, datetime]]) -> Text:
        counts = [0] * self._width
        for start, end in spans:
            for column in range(self._column(start), self._column(end) + 1):
                counts[column] += 1
        most = max(max(counts), 1)
        text = "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in counts).rstrip()
        self.most_waiting.append(f"{name}: at most {counted(most_at_once(spans), _thing(self._timeline))}")
        return Text.assemble((f"{name:{self._left}}", "dim"), (text, "cyan"))


def most_at_once(spans: Sequence[tuple[datetime, datetime]]) -> int:
    """Count how many spans there are at the moment with the most; one that ends as another begins is not with it."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(change for _, change in changes), default=0)


def _name(lane: Lane) -> str:
    return lane.report or (_NO_WORKER if lane.worker is None else f"worker {lane.worker}")


def _clock(seconds: float) -> str:
    """Write a moment after the start as short as it can be."""
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m" if minutes else f"{hours}h"
    return f"{minutes}m{rest:02}s" if rest else f"{minutes}m"


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
