"""Find the run that a person means: by its id, the beginning of it, or `last`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

from dwhctl.errors import UsageError
from dwhctl.files import is_run_id
from dwhctl.project.words import quoted
from dwhctl.sessions.runs import newest_run_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dwhctl.sessions import SessionStore

LAST = "last"
_CANDIDATES = 5
_MEANT_AMONG = 1000
_NO_RUN = "there is no run yet: dwhctl load makes one"


class RunIds(Protocol):
    """The ids of runs in one place."""

    def newest(self, count: int) -> Sequence[str]:
        """Return so many ids, the newest first."""
        ...

    def beginning_with(self, text: str, count: int) -> Sequence[str]:
        """Return so many of the ids that begin with the text, in order."""
        ...


class SessionRuns:
    """The runs that have sessions."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def newest(self, count: int) -> Sequence[str]:
        """Return the newest runs' ids. Raise SessionsError."""
        return newest_run_ids(self._store, count)

    def beginning_with(self, text: str, count: int) -> Sequence[str]:
        """Return the ids, each by one look into the index. Raise SessionsError."""
        found: list[str] = []
        rows = self._store.read("looking for the run", "next_run", {"text": text})
        while rows and rows[0][0].startswith(text) and len(found) < count:
            found.append(rows[0][0])
            rows = self._store.read("looking for the run", "run_after", {"text": found[-1]})
        return found


def find_run(runs: RunIds, text: str, *, none: str = _NO_RUN, missing: str = "there is no run") -> str:
    """Return the id of the run that the text means.

    Raise UsageError when there is no run at all (`none` says so), no such one, or more than one.
    """
    if text == LAST:
        return _last(runs, none)
    found = runs.beginning_with(text, _CANDIDATES + 1) if text else []
    if text in found or len(found) == 1:
        return text if text in found else found[0]
    if found:
        more = ", ..." if len(found) > _CANDIDATES else ""
        candidates = ", ".join(found[:_CANDIDATES])
        raise UsageError(f"'{text}' is the beginning of several runs: {candidates}{more}; write more of it")
    last = _last(runs, none)
    if close := difflib.get_close_matches(text, runs.newest(_MEANT_AMONG), n=1):
        raise UsageError(f"{missing} {quoted(text)}; did you mean '{close[0]}'?")
    raise UsageError(f"{missing} {quoted(text)}: the last one is {last}; or write '{LAST}'")


def _last(runs: RunIds, none: str) -> str:
    newest = runs.newest(_MEANT_AMONG)
    if not newest:
        raise UsageError(none)
    # An id that dwhctl does not give to runs is not the last run, however it sorts.
    return next((run_id for run_id in newest if is_run_id(run_id)), newest[0])
