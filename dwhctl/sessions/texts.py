"""Texts as the sessions table can hold them."""

from __future__ import annotations

import unicodedata

COMMENT_LENGTH = 500
_JOINER = "\u200d"


def storable(text: str) -> str:
    """The text without what a database refuses: NUL, and the halves of characters out of odd file names."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def cut_comment(text: str | None, length: int = COMMENT_LENGTH) -> str | None:
    """The comment, cut between two whole characters and ended with an ellipsis if it is too long."""
    if text is None:
        return None
    text = storable(text)
    if len(text) <= length:
        return text
    end = length - 1
    while end > 0 and _belongs_together(text[end - 1], text[end]):
        end -= 1
    return text[:end] + "…"


def _belongs_together(left: str, right: str) -> bool:
    # Accents, variation selectors and skin tones follow their letter; a joiner ties two signs into one.
    tied = unicodedata.category(right) in {"Mn", "Me", "Mc"} or "\U0001f3fb" <= right <= "\U0001f3ff"
    return tied or _JOINER in (left, right)
