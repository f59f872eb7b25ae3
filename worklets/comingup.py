"""Worklets that come up: so many at the same time that each gets a processor, and the first is not as late as the last.

A start is more than its container: until Claude says something, its process and the relay take one to two seconds of
processor time. Fifty at once would all be ready at the end of that, and would run into time limits on the way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from worklets.turns import Turns

if TYPE_CHECKING:
    from worklets.agent import Agent

_PLACES = max(2, min(8, 2 * (os.cpu_count() or 1)))
_MOST_SECONDS = 15.0  # that one keeps its place which says nothing; a prompt may have to wait for people, or for files


class Coming:
    """One that comes up."""

    def __init__(self, give_back: Callable[[], None], most: float) -> None:
        self._give_back, self._most = give_back, most
        self.attached = False

    def until_heard(self, agent: Agent) -> None:
        """Its place is kept until Claude has said something, or has ended, for so many seconds at most."""
        self.attached = True
        late = asyncio.get_running_loop().call_later(self._most, self._give_back)

        def heard() -> None:
            late.cancel()
            self._give_back()

        agent.when_heard(heard)


class ComingUp:
    """One per program. `most`: seconds that one keeps its place without a word."""

    def __init__(self, places: int = _PLACES, most: float = _MOST_SECONDS) -> None:
        self._turns, self._most = Turns(places), most

    @asynccontextmanager
    async def place(self, *, last: bool = False) -> AsyncIterator[Coming]:
        """For the time of the block, and longer where its `until_heard` is called. `last`: nobody waits for it."""
        give_back = await self._turns.take(last=last)
        coming = Coming(give_back, self._most)
        try:
            yield coming
        except BaseException:
            give_back()
            raise
        if not coming.attached:
            give_back()
