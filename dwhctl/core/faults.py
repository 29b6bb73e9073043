"""Named points of the way of the data, at which tests make things go wrong.

Nothing in dwhctl sets a handler, and no option, key or environment variable can: the tests put their own
`sitecustomize` in front of the interpreter's path to do so. Without one, `reach` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

handler: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Tell the tests' handler, if there is one, that `point` was reached."""
    if handler is not None:
        handler(point)
