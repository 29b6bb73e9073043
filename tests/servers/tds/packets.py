"""TDS packets: messages cut into packets of the negotiated size, and the encryption that hides inside them.

[MS-TDS] 2.2.3, https://learn.microsoft.com/openspecs/windows_protocols/ms-tds/
"""

from __future__ import annotations

import ssl
import struct

import numpy as np

from ..base import Gone, Link

SQL_BATCH, RPC, REPLY, ATTENTION, TRANSACTION, LOGIN7, PRELOGIN = 0x01, 0x03, 0x04, 0x06, 0x0E, 0x10, 0x12
_HEADER = 8
_LAST = 1
_RESET, _RESET_BUT_TRANSACTION = 0x08, 0x10
_TLS_RECORD = 0x16


class Packets:
    """One connection's messages."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.size = 4096
        self._held = bytearray()
        self._number = 0
        #: Whether the last message wants the session reset before it runs; and whether its transaction goes on.
        self.reset = self.reset_but_transaction = False

    def read(self) -> tuple[int, bytes]:
        """A whole message: its type and its body without packet headers. Raises Gone."""
        body = bytearray()
        self.reset = self.reset_but_transaction = False
        while True:
            kind, status, length = struct.unpack(">BBH", self.link.receive(4))
            if length < _HEADER:
                raise Gone(f"a packet of {length} bytes")
            self.link.receive(4)
            body += self.link.receive(length - _HEADER)
            self.reset = self.reset or bool(status & _RESET)
            self.reset_but_transaction = self.reset_but_transaction or bool(status & _RESET_BUT_TRANSACTION)
            if status & _LAST:
                return kind, bytes(body)

    def write(self, data: bytes | bytearray) -> None:
        """Add to the answer; packets that are full are sent."""
        self._held += data
        if len(self._held) > 1 << 16:
            self._send_full()

    def flush(self) -> None:
        """End the answer: send what is left, in a packet that says it is the last."""
        self._send_full()
        self._send_one(bytes(self._held), last=True)
        self._held.clear()
        self._number = 0

    def push(self) -> None:
        """Send what there is so far, though the answer goes on."""
        self._send_full()
        if self._held:
            self._send_one(bytes(self._held), last=False)
            self._held.clear()

    def forget(self) -> None:
        """Throw away what is not sent."""
        self._held.clear()

    def _send_full(self) -> None:
        room = self.size - _HEADER
        # One byte at least is kept back: the last packet is not known yet.
        count = (len(self._held) - 1) // room
        if count <= 0:
            return
        whole = np.empty((count, self.size), dtype=np.uint8)
        whole[:, 0] = REPLY
        whole[:, 1] = 0
        whole[:, 2] = self.size >> 8
        whole[:, 3] = self.size & 255
        whole[:, 4:6] = 0
        whole[:, 6] = (np.arange(count) + self._number + 1) % 256
        whole[:, 7] = 0
        whole[:, _HEADER:] = np.frombuffer(self._held, dtype=np.uint8, count=count * room).reshape(
            count, room
        )
        self._number += count
        rest = bytes(memoryview(self._held)[count * room :])
        self._held = bytearray(rest)
        self.link.send(whole.data.cast("B"))

    def _send_one(self, body: bytes, *, last: bool) -> None:
        self._number += 1
        status = _LAST if last else 0
        self.link.send(
            struct.pack(">BBHHBB", REPLY, status, len(body) + _HEADER, 0, self._number % 256, 0) + body
        )

    def reply(self, body: bytes, kind: int = REPLY) -> None:
        """Send one packet that is a whole message."""
        self.link.send(struct.pack(">BBHHBB", kind, _LAST, len(body) + _HEADER, 0, 1, 0) + body)

    def handshake(self, context: ssl.SSLContext) -> None:
        """TLS's handshake travels in packets of the type PRELOGIN; after it TLS carries the packets."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    self.reply(outgoing.read(), PRELOGIN)
                incoming.write(self.read()[1])
            except ssl.SSLError as failure:
                raise Gone(str(failure)) from None
            else:
                break
        if outgoing.pending:
            self.reply(outgoing.read(), PRELOGIN)
        self.link.use_tls(tls, incoming, outgoing)
