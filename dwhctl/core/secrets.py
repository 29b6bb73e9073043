"""Secrets: referred to in the configuration, revealed where a driver needs them, never shown.

`mask` is the last fence before text leaves the process: it knows every secret that this process has seen.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import read_bytes
from dwhctl.core.masking import MASKED as MASKED
from dwhctl.core.masking import Mask, masks

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_REFERENCES = ("env", "file")
FORMS = 'a text, { env = "NAME" } or { file = "PATH" }'
# What Airflow's own masker hides, in any part of a name (3.3, shared/secrets_masker, DEFAULT_SENSITIVE_FIELDS), and
# three words that people write instead.
_SENSITIVE = (
    "access_key", "access_token", "api_key", "apikey", "auth_header", "authorization", "bearer", "connection_string",
    "dsn", "passphrase", "passwd", "password", "private_key", "proxy", "proxies", "secret", "service_account",
    "service_key", "token", "keyfile_dict", "webhook_url", "pwd", "credential", "api_hash",
)  # fmt: skip
_SHAPES = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|\b(?:gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|xapp-[\w-]{10,})"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{30,}|\bsk-[\w-]{20,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\."  # a JSON Web Token
    r"|\b\d{6,}:[\w-]{30,}"  # a Telegram bot's token
    r"|://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|(?:^|[;\s])(?:pwd|password)=[^\s;]"  # a connection string
    , re.IGNORECASE,
)  # fmt: skip

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*|[a-z_][a-z0-9_]*")
_PATH = re.compile(r".*/.*")

_seen: set[str] = set()
_lock = threading.Lock()
_pattern: tuple[Mask, ...] | None = None


def remember(secret: str) -> None:
    """From now on `mask` hides this text."""
    global _pattern
    if not secret or secret in _seen:
        return
    if not _seen:
        from dwhctl.core.masking import mask_logging

        mask_logging()
    with _lock:
        _seen.add(secret)
        _pattern = None


def mask(text: str) -> str:
    """The text with every secret that this process has seen replaced by asterisks, in whatever way it is written."""
    global _pattern
    if not _seen:
        return text
    with _lock:
        if _pattern is None:
            _pattern = masks(_seen)
        every = _pattern
    lowered = text.lower()
    for each in every:
        text = each.apply(text, lowered)
    return text


def is_sensitive(name: str) -> bool:
    """Whether this is what people call a secret."""
    normal = re.sub(r"\W+", "_", name.strip().lower())
    return any(word in normal for word in _SENSITIVE)


def looks_secret(text: str) -> bool:
    """Whether a text has the form of a secret: a private key, a known kind of token, a URL with a password."""
    return _SHAPES.search(text) is not None


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
    def is_given(self) -> bool:
        """Whether a variable of dwhctl's own in the environment holds the secret itself."""
        return self._kind == "environment"

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
            shown, name = (f" {self._text}", self._text) if self._reads_as_reference() else ("", "it")
            raise ConfigError(
                f"{self.place}: the environment variable{shown} {state}; "
                f"export {name} where dwhctl is started (in cron: a line above the command)"
            )
        return value

    def _from_file(self) -> str:
        path = self.path
        assert path is not None
        try:
            value = read_bytes(path).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            shown = f" {path}" if self._reads_as_reference() else ""
            raise ConfigError(
                f"{self.place}: the file{shown} cannot be read ({reason}); "
                "write the secret into it, readable by the user that runs dwhctl"
            ) from None
        if not value:
            raise ConfigError(f"{self.place}: the file is empty; write the secret into it")
        return value

    def _reads_as_reference(self) -> bool:
        """Whether the reference can be shown: a secret written in its place is neither a variable's name nor a path."""
        from dwhctl.core.words import may_show

        form = _VARIABLE if self._kind == "env" else _PATH
        return form.fullmatch(self._text) is not None and may_show(self._text)

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
            if kind == "env" and text.startswith("$"):
                raise ValueError('is a name with a $; write the variable\'s name alone: { env = "NAME" }')
            return cls(text, kind=kind)
        written = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
        if written not in _REFERENCES and written.lower() in _REFERENCES:
            raise ValueError(f"expected {FORMS}; write {written.lower()} in lower case")
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
    return kind in _REFERENCES and isinstance(text, str) and bool(text)
