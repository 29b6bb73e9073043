"""What libraries say through `logging`, from warnings up: in the parent it goes into the run's log, from a worker it
comes back with what it did.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dwhctl.printable import printable
from dwhctl.project.secrets import mask
from dwhctl.runs.values import Level, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_CHARACTERS = 4000
_MOST_SAID = 50
_FORMAT = logging.Formatter()


class _Ear(logging.Handler):
    """Hands on what was said. `aloud`: to stderr as well, where Python writes it when nobody listens."""

    def __init__(self, take: Callable[[Said], None], *, aloud: bool) -> None:
        super().__init__(logging.WARNING)
        self._take = take
        self._aloud = aloud

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = mask(_FORMAT.format(record))
        except Exception:  # its arguments do not fit its text: that is not the run's trouble
            text = mask(str(record.msg))
        at = datetime.fromtimestamp(record.created, UTC)
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._take(Said(at, level, record.name, text[:_MOST_CHARACTERS]))
        if self._aloud and logging.lastResort is not None and logging.getLogger().handlers == [self]:
            logging.lastResort.handle(
                logging.makeLogRecord({"levelno": record.levelno, "msg": printable(text)})
            )


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(mask(super().format(record)))


def speak_plainly() -> None:
    """Make printable what libraries write to stderr by `logging` while nobody listens: it quotes servers."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())


@contextmanager
def heard(take: Callable[[Said], None], *, aloud: bool = False) -> Iterator[None]:
    """Hand on what libraries say in the block, unless it is heard already: a worker may be the parent itself."""
    root = logging.getLogger()
    if any(isinstance(one, _Ear) for one in root.handlers):
        yield
        return
    ear = _Ear(take, aloud=aloud)
    root.addHandler(ear)
    try:
        yield
    finally:
        root.removeHandler(ear)


class Ears:
    """Keeps the first of what is said, and counts the rest."""

    def __init__(self) -> None:
        self._said: list[Said] = []
        self._more = 0

    def take(self, said: Said) -> None:
        """Take one in."""
        if len(self._said) < _MOST_SAID:
            self._said.append(said)
        else:
            self._more += 1

    def said(self) -> tuple[Said, ...]:
        """Give what was said, and how much more there was."""
        if not self._more:
            return tuple(self._said)
        last = self._said[-1]
        return (*self._said, Said(last.at, last.level, last.logger, f"and {self._more:,} more like these"))
