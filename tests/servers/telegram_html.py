"""How Telegram parses a message with parse_mode HTML, and the words with which it refuses one.

After `parse_html` of TDLib (td/telegram/MessageEntity.cpp), which the Bot API's server uses: tags, attributes,
entities, offsets in bytes. Written anew from its rules; kinds of entities are not told apart further than by tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = frozenset(
    "a b strong i em s strike del u ins tg-spoiler tg-emoji span pre code blockquote".split()  # noqa: SIM905
)
_NAMED = {b"lt": "<", b"gt": ">", b"amp": "&", b"quot": '"'}
_ENTITY = re.compile(rb"&(?:#(?:x([0-9a-fA-F]{1,6})|(\d{1,7}))|([a-zA-Z]+));?")
_SPACE = b" \t\r\n\0\v"


class CannotParse(Exception):  # noqa: N818 - Telegram's words
    """What stands after `Bad Request: can't parse entities: `."""


@dataclass(frozen=True)
class Parsed:
    """The text that is shown, and the tags over it as (name, start, length) in UTF-16 units."""

    text: str
    entities: tuple[tuple[str, int, int], ...]

    @property
    def units(self) -> int:
        """The text's length, as Telegram counts it."""
        return utf16_units(self.text)


def utf16_units(text: str) -> int:
    """Give the length in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def parse(html: str) -> Parsed:
    """Parse the message. Raise CannotParse."""
    return _Parser(html.encode("utf-8")).parse()


class _Parser:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._at = 0
        self._text: list[str] = []
        self._units = 0
        self._open: list[tuple[str, int]] = []
        self._entities: list[tuple[str, int, int]] = []

    def parse(self) -> Parsed:
        while self._at < len(self._source):
            if self._source[self._at : self._at + 1] == b"<":
                self._tag()
            else:
                self._characters()
        if self._open:
            raise CannotParse(f'Can\'t find end tag corresponding to start tag "{self._open[-1][0]}"')
        return Parsed("".join(self._text), tuple(self._entities))

    def _characters(self) -> None:
        match = _ENTITY.match(self._source, self._at)
        if match:
            char = _entity(match)
            if char:
                self._add(char)
                self._at = match.end()
                return
        end = self._at + 1
        while end < len(self._source) and self._source[end] not in b"<&":
            end += 1
        self._add(self._source[self._at : end].decode("utf-8"))
        self._at = end

    def _add(self, text: str) -> None:
        self._text.append(text)
        self._units += utf16_units(text)

    def _tag(self) -> None:
        begin = self._at
        if self._source[begin + 1 : begin + 2] == b"/":
            self._end_tag(begin)
        else:
            self._start_tag(begin)

    def _start_tag(self, begin: int) -> None:
        at = self._skip(begin + 1, lambda byte: byte not in _SPACE + b">")
        if at >= len(self._source):
            raise CannotParse(f"Unclosed start tag at byte offset {begin}")
        name = self._source[begin + 1 : at].decode("utf-8").lower()
        if name not in TAGS:
            raise CannotParse(f'Unsupported start tag "{name}" at byte offset {begin}')
        attributes, self._at = self._attributes(name, begin, at)
        if name == "span" and attributes.get("class") != "tg-spoiler":
            raise CannotParse(f'Tag "span" must have class "tg-spoiler" at byte offset {begin}')
        self._open.append((name, self._units))

    def _attributes(self, tag: str, begin: int, at: int) -> tuple[dict[str, str], int]:
        found: dict[str, str] = {}
        while True:
            at = self._skip(at, lambda byte: byte in _SPACE)
            if self._source[at : at + 1] == b">":
                return found, at + 1
            end = self._skip(at, lambda byte: byte not in _SPACE + b"=")
            name = self._source[at:end].decode("utf-8", "replace")
            if not name:
                raise CannotParse(f'Empty attribute name in the tag "{tag}" at byte offset {begin}')
            at = self._skip(end, lambda byte: byte in _SPACE)
            if self._source[at : at + 1] != b"=":
                raise CannotParse(
                    f'Expected equal sign in declaration of an attribute of the tag "{tag}" at byte offset {begin}'
                )
            found[name], at = self._attribute_value(begin, self._skip(at + 1, lambda byte: byte in _SPACE))

    def _attribute_value(self, begin: int, at: int) -> tuple[str, int]:
        quote = self._source[at : at + 1]
        if quote and quote in b"'\"":
            end = self._source.find(quote, at + 1)
            if end < 0:
                raise CannotParse(f"Unclosed start tag at byte offset {begin}")
            return self._source[at + 1 : end].decode("utf-8"), end + 1
        end = self._skip(at, lambda byte: chr(byte).isalnum() or byte in b".-")
        if end >= len(self._source) or self._source[end] not in _SPACE + b">":
            raise CannotParse(f"Unexpected end of name token at byte offset {at}")
        return self._source[at:end].decode("utf-8"), end

    def _end_tag(self, begin: int) -> None:
        if not self._open:
            raise CannotParse(f"Unexpected end tag at byte offset {begin}")
        end = self._skip(begin + 2, lambda byte: byte not in _SPACE + b">")
        found = self._source[begin + 2 : end].decode("utf-8").lower()
        end = self._skip(end, lambda byte: byte in _SPACE)
        if self._source[end : end + 1] != b">":
            raise CannotParse(f"Unclosed end tag at byte offset {begin}")
        name, start = self._open.pop()
        if found and found != name:
            raise CannotParse(
                f'Unmatched end tag at byte offset {begin}, expected "</{name}>", found "</{found}>"'
            )
        if self._units > start:
            self._entities.append((name, start, self._units - start))
        self._at = end + 1

    def _skip(self, at: int, while_: object) -> int:
        assert callable(while_)
        while at < len(self._source) and while_(self._source[at]):
            at += 1
        return at


def _entity(match: re.Match[bytes]) -> str:
    """Give the character that the entity stands for; nothing for one that Telegram does not know."""
    hexadecimal, decimal, name = match.groups()
    if name is not None:
        return _NAMED.get(name, "")
    code = int(hexadecimal, 16) if hexadecimal else int(decimal)
    if 0xD800 <= code <= 0xDFFF:
        raise CannotParse(
            "Text contains invalid Unicode characters after decoding HTML entities,"
            " check for unmatched surrogate code units"
        )
    return chr(code) if 0 < code < 0x10FFFF else ""
