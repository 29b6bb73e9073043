"""How a secret can be written in a text, as patterns that `mask` looks for.

Programs quote what they complain about, each in its own way: percent-encoding, JSON, HTML, SQL, Python, a shell,
base64. One pattern per secret covers them all, mixtures included, character by character.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


MASKED = "********"
#: A shorter secret may be any word: it is masked only where a text says that a secret follows.
SHORTEST = 6
# So short a piece of base64 may be any word.
_SHORT_BASE64 = 7
# So long a line of a secret with several is masked on its own: messages and logs cut texts into lines.
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
        """The text with the secret replaced by asterisks; `lowered` is the text in lower case."""
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


def masks(secrets: Iterable[str]) -> tuple[Mask, ...]:
    """A mask for each secret and each long line of one, the longest first: one secret may hold another."""
    texts = {each for secret in secrets for each in (secret, *_lines(secret))}
    return tuple(map(Mask, sorted(texts, key=lambda text: (-len(text), text))))


def _lines(secret: str) -> Iterator[str]:
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _LONG_LINE and not line.startswith("-----"))


def _replace(match: re.Match[str]) -> str:
    announced = match[1] if match.re.groups else None
    return f"{announced or ''}{MASKED}"


def _run(character: str, times: int) -> str:
    """The pattern of a character that stands so many times in a row."""
    if character == "\n":
        return _NEW_LINE
    if character.isascii() and character.isalnum():
        return character * times
    forms = "|".join(dict.fromkeys(_forms(character)))
    most = "" if character == "\\" else 2 * times if character in _DOUBLED else times
    return f"(?:{forms}){{{times},{most}}}"


def _forms(character: str) -> Iterator[str]:
    """Every way to write a character that is no letter or digit of ASCII, the longest first."""
    # The pattern ignores case, but not in the escapes of letters beyond ASCII.
    for each in "".join({character, character.lower(), character.upper()}):
        octets = each.encode("utf-8", "surrogatepass")
        units = each.encode("utf-16-be", "surrogatepass").hex()
        yield "".join(f"%(?:25)*{octet:02x}" for octet in octets)
        yield "".join(rf"\\+x{octet:02x}" for octet in octets)
        yield "".join(rf"\\+u{units[start : start + 4]}" for start in range(0, len(units), 4))
        yield rf"\\+(?:x{ord(each):02x}|u{ord(each):08x})"
        yield rf"&(?:amp;)*\#0*(?:{ord(each)}|x0*{ord(each):x});"
        if each in _HTML:
            yield rf"&(?:amp;)*{_HTML[each]};"
    if character == "'":
        yield r"""'(?:"'"|\\+')'"""
    if character == " ":
        yield r"\+"
    if character in _LETTERS:
        yield rf"\\+{_LETTERS[character]}"
    yield r"\\" if character == "\\" else rf"\\*{re.escape(character)}"


def _in_base64(secret: str) -> frozenset[str]:
    """What stands for the secret in a base64 text, wherever in that text it begins: headers of HTTP and SMTP hold such.

    The characters at its edges also hold bits of what stands beside it, and are left out.
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


def mask_logging() -> None:
    """Mask the log records that no handler takes: Python writes them to stderr. Idempotent."""
    import logging

    class Masked(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return _masked(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Masked())


def _masked(text: str) -> str:
    from dwhctl.core.secrets import mask  # not at start-up: most commands need it later or never

    return mask(text)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return _masked(_plain_warning(message, category, filename, lineno, line))


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
        sys.stderr.write(_masked(heading + "".join(traceback.format_exception(kind, error, trace))))
