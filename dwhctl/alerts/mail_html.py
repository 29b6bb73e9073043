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
_SPACED = {"p", "ul", "ol", "table", "blockquote"}
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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _SPACED | _HEADINGS:
            self.text.append("\n\n")
        elif tag in _BLOCKS:
            self.text.append("\n")
        if tag == "li":
            self.text.append("- ")
        elif tag in {"td", "th"}:
            self.text.append("  ")
        if tag in _UNSEEN or tag == "pre":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.text.append("\n\n" if tag in _SPACED else "\n")
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "title":
            self.title.append(data)
        elif inside == "pre":
            self.text.append(data)
        elif inside not in _UNSEEN:
            self.text.append(_SPACES.sub(" ", data))
