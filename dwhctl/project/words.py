"""Words that every message about the configuration is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_SHOWN = 12


def nearest(name: str, known: Iterable[str]) -> str:
    """What was probably meant: `did you mean 'x'?`, or the names there are."""
    names = sorted(set(known))
    by_lower = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_lower[close[0]]}'?"
    if not names:
        return "there is none yet"
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return f"known: {', '.join(names[:_SHOWN])}{more}"


def shown_path(path: Path, root: Path) -> str:
    """The path as a user of the project writes it: relative to the project where it stands inside."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return str(path)


def shown_value(value: object) -> str:
    """A wrong value in TOML's words, short; what it is rather than what it holds when it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 60 else f"a text of {len(value)} characters"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value)
