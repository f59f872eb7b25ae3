"""The tasks of live sessions: started when there is something to do, rung, and let go when the program drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.holdings import Holdings
from sessions.live import LiveSession
from sessions.shared import Shared
from sessions.telling import Telling
from sessions.types import Session, SessionId
from worklets.errors import WorkletError

log = get_logger(__name__)
_VISITS = (0.0, 0.05, 0.2, 1.0, 2.0)  # seconds between two tries to wake a session


class Bell(Protocol):
    """Tells other processes to look at a session (sessions/bell.py). A hint: it may be lost."""

    def listen(self, on_ring: Callable[[SessionId], None]) -> None: ...

    async def ring(self, session_id: SessionId) -> None: ...


class LiveTasks:
    """An async context manager: it owns each live session as one task, and keeps the leases that they work under."""

    def __init__(self, shared: Shared, holdings: Holdings, telling: Telling, bell: Bell | None) -> None:
        self.live: dict[SessionId, LiveSession] = {}
        self.tasks: dict[SessionId, asyncio.Task[bool]] = {}
        self.draining = False
        self.rules_heard: list[Callable[[SessionId], None]] = []  # told which sessions that run here have other rules
        self._store = shared.store
        self._shared = shared
        self._holdings = holdings
        self._telling = telling
        self._bell = bell
        self._group = asyncio.TaskGroup()
        self._keeping: asyncio.Task[None] | None = None
        self._called: set[SessionId] = set()  # started by the bell of another process

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._keeping = self._group.create_task(self._holdings.keep(self._lost), name="leases")
        if self._bell is not None:
            self._bell.listen(self._heard)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.drain(0)
        if self._keeping is not None:
            self._keeping.cancel()
        await self._holdings.release_all()
        # All tasks have ended. The body's own error is not the group's: it goes on as it is, not wrapped.
        await self._group.__aexit__(None, None, None)

    def get(self, session_id: SessionId) -> LiveSession | None:
        """The session, where a task of this process runs it."""
        return self.live.get(session_id)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self.live

    def beside(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Work for a session that nobody waits for."""
        self._group.create_task(work, name=name)

    # -- start and end ---------------------------------------------------------

    def adopt(self, session: Session) -> None:
        """Runs a session that has a worklet from before."""
        if session.id not in self.live and not self.draining:
            self._shared.places.adopt(session.id)
            self._start(session.id)

    async def wake(self, session_id: SessionId) -> None:
        """Has its worklet run, without a prompt. Raises WorkletError."""
        for pause in _VISITS:
            if self.draining:
                break
            if session_id not in self.live:
                self._start(session_id)
            if await self.live[session_id].visit():
                return
            await asyncio.sleep(pause)  # it fell asleep in this moment, or another process has it
        raise WorkletError("Flow is stopping, or another process looks after this thread.", suggestion="Try again.")

    async def sleep(self, session_id: SessionId) -> bool:
        """Has a session that no task runs here end its worklet, by the way of all. False: it has something to do.

        So too where another process has it, or Flow is about to end.
        """
        if self.draining:
            return False
        if session_id not in self.live:
            self._start(session_id)
        live = self.live[session_id]
        return live.turn is None and await live.sleep()

    async def drain(self, grace: float) -> None:
        """Begins no further turn, gives running ones `grace` seconds, then lets go."""
        self.draining = True
        for session_id, live in self.live.items():
            live.drain()
            if live.may_be_left:
                self.tasks[session_id].cancel()
        await self._wait(grace)
        for session_id, task in self.tasks.items():
            if not task.cancelling():
                log.info("letting go of a running turn; its agent works on", session=session_id)
                task.cancel()
        await self._wait(None)

    async def _wait(self, seconds: float | None) -> None:
        if self.tasks:
            await asyncio.wait(list(self.tasks.values()), timeout=seconds)

    def _start(self, session_id: SessionId) -> None:
        live = LiveSession(self._shared, self._holdings, self._telling, session_id)
        task = self._group.create_task(self._run(live), name=f"session {session_id}")
        self.live[session_id], self.tasks[session_id] = live, task
        # A callback, because a task that is cancelled before its first step runs no `finally`.
        task.add_done_callback(lambda task: self._ended(live, task))

    async def _run(self, live: LiveSession) -> bool:
        """Wraps a live session once: nothing that happens in it reaches another."""
        try:
            return await live.run()
        except Exception:
            log.exception("a session's task failed", session=live.id)
            return False

    def _ended(self, live: LiveSession, task: asyncio.Task[bool]) -> None:
        del self.live[live.id], self.tasks[live.id]
        live.ended()
        self._telling.ended(live.id)
        self._shared.places.free(live.id)
        if live.refused and self._bell is not None and live.id not in self._called:
            self._group.create_task(self._bell.ring(live.id), name=f"ring {live.id}")  # the holder is to look
        quiet = live.refused and live.id in self._called
        self._called.discard(live.id)
        if not self.draining and not task.cancelled() and (task.result() or (live.refused and live.missed)):
            self._group.create_task(self._look_again(live.id, quiet), name=f"look again {live.id}")

    async def _look_again(self, session_id: SessionId, quiet: bool) -> None:
        """A turn may have come in while the session fell asleep, or while it was refused.

        `quiet`: another process had rung, so a second refusal rings nobody either. Many would ring each other for ever.
        """
        try:
            if (await self._store.next_work(session_id))[0] is None:
                return
            if quiet and session_id not in self.live and not self.draining:
                self._called.add(session_id)
            if quiet:
                self.ring_here(session_id)
            else:
                self.ring(session_id)
        except StoreUnavailable as error:
            log.warning("left to the reaper", session=session_id, error=error.sentence())
        except Exception:
            log.exception("left to the reaper", session=session_id)

    def give_way(self, session_id: SessionId) -> None:
        """Another session wants its place."""
        if live := self.live.get(session_id):
            live.give_way()

    def _lost(self, session_id: SessionId) -> None:
        """The lease is another's: nothing more is done in its name. Releasing is told at the end of the task."""
        if task := self.tasks.get(session_id):
            task.cancel()
        else:
            self._telling.release(session_id)

    # -- the bell ---------------------------------------------------------

    def ring(self, session_id: SessionId) -> None:
        """There may be something to do, for this process too."""
        if live := self.live.get(session_id):
            live.ring()
            self._heard(session_id)
        elif not self.draining:
            self._start(session_id)

    async def ring_all(self, session_id: SessionId) -> None:
        """Here, and wherever else the session may be run."""
        self.ring_here(session_id)
        await self.ring_elsewhere(session_id)

    async def ring_elsewhere(self, session_id: SessionId) -> None:
        """Another process runs it."""
        if self._bell is not None:
            await self._bell.ring(session_id)

    def ring_here(self, session_id: SessionId) -> None:
        if live := self.live.get(session_id):
            live.ring()
        elif not self.draining:
            self._start(session_id)

    def _heard(self, session_id: SessionId) -> None:
        """Something may have changed in the table behind a live session's back."""
        if session_id not in self.live:
            self._called.add(session_id)  # so that a refusal rings nobody in turn
            self.ring_here(session_id)
        else:
            self._group.create_task(self._look_behind(session_id), name=f"look behind {session_id}")

    async def _look_behind(self, session_id: SessionId) -> None:
        try:
            if self._holdings.valid(session_id):
                await self._telling.catch_up(session_id, lambda: self._holdings.valid(session_id))
            live = self.live.get(session_id)
            if live is not None and (turn := live.turn) is not None:
                by = await self._store.edits.stop_asked(turn.id)
                if by is not None and live.turn is not None and live.turn.id == turn.id:
                    live.interrupt(by or None)
            if live := self.live.get(session_id):
                live.ring()
                if (turn := live.turn) is not None and turn.started_at is not None and await live.permit(mode=False):
                    for heard in self.rules_heard:
                        heard(session_id)
        except StoreUnavailable as error:
            log.warning("left to the reaper", session=session_id, error=error.sentence())
        except Exception:
            log.exception("left to the reaper", session=session_id)
