"""A server on loopback that answers each connection with bytes that somebody thought up, without an end if need be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Self


class Hostile:
    """Sends `answer` to whoever connects; `pause` seconds lie between its pieces. With `hears` a request comes first.

    `sent` is how many bytes went out, `ended` is set when a client has ended its connection.
    """

    def __init__(self, answer: Iterable[bytes], *, pause: float = 0.0, hears: bool = True) -> None:
        self._answer = answer
        self._pause = pause
        self._hears = hears
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[bytes] = []
        self.sent = 0
        self.ended = threading.Event()
        self._stopped = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address as a URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            if self._hears:
                self.requests.append(self._request(connection))
            for piece in self._answer:
                if self._stopped.is_set():
                    return
                connection.sendall(piece)
                self.sent += len(piece)
                time.sleep(self._pause)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        self.ended.set()

    @staticmethod
    def _request(connection: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65_536)
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(
            int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")
        )
        while len(body) < length:
            body += connection.recv(65_536)
        return head + b"\r\n\r\n" + body
