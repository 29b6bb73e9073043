"""Secrets: referred to in the configuration, revealed where a driver needs them, never shown.

`mask` is the last fence before text leaves the process: it knows every secret that this process has seen.
"""

from __future__ import annotations

import os
import re
import threading
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import quote

from dwhctl.errors import ConfigError
from dwhctl.files import read_bytes

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

MASKED = "********"
FORMS = 'a text, { env = "NAME" } or { file = "PATH" }'
# A shorter secret is masked only where it stands alone: "sa" must not eat half of every message.
_SHORT = 4
# So short a piece of base64 may be any word.
_SHORT_BASE64 = 7

_seen: set[str] = set()
_lock = threading.Lock()
_pattern: re.Pattern[str] | None = None


def remember(secret: str) -> None:
    """From now on `mask` hides this text."""
    global _pattern
    if not secret or secret in _seen:
        return
    with _lock:
        _seen.add(secret)
        _pattern = None


def mask(text: str) -> str:
    """The text with every secret that this process has seen replaced by asterisks."""
    global _pattern
    if not _seen:
        return text
    with _lock:
        if _pattern is None:
            _pattern = _compile()
        pattern = _pattern
    return pattern.sub(MASKED, text)


def _compile() -> re.Pattern[str]:
    # Drivers quote what they complain about: the URL form and Python's own escapes are hidden as well.
    forms = {form for each in _seen for form in (each, quote(each, safe=""), quote(each), repr(each)[1:-1])}
    forms |= {form for each in _seen for form in _in_base64(each)}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(_alternative(form) for form in longest_first))


def _in_base64(secret: str) -> set[str]:
    """What stands for the secret in a base64 text, wherever in that text it begins: headers of HTTP and SMTP hold such.

    The characters at its edges also hold bits of what stands beside it, and are left out.
    """
    octets = secret.encode("utf-8", "surrogatepass")
    forms = set()
    for before in range(3):
        text = b64encode(bytes(before) + octets).decode().rstrip("=")
        first, last = -(-8 * before // 6), 8 * (before + len(octets)) // 6
        forms.add(text[first:last])
    return {form for form in forms if len(form) >= _SHORT_BASE64}


def _alternative(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"


class Secret:
    """A password or token: a reference to an environment variable or a file, or a literal text."""

    __slots__ = ("_kind", "_text", "place", "root")

    def __init__(self, text: str, *, kind: str = "literal") -> None:
        if kind not in {"literal", "env", "file", "environment"}:
            raise ValueError(f"no such kind of secret: {kind}")
        self._kind = kind
        self._text = text
        self.place = "secret"  # which key it stands at; the reader of the project knows
        self.root: Path | None = None  # what a relative path is relative to
        if self.holds_text:
            remember(text)

    @property
    def is_literal(self) -> bool:
        """Whether the secret itself stands in a configuration file."""
        return self._kind == "literal"

    @property
    def variable(self) -> str | None:
        """The environment variable that it is read from, if it is."""
        return self._text if self._kind == "env" else None

    @property
    def path(self) -> Path | None:
        """The file that it is read from, if it is."""
        return (self.root or Path()) / Path(self._text).expanduser() if self._kind == "file" else None

    @property
    def holds_text(self) -> bool:
        """Whether the secret needs nothing but itself to be revealed."""
        return self._kind in {"literal", "environment"}

    def reveal(self) -> str:
        """The secret itself; ConfigError names the key and the remedy when it cannot be had."""
        if self.holds_text:
            return self._text
        secret = self._from_environment() if self._kind == "env" else self._from_file()
        remember(secret)
        return secret

    def _from_environment(self) -> str:
        value = os.environ.get(self._text)
        if not value:
            state = "is not set" if value is None else "is empty"
            raise ConfigError(
                f"{self.place}: the environment variable {self._text} {state}; "
                f"export {self._text} where dwhctl is started (in cron: a line above the command)"
            )
        return value

    def _from_file(self) -> str:
        path = self.path
        assert path is not None
        try:
            value = read_bytes(path).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                f"{self.place}: the file {path} cannot be read ({reason}); "
                "write the secret into it, readable by the user that runs dwhctl"
            ) from None
        if not value:
            raise ConfigError(f"{self.place}: the file {path} is empty; write the secret into it")
        return value

    def __repr__(self) -> str:
        return f"Secret('{MASKED}')"

    def __str__(self) -> str:
        return MASKED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._kind, self._text) == (other._kind, other._text)

    def __hash__(self) -> int:
        return hash((self._kind, self._text))

    def __getstate__(self) -> tuple[str, str, str, Path | None]:
        return (self._kind, self._text, self.place, self.root)

    def __setstate__(self, state: tuple[str, str, str, Path | None]) -> None:
        self._kind, self._text, self.place, self.root = state
        if self.holds_text:  # a worker masks what it was sent
            remember(self._text)

    @classmethod
    def of(cls, value: object) -> Secret:
        """The secret that a value in a configuration file stands for; ValueError when it stands for none."""
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return cls(value)
        if is_reference(value):
            ((kind, text),) = value.items()
            return cls(text, kind=kind)
        raise ValueError(f"expected {FORMS}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.of)


def is_reference(value: object) -> TypeGuard[dict[str, str]]:
    """Whether this is `{ env = "NAME" }` or `{ file = "PATH" }`."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((kind, text),) = value.items()
    return kind in {"env", "file"} and isinstance(text, str) and bool(text)
