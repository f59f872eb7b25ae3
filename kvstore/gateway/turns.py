"""Turns at the connections to a database: one caller waits behind itself, and leaves places to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import not_begun, unavailable
from kvstore.gateway.functions import FUNCTIONS


class Turns:
    """At most `writes` and `reads` calls of one caller at once; who waits longer than `timeout` seconds gives up.

    A worklet's writers wait for each other in the database anyway, and would each hold a connection while they do.
    """

    def __init__(self, *, writes: int, reads: int, timeout: float) -> None:
        self._most = {True: writes, False: reads}
        self._timeout = timeout
        #: Each lives as long as somebody waits for it or holds a place.
        self._queues: WeakValueDictionary[tuple[str | None, bool], asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, caller: Caller, function: str) -> AsyncIterator[None]:
        """Raises Refusal for who waited in vain."""
        # By the caller, not by the worklet that is asked for: nobody can fill another's queue.
        mutates = FUNCTIONS[function].mutates
        who = caller.worklet_id or caller.owner_id, mutates
        if (queue := self._queues.get(who)) is None:
            queue = self._queues[who] = asyncio.Semaphore(self._most[mutates])
        try:
            async with asyncio.timeout(self._timeout):
                await queue.acquire()
        except TimeoutError:
            raise not_begun(unavailable("This caller's other calls keep the database busy; try again.")) from None
        try:
            yield
        finally:
            queue.release()
