"""REJECTED DATA AS TABLE: the records that a COPY left out, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.vertica.catalog import Column, Table
from tests.servers.vertica.kinds import INT, MOST_LONG_OCTETS, Kind
from tests.servers.vertica.problems import duplicate_object

if TYPE_CHECKING:
    from tests.servers.vertica.session import Session

_TEXT = Kind("varchar", 128)
_LONG = Kind("long varchar", MOST_LONG_OCTETS)
_COLUMNS = (
    ("node_name", _TEXT),
    ("file_name", _TEXT),
    ("session_id", _TEXT),
    ("transaction_id", INT),
    ("row_number", INT),
    ("rejected_data", _LONG),
    ("rejected_data_orig_length", INT),
    ("rejected_reason", _LONG),
)


def save_rejected(session: Session, path: tuple[str, ...], rejected: list[tuple[int, bytes, str]]) -> None:
    """Add the rejected records to the table, which is made when it does not exist."""
    catalog, store = session.server.catalog, session.server.store
    schema = catalog.schema_of(path)
    found = catalog.find((schema, path[-1]))
    if found is None:
        columns = [Column(name, kind) for name, kind in _COLUMNS]
        found = Table(catalog.next_number(), schema, path[-1], columns, session.user.name)
        found.projection = f"{schema}.{path[-1]}_super"
        store.create(found)
        catalog.add(found)
    if not isinstance(found, Table):
        raise duplicate_object(path[-1])
    work = session.begin()
    for number, raw, reason in rejected:
        store.execute(
            session.connection,
            f"INSERT INTO {found.engine_name} BY NAME SELECT ? AS node_name, 'STDIN' AS file_name, "
            "? AS session_id, ? AS transaction_id, ? AS row_number, ? AS rejected_data, "
            "? AS rejected_data_orig_length, ? AS rejected_reason, ? AS __ins",
            [
                "v_node0001",
                session.identifier,
                work.number,
                number,
                raw.decode(errors="replace"),
                len(raw),
                reason,
                work.number,
            ],
        )
    if rejected:
        work.inserted[found.number] = found
