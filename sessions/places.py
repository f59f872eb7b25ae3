"""Places: at most `limit` sessions have a worklet at the same time. No I/O; one loop.

Who is idle, or waits for people, gives way to who waits for a place: the longest idle first. If all work, waiting is in
order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sessions.types import SessionId


@dataclass(eq=False, slots=True)
class Ticket:
    """A place, or a wait for one. `blocked`: there is nobody idle who could give way, and has not refused to."""

    session_id: SessionId
    granted: asyncio.Future[None]
    blocked: asyncio.Future[None]


class Places:
    """`evict` asks an idle session to go to sleep; it gives its place back by `free`, or says `stays` or works on."""

    def __init__(self, limit: int, evict: Callable[[SessionId], None]) -> None:
        self.limit = limit
        self._evict = evict
        self._working: set[SessionId] = set()
        self._idle: dict[SessionId, None] = {}  # in the order in which they fell idle
        self._leaving: set[SessionId] = set()  # idle ones that were asked to give way
        self._staying: set[SessionId] = set()  # idle ones that were, and cannot
        self._queue: list[Ticket] = []

    @property
    def taken(self) -> int:
        return len(self._working) + len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def ask(self, session_id: SessionId) -> Ticket:
        """A ticket whose `granted` is done once the session has a place, as a working one. `free` gives it back."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(session_id, loop.create_future(), loop.create_future())
        if session_id in self._working or session_id in self._idle:
            self._works(session_id)
            ticket.granted.set_result(None)
            return ticket
        self._queue.append(ticket)
        self._settle()
        return ticket

    def adopt(self, session_id: SessionId) -> None:
        """A session that has a worklet from before: it keeps its place, over the limit if need be, and is idle."""
        if session_id not in self._working:
            self._idle[session_id] = None

    def idle(self, session_id: SessionId) -> None:
        """The session has nothing to do, or nothing before people have decided: it can give way, whatever it said."""
        self._working.discard(session_id)
        self._unmark(session_id)
        self._idle[session_id] = None
        self._settle()

    def waits(self, session_id: SessionId) -> None:
        """`idle`, where it was not so before: repeated, it changes nothing."""
        if session_id not in self._idle:
            self.idle(session_id)

    def stays(self, session_id: SessionId) -> None:
        """It cannot give way now: another is asked."""
        if session_id in self._leaving:
            self._leaving.discard(session_id)
            self._staying.add(session_id)
            self._settle()

    def works(self, session_id: SessionId) -> None:
        """It has something to do again, if it has kept its place."""
        if session_id in self._idle:
            self._works(session_id)

    def free(self, session_id: SessionId) -> None:
        """The session has no worklet any more, or no longer waits for one. Idempotent."""
        self._working.discard(session_id)
        self._idle.pop(session_id, None)
        self._unmark(session_id)
        self._queue = [ticket for ticket in self._queue if ticket.session_id != session_id]
        self._settle()

    def _works(self, session_id: SessionId) -> None:
        self._idle.pop(session_id, None)
        self._unmark(session_id)
        self._working.add(session_id)
        self._settle()

    def _unmark(self, session_id: SessionId) -> None:
        self._leaving.discard(session_id)
        self._staying.discard(session_id)

    def _settle(self) -> None:
        """Hands free places out, then asks as many idle sessions to leave as still wait."""
        while self._queue and self.taken < self.limit:
            ticket = self._queue.pop(0)
            self._working.add(ticket.session_id)
            ticket.granted.set_result(None)
        for session_id in [one for one in self._idle if one not in self._leaving | self._staying]:
            if len(self._leaving) >= len(self._queue):
                break
            self._leaving.add(session_id)
            self._evict(session_id)
        for ticket in self._queue[len(self._leaving) :]:
            if not ticket.blocked.done():
                ticket.blocked.set_result(None)


async def granted(ticket: Ticket, on_blocked: Callable[[], None]) -> None:
    """Waits for the place; `on_blocked` is called once if nobody can give way."""
    # `wait` cancels nothing: when this is cancelled, the place may be granted in that very moment.
    await asyncio.wait([ticket.granted, ticket.blocked], return_when=asyncio.FIRST_COMPLETED)
    if not ticket.granted.done():
        on_blocked()
        await asyncio.wait([ticket.granted])
