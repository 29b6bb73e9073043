"""Work one item ahead: while one is used, the next is made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_T = TypeVar("_T")


class _End:
    """What comes after the last item."""


_END: Final = _End()


def one_ahead(items: Iterator[_T]) -> Generator[_T]:
    """Give the items, the next one always being made in a thread of its own.

    Close it: then nothing of `items` runs any more. What `items` raises comes out where its item would have.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        following = thread.submit(next, items, _END)
        while not isinstance(item := following.result(), _End):
            following = thread.submit(next, items, _END)
            yield item
