"""A mail's HTML as plain text, for its text part: blocks become lines, list items dashes, cells stand side by side."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BLOCKS = {
    "p",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "ul",
    "ol",
    "li",
    "table",
    "tr",
    "pre",
    "blockquote",
    "hr",
    "br",
}
_HEADINGS = {"h1", "h2", "h3", "h4"}
_SPACED = {"p", "table", "blockquote"}
_UNSEEN = {"style", "script", "title", "head"}
_SPACES = re.compile(r"[ \t\n\r\f]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


def read(html: str) -> tuple[str, str]:
    """The page's title and its text."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = "\n".join(line.strip(" ") for line in "".join(reader.text).split("\n"))
    return _SPACES.sub(" ", "".join(reader.title)).strip(), _EMPTY_LINES.sub("\n\n", lines).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self._breaks = 0  # newlines that come before the next text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _BLOCKS:
            self._breaks = max(self._breaks, 2 if tag in _SPACED | _HEADINGS else 1)
        if tag == "li":
            self._write("- ")
        elif tag in {"td", "th"}:
            self._write("  ")
        if tag in _UNSEEN or tag == "pre":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._breaks = max(self._breaks, 2 if tag in _SPACED else 1)
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "title":
            self.title.append(data)
        elif inside == "pre":
            self._write(data)
        elif inside not in _UNSEEN:
            self._write(_SPACES.sub(" ", data))

    def _write(self, text: str) -> None:
        if self._breaks and not text.isspace():
            self.text.append("\n" * self._breaks)
            self._breaks = 0
        if not self._breaks:
            self.text.append(text)
