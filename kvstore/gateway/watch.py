"""Waiting for changes: each worklet that somebody watches is asked for once, however many watch it.

What this process writes rings at once. What others write (another gateway, a program beside it) is found by asking
the backend for the cursor of now, every quarter of a second (at Supabase every two) while somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import KV_RATE, Refusal

POLL_SECONDS: Final = 0.25
REMOTE_SECONDS: Final = 2.0  # at Supabase, where each look is a request over the network
MOST_WATCHERS: Final = 128  # of one worklet

log = structlog.get_logger(__name__)

#: The cursor of now, as this caller sees it. Raises Refusal.
CursorOfNow = Callable[[str, Caller], Awaitable[str]]


class Bell:
    """One who waits. `cursor` is up to where everything was seen."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.cursor: str | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    def muffle(self) -> None:
        """Before looking: what rings from here on is newer than what will be seen."""
        self._rung.clear()

    async def wait(self, cursor: str, seconds: float) -> None:
        """Until something may be newer than `cursor`, at most that long."""
        self.cursor = cursor
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._rung.wait()
        finally:
            self.cursor = None


class _Watched:
    def __init__(self) -> None:
        self.bells: dict[Bell, None] = {}
        self.poll: asyncio.Task[None] | None = None


class Hub:
    """The watchers of all worklets. Close it with `close`."""

    def __init__(self, cursor_of_now: CursorOfNow, *, seconds: float = POLL_SECONDS) -> None:
        self._cursor_of_now, self._seconds = cursor_of_now, seconds
        self._watched: dict[str, _Watched] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def watched(self) -> int:
        """Worklets that somebody watches."""
        return len(self._watched)

    def ring(self, worklet_id: str) -> None:
        """Something of the worklet may have changed."""
        if (watched := self._watched.get(worklet_id)) is not None:
            for bell in watched.bells:
                bell.ring()

    @contextmanager
    def watching(self, worklet_id: str, caller: Caller) -> Iterator[Bell]:
        """For as long as somebody watches. Raises Refusal when the worklet has too many of them."""
        watched = self._watched.get(worklet_id)
        if self._closed or (watched is not None and len(watched.bells) >= MOST_WATCHERS):
            message = f"A worklet may wait for changes {MOST_WATCHERS} times at once."
            raise Refusal(429, "KV429", message, KV_RATE, retry_after=1.0)
        if watched is None:
            watched = self._watched[worklet_id] = _Watched()
            watched.poll = asyncio.create_task(self._poll(worklet_id, watched), name="kv-watch")
        bell = Bell(caller)
        watched.bells[bell] = None
        try:
            yield bell
        finally:
            del watched.bells[bell]
            if not watched.bells and self._watched.get(worklet_id) is watched:
                self._end(self._watched.pop(worklet_id))

    async def close(self) -> None:
        """Those who wait go on with what they have; nobody can wait any more."""
        self._closed = True
        for watched in self._watched.values():
            for bell in watched.bells:
                bell.ring()
            self._end(watched)
        self._watched.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    @property
    def closed(self) -> bool:
        return self._closed

    def _end(self, watched: _Watched) -> None:
        if watched.poll is not None:
            watched.poll.cancel()
            self._ending.add(watched.poll)
            watched.poll.add_done_callback(self._ending.discard)

    async def _poll(self, worklet_id: str, watched: _Watched) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            waiting = [bell for bell in watched.bells if bell.cursor is not None]
            if not waiting:
                continue
            try:
                now = await self._cursor_of_now(worklet_id, waiting[-1].caller)
            except Refusal:
                now = None  # each asks for itself, and gets its own answer
            except Exception as e:  # noqa: BLE001 - whatever it is, the next look may do better; its text may hold a value
                log.error("changes of a store could not be looked for", worklet=worklet_id, error=type(e).__name__)
                now = None
            for bell in waiting:
                if bell.cursor != now:
                    bell.ring()
