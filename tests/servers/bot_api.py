"""A server on loopback with the Bot API's behaviour, as far as `sendMessage` goes, and an HTTP proxy before it.

What it refuses, it refuses with Telegram's codes and words (https://core.telegram.org/bots/api#making-requests,
and the descriptions that the Bot API is known to give). Faults are ordered one request at a time, in `faults`.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from . import telegram_html

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"  # the form of the documentation's example
LIMIT = 4096
#: What a client waits for in vain, seconds: longer than any timeout of a test.
_NEVER = 30.0

Answer = tuple[int, dict[str, Any]]


@dataclass
class Chat:
    """A chat: `gone` is Telegram's word for why the bot may not write, `moved_to` a group's new id."""

    gone: str | None = None
    moved_to: int | None = None
    topics: tuple[int, ...] = ()


@dataclass
class Sent:
    """A message that stands in a chat."""

    chat_id: str
    text: str
    fields: dict[str, Any]
    message_id: int
    parsed: telegram_html.Parsed | None = None


@dataclass
class BotApi:
    """The server. `faults` are what the next requests meet, one each: see `_Conversation`."""

    token: str = TOKEN
    chats: dict[str, Chat] = field(default_factory=lambda: {"-100": Chat()})
    faults: list[str] = field(default_factory=list)
    certificate: ssl.SSLContext | None = None
    sent: list[Sent] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """The requests' first lines."""
    _server: socketserver.ThreadingTCPServer | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = _serve(lambda connection: _Conversation(self, connection).hold())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        assert self._server is not None
        _stop(self._server)

    @property
    def url(self) -> str:
        """The `api_base`."""
        assert self._server is not None
        return f"{'https' if self.certificate else 'http'}://localhost:{self._server.server_address[1]}"

    def wait(self, seconds: float) -> None:
        """Wait, at most until the server stops."""
        self._stopped.wait(seconds)

    def call(self, path: str, body: bytes) -> Answer:
        """Answer a request."""
        match = re.fullmatch(r"/bot(\d+:[\w-]{30,})/(\w+)", path)
        if not match or match[2] != "sendMessage":
            return _error(404, "Not Found")
        if match[1] != self.token:
            return _error(401, "Unauthorized")
        return self._send(json.loads(body))

    def _send(self, fields: dict[str, Any]) -> Answer:
        chat = self.chats.get(str(fields.get("chat_id")))
        if chat is None:
            return _error(400, "Bad Request: chat not found")
        if chat.gone:
            return _error(403, f"Forbidden: {chat.gone}")
        if chat.moved_to is not None:
            moved = "Bad Request: group chat was upgraded to a supergroup chat"
            return _error(400, moved, migrate_to_chat_id=chat.moved_to)
        if "message_thread_id" in fields and fields["message_thread_id"] not in chat.topics:
            return _error(400, "Bad Request: message thread not found")
        return self._post(fields)

    def _post(self, fields: dict[str, Any]) -> Answer:
        text, parsed = fields["text"], None
        try:
            text.encode("utf-8")
            if fields.get("parse_mode") == "HTML":
                parsed = telegram_html.parse(text)
                text = parsed.text
        except UnicodeEncodeError:
            return _error(400, "Bad Request: strings must be encoded in UTF-8")
        except telegram_html.CannotParse as refused:
            return _error(400, f"Bad Request: can't parse entities: {refused}")
        if not text.strip():
            return _error(400, "Bad Request: message text is empty")
        if telegram_html.utf16_units(text) > LIMIT:
            return _error(400, "Bad Request: message is too long")
        self.sent.append(Sent(str(fields["chat_id"]), text, fields, 4711 + len(self.sent), parsed))
        return 200, {"ok": True, "result": {"message_id": self.sent[-1].message_id, "text": text}}


def _error(code: int, description: str, **parameters: int) -> Answer:
    content: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    return code, content | ({"parameters": parameters} if parameters else {})


class _Conversation:
    """One connection, and the fault that it meets.

    `reset at accept`: with the client's first byte, which over TLS is of the handshake. `hang at accept`: before it.
    `reset`, `hang`: after the request was read, and the message sent. `drip`: an answer a byte at a time. `429 N`: to
    be left alone for N seconds. `502`: a gateway's page. `page`: 200 with a page of somebody else's. `echo`: refuses
    and repeats the request's path. `redirect`: to the same place.
    """

    def __init__(self, api: BotApi, connection: socket.socket) -> None:
        self._api = api
        self._fault = api.faults.pop(0) if api.faults else ""
        self._connection = connection

    def hold(self) -> None:
        if self._fault == "reset at accept":
            # Not before the client speaks: CPython leaves a socket open whose peer went before its handshake began.
            self._connection.recv(1)
            _reset(self._connection)
            return
        if self._fault == "hang at accept":
            self._api.wait(_NEVER)
            return
        connection = self._connection
        if self._api.certificate:
            connection = self._api.certificate.wrap_socket(connection, server_side=True)
        with connection:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        line, _, body = _read_request(connection)
        self._api.requests.append(line)
        path = urlsplit(line.split(" ")[1]).path
        kind, _, number = self._fault.partition(" ")
        if kind == "429":
            said = f"Too Many Requests: retry after {number}"
            _respond(connection, *_error(429, said, retry_after=int(number)))
        elif kind == "redirect":
            where = f"Location: {self._api.url}{path}\r\n"
            _write(connection, 307, b"", "text/plain", where)
        elif kind == "echo":
            _respond(connection, *_error(400, f"Bad Request: nothing at {path}"))
        elif kind in {"502", "page"}:
            status = 502 if kind == "502" else 200
            _write(connection, status, b"<html>Bad Gateway</html>", "text/html")
        else:
            self._after(connection, self._api.call(path, body))

    def _after(self, connection: socket.socket, answer: Answer) -> None:
        if self._fault == "reset":
            _reset(connection)
        elif self._fault == "hang":
            self._api.wait(_NEVER)
        elif self._fault == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b" " * 2000:
                connection.sendall(bytes([byte]))
                self._api.wait(0.02)
                if self._api._stopped.is_set():
                    return
        else:
            _respond(connection, *answer)


@dataclass
class Proxy:
    """An HTTP proxy: forwards requests, opens tunnels; with `login` (user:password) only for those who have it."""

    login: str | None = None
    requests: list[str] = field(default_factory=list)
    _server: socketserver.ThreadingTCPServer | None = None

    def __enter__(self) -> Self:
        self._server = _serve(self._hold)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._server is not None
        _stop(self._server)

    @property
    def address(self) -> str:
        """Its host and port."""
        assert self._server is not None
        return f"localhost:{self._server.server_address[1]}"

    def _hold(self, connection: socket.socket) -> None:
        line, headers, body = _read_request(connection)
        self.requests.append(line)
        expected = f"Basic {base64.b64encode(self.login.encode()).decode()}" if self.login else None
        if expected and headers.get("proxy-authorization") != expected:
            _write(connection, 407, b"", "text/plain")
            return
        method, target, _ = line.split(" ")
        where = urlsplit(target if "://" in target else f"//{target}")
        with socket.create_connection((where.hostname or "", where.port or 80), timeout=_NEVER) as onward:
            if method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _pipe(connection, onward)
                return
            path = where._replace(scheme="", netloc="").geturl()
            request = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            onward.sendall(request.encode() + body)
            _copy(onward, connection)


def _pipe(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join(_NEVER)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _read_request(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65_536)
    return line, headers, body


def _respond(connection: socket.socket, status: int, content: dict[str, Any]) -> None:
    _write(connection, status, json.dumps(content).encode(), "application/json")


def _write(connection: socket.socket, status: int, body: bytes, kind: str, more: str = "") -> None:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    )
    connection.sendall(f"{head}{more}\r\n".encode() + body)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _serve(hold: Any) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                hold(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


def _stop(server: socketserver.ThreadingTCPServer) -> None:
    server.shutdown()
    server.server_close()
