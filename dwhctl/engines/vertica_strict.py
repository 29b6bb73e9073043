"""Conditions in Vertica's SQL: which values of a column would change, or be refused, in a narrower one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwhctl.columns import Kind

if TYPE_CHECKING:
    from dwhctl.columns import Column

_MOST_INTEGER = 2**63 - 1
#: Microseconds of the units that a column may keep.
_UNITS = {"ms": 1_000, "s": 1_000_000}


def would_change(name: str, source: Column, table: Column) -> str:
    """Give the condition of the values of the (quoted) column `name` that do not fit; it may be NULL for NULL."""
    if table.kind is Kind.INTEGER:
        return f"ABS({name}) > {_MOST_INTEGER}"
    if table.kind is Kind.DECIMAL:
        return _beyond_decimal(name, source, table)
    if table.kind in (Kind.TEXT, Kind.BINARY):
        return _beyond_octets(name, table)
    # Whatever its zone, a moment's microseconds within its minute are the same.
    micros = f"CAST(EXTRACT(MICROSECONDS FROM {name}) AS INTEGER)"
    return f"MOD({micros}, {_UNITS[table.type.unit]}) <> 0"


def _beyond_decimal(name: str, source: Column, table: Column) -> str:
    whole = table.type.precision - table.type.scale
    conditions = [f"ABS({name}) >= {10**whole}"]
    if source.kind is Kind.DECIMAL and source.type.scale > table.type.scale:
        conditions.append(f"{name} <> ROUND({name}, {table.type.scale})")
    return " OR ".join(conditions)


def _beyond_octets(name: str, table: Column) -> str:
    conditions = [f"OCTET_LENGTH({name}) > {table.octets}"]
    if table.padded and table.kind is Kind.TEXT:
        # CHAR keeps no blank at a text's end.
        conditions.append(f"OCTET_LENGTH({name}) <> OCTET_LENGTH(RTRIM({name}))")
    if table.padded and table.kind is Kind.BINARY:
        conditions.append(f"OCTET_LENGTH({name}) < {table.octets}")
    return " OR ".join(conditions)
