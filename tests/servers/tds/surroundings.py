"""What a session tells of itself: @@SPID and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .convert import Typed
from .functions_server import BANNER
from .scope import Context
from .storage import quoted
from .types import SqlType, nvarchar

if TYPE_CHECKING:
    from .session import Session

_KINDS = {"@@SPID": "smallint", "@@MAX_PRECISION": "tinyint", "@@DATEFIRST": "tinyint"}


def surroundings(session: Session, variables: dict[str, Typed]) -> Context:
    """What a statement of this session is compiled in."""
    texts = {
        "APP_NAME": session.application,
        "HOST_NAME": "client",
        "@@SERVERNAME": "tds",
        "@@VERSION": BANNER,
        "@@LANGUAGE": session.language,
        "@@SERVICENAME": "MSSQLSERVER",
    }
    numbers = {
        "@@SPID": session.number,
        "@@TRANCOUNT": session.depth,
        "@@ROWCOUNT": session.row_count,
        "@@ERROR": session.error,
        "@@MAX_PRECISION": 38,
        "@@MICROSOFTVERSION": 0x10001045,
        "@@DATEFIRST": session.date_first,
        "@@NESTLEVEL": 0,
        "@@LOCK_TIMEOUT": -1 if session.lock_timeout is None else int(session.lock_timeout * 1000),
        "@@TEXTSIZE": 2_147_483_647,
        "@@OPTIONS": 5496,
        "@@IDENTITY": 0,
    }
    values = {name: _text(text) for name, text in texts.items()}
    values.update({name: _number(number, _KINDS.get(name, "int")) for name, number in numbers.items()})
    server = session.server
    return Context(
        server.catalog, session.database, session.user, values, variables, sessions=server.session_rows
    )


def _text(text: str) -> Callable[[], Typed]:
    return lambda: Typed(quoted(text), nvarchar(max(128, len(text))), nullable=False)


def _number(number: int, name: str) -> Callable[[], Typed]:
    kind = SqlType(name)
    return lambda: Typed(f"CAST({number} AS {kind.stored})", kind, nullable=False)
