"""A place in a list of tokens, and the steps that every parser makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .lexer import Token, tokens

T = TypeVar("T")


class Tokens:
    """A place in a list of tokens."""

    def __init__(self, sql: str, *, quoted_identifier: bool = True) -> None:
        self.sql = sql
        self.all = tokens(sql, quoted_identifier=quoted_identifier)
        self.at = 0

    @property
    def next(self) -> Token:
        """The token here."""
        return self.all[self.at]

    def ahead(self, count: int = 1) -> Token:
        """A token further on."""
        return self.all[min(self.at + count, len(self.all) - 1)]

    def take(self) -> Token:
        """The token here, and step over it."""
        token = self.all[self.at]
        if token.kind == "end":
            raise token.near()
        self.at += 1
        return token

    def is_word(self, *words: str) -> bool:
        """Whether one of these words is here."""
        return self.next.kind == "word" and self.next.value in words

    def is_op(self, *signs: str) -> bool:
        """Whether one of these signs is here."""
        return self.next.kind == "op" and self.next.value in signs

    def word(self, *words: str) -> bool:
        """Step over these words when they are here, one after the other."""
        for step, word in enumerate(words):
            token = self.ahead(step)
            if token.kind != "word" or token.value != word:
                return False
        self.at += len(words)
        return True

    def op(self, sign: str) -> bool:
        """Step over this sign when it is here."""
        if self.is_op(sign):
            self.at += 1
            return True
        return False

    def need_word(self, *words: str) -> None:
        """Step over these words or fail."""
        for word in words:
            if not self.word(word):
                raise self.next.near()

    def need_op(self, sign: str) -> None:
        """Step over this sign or fail."""
        if not self.op(sign):
            raise self.next.near()

    def identifier(self) -> str:
        """A name, as written."""
        token = self.next
        if token.kind == "name" or (token.kind == "word" and not token.reserved):
            self.at += 1
            return token.value if token.kind == "name" else token.text
        raise token.near()

    def listed(self, one: Callable[[], T]) -> tuple[T, ...]:
        """One or more, with commas."""
        found = [one()]
        while self.op(","):
            found.append(one())
        return tuple(found)

    def in_parentheses(self, one: Callable[[], T]) -> tuple[T, ...]:
        """(one, ...)."""
        self.need_op("(")
        found = self.listed(one)
        self.need_op(")")
        return found
