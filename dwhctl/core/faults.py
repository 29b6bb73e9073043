"""Named points at which tests inject failures.

Nothing in dwhctl sets a handler, and no option, key or environment variable can: the tests do so in a `sitecustomize`
of their own on the interpreter's path. Without one, `reach` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

handler: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Call the tests' handler, if there is one, with the name of the point."""
    if handler is not None:
        handler(point)
