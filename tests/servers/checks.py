"""A server on loopback that is pinged as healthchecks.io is: it takes what comes, and keeps it.

The protocol: https://healthchecks.io/docs/http_api/
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

UUID = "5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278"


@dataclass(frozen=True)
class Pinged:
    """A request that came: the check, the signal after it (empty for success), the run's id, the body."""

    check: str
    signal: str
    rid: str
    body: str


@dataclass
class Checks:
    """The server. `faults` are what the next requests meet, one each: a status, "hang", "reset", or "" for nothing."""

    faults: list[str] = field(default_factory=list)
    pinged: list[Pinged] = field(default_factory=list)
    tried: int = 0
    _server: ThreadingHTTPServer | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        checks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                checks._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def url(self, check: str = UUID) -> str:
        """The address of a check."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}/ping/{check}"

    def signals(self, check: str = UUID) -> list[str]:
        """What the check was told, in order."""
        return [one.signal or "success" for one in self.pinged if one.check == check]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.tried += 1
            fault = self.faults.pop(0) if self.faults else ""
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        if fault == "hang":
            self._stopped.wait(30)
        if fault in ("hang", "reset"):
            linger = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.close_connection = True
            with suppress(OSError):
                request.connection.close()
            return
        if not fault:
            self._keep(request.path, body)
        request.send_response(int(fault or 200))
        request.send_header("Content-Length", "2")
        request.end_headers()
        with suppress(OSError):
            request.wfile.write(b"OK")

    def _keep(self, address: str, body: str) -> None:
        parts = urlsplit(address)
        _, _, check, *signal = parts.path.split("/")
        pinged = Pinged(check, "/".join(signal), parse_qs(parts.query)["rid"][0], body)
        with self._lock:
            self.pinged.append(pinged)
