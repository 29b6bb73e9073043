"""Secrets: referred to in the configuration, revealed where a driver needs them, and masked in all output.

Programs quote what they complain about, each in its own way: percent-encoding, JSON, HTML, SQL, Python, a shell,
base64. One pattern per secret covers them all, mixtures included, character by character.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from dwhctl.core.errors import ConfigError
from dwhctl.core.files import read_bytes
from dwhctl.core.words import may_show, printable

if TYPE_CHECKING:
    import logging
    from types import TracebackType

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


MASKED = "********"
#: A shorter secret may be any word: it is masked only after the name of a secret, such as `password=`.
SHORTEST = 6
# A shorter piece of base64 may be any word.
_SHORT_BASE64 = 7
# A line of a secret with several is masked on its own from this length: messages and logs cut texts into lines.
_LONG_LINE = 16
_RUN = re.compile(r"[a-z0-9]+")
_NEW_LINES = re.compile(r"[\r\n]+")
_NEW_LINE = r"(?:\\*\s|\\+(?:[rn]|[xu]0*[ad])|%(?:25)*0[ad]|&(?:amp;)*\#0*(?:x0*[ad]|1[03]);)+"
_DOUBLED = frozenset("'\"%$`]")
_HTML = {"<": "lt", ">": "gt", "&": "amp", '"': "quot", "'": "apos"}
_LETTERS = {"\t": "t", "\b": "b", "\f": "f", "\v": "v", "\a": "a"}
_ANNOUNCED = (
    r"(?:pass(?:word|wd|phrase)?|pwd|token|secret|key|credentials?)[\"'\\]*\s*(?:[:=]>?\s*[\"'\\]*|[\"'])"
)


class Mask:
    """Hides one secret. The pattern is compiled when a text first holds a part of the secret."""

    def __init__(self, secret: str) -> None:
        self._is_short = len(secret) < SHORTEST
        self._secret = _NEW_LINES.sub("\n", secret).strip("\n") or secret
        # Letters and digits of ASCII are written as they are everywhere: texts without them need no pattern.
        self._part = max(_RUN.findall(secret.lower()), key=len, default="")
        self._base64 = _in_base64(secret)

    def apply(self, text: str, lowered: str) -> str:
        """Replace the secret by asterisks; `lowered` is the text in lower case."""
        if self._part in lowered:
            text = self._pattern.sub(_replace, text)
        for form in self._base64:
            if form in text:
                text = text.replace(form, MASKED)
        return text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        body = "".join(_run(character, len(list(run))) for character, run in groupby(self._secret))
        if self._is_short:
            body = rf"({_ANNOUNCED}){body}(?!\w)|(?<=:){body}(?=@)"
        return re.compile(body, re.IGNORECASE)


_secrets: set[str] = set()
_lock = threading.Lock()
_masks: tuple[Mask, ...] | None = None


def remember(secret: str) -> None:
    """Have `mask` hide this text from now on."""
    global _masks
    if not secret or secret in _secrets:
        return
    if not _secrets:
        make_logging_printable()
    with _lock:
        _secrets.add(secret)
        _masks = None


def mask(text: str) -> str:
    """Replace every secret that this process has read by asterisks, in whatever way it is written."""
    global _masks
    if not _secrets:
        return text
    with _lock:
        if _masks is None:
            # The longest first: one secret may hold another.
            texts = {
                text
                for secret in _secrets
                for text in (secret, *secret.splitlines())
                if text == secret or (len(text) >= _LONG_LINE and not text.startswith("-----"))
            }
            _masks = tuple(map(Mask, sorted(texts, key=lambda text: (-len(text), text))))
        masks = _masks
    lowered = text.lower()
    for secret in masks:
        text = secret.apply(text, lowered)
    return text


def _replace(match: re.Match[str]) -> str:
    announced = match[1] if match.re.groups else None
    return f"{announced or ''}{MASKED}"


def _run(character: str, times: int) -> str:
    """Return the pattern of a character that is repeated so many times."""
    if character == "\n":
        return _NEW_LINE
    if character.isascii() and character.isalnum():
        return character * times
    forms = "|".join(dict.fromkeys(_forms(character)))
    most = "" if character == "\\" else 2 * times if character in _DOUBLED else times
    return f"(?:{forms}){{{times},{most}}}"


def _forms(character: str) -> Iterator[str]:
    """Yield every way to write a character that is not a letter or digit of ASCII, the longest first."""
    # The pattern ignores case, but not in the escapes of letters beyond ASCII.
    for variant in "".join({character, character.lower(), character.upper()}):
        octets = variant.encode("utf-8", "surrogatepass")
        units = variant.encode("utf-16-be", "surrogatepass").hex()
        yield "".join(f"%(?:25)*{octet:02x}" for octet in octets)
        yield "".join(rf"\\+x{octet:02x}" for octet in octets)
        yield "".join(rf"\\+u{units[start : start + 4]}" for start in range(0, len(units), 4))
        yield rf"\\+(?:x{ord(variant):02x}|u{ord(variant):08x})"
        yield rf"&(?:amp;)*\#0*(?:{ord(variant)}|x0*{ord(variant):x});"
        if variant in _HTML:
            yield rf"&(?:amp;)*{_HTML[variant]};"
    if character == "'":
        yield r"""'(?:"'"|\\+')'"""
    if character == " ":
        yield r"\+"
    if character in _LETTERS:
        yield rf"\\+{_LETTERS[character]}"
    yield r"\\" if character == "\\" else rf"\\*{re.escape(character)}"


def _in_base64(secret: str) -> frozenset[str]:
    """Return the forms of the secret within a base64 text, as in headers of HTTP and SMTP, wherever it begins there.

    The characters at its edges also hold bits of the neighbouring text, and are left out.
    """
    octets = secret.encode("utf-8", "surrogatepass")
    forms = set()
    for before in range(3):
        text = b64encode(bytes(before) + octets).decode().rstrip("=")
        first, last = -(-8 * before // 6), 8 * (before + len(octets)) // 6
        forms |= {text[first:last], text[first:last].replace("+", "-").replace("/", "_")}
    return frozenset(form for form in forms if len(form) >= _SHORT_BASE64)


_plain_warning = warnings.formatwarning


def mask_python() -> None:
    """Mask the warnings of this process and the errors that end a thread, a destructor or the process. Idempotent."""
    warnings.formatwarning = _warning
    threading.excepthook = _of_thread
    sys.unraisablehook = _unraisable
    sys.excepthook = _write_error


@cache
def stderr_format() -> logging.Formatter:
    """Return the format of what libraries log to stderr: an error without its traceback, no use to a reader there."""
    import logging  # not at start-up

    class Printable(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            try:
                text = record.getMessage()
            except Exception:  # its arguments do not fit its text
                text = str(record.msg)
            error = record.exc_info[1] if record.exc_info else None
            parts = (text,) if error is None else (text, type(error).__name__, str(error))
            return printable(mask(": ".join(filter(None, parts))))

    return Printable()


def make_logging_printable() -> None:
    """Mask and make printable what libraries log without a handler: Python writes it to stderr. Idempotent."""
    import logging

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(stderr_format())


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return mask(_plain_warning(message, category, filename, lineno, line))


def _of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else "?"
        _write_error(args.exc_type, args.exc_value, args.exc_traceback, f"Exception in thread {name}:\n")


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    what = args.err_msg or "Exception ignored"
    _write_error(args.exc_type, args.exc_value, args.exc_traceback, f"{what}: {type(args.object).__name__}\n")


def _write_error(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, heading: str = ""
) -> None:
    import traceback

    if sys.stderr is not None:
        sys.stderr.write(mask(heading + "".join(traceback.format_exception(kind, error, trace))))
