"""Places for work that must not all be done at once; who can wait goes after everybody else."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """At most `size` at the same time. One loop."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, *, last: bool = False) -> AsyncIterator[None]:
        """One place, in order of arrival; those that say `last` come when no other waits."""
        give_back = await self.take(last=last)
        try:
            yield
        finally:
            give_back()

    async def take(self, *, last: bool = False) -> Callable[[], None]:
        """The same, until what is returned is called. That is idempotent."""
        await self._wait(last)
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._free += 1
                self._hand_out()

        return give_back

    async def _wait(self, last: bool) -> None:
        granted = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (last, next(self._numbers), granted))
        self._hand_out()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # granted in the moment in which it was given up
                self._free += 1
            granted.cancel()
            self._hand_out()
            raise

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            granted = heapq.heappop(self._waiting)[2]
            if not granted.done():
                self._free -= 1
                granted.set_result(None)
