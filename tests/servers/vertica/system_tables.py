"""v_catalog and v_monitor: made up, when asked for, from what the server knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tests.servers.vertica.catalog import Table

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

_TEXT = pa.string()
_INT = pa.int64()
_BOOL = pa.bool_()
_TIME = pa.timestamp("us", "UTC")
_NODE = "v_node0001"
Rows = Iterable[tuple[object, ...]]


def find(session: Session, path: tuple[str, ...]) -> Any:
    """The rows of a system table as an Arrow table; None when there is none of this name."""
    schema = path[0].casefold() if len(path) == 2 else None
    for home in ("v_catalog", "v_monitor", "v_internal"):
        made = _TABLES.get((home, path[-1].casefold()))
        if made is not None and schema in (None, home):
            return _table(made[0], made[1](session))
    return None


def _table(columns: dict[str, Any], rows: Rows) -> Any:
    listed = list(rows)
    arrays = [pa.array([row[index] for row in listed], kind) for index, kind in enumerate(columns.values())]
    return pa.Table.from_arrays(arrays, names=list(columns))


def _columns(session: Session) -> Rows:
    for table in _visible(session):
        for position, column in enumerate(table.columns, 1):
            kind = column.kind
            yield (
                table.number, table.schema, table.name, column.name, kind.shown, kind.oid, kind.octets,
                kind.precision, kind.scale, position, column.nullable, column.default or "", column.identity,
            )  # fmt: skip


def _visible(session: Session) -> Iterable[Table]:
    catalog = session.server.catalog
    for table in catalog.tables():
        may = any(catalog.may(session.user, each, table) for each in ("SELECT", "INSERT", "DELETE"))
        if may and catalog.may_use(session.user, table.schema):
            yield table


def _tables(session: Session) -> Rows:
    for table in _visible(session):
        yield (
            table.number, table.schema, table.name, table.owner, table.partition or "", False, False,
        )  # fmt: skip


def _views(session: Session) -> Rows:
    for view in session.server.catalog.views():
        yield view.number, view.schema, view.name, view.sql, view.owner


def _schemata(session: Session) -> Rows:
    for name, owner in list(session.server.catalog.schemas.values()):
        yield name, owner, False
    for name in ("v_catalog", "v_monitor", "v_internal"):
        yield name, "dbadmin", True


def _projections(session: Session) -> Rows:
    for table in _visible(session):
        yield table.schema, table.projection, table.number, table.name, True, True, True


def _constraints(session: Session) -> Rows:
    for table in _visible(session):
        if table.key:
            yield table.key.name, table.schema, table.number, table.name, "p", table.key.enabled


def _constraint_columns(session: Session) -> Rows:
    for table in _visible(session):
        for column in table.key.columns if table.key else ():
            assert table.key is not None
            yield table.key.name, table.schema, table.name, column, "p", table.key.enabled


def _primary_keys(session: Session) -> Rows:
    for table in _visible(session):
        for position, column in enumerate(table.key.columns if table.key else (), 1):
            assert table.key is not None
            yield table.key.name, table.schema, table.name, column, position, "p", table.key.enabled


def _grants(session: Session) -> Rows:
    for grant in session.server.catalog.grants:
        schema, _, name = grant.on.rpartition(".")
        yield grant.grantor, grant.privilege, schema or None, name, grant.kind, grant.grantee


def _users(session: Session) -> Rows:
    for user in session.server.catalog.users.values():
        yield user.name, user.superuser


def _sessions(session: Session) -> Rows:
    for each in session.server.sessions():
        if session.user.superuser or each.user.name == session.user.name:
            yield (
                _NODE, each.user.name, each.label, datetime.fromtimestamp(each.since, UTC), each.identifier,
                each.transaction_id, each.current_statement, each.client_pid, each.client_type, each.os_user,
                each.os_host, each.ssl_state,
            )  # fmt: skip


def _current_session(session: Session) -> Rows:
    yield (
        _NODE, session.user.name, session.label, session.identifier, session.transaction_id,
        session.current_statement, session.autocommit, session.os_user, session.os_host, session.ssl_state,
    )  # fmt: skip


def _messages(session: Session) -> Rows:
    # Only the parameters of the startup message are kept.
    for each in session.server.sessions():
        for name, value in each.given.items():
            yield each.identifier, "^+", f"{name}: {value}"


def _keys(session: Session) -> Rows:
    for name in session.server.security.keys if session.user.superuser else ():
        yield name, "RSA", session.server.security.key_text(name)


def _certificates(session: Session) -> Rows:
    for name, each in session.server.security.certificates.items():
        yield name, each.text


def _parameters(session: Session) -> Rows:
    for number in range(4000):
        # The original has many hundreds; their names and values are not known here.
        yield _NODE, f"Parameter{number:03}", ""


def _locks(session: Session) -> Rows:
    for hold in session.server.locks.all():
        yield f"Table:{hold.table}", hold.mode, hold.owner, "TRANSACTION" if hold.granted else "REQUESTED"


def _containers(session: Session) -> Rows:
    for table in session.server.catalog.tables():
        for _ in range(sum(table.containers.values())):
            yield table.schema, table.name, table.projection, "ROS"


def _nodes(session: Session) -> Rows:
    yield _NODE, "UP", "127.0.0.1"


def _dual(session: Session) -> Rows:
    yield ("X",)


_PRIVILEGES = {
    "grantor": _TEXT, "privileges_description": _TEXT, "object_schema": _TEXT, "object_name": _TEXT,
    "object_type": _TEXT, "grantee": _TEXT,
}  # fmt: skip
_CLIENT = {"client_os_user_name": _TEXT, "client_os_hostname": _TEXT, "ssl_state": _TEXT}
_KEY = {"constraint_name": _TEXT, "table_schema": _TEXT, "table_name": _TEXT, "column_name": _TEXT}
_TABLES: dict[tuple[str, str], tuple[dict[str, Any], Callable[[Session], Rows]]] = {
    ("v_catalog", "columns"): (
        {
            "table_id": _INT, "table_schema": _TEXT, "table_name": _TEXT, "column_name": _TEXT,
            "data_type": _TEXT, "data_type_id": _INT, "data_type_length": _INT, "numeric_precision": _INT,
            "numeric_scale": _INT, "ordinal_position": _INT, "is_nullable": _BOOL, "column_default": _TEXT,
            "is_identity": _BOOL,
        },
        _columns,
    ),
    ("v_catalog", "tables"): (
        {
            "table_id": _INT, "table_schema": _TEXT, "table_name": _TEXT, "owner_name": _TEXT,
            "partition_expression": _TEXT, "is_temp_table": _BOOL, "is_system_table": _BOOL,
        },
        _tables,
    ),
    ("v_catalog", "views"): (
        {"table_id": _INT, "table_schema": _TEXT, "table_name": _TEXT, "view_definition": _TEXT,
         "owner_name": _TEXT},
        _views,
    ),
    ("v_catalog", "schemata"): (
        {"schema_name": _TEXT, "schema_owner": _TEXT, "is_system_schema": _BOOL}, _schemata,
    ),
    ("v_catalog", "projections"): (
        {
            "projection_schema": _TEXT, "projection_name": _TEXT, "anchor_table_id": _INT,
            "anchor_table_name": _TEXT, "is_super_projection": _BOOL, "is_up_to_date": _BOOL,
            "has_statistics": _BOOL,
        },
        _projections,
    ),
    ("v_catalog", "table_constraints"): (
        {"constraint_name": _TEXT, "table_schema": _TEXT, "table_id": _INT, "table_name": _TEXT,
         "constraint_type": _TEXT, "is_enabled": _BOOL},
        _constraints,
    ),
    ("v_catalog", "constraint_columns"): (
        {**_KEY, "constraint_type": _TEXT, "is_enabled": _BOOL}, _constraint_columns,
    ),
    ("v_catalog", "primary_keys"): (
        {**_KEY, "ordinal_position": _INT, "constraint_type": _TEXT, "is_enabled": _BOOL}, _primary_keys,
    ),
    ("v_catalog", "grants"): (_PRIVILEGES, _grants),
    ("v_catalog", "users"): ({"user_name": _TEXT, "is_super_user": _BOOL}, _users),
    ("v_catalog", "nodes"): ({"node_name": _TEXT, "node_state": _TEXT, "node_address": _TEXT}, _nodes),
    ("v_catalog", "dual"): ({"dummy": _TEXT}, _dual),
    ("v_monitor", "sessions"): (
        {
            "node_name": _TEXT, "user_name": _TEXT, "client_label": _TEXT, "login_timestamp": _TIME,
            "session_id": _TEXT, "transaction_id": _INT, "current_statement": _TEXT, "client_pid": _INT,
            "client_type": _TEXT, **_CLIENT,
        },
        _sessions,
    ),
    ("v_monitor", "user_sessions"): (
        {
            "node_name": _TEXT, "user_name": _TEXT, "client_label": _TEXT, "session_start_timestamp": _TIME,
            "session_id": _TEXT, "transaction_id": _INT, "current_statement": _TEXT, "client_pid": _INT,
            "client_type": _TEXT, **_CLIENT,
        },
        _sessions,
    ),
    ("v_internal", "dc_session_starts"): (
        {
            "node_name": _TEXT, "user_name": _TEXT, "client_label": _TEXT, "time": _TIME,
            "session_id": _TEXT, "transaction_id": _INT, "current_statement": _TEXT, "client_pid": _INT,
            "client_type": _TEXT, **_CLIENT,
        },
        _sessions,
    ),
    ("v_internal", "dc_client_server_messages"): (
        {"session_id": _TEXT, "message_type": _TEXT, "contents": _TEXT}, _messages,
    ),
    ("v_catalog", "cryptographic_keys"): ({"name": _TEXT, "type": _TEXT, "key": _TEXT}, _keys),
    ("v_catalog", "certificates"): ({"name": _TEXT, "certificate_text": _TEXT}, _certificates),
    ("v_monitor", "configuration_parameters"): (
        {"node_name": _TEXT, "parameter_name": _TEXT, "current_value": _TEXT}, _parameters,
    ),
    ("v_monitor", "current_session"): (
        {"node_name": _TEXT, "user_name": _TEXT, "client_label": _TEXT, "session_id": _TEXT,
         "transaction_id": _INT, "current_statement": _TEXT, "autocommit": _BOOL, **_CLIENT},
        _current_session,
    ),
    ("v_monitor", "locks"): (
        {"object_name": _TEXT, "lock_mode": _TEXT, "transaction_description": _TEXT, "lock_scope": _TEXT},
        _locks,
    ),
    ("v_monitor", "storage_containers"): (
        {"schema_name": _TEXT, "table_name": _TEXT, "projection_name": _TEXT, "storage_type": _TEXT},
        _containers,
    ),
}  # fmt: skip
