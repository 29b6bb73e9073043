"""Texts of others made fit to be shown: what would act on a terminal is written as an escape.

Controls (with them OSC and CSI sequences), separators of lines and paragraphs, and the marks that turn the direction
of writing, by which a text can look like another one.
"""

from __future__ import annotations

ACTING = frozenset(
    (*range(32), *range(127, 160), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
)
_ESCAPED = {code: repr(chr(code))[1:-1] for code in ACTING}
_ESCAPED_IN_LINES = {code: text for code, text in _ESCAPED.items() if chr(code) not in "\n\t"}
_ESCAPED_IN_JSON = {code: f"\\u{code:04x}" for code in ACTING if chr(code) not in "\n\t\r"}


def printable(text: str) -> str:
    """Return the text with nothing in it that acts on a terminal but ends of lines and tabs."""
    return text.translate(_ESCAPED_IN_LINES)


def one_line(text: str) -> str:
    """Return the text as one line of a log or a terminal."""
    return " ".join(text.split("\n")).strip().translate(_ESCAPED)


def escaped(text: str) -> str:
    """Return a value as one line, with all its blanks."""
    return text.translate(_ESCAPED)


def printable_json(text: str) -> str:
    """Return the same JSON, made printable by its own escapes."""
    return text.translate(_ESCAPED_IN_JSON)
