"""What the process said, numbered and kept until every reader has it; what was told stands in between."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from worklets.stdiorelay.journal import BoundedJournal
from worklets.stdiorelay.protocol import pack_lines, text
from worklets.stdiorelay.readers import Readers

_AGAIN = 1.0  # seconds until a journal that the disk refused is tried again


class Output:
    def __init__(
        self, journal: BoundedJournal, readers: Readers, *, drop_oldest: bool, say: Callable[[str], None]
    ) -> None:
        self._journal, self._readers, self._drop_oldest, self._say = journal, readers, drop_oldest, say
        self._notices: dict[int, str] = {}
        self._numbers: list[int] = []  # of the notices, rising
        self._room = asyncio.Event()
        self._wakers: set[asyncio.Event] = set()
        self.held_back = False  # the journal is full: the process waits
        self.trouble: str | None = None  # why the disk refuses the journal

    @property
    def epoch(self) -> str:
        return self._journal.epoch

    @property
    def first(self) -> int:
        return self._journal.first

    @property
    def last(self) -> int:
        return self._journal.last

    @property
    def held(self) -> int:
        """Bytes in the journal."""
        return self._journal.held

    async def add(self, lines: list[bytes | int]) -> None:
        """Lines of the process; an int is the length of one that was too long. Waits while the journal is full."""
        await self._until_room()
        run: list[bytes] = []
        for line in lines:
            if isinstance(line, bytes):
                run.append(line)
                continue
            await self._append(run)
            run = []
            await self.tell("long", bytes=line)
        await self._append(run)
        self._wake()

    async def tell(self, kind: str, **fields: Any) -> int:
        """A notice with a number of its own, also when the journal is full. Returns the number."""
        await self._append([json.dumps({"type": kind, **fields}).encode()], b"n")
        number = self._journal.last
        self._notices[number] = text(kind, seq=number, **fields)
        self._numbers.append(number)
        self._wake()
        return number

    def after(self, number: int) -> tuple[str | bytes, int] | None:
        """The next frame for a reader that has everything up to `number`, and the number that it has then."""
        following = number + 1
        if following < self.first:
            return text("gap", first=following, last=self.first - 1), self.first - 1
        if following > self.last:
            return None
        if following in self._notices:
            return self._notices[following], following
        place = bisect_right(self._numbers, following)
        end = self._numbers[place] if place < len(self._numbers) else self.last + 1
        lines = self._journal.read(following, max_lines=min(1024, end - following))
        return pack_lines(following, lines), number + len(lines)

    def release(self) -> None:
        """Somebody acknowledged or went: lets go of what nobody needs."""
        lowest = self._readers.lowest
        if lowest is not None:
            self._journal.ack(lowest)
            self._forget_notices()
        if not self._journal.full:
            self._room.set()

    def subscribe(self, news: asyncio.Event) -> None:
        """`news` is set whenever there is more to read."""
        self._wakers.add(news)

    def unsubscribe(self, news: asyncio.Event) -> None:
        self._wakers.discard(news)

    async def _until_room(self) -> None:
        while self._journal.full:
            if self._drop_oldest:
                self._journal.drop_oldest()
                self._forget_notices()
                continue
            self.held_back = True
            self._room.clear()
            await self._room.wait()
        self.held_back = False

    async def _append(self, lines: list[bytes], kind: bytes = b"o") -> None:
        """Waits while the disk refuses: the process is held back rather than a line lost."""
        while lines:
            try:
                self._journal.append(lines, kind)
            except OSError as error:
                if self.trouble is None:
                    self._say(f"the journal cannot be written, trying again: {error.strerror}")
                self.trouble = error.strerror
                await asyncio.sleep(_AGAIN)
            else:
                self.trouble = None
                return

    def _forget_notices(self) -> None:
        gone = bisect_right(self._numbers, self.first - 1)
        for number in self._numbers[:gone]:
            del self._notices[number]
        del self._numbers[:gone]

    def _wake(self) -> None:
        for news in self._wakers:
            news.set()
