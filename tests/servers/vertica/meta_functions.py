"""Functions that the server answers itself: they are replaced by their value before the engine sees the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlglot import exp

from tests.servers.vertica.catalog import TABLE_PRIVILEGES
from tests.servers.vertica.problems import VerticaError, unsupported

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

VERSION = "Vertica Analytic Database v24.1.0-0 (test server)"


def replace(session: Session, node: exp.Expr) -> exp.Expr:
    """The value of a function in its place; other nodes as they are."""
    name = _called(node)
    function = _FUNCTIONS.get(name)
    if function is None:
        return node
    arguments = node.expressions if isinstance(node, exp.Anonymous) else []
    value = function(session, [_literal(name, each) for each in arguments])
    literal = exp.convert(value)
    return exp.alias_(literal, name.lower()) if isinstance(node.parent, exp.Select) else literal


def _called(node: exp.Expr) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.this).upper()
    if isinstance(node, exp.Column) and not node.table and node.name.upper() in ("CURRENT_USER", "USER"):
        return "CURRENT_USER"
    if isinstance(node, exp.Func):
        name = node.sql_name().upper()
        return "VERSION" if name == "CURRENT_VERSION" else name
    return ""


def _literal(function: str, node: exp.Expr) -> str:
    if isinstance(node, exp.Literal):
        return str(node.this)
    if isinstance(node, exp.Boolean):
        return str(node.this).lower()
    raise VerticaError("0A000", 5263, f"{function}: only constants are supported as arguments")


def _version(session: Session, arguments: list[str]) -> object:
    return VERSION


def _user(session: Session, arguments: list[str]) -> object:
    return session.user.name


def _current_session(session: Session, arguments: list[str]) -> object:
    return session.identifier


def _accepted(session: Session, arguments: list[str]) -> object:
    return session.accepted


def _rejected(session: Session, arguments: list[str]) -> object:
    return session.rejected


def _close_session(session: Session, arguments: list[str]) -> object:
    if not session.server.close_session(arguments[0], session):
        raise VerticaError("22023", 4685, f"Session {arguments[0]} does not exist")
    return "Session close command sent. Check v_monitor.sessions for progress."


def _has_privilege(session: Session, arguments: list[str]) -> object:
    *who, name, privileges = arguments
    catalog = session.server.catalog
    user = catalog.users.get(who[0].casefold()) if who else session.user
    if user is None:
        raise VerticaError("42704", 4673, f'User "{who[0]}" does not exist')
    relation = catalog.relation(tuple(name.split(".")[-2:]))
    asked = [each.strip().upper() for each in privileges.split(",")]
    for each in asked:
        if each not in TABLE_PRIVILEGES:
            raise VerticaError("22023", 5447, f'Unrecognized privilege type: "{each}"')
    return any(catalog.may_use(user, relation.schema) and catalog.may(user, each, relation) for each in asked)


def _balance_policy(session: Session, arguments: list[str]) -> object:
    policy = arguments[0].upper()
    if policy not in ("NONE", "ROUNDROBIN", "RANDOM"):
        raise VerticaError("22023", 5447, f"Invalid load balance policy: {arguments[0]}")
    session.server.balance_policy = policy
    return f"Successfully changed the client initiator load balancing policy to: {policy.lower()}"


def _schema(session: Session, arguments: list[str]) -> object:
    return "public"


def _database(session: Session, arguments: list[str]) -> object:
    return session.server.database


def _done(session: Session, arguments: list[str]) -> object:
    return 0


def _no_sequence(session: Session, arguments: list[str]) -> object:
    raise unsupported("Sequences")


_FUNCTIONS: dict[str, Callable[[Session, list[str]], object]] = {
    "VERSION": _version,
    "CURRENT_USER": _user,
    "SESSION_USER": _user,
    "USER": _user,
    "CURRENT_SESSION": _current_session,
    "GET_NUM_ACCEPTED_ROWS": _accepted,
    "GET_NUM_REJECTED_ROWS": _rejected,
    "CLOSE_SESSION": _close_session,
    "HAS_TABLE_PRIVILEGE": _has_privilege,
    "SET_LOAD_BALANCE_POLICY": _balance_policy,
    "CURRENT_SCHEMA": _schema,
    "CURRENT_DATABASE": _database,
    "DBNAME": _database,
    "ANALYZE_STATISTICS": _done,
    "PURGE_TABLE": _done,
    "NEXTVAL": _no_sequence,
}
