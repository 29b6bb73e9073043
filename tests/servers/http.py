"""A real HTTP server on loopback whose answers a test writes: pages, refusals, broken and endless bodies, redirects."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request that reached the server; `at` is seconds by time.monotonic."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float
    target: str

    @property
    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What the server answers. With `pieces` these octets follow the headers as they are, `pause` seconds apart."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] | None = None
    pause: float = 0.0
    #: Close the connection after it, whatever was promised.
    closes: bool = False


def page(document: Any, status: int = 200, **headers: str) -> Reply:
    """Return JSON as an answer; an underscore in a header's name is a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json", **named})


def pages_of(records: list[Any], size: int) -> Callable[[Asked], Reply]:
    """Return a server of pages by cursor."""

    def answer(asked: Asked) -> Reply:
        at = int(asked.params.get("cursor", "0"))
        following = at + size if at + size < len(records) else None
        return page({"items": records[at : at + size], "next": following and str(following)})

    return answer


class Api:
    """Serves `answer`; `requests` are those that came, in their order."""

    def __init__(self, answer: Callable[[Asked], Reply], tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Asked] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "test"
        sys_version = ""
        timeout: ClassVar[float] = 30.0
        # Else the body waits for the acknowledgement of the headers.
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            at = time.monotonic()
            parts = urlsplit(self.path)
            params = {
                name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
            }
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.title(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, params, headers, body, at, self.path)
            api.requests.append(asked)
            with suppress(OSError):
                self._send(api.answer(asked))

        do_POST = do_GET  # noqa: N815

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.pieces is None and not {"Content-Length", "Transfer-Encoding"} & reply.headers.keys():
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            for piece in reply.pieces or ():
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(reply.pause)
            self.close_connection = reply.closes or reply.pieces is not None
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the output clean."""

    return Handler
