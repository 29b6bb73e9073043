"""Any value of any of SQL Server's types comes out of the source as it was: written as SQL, read as Arrow."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwhctl.project.query import Query
from tests.contract.kits_mssql import LAST_CHARACTER, RUST, MssqlArrowSourceKit, MssqlSourceKit, text_literal

#: A value as SQL, and as Python.
Pair = tuple[str, object]
_EPOCH = datetime(1, 1, 1)  # noqa: DTZ001 - wall clocks
_DAYS = 3_652_059  # to 9999-12-31
_DAY_TICKS = 864_000_000_000
_SMALLEST = 2.3e-308
_SMALLEST_REAL = 1.2e-38
LATIN, CYRILLIC = "Latin1_General_CI_AS", "Cyrillic_General_CI_AS"


def integers(least: int, most: int) -> st.SearchStrategy[Pair]:
    return st.integers(least, most).map(lambda value: (f"'{value}'", value))


def decimals(precision: int, scale: int, most: int | None = None) -> st.SearchStrategy[Pair]:
    most = most or 10**precision - 1
    values = st.integers(-most, most).map(lambda value: Decimal(f"{value}E-{scale}"))
    return values.map(lambda value: (f"'{value:f}'", value))


def floats(width: int) -> st.SearchStrategy[Pair]:
    def pair(value: float) -> Pair:
        if abs(value) < (_SMALLEST if width == 64 else _SMALLEST_REAL):
            value = 0.0
        return f"'{value!r}'", value

    return st.floats(allow_nan=False, allow_infinity=False, width=64 if width == 64 else 32).map(pair)


def clock(ticks: int, scale: int) -> str:
    """A time of day, given in 100 ns, with so many digits behind the second."""
    seconds, fraction = divmod(ticks, 10_000_000)
    digits = f".{fraction:07}"[: scale + 1] if scale else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{digits}"


def times(scale: int) -> st.SearchStrategy[Pair]:
    texts = st.integers(0, _DAY_TICKS - 1).map(lambda ticks: clock(ticks, scale))
    return texts.map(lambda text: (f"'{text}'", time.fromisoformat(text)))


def moment(day: int, text: str) -> datetime:
    at = time.fromisoformat(text)
    return datetime.combine(_EPOCH + timedelta(days=day), at)


def stamps(scale: int) -> st.SearchStrategy[Pair]:
    def pair(day: int, ticks: int) -> Pair:
        text = clock(ticks, scale)
        return f"'{(_EPOCH + timedelta(days=day)).date()}T{text}'", moment(day, text)

    return st.builds(pair, st.integers(0, _DAYS - 1), st.integers(0, _DAY_TICKS - 1))


def offsets(scale: int) -> st.SearchStrategy[Pair]:
    def pair(day: int, ticks: int, minutes: int) -> Pair:
        text = clock(ticks, scale)
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
        instant = (moment(day, text) - timedelta(minutes=minutes)).replace(tzinfo=UTC)
        return f"'{(_EPOCH + timedelta(days=day)).date()}T{text}{zone}'", instant

    return st.builds(pair, st.integers(1, _DAYS - 2), st.integers(0, _DAY_TICKS - 1), st.integers(-840, 840))


def thirds(day: int, count: int) -> Pair:
    """A datetime: a count of 1/300 s, shown in milliseconds that end with 0, 3 or 7."""
    at = _EPOCH + timedelta(days=day, milliseconds=(count * 10 + 1) // 3)
    return f"'{at.isoformat(timespec='milliseconds')}'", at


def minutes(count: int) -> Pair:
    at = datetime(1900, 1, 1) + timedelta(minutes=count)  # noqa: DTZ001
    return f"'{at.isoformat()}'", at


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def texts(
    most: int | None = None, page: str | None = None, *, padded: bool = False
) -> st.SearchStrategy[Pair]:
    """Texts of at most so many places: bytes of a code page, or units of UTF-16."""
    characters = st.characters(codec="utf-8", max_codepoint=LAST_CHARACTER)
    if page:
        known = bytes(range(256)).decode(page, "ignore")
        characters = st.sampled_from(known)

    def pair(text: str) -> Pair:
        while most is not None and units(text) > most:
            text = text[:-1]
        return text_literal(text), text + " " * ((most or 0) - units(text)) if padded else text

    return st.text(characters, max_size=most or 60).map(pair)


def octets(most: int | None = None, *, padded: bool = False) -> st.SearchStrategy[Pair]:
    def pair(value: bytes) -> Pair:
        return f"0x{value.hex()}", value.ljust(most or 0, b"\0") if padded else value

    return st.binary(max_size=most or 60).map(pair)


def uuid_pair(value: UUID) -> Pair:
    return f"'{str(value).upper()}'", str(value)


def real(pair: Pair) -> Pair:
    # What 32 bits hold.
    assert isinstance(pair[1], float)
    return pair[0], struct.unpack("f", struct.pack("f", pair[1]))[0]


TYPES: dict[str, st.SearchStrategy[Pair]] = {
    "tinyint": integers(0, 255),
    "smallint": integers(-(2**15), 2**15 - 1),
    "int": integers(-(2**31), 2**31 - 1),
    "bigint": integers(-(2**63), 2**63 - 1),
    "bit": st.booleans().map(lambda value: (str(int(value)), value)),
    **{
        f"decimal({p},{s})": decimals(p, s) for p, s in ((38, 0), (38, 19), (38, 38), (19, 4), (9, 2), (1, 1))
    },
    "numeric(12,3)": decimals(12, 3),
    "money": decimals(19, 4, 2**63 - 1),
    "smallmoney": decimals(10, 4, 2**31 - 1),
    "float": floats(64),
    "real": floats(32).map(real),
    "date": stamps(0).map(
        lambda pair: (pair[0][:11] + "'", datetime.fromisoformat(pair[0].strip("'")).date())
    ),
    **{f"time({scale})": times(scale) for scale in range(8)},
    **{f"datetime2({scale})": stamps(scale) for scale in range(8)},
    **{f"datetimeoffset({scale})": offsets(scale) for scale in range(8)},
    "datetime": st.builds(thirds, st.integers(639_905, _DAYS - 1), st.integers(0, 86400 * 300 - 1)),
    "smalldatetime": st.builds(minutes, st.integers(0, 65535 * 1440)),
    "nvarchar(30)": texts(30),
    "nvarchar(max)": texts(),
    "nchar(12)": texts(12, padded=True),
    "ntext": texts(),
    f"varchar(30) COLLATE {LATIN}": texts(30, "cp1252"),
    f"varchar(30) COLLATE {CYRILLIC}": texts(30, "cp1251"),
    f"varchar(max) COLLATE {CYRILLIC}": texts(None, "cp1251"),
    f"char(12) COLLATE {LATIN}": texts(12, "cp1252", padded=True),
    f"text COLLATE {LATIN}": texts(None, "cp1252"),
    "uniqueidentifier": st.uuids().map(uuid_pair),
    "binary(7)": octets(7, padded=True),
    "varbinary(20)": octets(20),
    "varbinary(max)": octets(),
    **({} if RUST else {"image": octets()}),
}
_ROWS = st.lists(st.tuples(*(st.none() | values for values in TYPES.values())), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=_ROWS, size=st.integers(1, 9))
def test_any_values_of_any_types_are_read_as_they_were(
    rows: list[tuple[Pair | None, ...]], size: int, server: tuple[MssqlSourceKit, Path]
) -> None:
    kit, root = server
    connection = kit.connection(root)
    names = [f"c{number}" for number in range(len(TYPES))]
    columns = ", ".join(f"{name} {declared}" for name, declared in zip(names, TYPES, strict=True))
    inserts = (
        f"INSERT INTO t VALUES ({n}, {', '.join('NULL' if pair is None else pair[0] for pair in row)})"
        for n, row in enumerate(rows)
    )
    kit.run(connection, "abakan", "DROP TABLE IF EXISTS t", f"CREATE TABLE t (id int, {columns})", *inserts)
    with kit.open(connection) as source:
        found = [row for batch in source.batches(Query("SELECT * FROM t ORDER BY id", {}), size)
                 for row in batch.to_pylist()]  # fmt: skip
    assert len(found) == len(rows)
    for row, read in zip(rows, found, strict=True):
        for name, declared, pair in zip(names, TYPES, row, strict=True):
            value = None if pair is None else pair[1]
            assert read[name] == value, declared
            if isinstance(value, float):
                assert math.copysign(1, read[name]) == math.copysign(1, value) or value == 0


@pytest.fixture(
    scope="module",
    params=[MssqlSourceKit, pytest.param(MssqlArrowSourceKit, marks=pytest.mark.long)],
    ids=lambda kit: kit.name,
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MssqlSourceKit, Path]:
    return request.param(), tmp_path_factory.mktemp("server")
