"""Secrets: referred to in the configuration, revealed where a driver needs them, never shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import read_bytes
from dwhctl.core.masking import MASKED as MASKED
from dwhctl.core.masking import mask as mask
from dwhctl.core.masking import remember as remember
from dwhctl.core.words import may_show

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
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*|[a-z_][a-z0-9_]*")
_PATH = re.compile(r".*/.*")


def is_sensitive(name: str) -> bool:
    """Return whether people give this name to secrets."""
    normal = re.sub(r"\W+", "_", name.strip().lower())
    return any(word in normal for word in _SENSITIVE)


class Secret:
    """A password or token: a reference to an environment variable or a file, or a literal text."""

    __slots__ = ("_kind", "_text", "place", "root")

    def __init__(self, text: str, *, kind: str = "literal") -> None:
        if kind not in {"literal", "env", "file", "environment"}:
            raise ValueError(f"no such kind of secret: {kind}")
        self._kind = kind
        self._text = text
        self.place = "secret"  # its key in the configuration, set by the reader of the project
        self.root: Path | None = None  # what a relative path is relative to
        if self.holds_text:
            remember(text)

    @property
    def is_literal(self) -> bool:
        """Return whether a configuration file holds the secret itself."""
        return self._kind == "literal"

    @property
    def is_given(self) -> bool:
        """Return whether one of dwhctl's own environment variables holds the secret itself."""
        return self._kind == "environment"

    @property
    def variable(self) -> str | None:
        """Return the environment variable that it is read from, if any."""
        return self._text if self._kind == "env" else None

    @property
    def path(self) -> Path | None:
        """Return the file that it is read from, if any."""
        return (self.root or Path()) / Path(self._text).expanduser() if self._kind == "file" else None

    @property
    def holds_text(self) -> bool:
        """Return whether the secret is here, not only a reference to it."""
        return self._kind in {"literal", "environment"}

    def reveal(self) -> str:
        """Return the secret itself. Raise ConfigError, with the key and the remedy, when it cannot be read."""
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
        """Return whether the reference may be shown: a secret in its place is neither a variable's name nor a path."""
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
        if self.holds_text:  # unpickled in a worker, which masks it too
            remember(self._text)

    @classmethod
    def of(cls, value: object) -> Secret:
        """Return the secret that a value of a configuration file means. Raise ValueError for any other value."""
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
    """Return whether this is `{ env = "NAME" }` or `{ file = "PATH" }`."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((kind, text),) = value.items()
    return kind in _REFERENCES and isinstance(text, str) and bool(text)
