"""Parts of messages, and which values of the configuration a message may show."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from pathlib import Path

_SHOWN = 12
# difflib's ratio of two names from which one may be, or probably is, a misspelling of the other.
_SIMILAR, _CLOSE = 0.6, 0.75
_SHORTEST_START = 4
# What looks like a misspelling and is another name.
_FALSE_FRIENDS = {("mysql", "mssql")}
_LONGEST_TEXT = 60
# A path drops one of the slashes of `postgres://`.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|://|@")
_RANDOM = re.compile(
    r"(?=[A-Za-z0-9+=]*[a-z])(?=[A-Za-z0-9+=]*[A-Z])(?=[A-Za-z0-9+=]*\d)[A-Za-z0-9+=]{20,}|[0-9A-Fa-f]{32,}"
)
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
_KEY = re.compile(r"[\w-]{1,63}")
_KEY_OF_OURS = re.compile(r"[a-z0-9_]{1,63}")
#: The option in the lines of `crontab install`: no person reads what the command prints.
SCHEDULED = "--scheduled"
_nothing_shown: ContextVar[bool] = ContextVar("nothing_shown", default=False)


@contextmanager
def nothing_shown() -> Iterator[None]:
    """Show no value in the messages of this block: it reads tables of passwords and tokens."""
    before = _nothing_shown.set(True)
    try:
        yield
    finally:
        _nothing_shown.reset(before)


def may_show(text: str) -> bool:
    """Return whether a message may hold this text of the configuration or the command line.

    A secret may be typed in the place of another value. So no text is shown in a block of `nothing_shown`, and nowhere
    one that is an address or has the form of a secret.
    """
    return not (_nothing_shown.get() or _may_be_secret(text))


def looks_secret(text: str) -> bool:
    """Return whether a text has the form of a secret: a private key, a known token, a URL with a password."""
    return _SHAPES.search(text) is not None


def _may_be_secret(text: str) -> bool:
    return any((_ADDRESS.search(text), _RANDOM.search(text), looks_secret(text)))


def shown_text(text: str) -> str:
    """Return the text, or its length where it must not be shown."""
    return text if may_show(text) else _not_shown(text)


def quoted(text: str) -> str:
    """Return the text in quotes, or its length where it must not be shown."""
    return f"'{text}'" if may_show(text) else _not_shown(text)


def quoted_name(name: str) -> str:
    """Return the name in quotes, as `quoted` does; a valid name is shown everywhere."""
    return f"'{name}'" if is_shown(name) else quoted(name)


def shown_key(key: str) -> str:
    """Return a key or a table's name as part of a place, or its length where it may be a misplaced secret."""
    return key if is_shown(key) else _not_shown(key)


def is_shown(name: str) -> bool:
    """Return whether a key or name may be shown: in a block of `nothing_shown` only a valid name."""
    form = _KEY_OF_OURS if _nothing_shown.get() else _KEY
    return form.fullmatch(name) is not None and not _may_be_secret(name)


def shown_value(value: object) -> str:
    """Return a wrong value as TOML calls it; only its kind where it must not be shown."""
    if isinstance(value, str):
        short = len(value) <= _LONGEST_TEXT
        return f'the text "{value}"' if short and may_show(value) else f"a text of {_length(value)}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if _nothing_shown.get():
        return "a number" if isinstance(value, int | float) else "a date or time"
    return f"the number {value}" if isinstance(value, int | float) else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or the known names. The name itself is not in it."""
    names = sorted(set(known))
    if hint := did_you_mean(name, names):
        return hint
    if not names:
        return "there is none yet"
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return f"known: {', '.join(names[:_SHOWN])}{more}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or nothing where no name is close enough."""
    by_lower = {other.lower(): other for other in known}
    wanted = name.lower()
    close = [
        other
        for other in difflib.get_close_matches(wanted, list(by_lower), n=3, cutoff=_SIMILAR)
        if _is_close(wanted, other) and (wanted, other) not in _FALSE_FRIENDS
    ]
    return f"did you mean '{by_lower[close[0]]}'?" if close else ""


def _is_close(name: str, other: str) -> bool:
    if difflib.SequenceMatcher(None, name, other).ratio() >= _CLOSE:
        return True
    shorter, longer = sorted((name, other), key=len)
    return (len(shorter) >= _SHORTEST_START and longer.startswith(shorter)) or _is_one_slip(name, other)


def _is_one_slip(name: str, other: str) -> bool:
    """Return whether a letter was left out, added or replaced, or two neighbours were swapped."""
    shorter, longer = sorted((name, other), key=len)
    if len(shorter) < len(longer):
        return any(longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))
    differing = [at for at in range(len(name)) if name[at] != other[at]]
    first, last = differing[0], differing[-1] + 1
    return last - first == 1 or (last - first == 2 and name[first:last] == other[first:last][::-1])


def shown_path(path: Path, root: Path) -> str:
    """Return the path as a user of the project writes it: relative to the project if it is inside."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return str(path)


def shown_command(arguments: Sequence[str]) -> str:
    """Return the command line as it may be stored and sent: what may be a secret is replaced by its length.

    `--scheduled` is left out: the command is for a person.
    """
    words = (word for word in arguments if word != SCHEDULED)
    return shlex.join(["dwhctl", *(_not_shown(word) if _may_be_secret(word) else word for word in words)])


def is_whole_command(command: str) -> bool:
    """Return whether a command that `shown_command` returned can be run: no value of it was replaced."""
    return not re.search(r"<(1 character|\d+ characters), not shown>", command)


def without_arguments(text: str, arguments: Sequence[str]) -> str:
    """Return another program's text about the command line without the arguments that may be secrets."""
    parts = {part for argument in arguments for part in (argument, argument.partition("=")[2]) if part}
    for part in sorted(parts, key=len, reverse=True):
        if _may_be_secret(part):
            for form in (part, repr(part)[1:-1]):
                text = text.replace(form, _not_shown(part))
    return text


def _not_shown(text: str) -> str:
    return f"<{_length(text)}, not shown>"


def _length(text: str) -> str:
    return "1 character" if len(text) == 1 else f"{len(text)} characters"


ACTING = frozenset(
    (*range(32), *range(127, 160), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
)
_ESCAPED = {code: repr(chr(code))[1:-1] for code in ACTING}
_ESCAPED_IN_LINES = {code: text for code, text in _ESCAPED.items() if chr(code) not in "\n\t"}
#: Half a pair, as in the name of a file that is not UTF-8: no stream can write it.
_SURROGATES = range(0xD800, 0xE000)
_ESCAPED_IN_JSON = {code: f"\\u{code:04x}" for code in (*ACTING, *_SURROGATES) if chr(code) not in "\n\t\r"}


def printable(text: str) -> str:
    """Return the text without characters that act on a terminal, except ends of lines and tabs."""
    return text.translate(_ESCAPED_IN_LINES)


def one_line(text: str) -> str:
    """Return the text as one line of a log or a terminal."""
    return " ".join(text.split("\n")).strip().translate(_ESCAPED)


def escaped(text: str) -> str:
    """Return a value as one line, with all its blanks."""
    return text.translate(_ESCAPED)


def printable_json(text: str) -> str:
    """Return the same JSON, made printable by its own escapes."""
    return text.translate(_ESCAPED_IN_JSON)


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: `1 slice`, `2 slices`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2] not in "aeiou" else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def first_of(names: Sequence[str], most: int) -> str:
    """Return `abakan, achinsk and 36 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_zone: tzinfo = UTC


def use_zone(zone: tzinfo) -> None:
    """Show times in this zone from now on: the project's, once it is read."""
    global _zone
    _zone = zone


def shown_time(at: datetime | None = None, zone: tzinfo | None = None) -> str:
    """Write a time, or now, such as `2026-11-30 07:00:05 +03:00`."""
    local = (at or datetime.now(UTC)).astimezone(zone or _zone).replace(microsecond=0)
    text = local.isoformat(sep=" ")
    return f"{text[:19]} {text[19:]}"


def shown_seconds(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s"
