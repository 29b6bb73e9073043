"""Connections of vertica-python, for tests that speak to a server by the vendor's client."""

from __future__ import annotations

from typing import Any

from vertica_python import Connection


class _Connection(Connection):  # type: ignore[misc]
    """The driver's, but it closes the socket of a login that fails: the driver leaves it to the garbage collector."""

    def __init__(self, options: dict[str, Any]) -> None:
        try:
            super().__init__(options)
        except BaseException:
            self.close_socket()
            raise


def open_vertica(**keys: Any) -> Any:
    """Connect as `vertica_python.connect` does."""
    return _Connection(keys)
