"""Words and texts for the templates of messages: what every channel needs to be short, safe and readable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

from markupsafe import Markup

from dwhctl.printable import ACTING, one_line
from dwhctl.project.secrets import mask

Facts = TypeVar("Facts")

_REPLACEMENT = "\ufffd"
_ACTING = {code: one_line(f".{chr(code)}.")[1:-1] for code in ACTING}
_ACTING |= {ord(space): " " for space in "\t\n\r"}
_ACTING |= dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT)  # half a character has no UTF-8


def shown(text: str) -> str:
    """The text fit for one line of a message: no secret, no control character, nothing that is no Unicode."""
    return mask(text).translate(_ACTING).strip()


def fit_to_show(facts: Facts) -> Facts:
    """The digest with every text in it fit for a line."""
    changed: Facts = _each_text(facts, shown)
    return changed


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each_text(each, change) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(
            value, **{name: _each_text(getattr(value, name), change) for name in names}
        )
    return value


def finalized(value: Any) -> Any:
    """What a template prints: a text without secrets and controls but its lines. Markup stays markup."""
    if isinstance(value, Markup):
        return Markup(mask(value))  # noqa: S704 - masking adds no markup
    if not isinstance(value, str):
        return value
    return "\n".join(mask(line).translate(_ACTING) for line in mask(value).split("\n"))


def counted(number: int, thing: str) -> str:
    """`1 shard`, `2,000 shards`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def clipped(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def listed(names: Sequence[str], most: int) -> str:
    """`abakan, achinsk ... and 36 more`."""
    # One more than the most is told rather than hidden behind "1 more".
    count = len(names) if len(names) <= most + 1 else most
    more = len(names) - count
    few = ", ".join(clipped(name, 64) for name in names[:count])
    return f"{few} ... and {more:,} more" if more else few


def spanned(days: Sequence[date]) -> str:
    """`2020-07-13`, or `13 days from 2020-07-01 to 2020-07-13`."""
    each = sorted(set(days))
    return str(each[0]) if len(each) == 1 else f"{len(each):,} days from {each[0]} to {each[-1]}"
