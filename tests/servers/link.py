"""One TCP connection of a protocol server: every wait ends when the client goes or the server stops."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

_CHUNK = 1 << 18


class Gone(Exception):  # noqa: N818 - the end of a conversation is no error
    """The connection is over: the client went, or the server was stopped or killed."""


class Link:
    """One TCP connection, used by its own thread; `end` may be called from any thread."""

    def __init__(
        self, connection: socket.socket, number: int, note_trip: Callable[[], object] = lambda: None
    ) -> None:
        """`note_trip` is called when the client has sent something after an answer: a round trip begins."""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = number
        self._on_end: Callable[[], object] | None = None
        self._socket = connection
        self._note_trip = note_trip
        self._answered = True
        self._buffer = bytearray()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ending: Literal["reset", "close"] | None = None
        self._wakened, self._waker = os.pipe()
        self._open = threading.Lock()

    def receive(self, count: int) -> bytes:
        """Exactly so many bytes; raises Gone when the connection ends before."""
        while len(self._buffer) < count:
            self._buffer += self._some()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def receive_some(self) -> bytes:
        """As many bytes as there are, one at least."""
        if not self._buffer:
            self._buffer += self._some()
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; raises Gone when the connection ends before."""
        if self._tls is None:
            self._send_plain(memoryview(data))
            return
        view = memoryview(data)
        for start in range(0, len(view), 16_384):
            self._tls.write(view[start : start + 16_384])
        self._send_plain(memoryview(self._outgoing.read()))

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Become encrypted: the handshake goes over the bare connection."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_plain(memoryview(self._outgoing.read()))
                self._incoming.write(self._read())
            except ssl.SSLError as error:
                raise Gone(str(error)) from None
            else:
                self._send_plain(memoryview(self._outgoing.read()))
                self._tls = tls
                return

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The encryption; None without one."""
        return self._tls

    def use_tls(self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        """Become encrypted by a handshake that was made elsewhere."""
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing

    def drop_tls(self) -> None:
        """Go on in the clear, as TDS does where only the login is encrypted."""
        self._tls = None

    def pending(self) -> bool:
        """Whether the client sent something that is not received yet (or went away)."""
        if self._buffer or (self._tls is not None and (self._incoming.pending or self._tls.pending())):
            return True
        return self._poll(0.0, self._socket, self._wakened)

    def is_left(self) -> bool:
        """Whether the client has closed the connection, whatever it sent before."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def sleep(self, seconds: float) -> None:
        """Sleep; raises Gone when the connection is ended from the server's side meanwhile."""
        self._check()
        if self._poll(seconds, self._wakened):
            self._check()

    def hang(self) -> None:
        """Never answer: raises Gone when the client or the server goes."""
        while True:
            self._read()

    def reset(self) -> None:
        """Close with RST, then raise Gone."""
        self._ending = "reset"
        self._check()

    def close(self) -> None:
        """Close with FIN, then raise Gone."""
        self._ending = "close"
        self._check()

    def sever(self) -> None:
        """Leave the client without an answer; the server's side goes on."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self, how: Literal["reset", "close"]) -> None:
        """End the connection from another thread: what its own thread waits for raises Gone."""
        self._ending = self._ending or how
        with self._open:
            if self._waker >= 0:
                os.write(self._waker, b"x")
            if self._on_end is not None:
                with suppress(Exception):
                    self._on_end()

    @property
    def on_end(self) -> Callable[[], object] | None:
        """Called, from another thread, when the connection is ended from outside: interrupt what runs."""
        return self._on_end

    @on_end.setter
    def on_end(self, call: Callable[[], object] | None) -> None:
        # Once it is taken away it is not running either: what it interrupts may be closed.
        with self._open:
            self._on_end = call

    @property
    def ending(self) -> bool:
        """Whether the connection is to end, by a fault or from outside."""
        return self._ending is not None

    def release(self) -> None:
        """Close the socket, as the last act of the connection's thread."""
        if self._ending == "reset":
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        with self._open:
            # Another thread may be in `end`: it must not write to a number that means another file by then.
            os.close(self._waker)
            self._waker = -1
        os.close(self._wakened)

    def _some(self) -> bytes:
        if self._tls is None:
            return self._read()
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                self._incoming.write(self._read())
            except ssl.SSLError as error:
                raise Gone(str(error)) from None
            else:
                if not data:
                    raise Gone("the client closed the encryption")
                return data

    def _read(self) -> bytes:
        while True:
            self._check()
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                self._wait(select.POLLIN)
            except OSError as error:
                raise Gone(str(error)) from None
            else:
                if not data:
                    raise Gone("the client went")
                if self._answered:
                    self._answered = False
                    self._note_trip()
                return data

    def _send_plain(self, view: memoryview) -> None:
        self._answered = True
        while view:
            self._check()
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                raise Gone(str(error)) from None

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        poll.register(self._wakened, select.POLLIN)
        poll.poll()

    @staticmethod
    def _poll(seconds: float, *readable: socket.socket | int) -> bool:
        # No select(): it knows no file above 1,024.
        poll = select.poll()
        for each in readable:
            poll.register(each, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _check(self) -> None:
        if self._ending is not None:
            raise Gone(f"ended by the server: {self._ending}")
