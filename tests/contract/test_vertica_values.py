"""Any values of any type go from an Arrow batch through COPY into Vertica and read back the same."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.load.cast import constraints
from dwhctl.systems.base.target import StagingGroup, Target
from dwhctl.systems.vertica.system import VerticaConnection
from tests.contract.kit_base import NASTY_TEXTS
from tests.contract.kits_vertica import REAL, VerticaTargetKit
from tests.support.vertica import open_vertica

TABLE = "stage.everything"
TIMEOUT = timedelta(seconds=60)
_SERVICE = "etl_source VARCHAR(40), etl_id INTEGER, hash_id INTEGER"
_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("\\|'\"\n\r\t .N\x00") | st.sampled_from(
    [text for text in NASTY_TEXTS if text is not None]
)  # fmt: skip


def _octets(most: int) -> Callable[[str], bool]:
    return lambda text: len(text.encode()) <= most


#: The columns, with the values that they hold. NUMERIC beyond 38 digits: see the unit tests of the encoder.
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "INTEGER": st.integers(-(2**63) + 1, 2**63 - 1),
    "NUMERIC(38,10)": st.decimals(1 - 10**28, 10**28 - 1, places=10),
    "NUMERIC(38,38)": st.decimals(-1, 1, places=38).filter(lambda one: abs(one) < 1),
    "NUMERIC(18,2)": st.decimals(-(10**16) + 1, 10**16 - 1, places=2),
    "NUMERIC(5,0)": st.integers(-99_999, 99_999).map(Decimal),
    "FLOAT": st.floats(),
    "BOOLEAN": st.booleans(),
    "VARCHAR(300)": _TEXT.filter(_octets(300)),
    "LONG VARCHAR(200000)": _TEXT,
    "UUID": st.uuids().map(str),
    "VARBINARY(300)": st.binary(max_size=300),
    "LONG VARBINARY(200000)": st.binary(),
    "BINARY(4)": st.binary(min_size=4, max_size=4),
    "DATE": st.dates(),
    "TIME": st.times(),
    "TIMESTAMP": st.datetimes(),
    "TIMESTAMPTZ": st.datetimes(timezones=st.just(UTC)),
}


@dataclass
class Warehouse:
    """A table of all types."""

    target: Target
    connection: VerticaConnection
    numbers: Iterator[int]

    def carry(self, rows: Sequence[tuple[object, ...]], batch_rows: int) -> list[list[Any]]:
        """Stage and publish the rows; read back what stands in the table then."""
        number = next(self.numbers)
        group, token = StagingGroup("run", f"group.{number}", TABLE), f"token{number}"
        self.target.open_group(group)
        columns = self.target.columns(TABLE)
        cells = [[*row, "abakan", number, n, n] for n, row in enumerate(rows)]
        arrays = [pa.array([row[n] for row in cells], column.type) for n, column in enumerate(columns)]
        for column, array in zip(columns, arrays, strict=True):
            for constraint in constraints(column):
                assert constraint.first_break(array) is None
        batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
        with self.target.stage(group, token, columns) as stage:
            stage.write(batch.slice(start, batch_rows) for start in range(0, len(rows), batch_rows))
        with self.target.publication(TABLE, None, TIMEOUT) as publication:
            assert publication.staged_rows(group, [token]) == {token: len(rows)}
            assert publication.insert(group, [token]) == len(rows)
            publication.commit()
        self.target.drop_group(group)
        return self._read(number)

    def _read(self, number: int) -> list[list[Any]]:
        (host, port), password = self.connection.addresses[0], self.connection.password
        with closing(
            open_vertica(
                host=host,
                port=port,
                user=self.connection.user,
                password=password.reveal() if password else "",
                database=self.connection.database,
                tlsmode="prefer" if REAL else "disable",
                # As text a FLOAT has 15 digits, which are not all of it.
                binary_transfer=True,
            )
        ) as db:
            cursor = db.cursor()
            cursor.execute("SET TIME ZONE TO 'UTC'")
            cursor.execute(f"SELECT * FROM {TABLE} WHERE etl_id = {number} ORDER BY n")
            found: list[list[Any]] = cursor.fetchall()
            return [row[: len(TYPES)] for row in found]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """One for all examples: rows of an example have its own etl_id."""
    kit = VerticaTargetKit()
    root: Path = tmp_path_factory.mktemp("vertica")
    connection = kit.connection(root)
    assert isinstance(connection, VerticaConnection)
    target = kit.open(connection, root)
    columns = ", ".join(f"c{n} {declared}" for n, declared in enumerate(TYPES))
    target.run_statements(
        ["CREATE SCHEMA IF NOT EXISTS stage", f"CREATE TABLE {TABLE} ({columns}, {_SERVICE}, n INTEGER)"]
    )
    yield Warehouse(target, connection, itertools.count(1))
    kit.stop()


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("d", value)
    return value


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(*(st.none() | values for values in TYPES.values())), min_size=1, max_size=10),
    batch_rows=st.integers(1, 10),
)
def test_any_values_of_any_type_read_back_the_same(
    warehouse: Warehouse, rows: list[tuple[object, ...]], batch_rows: int
) -> None:
    found = warehouse.carry(rows, batch_rows)
    assert len(found) == len(rows)
    for back, row in zip(found, rows, strict=True):
        for declared, one, other in zip(TYPES, back, row, strict=True):
            assert _plain(one) == _plain(other), declared


def test_nasty_texts_read_back_octet_by_octet(warehouse: Warehouse) -> None:
    place = list(TYPES).index("LONG VARCHAR(200000)")
    rows = [tuple(text if n == place else None for n in range(len(TYPES))) for text in NASTY_TEXTS]
    assert [row[place] for row in warehouse.carry(rows, 7)] == list(NASTY_TEXTS)
