"""What a client has received and its consumer has not dealt with yet; from that, what may be acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from worklets.stdiorelay.protocol import WINDOW, Event, Gap, Line

_MUCH = WINDOW // 8  # bytes dealt with that are worth an acknowledgement of their own


class Inbox:
    def __init__(self, read: int) -> None:
        self.read = read  # the last number received
        self.moved = asyncio.Event()  # something was dealt with that was not acknowledged
        self.much = asyncio.Event()  # much of it
        self._queue: deque[list[Event]] = deque()
        self._in_hand: list[Event] = []
        self._news = asyncio.Event()
        self._ended = False
        self._unacknowledged = 0

    def begin(self, read: int) -> None:
        self.read = read

    @property
    def consumed(self) -> int:
        """The last number that was dealt with."""
        if self._in_hand:
            return _first(self._in_hand[0]) - 1
        return _first(self._queue[0][0]) - 1 if self._queue else self.read

    def add(self, events: list[Event], last: int) -> None:
        """`last`: the number received last, whether or not it is among `events`."""
        self.read = last
        if events:
            self._queue.append(events)
            self._news.set()

    def skip(self, lines: Sequence[Event]) -> None:
        """These were received, and nobody has to deal with them."""
        self._count(lines)

    async def take(self) -> list[Event]:
        """The next ones; those taken before are dealt with. Empty after `end`, when all were taken."""
        if self._in_hand:
            self._count(self._in_hand)
            self._in_hand = []
        while not self._queue:
            if self._ended:
                return []
            self._news.clear()
            await self._news.wait()
        self._in_hand = self._queue.popleft()
        return self._in_hand

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def acknowledged(self) -> None:
        self.moved.clear()
        self.much.clear()
        self._unacknowledged = 0

    def _count(self, events: Sequence[Event]) -> None:
        self._unacknowledged += sum(len(event.data) for event in events if isinstance(event, Line))
        self.moved.set()
        if self._unacknowledged > _MUCH:
            self.much.set()


def _first(event: Event) -> int:
    return event.first if isinstance(event, Gap) else event.seq
