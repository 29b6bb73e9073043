"""Write two values that differ so that a person sees where: short, on one line, without secrets."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from dwhctl.printable import escaped
from dwhctl.project.secrets import mask

if TYPE_CHECKING:
    from dwhctl.targets.inspection import Cut

_LONGEST = 20
#: So much is shown of what is equal before the first difference.
_BEFORE = 6


def shown_pair(ours: Cut | None, theirs: Cut | None) -> tuple[str, str]:
    """Write both: NULL, or the text in quotes; a shortened one with `…`, and its length in parentheses."""
    # A secret is masked before it is cut: a part of it would not be found.
    starts = [mask(one.start) if one is not None else "" for one in (ours, theirs)]
    begin = 0
    if ours is not None and theirs is not None and ours.length == theirs.length:
        # Their lengths do not tell them apart: what is shown must.
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*starts, strict=False)))
        begin = equal - _BEFORE if equal >= _LONGEST else 0
    first, second = (_shown(one, start, begin) for one, start in zip((ours, theirs), starts, strict=True))
    return first, second


def _shown(value: Cut | None, start: str, begin: int) -> str:
    if value is None:
        return "NULL"
    shown = escaped(start[begin : begin + _LONGEST])
    is_cut = value.length > len(start) or len(start) > begin + _LONGEST
    text = f"'{'…' if begin else ''}{shown}{'…' if is_cut else ''}'"
    return f"{text} ({value.length:,})" if is_cut or begin else text
