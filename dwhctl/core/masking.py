"""`mask` hides every secret that this process has read, in all text that leaves the process.

Programs quote what they complain about, each in its own way: percent-encoding, JSON, HTML, SQL, Python, a shell,
base64. One pattern per secret covers them all, mixtures included, character by character.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


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
        _mask_logging()
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
            texts = {text for secret in _secrets for text in (secret, *_lines(secret))}
            _masks = tuple(map(Mask, sorted(texts, key=lambda text: (-len(text), text))))
        masks = _masks
    lowered = text.lower()
    for secret in masks:
        text = secret.apply(text, lowered)
    return text


def _lines(secret: str) -> Iterator[str]:
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _LONG_LINE and not line.startswith("-----"))


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


def _mask_logging() -> None:
    """Mask the log records that no handler takes: Python writes them to stderr."""
    import logging  # not at start-up

    class Masked(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return mask(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Masked())


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
