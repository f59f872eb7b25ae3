"""A TCP proxy on loopback whose connections can be cut, as a network does it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """`url` leads to the same WebSocket as the one it was made for. While `open` is False nobody gets through."""

    def __init__(self, target: str) -> None:
        self.retarget(target)
        self._transports: set[asyncio.WriteTransport] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = True
        self.refused = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    @property
    def connections(self) -> int:
        return len(self._transports) // 2

    def retarget(self, target: str) -> None:
        """New connections lead there."""
        parts = urlsplit(target)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, parts.port

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        number = self.connections
        for transport in self._transports:
            transport.abort()
        return number

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection(self._host, self._port)
        mine = {writer.transport, back.transport}
        self._transports |= mine
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._transports -= mine
            self._tasks.discard(task)
            for transport in mine:
                transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
        writer.close()
    except ConnectionError:
        writer.transport.abort()


@asynccontextmanager
async def cutting(target: str) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(target) as proxy:
        yield proxy
