"""Vertica's SQL in tokens: to tell statements apart, and for the statements that have a parser of their own here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers.vertica.problems import VerticaError, syntax_error

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|/\*.*?\*/)
    | (?P<estring>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<xstring>[xX]'[^']*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<dollar>\$\$.*?\$\$)
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<op>::|<=|>=|<>|!=|\|\||[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'"}
_ESCAPED = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{2})|(.))|''", re.DOTALL)


@dataclass(frozen=True)
class Token:
    """A piece of SQL: `value` is the word in capitals, the name, or the string without its quotes."""

    kind: str
    value: str
    start: int
    end: int

    @property
    def is_name(self) -> bool:
        """Whether it may name something."""
        return self.kind in ("word", "quoted")


@dataclass(frozen=True)
class Sql:
    """One statement: its text and its tokens (positions are those of the text)."""

    text: str
    tokens: tuple[Token, ...]

    def word(self, at: int) -> str:
        """The keyword at a place, in capitals; '' when there is something else."""
        if at < len(self.tokens) and self.tokens[at].kind == "word":
            return self.tokens[at].value.upper()
        return ""


def unescape(text: str) -> str:
    """What stands in an extended string (E'...'), its quotes taken off."""

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 8))
        if found[2]:
            return chr(int(found[2], 16))
        return _ESCAPES.get(found[3], found[3]) if found[3] else "'"

    return _ESCAPED.sub(one, text)


def _value(kind: str, text: str) -> str:
    if kind == "string":
        return text[1:-1].replace("''", "'")
    if kind == "estring":
        return unescape(text[2:-1])
    if kind == "dollar":
        return text[2:-2]
    if kind == "xstring":
        return text[2:-1]
    if kind == "quoted":
        return text[1:-1].replace('""', '"')
    return text


#: https://docs.vertica.com/24.4.x/en/sql-reference/language-elements/identifiers
_NAME_OCTETS = 128


def tokens_of(text: str) -> Iterator[Token]:
    """The tokens of a text; comments and blanks are left out."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise syntax_error(text[at : at + 20])
        kind = found.lastgroup
        if kind == "op" and found[0] in "'\"":
            raise VerticaError("42601", 5266, "Unterminated quoted string")
        if kind != "space":
            shown = "string" if kind in ("estring", "dollar") else kind
            value = _value(kind, found[0])
            if kind in ("word", "quoted") and (octets := len(value.encode())) > _NAME_OCTETS:
                words = (
                    f'Identifier "{value}" is {octets} octets long. Maximum limit is {_NAME_OCTETS} octets'
                )
                raise VerticaError("42622", 3687, words)
            yield Token(shown, value, at, found.end())
        at = found.end()


def split(text: str) -> list[Sql]:
    """The statements of a text; empty ones are left out."""
    found: list[Sql] = []
    gathered: list[Token] = []
    for token in [*tokens_of(text), Token("op", ";", len(text), len(text))]:
        if token.kind == "op" and token.value == ";":
            if gathered:
                found.append(_cut(text, gathered))
            gathered = []
        else:
            gathered.append(token)
    return found


def _cut(text: str, tokens: list[Token]) -> Sql:
    start = tokens[0].start
    moved = tuple(Token(t.kind, t.value, t.start - start, t.end - start) for t in tokens)
    return Sql(text[start : tokens[-1].end], moved)


class Reader:
    """Goes through the tokens of a statement."""

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.at = 0

    @property
    def token(self) -> Token | None:
        """The next token; None at the end."""
        return self.sql.tokens[self.at] if self.at < len(self.sql.tokens) else None

    def ended(self) -> bool:
        """Whether nothing is left."""
        return self.token is None

    def fail(self) -> VerticaError:
        """A syntax error at this place."""
        return syntax_error(self.token.value if self.token else "end of input")

    def words(self, *words: str) -> bool:
        """Take these words if they come next, all of them or none."""
        for offset, word in enumerate(words):
            if self.sql.word(self.at + offset) != word:
                return False
        self.at += len(words)
        return True

    def any_word(self, *words: str) -> str:
        """Take one of these words if it comes next; '' when none does."""
        for word in words:
            if self.words(word):
                return word
        return ""

    def expect(self, *words: str) -> None:
        """Take these words; a syntax error when they do not come."""
        if not self.words(*words):
            raise self.fail()

    def op(self, text: str) -> bool:
        """Take an operator or bracket if it comes next."""
        token = self.token
        if token is not None and token.kind == "op" and token.value == text:
            self.at += 1
            return True
        return False

    def expect_op(self, text: str) -> None:
        """Take an operator or bracket."""
        if not self.op(text):
            raise self.fail()

    def name(self) -> str:
        """Take a name."""
        token = self.token
        if token is None or not token.is_name:
            raise self.fail()
        self.at += 1
        return token.value

    def path(self) -> tuple[str, ...]:
        """Take a name with its schema: `a.b` (or `database.a.b`)."""
        parts = [self.name()]
        while self.op("."):
            parts.append(self.name())
        return tuple(parts[-2:])

    def string(self) -> str:
        """Take a string."""
        return self._take("string").value

    def number(self) -> int:
        """Take a whole number."""
        return int(self._take("number").value)

    def _take(self, kind: str) -> Token:
        token = self.token
        if token is None or token.kind != kind:
            raise self.fail()
        self.at += 1
        return token

    def skip_group(self) -> str:
        """Take a bracketed group; returns what stands inside, as text."""
        self.expect_op("(")
        start = self.sql.tokens[self.at - 1].end
        depth = 1
        while depth:
            token = self.token
            if token is None:
                raise self.fail()
            self.at += 1
            if token.kind == "op":
                depth += {"(": 1, ")": -1}.get(token.value, 0)
        return self.sql.text[start : self.sql.tokens[self.at - 1].start]

    def rest(self) -> str:
        """What is left, as text; takes it."""
        token = self.token
        self.at = len(self.sql.tokens)
        return "" if token is None else self.sql.text[token.start :]

    def until(self, *words: str, comma: bool = True) -> str:
        """Take an expression: up to one of these words, a comma or closing bracket outside of brackets, or the end."""
        start = self.token.start if self.token else len(self.sql.text)
        end = start
        while (token := self.token) is not None:
            if token.kind == "op" and token.value == "(":
                self.skip_group()
            elif (token.kind == "op" and (token.value == ")" or (comma and token.value == ","))) or (
                token.kind == "word" and token.value.upper() in words
            ):
                break
            else:
                self.at += 1
            end = self.sql.tokens[self.at - 1].end
        if end == start:
            raise self.fail()
        return self.sql.text[start:end]
