"""A proxy on loopback that stops forwarding: to its clients the server behind it is frozen, and nothing breaks."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from tests.postgres import PostgresServer


class FreezingProxy:
    """Forwards to a PostgreSQL server until it freezes; what a client sends later goes nowhere, and nothing comes.

    `freeze_at` freezes it when a client sends these bytes, which are not forwarded any more. It still accepts.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.freeze_at: bytes | None = None
        self.frozen = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def sessions(self, database: str, *keys: str) -> str:
        """Write the connection of the sessions through it as TOML."""
        password = f'password = "{self._server.password}"' if self._server.password else ""
        lines = ('type = "postgres"', 'host = "127.0.0.1"', f"port = {self.port}", f'database = "{database}"')
        return "\n".join((*lines, f'user = "{self._server.user}"', password, *keys))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.end()

    def end(self) -> None:
        """End every connection. Idempotent."""
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                behind = self._connect()
                self._sockets += [client, behind]
                threading.Thread(target=self._pump, args=(client, behind, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(behind, client, False), daemon=True).start()

    def _connect(self) -> socket.socket:
        if not self._server.host.startswith("/"):
            return socket.create_connection((self._server.host, self._server.port))
        behind = socket.socket(socket.AF_UNIX)
        behind.connect(f"{self._server.host}/.s.PGSQL.{self._server.port}")
        return behind

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if from_client and self.freeze_at is not None and self.freeze_at in data:
                    self.frozen.set()
                if not self.frozen.is_set():
                    sink.sendall(data)
            if not self.frozen.is_set():
                sink.shutdown(socket.SHUT_WR)
