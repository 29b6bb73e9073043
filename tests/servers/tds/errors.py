"""SQL Server's errors: number, severity, state and words.

Numbers and texts as in sys.messages; https://learn.microsoft.com/sql/relational-databases/errors-events/
"""

from __future__ import annotations

from pathlib import Path


class TdsError(Exception):
    """An error as the server sends it."""

    def __init__(self, number: int, message: str, severity: int = 16, state: int = 1) -> None:
        super().__init__(number, message)
        self.number = number
        self.message = message
        self.severity = severity
        self.state = state


def _read() -> dict[int, tuple[int, str]]:
    lines = Path(__file__).with_name("messages.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {int(number): (int(severity), text) for number, severity, text in rows}


_TEXTS = _read()


def messages() -> dict[int, tuple[int, str]]:
    """Severity and text of every message, by number."""
    return _TEXTS


def error(number: int, *words: object, state: int = 1) -> TdsError:
    """The error of this number with the words that its text has holes for."""
    severity, text = _TEXTS[number]
    return TdsError(number, text.format(*words), severity, state)
