"""A whole answer, what a load says that it means, and the unpacking of its body."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dwhctl.project.endpoint import ResponseAction

CHUNK = 64 * 1024
#: How much of a refusal's body is read.
REFUSAL_OCTETS = 64 * 1024
LOGIN = frozenset({401, 403})
TRANSIENT = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Close its body."""

    status: int
    headers: Mapping[str, str]
    body: IO[bytes]
    size: int
    #: Whether the server gave the length, so that an early end would have been seen.
    is_whole: bool

    @property
    def is_refusal(self) -> bool:
        """Whether the status refuses the login, or any request for a while."""
        return self.status in LOGIN or self.status in TRANSIENT or self.status >= 500

    def text(self) -> str:
        """Return the beginning of the body as text."""
        self.body.seek(0)
        text = self.body.read(REFUSAL_OCTETS).decode("utf-8", "replace")
        self.body.seek(0)
        return text

    def meaning(self, actions: Sequence[ResponseAction]) -> Literal["ignore", "retry"] | None:
        """Return the first of the actions that the answer has. One without a status says nothing of a refusal."""
        for action in actions:
            is_meant = (
                not self.is_refusal if action.status_code is None else action.status_code == self.status
            )
            if is_meant and (action.content is None or action.content in self.text()):
                return action.action
        return None


def unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip in pieces of bounded size. Raise zlib.error when it ends early."""
    unpack, is_empty = zlib.decompressobj(31), True
    for chunk in chunks:
        data, is_empty = chunk, False
        while data or not unpack.eof:
            if unpack.eof:
                unpack = zlib.decompressobj(31)  # another member follows
            piece = unpack.decompress(data, CHUNK)
            if piece:
                yield piece
            data = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if not piece and not data:
                break
    if not (unpack.eof or is_empty):
        raise zlib.error("ends early")
