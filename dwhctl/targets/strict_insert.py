"""Refuse a report's values that would change on their way into a narrower column, within the INSERT itself.

An engine rounds 1.005 for a NUMERIC(18,2), and cuts a TIMESTAMP for a TIMESTAMP(0), without an error. The check is in
the list of the SELECT and not in its WHERE: an engine may evaluate a condition before the source's own conditions, on
rows that the source leaves out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dwhctl.errors import ValueRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.targets.contract import Narrowing

#: How much of a value an error shows.
SHOWN_CHARACTERS = 100
_MARK = "dwhctl-refused"
_CARRIED = re.compile(rf"{_MARK}:(\d+):(.*?):{_MARK}", re.DOTALL)


def carried(number: int, shown: str) -> str:
    """Write the SQL of a message that carries a value (an SQL expression for its text) out of a query."""
    return f"'{_MARK}:{number}:' || LEFT({shown}, {SHOWN_CHARACTERS}) || ':{_MARK}'"


def refused_value(said: str, table: str, narrowed: Sequence[Narrowing]) -> ValueRefusedError | None:
    """Make the error of a value that the engine's message carries; None when it carries none."""
    match = _CARRIED.search(said)
    if match is None:
        return None
    one = narrowed[int(match[1])]
    return ValueRefusedError(
        f"{table}.{one.table.name}: the value {match[2]} does not fit {one.table.declared} (the source gives"
        f" {one.source.declared}); nothing was changed. Write the CAST or ROUND that is wanted into the source, or"
        " change the table's column"
    )
