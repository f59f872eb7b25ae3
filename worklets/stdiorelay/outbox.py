"""A client's input that the relay has not written to the process yet; it is sent again after each reconnect."""

from __future__ import annotations

import asyncio
from collections import deque

from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.protocol import INPUT_WINDOW, MAX_LINE, pack_input


class Outbox:
    def __init__(self) -> None:
        self.news = asyncio.Event()  # there may be something to send
        self._queue: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._sent = 0  # how many of the queue were sent on this connection
        self._numbered = 0
        self._applied = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._gone: RelayGone | None = None

    async def put(self, line: bytes) -> None:
        """Waits for room. Raises RelayGone, and ValueError for what is not a line of at most MAX_LINE."""
        if b"\n" in line:
            raise ValueError("an input is one line; send several one by one")
        if len(line) > MAX_LINE:
            raise ValueError(f"a line of {len(line)} bytes is longer than {MAX_LINE}")
        while self._gone is None and self._bytes >= INPUT_WINDOW:
            await self._change()
        self._check()
        self._numbered += 1
        self._queue.append((self._numbered, line))
        self._bytes += len(line)
        self.news.set()

    async def drained(self) -> None:
        """Returns when all was written. Raises RelayGone."""
        while self._gone is None and self._queue:
            await self._change()
        self._check()

    def next(self) -> bytes | None:
        """The next frame to send on this connection."""
        if self._sent >= len(self._queue):
            self.news.clear()
            return None
        number, line = self._queue[self._sent]
        self._sent += 1
        return pack_input(number, line)

    def resume(self, applied: int) -> bool:
        """A new connection, whose relay has written up to `applied`. False when it knows of less than it once told."""
        if applied < self._applied:
            return False
        self._sent = 0
        self.acknowledged(applied)
        self.news.set()
        return True

    def acknowledged(self, number: int) -> None:
        """All up to `number` was written to the process."""
        self._applied = max(self._applied, number)
        while self._queue and self._queue[0][0] <= number:
            self._bytes -= len(self._queue.popleft()[1])
            self._sent = max(0, self._sent - 1)
        self._notify()

    def fail(self, gone: RelayGone) -> None:
        self._gone = gone
        self._notify()

    def _check(self) -> None:
        if self._gone is not None:
            raise RelayGone(str(self._gone), self._gone.code, self._gone.suggestion)

    async def _change(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _notify(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
