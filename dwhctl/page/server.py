"""The page over HTTP, for a look: read only, on this machine unless the user says otherwise."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dwhctl.core.errors import DwhctlError, UsageError
from dwhctl.core.words import quoted
from dwhctl.page.render import page_html, visible
from dwhctl.project.model import Project

_HOST = "127.0.0.1"
#: Readers within so many seconds get the same page: a wall of screens costs one look at the sessions.
_KEPT_SECONDS = 2.0
#: A client that sends nothing for so long is dropped.
_CLIENT_SECONDS = 10.0
_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)


def parse_address(text: str, *, allow_remote: bool = False) -> tuple[str, int]:
    """Return host and port of `8080`, `localhost:8080` or `[::1]:8080`. Raise UsageError.

    An address that other machines reach is refused without `allow_remote`.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or _HOST
    # Python reads no number of more than 4,300 digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(
            f"--serve {quoted(text)} has no port of at most 65535; write 8080, or 127.0.0.1:8080"
        )
    if not allow_remote and not _is_local(host):
        raise UsageError(
            f"--serve {quoted(text)} can be reached from other machines, and the page has names, errors and SQL:"
            " use 127.0.0.1, or add --allow-remote"
        )
    return host, int(port)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class PageServer(ThreadingHTTPServer):
    """The server of one project's page."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, project: Project, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._project = project
        self._lock = threading.Lock()
        self._kept: tuple[float, bytes] | None = None
        self.is_local = _is_local(host)
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def page(self) -> bytes:
        """Return the page, at most seconds old. Raise SessionsError."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > _KEPT_SECONDS:
                self._kept = (time.monotonic(), page_html(self._project).encode())
            return self._kept[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Drop a client that has gone; every other error is answered by the handler."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = _CLIENT_SECONDS
    server_version = "dwhctl"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if not self._is_addressed():
            # A page of another site whose name was pointed to this machine must not read it.
            self.send_error(421, "This host is not served here")
            return
        if self.path.partition("?")[0] != "/":
            self.send_error(404)
            return
        try:
            page = self.server.page()
        except DwhctlError as error:
            self.send_error(503, "The page cannot be made", visible(str(error)))
            return
        self.send_response(200)
        for name, value in _HEADERS:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page)

    def _is_addressed(self) -> bool:
        if not self.server.is_local:
            return True
        host = self.headers.get("Host")
        if host is None:  # no browser; HTTP/1.0 has no such header
            return self.request_version != "HTTP/1.1"
        name, _, port = host.rpartition(":")
        return _is_local((name if port.isdigit() else host).strip("[]").lower())

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: requests are no events of a project."""


@contextmanager
def serving(project: Project, host: str, port: int) -> Iterator[PageServer]:
    """Open the server of a project's page. Raise UsageError when the address cannot be used."""
    try:
        server = PageServer(project, host, port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"--serve {host}:{port} cannot be used: {reason}; choose another port") from None
    with server:
        yield server
