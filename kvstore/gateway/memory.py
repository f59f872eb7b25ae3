"""How much memory answers may fill at the same time: a budget of bytes, handed out in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from kvstore.gateway.errors import MAX_ANSWER_CHARACTERS

_MIB: Final = 1_048_576
_PAGES: Final = ("kv_list", "kv_watch")


class Memory:
    """`limit` bytes. Who asks for more than are free waits, and so does everybody behind it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """`size` is at most `limit`."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self.give(0 if turn.cancelled() else size)
            raise

    def give(self, size: int) -> None:
        """Back."""
        self._free += size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()


class Room:
    """One request's share of each of `memories`: that of its worklet first, then that of the process."""

    def __init__(self, *memories: Memory) -> None:
        self._memories = memories
        self._taken: list[int] = []

    async def take(self, size: int) -> None:
        """Instead of what it had."""
        self.keep(0)
        for memory in self._memories:
            share = min(size, memory.limit)
            await memory.take(share)
            self._taken.append(share)

    def keep(self, size: int) -> None:
        """The rest goes back."""
        for place, taken in enumerate(self._taken):
            self._memories[place].give(max(0, taken - size))
            self._taken[place] = min(taken, size)
        if size == 0:
            self._taken.clear()


def most(name: str, arguments: Mapping[str, Any], steps_that_read: int = 0) -> int:
    """How many bytes the function's answer may have, about; 0 where it is short."""
    if name == "kv_get":
        return _MIB
    if name in _PAGES:
        return 5 * _MIB
    if name == "kv_list_namespaces":
        return MAX_ANSWER_CHARACTERS
    count = len(arguments["p_keys"]) if name == "kv_mget" else steps_that_read
    return min(count * _MIB, MAX_ANSWER_CHARACTERS)
