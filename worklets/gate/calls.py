"""What worklets call: the sockets in their directories that lead to Flow, and Flow's connections that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from worklets.gate.framing import CHUNK, Broken, Stream, carry, close, line, say
from worklets.gate.places import Places

SOCKETS = ("gateway.sock", "proxy.sock")
_MOST = 128  # connections of one worklet at a time; the next ones wait to be taken
_MOST_IN_ALL = 512  # of all worklets, beside those that each is sure of: one that is not read holds a megabyte
_SURE = 4
_PACE = 0.01  # seconds between two that are taken: each costs Flow a handshake
_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 1.0  # between two looks whether a worklet that waits for Flow has left
_PAUSE = 0.2  # seconds, when no file can be opened, or there is no room


class Calls:
    """One per gate."""

    def __init__(self, places: Places, most_in_all: int = _MOST_IN_ALL) -> None:
        self._places, self._common = places, asyncio.Semaphore(most_in_all)
        self._idle: dict[_Parked, None] = {}  # in the order in which they came
        self._some = asyncio.Event()  # there may be one
        self._doors: dict[str, _Door] = {}
        self._one_at_a_time = asyncio.Lock()  # doors open and close in order

    @property
    def doors(self) -> int:
        return len(self._doors)

    async def open(self, worklet: str) -> None:
        """A door that stands stays, with what passes through it. Raises OSError, Unfit."""
        async with self._one_at_a_time:
            door = self._doors.get(worklet)
            if door is not None and door.stands(self._places):
                return
            await self._close(worklet)  # the agent may have put something else in its place
            self._doors[worklet] = _Door(worklet, self._places, self._call, self._common)

    async def close(self, worklet: str) -> None:
        """With all that passes through it. Idempotent. Raises OSError, Unfit."""
        async with self._one_at_a_time:
            await self._close(worklet)
            for name in SOCKETS:
                self._places.clear(worklet, [name])

    async def _close(self, worklet: str) -> None:
        if (door := self._doors.pop(worklet, None)) is not None:
            await door.close()

    async def aclose(self) -> None:
        for door in self._doors.values():
            await door.close()

    async def park(self, stream: Stream) -> None:
        """Until it was taken and has ended, or Flow leaves."""
        one = _Parked(stream)
        over = asyncio.create_task(one.over.wait())
        self._idle[one] = None
        self._some.set()
        try:
            await asyncio.wait({over, one.answered}, return_when=asyncio.FIRST_COMPLETED)
            if one.answered.done() and one.answered.exception() is None:
                await over
        finally:
            self._idle.pop(one, None)
            over.cancel()
            one.answered.cancel()

    async def _call(self, worklet: str, name: str, client: socket.socket) -> None:
        """Carries what a worklet has to say to Flow; it waits where Flow is away."""
        plain = await asyncio.open_unix_connection(sock=client)
        try:
            if not (first := await plain[0].read(CHUNK)):
                return  # it had nothing to say
            while (one := await self._next(client)) is not None:
                try:
                    if await _taken(one, worklet, name):
                        await carry(plain, one.stream, first)
                        return
                finally:
                    one.over.set()
                await asyncio.sleep(_LOOK_SECONDS)
        except OSError:
            pass  # it has left
        finally:
            close(plain[1])

    async def _next(self, client: socket.socket) -> _Parked | None:
        """A connection of Flow's that waits; None: the worklet has left."""
        while not _has_left(client):
            if self._idle:
                one = next(iter(self._idle))
                del self._idle[one]
                if not one.answered.done():
                    return one
                continue
            self._some.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._some.wait()
        return None


class _Door:
    """One worklet's sockets that lead to Flow; `take` gets who calls at them. Raises OSError, Unfit.

    `common`: the places that all doors share.
    """

    def __init__(
        self,
        worklet: str,
        places: Places,
        take: Callable[[str, str, socket.socket], Awaitable[Any]],
        common: asyncio.Semaphore,
    ) -> None:
        self._worklet, self._take = worklet, take
        self._rooms = (asyncio.Semaphore(_SURE), common)
        self._listening: dict[str, socket.socket] = {}
        try:
            for name in SOCKETS:
                self._listening[name] = places.listen(worklet, name)
        except BaseException:
            self._let_go()
            raise
        self._at = {name: places.place(worklet, [name]) for name in SOCKETS}
        free = asyncio.Semaphore(_MOST)
        self._tasks = {asyncio.create_task(self._accept(name, free)) for name in SOCKETS}

    def stands(self, places: Places) -> bool:
        return all(at is not None and places.place(self._worklet, [name]) == at for name, at in self._at.items())

    async def _accept(self, name: str, free: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await free.acquire()
            try:
                client, _ = await loop.sock_accept(self._listening[name])
            except OSError:
                free.release()
                await asyncio.sleep(_PAUSE)
                continue
            except BaseException:
                free.release()
                raise
            try:
                room = await self._room()
            except BaseException:
                client.close()
                raise
            carrying = asyncio.ensure_future(self._take(self._worklet, name, client))
            self._tasks.add(carrying)
            carrying.add_done_callback(self._tasks.discard)
            carrying.add_done_callback(partial(_leave, room))
            carrying.add_done_callback(partial(_leave, free))
            await asyncio.sleep(_PACE)

    async def _room(self) -> asyncio.Semaphore:
        """One of our own places, or else of the common ones: taken."""
        while True:
            for room in self._rooms:
                if not room.locked():
                    await room.acquire()
                    return room
            await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._let_go()

    def _let_go(self) -> None:
        for made in self._listening.values():
            made.close()


def _leave(place: asyncio.Semaphore, _: object) -> None:
    place.release()


class _Parked:
    """A connection on which Flow waits. `answered`: what Flow says once it is taken; raises Broken when Flow leaves."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.over = stream, asyncio.Event()
        self.answered = asyncio.create_task(line(stream[0]))
        self.answered.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask


async def _taken(one: _Parked, worklet: str, name: str) -> bool:
    """Whether Flow takes the call: its machine may be gone without a word, or have no such door."""
    try:
        say(one.stream[1], worklet=worklet, socket=name)
        async with asyncio.timeout(_ANSWER_SECONDS):
            await one.stream[1].drain()
            return "ok" in await asyncio.shield(one.answered)
    except (OSError, TimeoutError, Broken):
        return False


def _has_left(client: socket.socket) -> bool:
    """Not so when it has only said all that it had to say."""
    if client.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(client, 0)  # what is told in any case: POLLHUP, POLLERR
    return bool(poll.poll(0))
