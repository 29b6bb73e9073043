"""What is remembered in the state folder because no database may be there: held locks in a row, digests sent directly.

One small file each, named by a hash of the command; killed at any moment it is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwhctl.alerts.facts import Fact, Memory, Told
from dwhctl.files import append, read_text
from dwhctl.private import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping


class HeldInARow:
    """How often in a row a command has found its lock held."""

    def __init__(self, state_dir: Path, command: str) -> None:
        self._file = state_dir / "alerts" / f"held-{_name(command)}"

    def add(self) -> int:
        """Count one more, and give the count."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # A byte for each: to append is one step, so that nothing is read, added and written back.
        return append(self._file, b".")

    def clear(self) -> None:
        """The command got its locks."""
        with suppress(OSError):
            self._file.unlink()


class ToldDirectly:
    """What channels were told without the sessions database; it takes this over when it is back."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "alerts"

    def of(self, channel: str, command: str) -> dict[Fact, Told]:
        """Give what a channel was told at the end of the command."""
        return {fact: told for name, fact, told in _read(self._path(command)) if name == channel}

    def remember(self, channel: str, command: str, memory: Memory) -> None:
        """Write what the channel was told, in place of what it was told before."""
        path = self._path(command)
        others = [row for row in _read(path) if row[0] != channel]
        rows = [*others, *((channel, fact, told) for fact, told in memory.items())]
        if not rows:
            path.unlink(missing_ok=True)
            return
        text = json.dumps([_row(*row) for row in rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)

    def all(self) -> dict[Path, list[tuple[str, Fact, Told]]]:
        """Give everything, by the file in which it stands."""
        return {path: _read(path) for path in sorted(self._folder.glob("told-*.json"))}

    def _path(self, command: str) -> Path:
        return self._folder / f"told-{_name(command)}.json"


class Refusals:
    """When a channel last refused a message that was sent without the sessions database, and what it answered."""

    def __init__(self, state_dir: Path, channel: str) -> None:
        self._file = state_dir / "alerts" / f"refused-{_name(channel)}.json"

    def since(self, earliest: datetime) -> str | None:
        """Return the answer of a refusal after that moment; None when there was none."""
        try:
            content = json.loads(read_text(self._file, follow=False))
            at = datetime.fromisoformat(content["at"]).astimezone(UTC)
            return str(content["answer"]) if at > earliest else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def keep(self, answer: str | None, now: datetime) -> None:
        """Write a refusal down; None clears it. A state folder that cannot be written keeps nothing."""
        with suppress(OSError):
            if answer is None:
                self._file.unlink(missing_ok=True)
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"at": now.isoformat(), "answer": answer}))


def _name(command: str) -> str:
    return hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _row(channel: str, fact: Fact, told: Told) -> dict[str, Any]:
    when = {"at": told.at.isoformat(), "day": fact.day and fact.day.isoformat(), "newest": told.newest}
    return {"channel": channel, **asdict(fact), **when}


def _read(path: Path) -> list[tuple[str, Fact, Told]]:
    """Read a file; one that is gone, or that something else has spoilt, holds nothing."""
    try:
        return [_told(row) for row in json.loads(read_text(path, follow=False))]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []


def _told(row: Mapping[str, Any]) -> tuple[str, Fact, Told]:
    texts = [row[name] for name in ("channel", "work", "connection", "error_class", "shard")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a fact is made of texts")
    day = date.fromisoformat(row["day"]) if row["day"] else None
    at = datetime.fromisoformat(row["at"]).astimezone(UTC)
    return texts[0], Fact(texts[1], texts[2], texts[3], texts[4], day), Told(at, newest=bool(row["newest"]))
