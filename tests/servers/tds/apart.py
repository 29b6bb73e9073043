"""Servers in a process of their own, which the test steers.

mssql-python keeps Python's lock while it waits for a long text or binary: a server in the same process could never
send it.
"""

from __future__ import annotations

import functools
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import TYPE_CHECKING, Any, Self, cast

from ..base import Fault
from .server import TdsServer, connection_to

if TYPE_CHECKING:
    from dwhctl.systems.mssql.system import MssqlConnection


class _Servers:
    """Lives in the process; a server is called by its port."""

    def __init__(self) -> None:
        self._by_port: dict[int, TdsServer] = {}

    def start(self, keys: dict[str, Any]) -> int:
        server = TdsServer(**keys).start()
        self._by_port[server.port] = server
        return server.port

    def stop(self, port: int) -> None:
        self._by_port.pop(port).stop()

    def execute(self, port: int, database: str, sql: str) -> list[tuple[Any, ...]]:
        return self._by_port[port].execute(database, sql)

    def add_fault(self, port: int, fault: Fault) -> Fault:
        return self._by_port[port].faults.add(fault)

    def clear_faults(self, port: int) -> None:
        self._by_port[port].faults.clear()

    def sessions_now(self, port: int) -> int:
        return self._by_port[port].sessions_now


class _Manager(BaseManager):
    """The process."""


_Manager.register("Servers", _Servers)


@functools.cache
def _servers() -> _Servers:
    manager = _Manager(ctx=get_context("spawn"))
    manager.start()
    _servers_manager.append(manager)
    return cast("_Servers", manager.Servers())  # type: ignore[attr-defined]


#: Ends its process when it goes.
_servers_manager: list[_Manager] = []


class TdsApart:
    """A TdsServer in another process: what tests of mssql-python use of it."""

    def __init__(self, **keys: Any) -> None:
        self.port = _servers().start(keys)

    def stop(self) -> None:
        """Close every connection, then the listener."""
        _servers().stop(self.port)

    def execute(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Run T-SQL without the wire."""
        return _servers().execute(self.port, database, sql)

    def add_fault(self, fault: Fault) -> None:
        """Switch a fault on."""
        _servers().add_fault(self.port, fault)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        _servers().clear_faults(self.port)

    @property
    def sessions_now(self) -> int:
        """How many sessions are open."""
        return _servers().sessions_now(self.port)

    def connection(self, name: str = "mssql_0", **keys: Any) -> MssqlConnection:
        """The project's connection to this server, with mssql-python."""
        return connection_to(self.port, name, **{"driver": "mssql-python", **keys})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.stop()
