"""Telegram's HTML: how long a message is once its entities are parsed, the plain text of it, and cutting it.

A line is what Telegram shows as one: its HTML has no paragraphs. Source: https://core.telegram.org/bots/api#html-style
"""

from __future__ import annotations

import re
from html import escape, unescape

#: In UTF-16 units after the entities are parsed; Telegram refuses more than 4,096.
LIMIT = 3500
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^>]*>")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|lt|gt|amp|quot);")
_EMPTY_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")
#: Room for "... and 12,345 more lines".
_TAIL = 40


def plain(html: str) -> str:
    """The text that Telegram shows."""
    return _ENTITY.sub(lambda entity: unescape(entity[0]), _TAG.sub("", html))


def length(html: str) -> int:
    """The length that Telegram counts, in UTF-16 units."""
    return _units(plain(html))


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def tidied(html: str) -> str:
    """The HTML without the empty lines that conditions of a template leave."""
    lines = "\n".join(line.rstrip() for line in html.split("\n"))
    return _EMPTY_LINES.sub("\n\n", lines).strip()


def cut(html: str, limit: int = LIMIT) -> str:
    """The HTML, or as many of its lines as fit, its tags closed and the number of lines left out at its end."""
    if length(html) <= limit:
        return html
    lines = html.split("\n")
    kept, tags = _lines_that_fit(lines, limit - _TAIL)
    if kept == 0:
        return _first_line_cut(lines, limit)
    closing = "".join(f"</{name}>" for name in reversed(tags))
    return "\n".join(lines[:kept]).rstrip() + closing + _more(len(lines) - kept)


def _lines_that_fit(lines: list[str], room: int) -> tuple[int, list[str]]:
    """How many of the lines fit, and the tags that are open after them."""
    tags: list[str] = []
    for number, line in enumerate(lines):
        room -= length(line) + 1
        if room < 0:
            return number, tags
        tags = _open_after(line, tags)
    return len(lines), tags


def _open_after(line: str, tags: list[str]) -> list[str]:
    tags = list(tags)
    for tag in _TAG.finditer(line):
        if not tag[1]:
            tags.append(tag[2].lower())
        elif tags:
            tags.pop()
    return tags


def _first_line_cut(lines: list[str], limit: int) -> str:
    """The beginning of a first line that alone is too long, without its tags."""
    # A character takes at most two units.
    text, room = plain(lines[0]), limit - _TAIL - 1
    while _units(text) > room:
        text = text[: len(text) - max(1, (_units(text) - room) // 2)]
    return escape(text) + "…" + (_more(len(lines) - 1) if len(lines) > 1 else "")


def _more(count: int) -> str:
    return f"\n... and {count:,} more line{'' if count == 1 else 's'}"
