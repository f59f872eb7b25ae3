"""What a live session waits for: its agent's batches in order, and the bell. The bell carries nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from sessions.agents import AgentLike
from worklets.errors import AgentGone
from worklets.events import AgentEvent, Position

Batch: TypeAlias = tuple[Position, Sequence[AgentEvent]]

#: Batches read ahead of the consumer; beyond it the agent's journal keeps them.
_AHEAD = 256


class Inbox:
    """One consumer. An agent's end arrives in its place after the last batch: `get` raises AgentGone."""

    def __init__(self) -> None:
        self._items: deque[Batch | Exception] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._rung = False
        self._pump: asyncio.Task[None] | None = None
        self._agent: AgentLike | None = None  # that is listened to, and has not ended
        self._put_in = self._handed_out = self._done = 0  # batches so far; done: the consumer has asked for the next
        self._moved = asyncio.Event()

    def ring(self) -> None:
        self._rung = True
        self._news.set()

    def listen(self, agent: AgentLike) -> None:
        """From now on the batches are this agent's."""
        assert self._pump is None
        self._agent = agent
        self._pump = asyncio.create_task(self._read(agent), name="inbox")

    async def mute(self) -> None:
        """Stops listening and forgets what was not taken."""
        pump, self._pump = self._pump, None
        try:
            if pump is not None:
                pump.cancel()
                await asyncio.wait([pump])
        finally:  # also when whoever waits here is cancelled: nobody else would end the wait of `caught_up`
            self._items.clear()
            self._agent = None
            self._handed_out = self._done = self._put_in
            self._moved.set()

    async def caught_up(self) -> None:
        """Returns when the consumer is done with all that the agent has said until now; at once where there is none."""
        while self._agent is not None and self._agent.behind:
            await self._move()
        last = self._put_in
        while self._done < last:
            await self._move()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def get(self, timeout: float | None = None) -> Batch | None:
        """The next batch; None when the bell rang or `timeout` seconds passed. Raises what ended the agent's stream."""
        self._done = self._handed_out
        self._moved.set()
        try:
            async with asyncio.timeout(timeout):
                while not self._items and not self._rung:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return None
        if self._rung:
            self._rung = False
            return None
        item = self._items.popleft()
        self._handed_out += 1
        self._room.set()
        if isinstance(item, Exception):
            raise item
        return item

    def _put(self, item: Batch | Exception) -> None:
        self._items.append(item)
        self._put_in += 1
        self._news.set()
        self._moved.set()

    async def _read(self, agent: AgentLike) -> None:
        try:
            async for batch in agent.events():
                self._put(batch)
                while len(self._items) >= _AHEAD:
                    self._room.clear()
                    await self._room.wait()
            end: Exception = AgentGone()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again by `get`
            end = error
        self._agent = None
        self._put(end)
