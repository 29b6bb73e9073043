"""End sessions on the server by their label: what a dead run, or a lost connection, left behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dwhctl.engines.vertica import literal
from dwhctl.errors import TargetError, TargetRefusedError

if TYPE_CHECKING:
    from dwhctl.engines.vertica import Session

#: How long the server may take to end a session: it rolls back first.
_GONE_SECONDS = 30.0
_POLL_SECONDS = 0.05


def end_sessions(session: Session, label: str, *, and_longer: bool = False) -> None:
    """End the sessions with this label, but for one's own, and wait until they are gone.

    With `and_longer` also those whose label goes on with a colon. A user who is not dbadmin sees and ends his own.
    Raise TargetError when they do not go within half a minute, or the session's patience.
    Source: https://docs.vertica.com/24.2.x/en/sql-reference/functions/management-functions/session-functions/close-session/
    """
    where = f"client_label = {literal(label)}"
    if and_longer:
        where += f" OR LEFT(client_label, {len(label) + 1}) = {literal(label + ':')}"
    asked: set[str] = set()
    refused = ""
    until = time.monotonic() + min(_GONE_SECONDS, session.patience)
    while left := _sessions(session, where):
        for session_id in left - asked:
            refused = _close(session, session_id) or refused
        asked |= left
        if time.monotonic() > until:
            raise TargetError(f"{len(left)} sessions of {label} do not end {refused}".rstrip())
        time.sleep(_POLL_SECONDS)


def _sessions(session: Session, where: str) -> set[str]:
    try:
        rows = session.query(
            f"SELECT session_id FROM v_monitor.sessions WHERE ({where})"
            f" AND client_label <> {literal(session.label)}"
        )
    except TargetRefusedError:
        return set()  # who may not look at sessions can end none
    return {str(session_id) for (session_id,) in rows}


def _close(session: Session, session_id: str) -> str:
    """Ask for the end of a session; give why not. It may have gone by itself meanwhile."""
    try:
        session.query(f"SELECT CLOSE_SESSION({literal(session_id)})")
    except TargetRefusedError as error:
        return f"({error})"
    return ""
