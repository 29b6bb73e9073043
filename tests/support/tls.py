"""Servers for tests of TLS: one that refuses it and keeps what it is sent, one that speaks it for a PostgreSQL."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme

from tests.servers.tds.login import ENCRYPT_NOT_SUPPORTED, prelogin_answer

PASSWORD = "Geheim_1234"
#: Linux takes this address for its own, and by its name it is not: a server behind it counts as another machine's.
BEYOND = "0.0.0.0"
_SSL_REQUEST = (80877103).to_bytes(4, "big")
_ASK_FOR_PASSWORD = b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big")
#: SQL Server's clients swap the halves of each octet of a password, and then turn every other bit: no encryption.
_AS_TDS = bytes(((byte << 4 | byte >> 4) & 0xFF) ^ 0xA5 for byte in PASSWORD.encode("utf-16-le"))


class Recorder:
    """A server without TLS: what it was sent."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard = b""

    @property
    def knows_the_password(self) -> bool:
        """Whether somebody told it the password, in the words of any of the three protocols."""
        return PASSWORD.encode() in self.heard or _AS_TDS in self.heard


@contextmanager
def refusing_tls() -> Iterator[Recorder]:
    """Run a server that has no TLS and asks for the password in clear, in the protocol of whoever comes."""
    with _listening(lambda there: _refuse(there, recorder)) as port:
        recorder = Recorder(port)
        yield recorder


def _refuse(there: socket.socket, recorder: Recorder) -> None:
    there.settimeout(5)
    with suppress(OSError):
        first = there.recv(4096)
        recorder.heard += first
        if first[:1] == b"\x12":  # PRELOGIN
            answer = prelogin_answer(ENCRYPT_NOT_SUPPORTED)
            there.sendall(b"\x04\x01" + (8 + len(answer)).to_bytes(2, "big") + bytes(4) + answer)
        else:
            if first[4:8] == _SSL_REQUEST:
                there.sendall(b"N")
                recorder.heard += there.recv(4096)
            there.sendall(_ASK_FOR_PASSWORD)
        recorder.heard += there.recv(4096)


class Authority:
    """An authority, its file, and certificates of it."""

    def __init__(self, folder: Path, name: str = "ca.pem") -> None:
        self._ca = trustme.CA()
        self.file = folder / name
        self._ca.cert_pem.write_to_path(self.file)

    def context(self, *names: str) -> ssl.SSLContext:
        """Give a server's side of TLS with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # SQL Server's clients of TDS 7.4 speak no later one.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._ca.issue_cert(*names).configure_cert(context)
        return context


@contextmanager
def tls_for_postgres(context: ssl.SSLContext, socket_file: str) -> Iterator[int]:
    """Speak TLS on a port for the PostgreSQL server behind a socket: the tests' own is built without OpenSSL."""
    with _listening(lambda there: _carry(there, context, socket_file)) as port:
        yield port


def _carry(there: socket.socket, context: ssl.SSLContext, socket_file: str) -> None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        if there.recv(8)[4:] != _SSL_REQUEST:
            return  # only TLS is taken
        there.sendall(b"S")
        with context.wrap_socket(there, server_side=True) as client:
            server.connect(socket_file)
            _copy_both_ways(client, server)


def _copy_both_ways(client: ssl.SSLSocket, server: socket.socket) -> None:
    client.settimeout(0.02)
    server.settimeout(0.02)
    while True:
        for source, sink in ((client, server), (server, client)):
            with suppress(TimeoutError):
                data = source.recv(65_536)
                if not data:
                    return
                sink.sendall(data)


@contextmanager
def _listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):
                while True:
                    there, _ = listener.accept()
                    threading.Thread(target=_serve, args=(serve, there), daemon=True).start()

        accepting = threading.Thread(target=run, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)


def _serve(serve: Callable[[socket.socket], None], there: socket.socket) -> None:
    with there:
        serve(there)
