"""Send parameters with mssql-python, in a process of its own: a process has one provider. Prints what went wrong.

python -m tests.support.mssql_parameters PORT
"""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID

import mssql_python

ZONE = dt.timezone(dt.timedelta(hours=5, minutes=30))
#: A column's type, and values that come back as they went.
VALUES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("int", (0, -1, 2**31 - 1)),
    ("bigint", (-(2**63), 2**63 - 1)),
    ("bit", (True, False)),
    ("float", (0.1, -1e300)),
    ("decimal(38,10)", (Decimal("-1234567890123456789012345678.0123456789"), Decimal("0.0000000001"))),
    ("money", (Decimal("-922337203685477.5808"), Decimal("1.0001"))),
    ("nvarchar(10)", ("", "яблоко", "a'b", "\U0001f600", " a ")),
    ("nvarchar(max)", ("я" * 5000, "")),
    ("varchar(10)", ("abc", "é")),
    ("varbinary(8)", (b"\0\xff", b"")),
    ("varbinary(max)", (b"\1" * 9000,)),
    ("date", (dt.date(1753, 1, 1), dt.date(9999, 12, 31))),
    ("time(6)", (dt.time(0), dt.time(23, 59, 59, 999_999))),
    ("datetime2(6)", tuple(map(dt.datetime.fromisoformat, ("1753-01-01", "9999-12-31 23:59:59.999999")))),
    ("datetimeoffset(6)", (dt.datetime(2024, 1, 2, 3, 4, 5, 678_901, ZONE),)),
    ("uniqueidentifier", (UUID(int=2**100 + 7),)),
    ("xml", ("<a>я</a>",)),
)


def _wrong(cursor: Any) -> list[str]:
    found = []
    longest = max(len(values) for _, values in VALUES) + 1
    rows = [(at, [values[at] if at < len(values) else None for _, values in VALUES]) for at in range(longest)]
    columns = ", ".join(f"c{at} {kind}" for at, (kind, _) in enumerate(VALUES))
    cursor.execute(f"CREATE TABLE given (id int, {columns})")
    insert = f"INSERT INTO given VALUES (?{', ?' * len(VALUES)})"
    # One after the other, and all in one message.
    for key, row in rows:
        cursor.execute(insert, [key, *row])
    cursor.executemany(insert, [[key + 100, *row] for key, row in rows])
    for key, row in [*rows, *((key + 100, row) for key, row in rows)]:
        answer = cursor.execute("SELECT * FROM given WHERE id = ?", [key]).fetchone()
        for (kind, _), sent, came in zip(VALUES, row, list(answer)[1:], strict=True):
            if came != sent or type(came) is not type(sent):
                found.append(f"{kind}: {sent!r} came back as {came!r}")
    for sql, words in (
        ("SELECT * FROM nowhere WHERE a = ?", "Invalid object name 'nowhere'"),
        ("SELECT 1 / ?", "Divide by zero"),
        ("SELECT CAST(? AS date)", "Explicit conversion from data type"),
    ):
        try:
            cursor.execute(sql, [0])
            found.append(f"{sql}: no error")
        except mssql_python.Error as failure:
            if words not in str(failure):
                found.append(f"{sql}: {failure}")
    return found


def main() -> None:
    """Print a line for each difference, and `done`."""
    server = f"Server=127.0.0.1,{sys.argv[1]};Database=abakan"
    address = f"{server};UID=sa;PWD=Secret_123;Encrypt=no;TrustServerCertificate=yes"
    first = mssql_python.connect(address, autocommit=True)
    for line in _wrong(first.cursor()):
        print(line)
    first.cursor().execute("SET LOCK_TIMEOUT 1234; USE master; SET NOCOUNT ON")
    first.close()
    # The pool gives the same connection again.
    again = mssql_python.connect(address, autocommit=True).cursor()
    [found] = again.execute("SELECT DB_NAME(), @@LOCK_TIMEOUT, @@SPID").fetchall()
    print(*found)
    print("done")


if __name__ == "__main__":
    main()
