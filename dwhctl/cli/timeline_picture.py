"""The timeline as lines of text: a lane for each worker, a coloured bar with a letter for each session."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from rich.text import Text

from dwhctl.cli.output import counted, packed, shown_seconds
from dwhctl.cli.standings import LOOKS, legend
from dwhctl.runs.coverage import BADNESS, Standing, standing_of
from dwhctl.times import shown_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dwhctl.runs.timeline import Bar, Lane, Timeline

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
    standings = {_standing(bar) for bar in timeline.bars}
    unknown = any(lane.worker is None and lane.report is None for lane in timeline.lanes)
    more = [f"{_NO_WORKER}: no worker had it, or nobody wrote down which"] if unknown else []
    return [*lines, Text(), *legend(standings, width, [*paper.most_waiting, *more])]


def _titles(timeline: Timeline, width: int) -> list[Text]:
    sessions = [bar.session for bar in timeline.bars]
    slices = {(one.load, one.shard, one.day) for one in sessions}
    hosts = ", ".join(sorted({one.host for one in sessions if one.host}))
    took = (timeline.end - timeline.start).total_seconds()
    title = f"run {timeline.run_id}" + (f" on {hosts}" if hosts else "") + f", {shown_time(timeline.start)}"
    states = Counter(map(_standing, timeline.bars))
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


def _standing(bar: Bar) -> Standing:
    return standing_of(bar.session.state)


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
            worst = max(bars, key=lambda bar: BADNESS[_standing(bar)])
            room = last - first + 1
            drawn.append(" " * (first - at))
            # The end of a bar is parted from the next one's beginning.
            look = LOOKS[_standing(worst)]
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
        one, letter = bar.session, LOOKS[_standing(bar)].letter
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
