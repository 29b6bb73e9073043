"""The timeline of a run, and the gaps, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import accumulate
from pathlib import Path

from rich.text import Text

from dwhctl.cli.common.output import packed
from dwhctl.cli.report.grid_picture import COLOURS, legend
from dwhctl.core.words import counted, shown_seconds, shown_time
from dwhctl.monitor.coverage import Gap, fill_command, fold_shards
from dwhctl.monitor.timeline import Bar, Lane, Timeline
from dwhctl.project.model import Project

_FILE_WIDTH = 160
_BLOCKS = " ▁▂▃▄▅▆▇█"
_TICK_SPACE = 12
_STEPS = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
)  # fmt: skip
_NO_WORKER = "worker ?"


def timeline_picture(timeline: Timeline, size: tuple[int, int] | None) -> list[Text]:
    """Draw a run for a terminal of so many columns; None: for a file.

    Each worker has a lane, each session a coloured bar with a letter.
    """
    width = size[0] if size else _FILE_WIDTH
    paper = _Paper(timeline, width)
    lanes = [paper.lane(lane) for lane in timeline.lanes]
    lines = [*_titles(timeline, width), Text(), paper.axis(), *lanes, *paper.waits(), Text()]
    unknown = any(lane.worker is None and lane.report is None for lane in timeline.lanes)
    more = [f"{_NO_WORKER}: no worker had it, or it is not known which"] if unknown else []
    return lines + legend([bar.status for bar in timeline.bars], width, [*paper.most_waiting, *more])


def _titles(timeline: Timeline, width: int) -> list[Text]:
    sessions = [bar.session for bar in timeline.bars]
    slices = {(session.load, session.shard, session.day) for session in sessions}
    hosts = ", ".join(sorted({session.host for session in sessions if session.host}))
    took = (timeline.end - timeline.start).total_seconds()
    title = f"run {timeline.run_id}" + (f" on {hosts}" if hosts else "") + f", {shown_time(timeline.start)}"
    states = Counter(bar.status for bar in timeline.bars)
    parts = ", ".join(
        f"{states[status]:,} {status.value.replace('_', ' ')}"
        for status in sorted(states, key=lambda status: status.badness)
    )
    counts = f"{counted(len(slices), _thing(timeline))}, {counted(len(sessions), 'attempt')}: {parts}"
    return [
        *(Text(line, style="bold") for line in packed(f"{title}, {shown_seconds(took)}", width)),
        *(Text(line) for line in packed(counts + _effort(timeline, took), width)),
    ]


def _thing(timeline: Timeline) -> str:
    """Return what the bars are attempts at: a run loads slices or refreshes reports."""
    return "report" if all(bar.session.shard is None for bar in timeline.bars) else "slice"


def _effort(timeline: Timeline, took: float) -> str:
    workers = [lane for lane in timeline.lanes if lane.worker is not None]
    if not workers or not took:
        return ""
    busy = sum(bar.seconds for lane in workers for bar in lane.bars)
    return f"; workers {min(busy / took / len(workers), 1.0):.0%} busy"


class _Paper:
    """Lines of a width, on which each moment of the run has a column."""

    def __init__(self, timeline: Timeline, width: int) -> None:
        self._timeline = timeline
        names = [_name(lane) for lane in timeline.lanes] + ["to publish", "for retry"]
        self.most_waiting: list[str] = []
        self._left = max(map(len, names)) + 2
        self._width = max(width - self._left, 10)
        sessions = [bar.session for bar in timeline.bars]
        self._has_many_days = len({session.day for session in sessions}) > 1
        self._has_many_loads = len({session.load for session in sessions}) > 1
        self._seconds = max((timeline.end - timeline.start).total_seconds(), 0.001)

    def _column(self, at: datetime) -> int:
        share = (at - self._timeline.start).total_seconds() / self._seconds
        return max(0, min(int(share * self._width), self._width - 1))

    def axis(self) -> Text:
        """Return the line with the seconds (or minutes, or hours) from the start."""
        # A run may seem to last for centuries: a clock was wrong, or another program wrote its sessions.
        widest = self._seconds * _TICK_SPACE / self._width
        step = next((step for step in _STEPS if step / self._seconds * self._width >= _TICK_SPACE), widest)
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
        """Draw a lane; of several bars in one column, the one with the worst status."""
        drawn = Text(f"{_name(lane):{self._left}}", style="dim")
        at = 0
        for first, last, bars in self._columns(lane.bars):
            worst = max(bars, key=lambda bar: bar.status.badness)
            room = last - first + 1
            drawn.append(" " * (first - at))
            # A space separates a bar from the next.
            text = self._label(worst, room - 1 if room > 2 else room)
            drawn.append(text, COLOURS[worst.status])
            at = first + len(text)
        return drawn

    def _columns(self, bars: Sequence[Bar]) -> list[tuple[int, int, list[Bar]]]:
        """Return the first and last column of each group of bars; groups do not overlap."""
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
        session, letter = bar.session, bar.status.letter
        again = f" #{session.attempt}" if session.attempt > 1 else ""
        day = f" {session.day:%m-%d}" if self._has_many_days else ""
        load = f" {session.load}" if self._has_many_loads and session.shard is not None else ""
        thing = session.shard or session.load
        whole, short, least = (
            f"{letter}{load} {thing}{day}{again}",
            f"{letter} {thing}{again}",
            letter + again,
        )
        cut = f"{letter} {thing}"[: max(room - len(again) - 1, 0)] + f"…{again}"
        names = [whole, short, *([cut] if room >= len(least) + len(" ab…") else []), least]
        name = next((name for name in names if len(name) <= room), letter)
        return f"{name}{' ' if len(name) < room else ''}".ljust(room, "─")[:room]

    def waits(self) -> list[Text]:
        """Draw how many staged slices waited to be published, and how many waited for their next attempt."""
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
    """Return how many spans there are at the moment with the most. The end of a span is not part of it."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(change for _, change in changes), default=0)


def _name(lane: Lane) -> str:
    return lane.report or (_NO_WORKER if lane.worker is None else f"worker {lane.worker}")


def _clock(seconds: float) -> str:
    """Return a moment after the start in its shortest form."""
    if seconds < 60:
        return f"{seconds:g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m" if minutes else f"{hours}h"
    return f"{minutes}m{rest:02}s" if rest else f"{minutes}m"


# Gaps

_HEADS = ("load", "shards", "start", "end", "slices")
_NAMED = 3
#: What the names of a gap's shards may take of a line.
_NAMED_WIDTH = 26


def gaps_picture(
    project: Project,
    gaps: Sequence[Gap],
    span: Sequence[date],
    place: Path | None,
    *,
    some_shards: bool,
    width: int | None,
) -> list[Text]:
    """Draw the gaps of a span of days; commands are never broken.

    `place` is the value of --project, if it was given. With `some_shards` the gaps of others are not known, and no
    command may fill them.
    """
    days = f"{span[0]} to {span[-1]}"
    if not gaps:
        return [Text(f"no gaps: every slice expected from {days} is complete")]
    together = fold_shards(gaps)
    total = counted(sum(gap.slices for gap in gaps), "slice")
    lines = [Text(f"{total} to fill in {counted(len(together), 'gap')}, {days}", style="bold"), Text()]
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
    fits = width is None or sum(columns) + 2 * (len(columns) - 1) <= width
    if fits:
        yield Text("  ".join(_aligned(_HEADS, columns)).rstrip(), style="dim")
    for row, gap in zip(rows, gaps, strict=True):
        load, shards, *rest = _aligned(row, columns) if fits else row
        if fits:
            yield Text.assemble((load, "dim"), "  ", (shards, "bold"), "  ", "  ".join(rest))
        else:
            yield Text.assemble((load, "dim"), "  ", (shards, "bold"))
            days = f"{gap.start}" if gap.start == gap.end else f"{gap.start} to {gap.end}"
            yield Text(f"  {days}, {counted(gap.slices, 'slice')}")
        # Where another gap of the load shares a day, the days alone do not say which slices to fill.
        others = (other for other in gaps if other is not gap and other.load == gap.load)
        shares_days = any(other.start <= gap.end and gap.start <= other.end for other in others)
        yield _command(fill_command(gap, place, named=some_shards or shares_days))


def _row(project: Project, gap: Gap) -> tuple[str, ...]:
    shards = ", ".join(gap.shards)
    of_load = list(project.shards_of(project.loads[gap.load]))
    if len(gap.shards) > 1 and len(gap.shards) == len(of_load):
        shards = f"all {len(gap.shards)}"
    elif len(gap.shards) > _NAMED + 1 or len(shards) > _NAMED_WIDTH:
        widths = accumulate(len(shard) + 2 for shard in gap.shards)
        named = max(min(_NAMED, sum(width <= _NAMED_WIDTH for width in widths)), 1)
        more = len(gap.shards) - named
        shards = ", ".join(gap.shards[:named]) + (f" and {more} more" if more else "")
    return gap.load, shards, str(gap.start), str(gap.end), f"{gap.slices:,}"


def _whole(gaps: Sequence[Gap]) -> Gap:
    """Return one range around all gaps of a load: with --only-missing it fills just these."""
    shards = tuple(dict.fromkeys(shard for gap in gaps for shard in gap.shards))
    return Gap(gaps[0].load, shards, min(gap.start for gap in gaps), max(gap.end for gap in gaps))


def _aligned(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    *texts, number = zip(row, columns, strict=True)
    return [*(f"{text:{width}}" for text, width in texts), f"{number[0]:>{number[1]}}"]


def _command(command: str) -> Text:
    return Text(f"  {command}", style="cyan")
