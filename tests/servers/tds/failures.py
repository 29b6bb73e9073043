"""DuckDB's errors in SQL Server's numbers."""

from __future__ import annotations

import re

import duckdb

from .errors import TdsError, error

_OURS = re.compile(r"tds:(\d+):(.*)", re.DOTALL)
_CLASSES = {248: 16, 244: 16, 235: 16}


def translate(failure: duckdb.Error, table: str = "", key: str = "") -> TdsError:
    """The error that SQL Server would give."""
    words = str(failure)
    if ours := _OURS.search(words):
        number = int(ours[1])
        severity = _CLASSES.get(number, 14 if number == 2627 else 16)
        return TdsError(number, ours[2].strip(), severity, 3 if number == 515 else 1)
    if "Division by zero" in words:
        return error(8134)
    if isinstance(failure, duckdb.ConstraintException) and "uplicate key" in words:
        return error(2627, key, f"dbo.{table}")
    if isinstance(failure, duckdb.OutOfRangeException) or "out of range" in words or "Overflow" in words:
        return error(
            8115, "expression", "int" if "INT32" in words else "bigint" if "INT64" in words else "numeric"
        )
    if isinstance(failure, duckdb.ConversionException):
        return _conversion(words)
    if isinstance(failure, duckdb.TransactionException) and "onflict" in words:
        return error(1205, 0)
    if isinstance(failure, duckdb.CatalogException) and "does not exist" in words:
        return error(208, table or words)
    return TdsError(50000, f"the protocol server cannot do this: {words}", 16)


def _conversion(words: str) -> TdsError:
    found = re.search(r"string '(.*?)' to (?:[A-Z]*INT|UINT)", words)
    if found:
        return error(245, "varchar", found[1], "int")
    if "timestamp" in words or "date" in words or "time" in words:
        return error(241)
    return error(8115, "numeric", "numeric") if "DECIMAL" in words else error(8114, "varchar", "numeric")
