"""Values of every form of a fingerprint with their canonical texts, and the numbers, worked out in Python.

The texts are written down here by hand; what is calculated is the frame, the MD5 and the sum, with hashlib alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from dwhctl.core.columns import Kind

_at = datetime.fromisoformat
_EAST = timezone(timedelta(hours=8))


@dataclass(frozen=True)
class Form:
    """One column: its kind, and its values with the texts that they take."""

    kind: Kind
    values: tuple[tuple[object, str | None], ...]
    key: bool = True


FORMS: dict[str, Form] = {
    "integer": Form(
        Kind.INTEGER,
        ((0, "0"), (1, "1"), (-1, "-1"), (10, "10"), (9, "9"), (2**53 + 1, "9007199254740993"),
         (2**63 - 1, "9223372036854775807"), (-(2**63) + 1, "-9223372036854775807")),
    ),
    "decimal": Form(
        Kind.DECIMAL,
        ((Decimal("0"), "0"), (Decimal("1.50"), "1.5"), (Decimal("-0.5"), "-0.5"), (Decimal("100"), "100"),
         (Decimal("0.0000000001"), "0.0000000001"), (Decimal("-1234567890123456789012345678.9"),
                                                     "-1234567890123456789012345678.9"), (Decimal("10.01"), "10.01")),
    ),
    "text": Form(
        Kind.TEXT,
        (("", ""), (" ", " "), ("a", "a"), ("A", "A"), ("a ", "a "), ("b", "b"), ("B", "B"), ("1:1,", "1:1,"),
         ("Абакан", "Абакан"), ("ё", "ё"), ("\U0001f600", "\U0001f600"), ("\ufffd", "\ufffd"), ("a\x00b", "a\x00b"),
         ("'\\|\"\n", "'\\|\"\n"), ("€", "€"), ("x" * 1500, "x" * 1500)),
    ),
    "uuid": Form(
        Kind.UUID,
        ((UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF"), "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
         (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
         (UUID("ffffffff-0000-0000-0000-000000000000"), "ffffffff-0000-0000-0000-000000000000"),
         (UUID("00000000-0000-0000-0000-ffffffffffff"), "00000000-0000-0000-0000-ffffffffffff")),
    ),
    "binary": Form(Kind.BINARY, ((b"\x00", "00"), (b"\xff\x00", "ff00"), (b"abc", "616263"), (b"\x0a\\'", "0a5c27"))),
    "date": Form(
        Kind.DATE,
        ((date(2020, 7, 14), "2020-07-14"), (date(1, 1, 1), "0001-01-01"), (date(9999, 12, 31), "9999-12-31"),
         (date(1969, 12, 31), "1969-12-31")),
    ),
    "time": Form(
        Kind.TIME,
        ((time(0), "00:00:00.000000"), (time(12, 34, 56, 7), "12:34:56.000007"),
         (time(23, 59, 59, 999_999), "23:59:59.999999"), (time(1, 2, 3, 500_000), "01:02:03.500000")),
    ),
    "timestamp": Form(
        Kind.TIMESTAMP,
        ((_at("2020-07-14 12:34:56.000789"), "2020-07-14 12:34:56.000789"),
         (_at("0001-01-01"), "0001-01-01 00:00:00.000000"),
         (_at("9999-12-31 23:59:59.999999"), "9999-12-31 23:59:59.999999"),
         (_at("1969-12-31 23:59:59.5"), "1969-12-31 23:59:59.500000")),
    ),
    "timestamp with time zone": Form(
        Kind.TIMESTAMPTZ,
        ((datetime(2020, 7, 14, 12, 34, 56, 789, UTC), "2020-07-14 12:34:56.000789"),
         (datetime(2020, 7, 14, 1, 0, tzinfo=_EAST), "2020-07-13 17:00:00.000000"),
         (datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC), "1969-12-31 23:59:59.500000")),
    ),
    "boolean": Form(Kind.BOOLEAN, ((True, "1"), (False, "0"), (None, None)), key=False),
    "integer or nothing": Form(Kind.INTEGER, ((None, None), (0, "0")), key=False),
    "text or nothing": Form(Kind.TEXT, ((None, None), ("", ""), ("NULL", "NULL")), key=False),
}  # fmt: skip


def framed(texts: Sequence[str | None]) -> str:
    """The text of a row."""
    return "".join("," if text is None else f"{len(text.encode())}:{text}," for text in texts)


def number_of(texts: Sequence[str | None]) -> int:
    """The number of a row."""
    digest = hashlib.md5(framed(texts).encode(), usedforsecurity=False).hexdigest()
    return int(digest[1:16], 16)


def checksum(rows: Sequence[Sequence[str | None]]) -> int:
    """The sum over rows."""
    return sum(map(number_of, rows))
