"""How people read a time: in the project's zone, with its offset. What is stored, JSON and CSV stay in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

_zone: tzinfo = UTC


def use_zone(zone: tzinfo) -> None:
    """Show times in this zone from now on: the project's, once it is read."""
    global _zone
    _zone = zone


def shown_time(at: datetime | None = None, zone: tzinfo | None = None) -> str:
    """Write a time, or now, such as `2026-11-30 07:00:05 +03:00`."""
    local = (at or datetime.now(UTC)).astimezone(zone or _zone).replace(microsecond=0)
    text = local.isoformat(sep=" ")
    return f"{text[:19]} {text[19:]}"
