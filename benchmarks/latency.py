"""A TCP proxy that delays what it carries, as a line to another city does.

    python -m benchmarks.latency PORT MILLISECONDS

Prints its own port, and serves until stdin closes. Each direction takes half of the round trip; a new connection takes
one more, for its handshake.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import suppress

_CHUNK = 2**18


class _Side(asyncio.Protocol):
    """One end of a connection. What arrives goes to the other end after the delay; so does the end itself."""

    def __init__(self, delay: float) -> None:
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._waiting: deque[bytes] = deque()
        self.opens_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def eof_received(self) -> bool:
        self._later(b"")
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self._later(b"")

    def _later(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._waiting.append(data)
        loop.call_at(max(loop.time(), self.opens_at) + self._delay, self._forward)

    def _forward(self) -> None:
        data = self._waiting.popleft()
        there = self.other.transport if self.other is not None else None
        if there is None or there.is_closing():
            return
        if data:
            there.write(data)
        else:
            there.close()


async def serve(port: int, delay: float) -> None:
    """Carry connections to a port of this machine until stdin closes."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(near: _Side) -> None:
        with suppress(OSError):
            _, far = await loop.create_connection(lambda: _Side(delay), "127.0.0.1", port)
            near.other, far.other = far, near

    class Near(_Side):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.opens_at = loop.time() + 2 * delay
            task = loop.create_task(carry(self))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await loop.create_server(lambda: Near(delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 2000))
