"""Reading the project's files as text and TOML."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from dwhctl.files import read_text

from .problems import Place, Problems
from .words import shown_path

_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEYS = re.compile(
    r"^(Cannot declare|Cannot mutate immutable namespace|Cannot redefine namespace|Duplicate inline table key)\b.*",
    re.DOTALL,
)
_DEEPEST = 50
_TOO_DEEP = "lists or tables stand too deep in each other; write them as tables of their own"
_REMEDIES = {
    "Cannot declare": "the table stands twice in the file; keep one",
    "Cannot mutate": "a table in { } is whole; write its keys within it",
    "Cannot redefine": "the table stands twice in the file; keep one",
    "Duplicate inline table key": "the key stands twice in its table; keep one",
    "Invalid value": 'a text stands in quotes: "text"; true and false are lower case',
    "Invalid date or datetime": "write an existing date as 2020-02-08",
    "Cannot overwrite a value": "the key stands twice in its table; keep one",
    "Expected '=' after a key in a key/value pair": "write key = value",
    "Unclosed array": "a ] is missing",
    "Unclosed inline table": "a } is missing",
    'Expected "\'"': "a closing ' is missing in it or above",
    "Illegal character '\\n'": "a closing quote is missing",
    "Expected newline": 'one key = value a line; quotes within a text are written \\"',
}


def read_toml(path: Path, problems: Problems) -> dict[str, Any] | None:
    """The file's tables, or None with the problem noted."""
    place = Place(shown_path(path, problems.root))
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError:
        problems.add(place, "the file is missing; create it, or make a new project with: dwhctl init")
    except OSError as error:
        problems.add(
            place, f"the file cannot be read ({error.strerror}); give the user that runs dwhctl access"
        )
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.add(place, f"line {line}: not UTF-8; save the file in the encoding UTF-8")
    else:
        problems.texts[place.file] = text
        return _parsed(text, place, problems)
    return None


def _parsed(text: str, place: Place, problems: Problems) -> dict[str, Any] | None:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.add(place, _words(str(error), text))
    except RecursionError:
        problems.add(place, _TOO_DEEP)
    except ValueError:  # Python reads no number of more than 4,300 digits
        problems.add(place, "a number has too many digits; correct it")
    else:
        if not _is_too_deep(tables):
            return tables
        problems.add(place, _TOO_DEEP)
    return None


def _is_too_deep(tables: dict[str, Any]) -> bool:
    """Tell whether lists and tables are nested deeper than what reads them can go. (Dotted keys nest too.)"""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        inner = [
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        ]
        level = [value for values in inner for value in values]
        if not level:
            return False
    return True


def _words(message: str, text: str) -> str:
    # Neither the line nor a key of it is shown: they may hold a password.
    found = _POSITION.search(message)
    what = _KEYS.sub(r"\1", _POSITION.sub("", message))
    line, column = (found[1], found[2]) if found and found[1] else (str(text.count("\n") + 1), None)
    at = f"line {line}, column {column}" if column else f"line {line} (the file's end)"
    remedy = next(
        (words for start, words in _REMEDIES.items() if what.startswith(start)), "correct the TOML there"
    )
    return f"{at}: {what}; {remedy}"
