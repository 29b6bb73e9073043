"""How the standing of a slice looks: a letter, a colour, and its words in the legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rich.text import Text

from dwhctl.runs.coverage import BADNESS, Standing


class Look(NamedTuple):
    """A standing's look."""

    letter: str
    style: str
    words: str


LOOKS: Mapping[Standing, Look] = {
    Standing.LOADED: Look("L", "#dff5e3 on #2f7d4f", "loaded"),
    Standing.SKIPPED: Look("S", "#dfeef0 on #55808a", "skipped, no rows"),
    Standing.BEFORE_START: Look("-", "dim", "before its start"),
    Standing.AFTER_END: Look("/", "dim", "after its shard's last day"),
    Standing.NOT_YET: Look(".", "dim", "day not over, not tried"),
    Standing.OPEN: Look("o", "#10243a on #8fb8de", "day not over, loaded so far"),
    Standing.RELOADING: Look("r", "#dff5e3 on #1f5fbf", "complete, being loaded again"),
    Standing.RELOAD_FAILED: Look("f", "#ffe3e3 on #a3543a", "complete, its last reload failed"),
    Standing.RUNNING: Look("R", "bold #ffffff on #1f5fbf", "running"),
    Standing.EARLY: Look("E", "#2a2500 on #e0cf5a", "loaded early, before the day was over"),
    Standing.UP_FOR_RETRY: Look("U", "#2b1600 on #f0a23a", "up for retry"),
    Standing.MISSING: Look("M", "bold #ffd9d9 on #6b2230", "missing, never tried"),
    Standing.UNKNOWN: Look("?", "bold #ffffff on #5a5a5a", "in a state that this version does not know"),
    Standing.ABANDONED: Look("A", "bold #ffffff on #8b3fa8", "abandoned, its run died"),
    Standing.FAILED: Look("F", "bold #ffffff on #d22f2f", "failed"),
}


def legend(standings: Iterable[Standing], width: int | None, more: Iterable[str] = ()) -> list[Text]:
    """Give the lines that explain these standings, the best first, no wider than the terminal."""
    lines = [Text()]
    found = sorted(set(standings), key=lambda standing: BADNESS[standing])
    entries = [
        Text.assemble((f" {look.letter} ", look.style), f" {look.words}")
        for look in (LOOKS[standing] for standing in found)
    ]
    for entry in [*entries, *map(Text, more)]:
        gap = "   " if lines[-1] else ""
        if width is not None and lines[-1] and lines[-1].cell_len + len(gap) + entry.cell_len > width:
            lines.append(Text())
            gap = ""
        lines[-1].append(gap).append_text(entry)
    return lines
