"""The sessions table: one row for each attempt to load one slice.

`open_store` opens it; the drivers are imported only then.
"""

from __future__ import annotations

from dwhctl.sessions.connect import REPORT_TIMEOUT, open_if_there, open_store
from dwhctl.sessions.store import SessionStore
from dwhctl.sessions.values import (
    Closing,
    LastSession,
    NewSession,
    Session,
    State,
    is_complete,
    successful,
)

__all__ = [
    "REPORT_TIMEOUT",
    "Closing",
    "LastSession",
    "NewSession",
    "Session",
    "SessionStore",
    "State",
    "is_complete",
    "open_if_there",
    "open_store",
    "successful",
]
