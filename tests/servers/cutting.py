"""A proxy that cuts a connection after so many bytes of the server's answers, wherever that is."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

_CHUNK = 1 << 16
_HEADER = 8


class CuttingProxy:
    """Forwards connections to a port on this machine, one at a time or many.

    `cut_at` is the number of the server's bytes of a connection that the client gets before it is cut, None for all;
    `how` is whether it ends as if the server had closed it, or is reset. `sent` is what the server sent on the
    last connection, as far as it was forwarded.
    """

    def __init__(self, port: int) -> None:
        self.cut_at: int | None = None
        self.how: Literal["close", "reset"] = "close"
        self.sent = bytearray()
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        # A thread that waits in accept() is woken by shutdown only.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.sent = bytearray()
            threading.Thread(target=self._talk, args=(client, self.sent), daemon=True).start()

    def _talk(self, client: socket.socket, sent: bytearray) -> None:
        """Forward both ways in one thread: a socket that another thread waits for would not be reset."""
        cut_at, how = self.cut_at, self.how
        with client, socket.create_connection(("127.0.0.1", self._to)) as server, suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    if not (data := client.recv(_CHUNK)):
                        return
                    server.sendall(data)
                if server in ready:
                    if not (data := server.recv(_CHUNK)):
                        return
                    left = len(data) if cut_at is None else cut_at - len(sent)
                    client.sendall(data[:left])
                    sent += data[:left]
                    if len(sent) == cut_at:
                        break
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                # FIN first: closing with unread data would reset.
                client.shutdown(socket.SHUT_WR)


def packet_ends(stream: bytes | bytearray) -> list[int]:
    """Where the TDS packets of a stream in clear end."""
    ends, at = [], 0
    while at + _HEADER <= len(stream):
        (length,) = struct.unpack_from(">H", stream, at + 2)
        at += length
        ends.append(at)
    return ends
