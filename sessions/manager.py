"""`Sessions`: the only door for change. Owns the tasks of live sessions, and tells observers what happens.

    async with Sessions(store, host, max_sessions=10) as sessions:
        sessions.observe(outbox.observe)
        await sessions.replay()
        await reaper.sweep()        # takes over what ran before
        ...
        await sessions.drain(grace=20)

`submit` only stores: the turn is safe before anything slow begins, and the bell that follows carries nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self
from uuid import uuid4

from config.logging import get_logger
from sessions.agents import AgentHost
from sessions.errors import StoreUnavailable
from sessions.events import LifeEvent, Observer, Queued, Settled, Started
from sessions.link import Patience, Shared
from sessions.live import LiveSession
from sessions.places import Places
from sessions.store import Store, Waiting
from sessions.transcript import Transcript
from sessions.types import (
    Interrupted,
    Prompt,
    Session,
    SessionId,
    SessionState,
    Submitted,
    ThreadId,
    Turn,
    TurnId,
    outcome_of,
)
from worklets.events import AgentEvent

log = get_logger(__name__)
list_ = list  # `Sessions.list` hides the builtin inside the class


class Sessions:
    def __init__(
        self,
        store: Store,
        host: AgentHost,
        *,
        max_sessions: int,
        env: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        lease_seconds: float = 15.0,
    ) -> None:
        """`env` goes to every worklet; `max_sessions` have one at the same time.

        `lease_seconds`: after so long another replica on the same PostgreSQL takes a silent one's sessions over.
        """
        self.store = store
        self.transcript = Transcript(store.db, store.clock)
        self._host = host
        self._places = Places(max_sessions, self._evict)
        self._shared = Shared(
            store, self.transcript, host, self._places, self._tell, dict(env or {}), patience or Patience()
        )
        self._owner = str(uuid4())
        self._lease_seconds = lease_seconds
        self._observers: list[Observer] = []
        self._live: dict[SessionId, LiveSession] = {}
        self._tasks: dict[SessionId, asyncio.Task[bool]] = {}
        self._group = asyncio.TaskGroup()
        self._renewing: asyncio.Task[None] | None = None
        self._draining = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._renewing = self._group.create_task(self._renew(), name="leases")
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.drain(0)
        if self._renewing is not None:
            self._renewing.cancel()
        # All tasks have ended. The body's own error is not the group's: it goes on as it is, not wrapped.
        await self._group.__aexit__(None, None, None)

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    # -- change ---------------------------------------------------------

    async def submit(self, prompt: Prompt) -> Submitted | None:
        """Stores the prompt and rings its session. None: no session in that thread, and the prompt starts none.

        Also while draining: the next start finds it. Raises StoreUnavailable.
        """
        stored = await self.store.submit(prompt)
        if stored is None:
            return None
        submitted, ahead = stored
        if submitted.fresh:
            log.info("turn stored", session=submitted.session.id, turn=submitted.turn.id, ahead=ahead)
            self._tell(submitted.session, submitted.turn, Queued(ahead))
            self.ring(submitted.session.id)
        return submitted

    async def opened(self, session_id: SessionId, thread_ts: str) -> Session:
        """The door has posted the thread's root message. Raises SessionNotFound, SessionError, StoreUnavailable."""
        session = await self.store.opened(session_id, thread_ts)
        if live := self._live.get(session_id):
            live.moved(session)
        return session

    async def delivered(self, turn_id: TurnId) -> None:
        """The door has shown the turn's final state: it is not replayed any more."""
        await self.store.mark_delivered(turn_id)

    def ring(self, session_id: SessionId) -> None:
        """There may be something to do. Harmless at any time."""
        if live := self._live.get(session_id):
            live.ring()
        elif not self._draining:
            self._start(session_id)

    async def interrupt(self, session_id: SessionId, by: str | None) -> bool:
        """Ends the current turn; queued ones follow. False: there is none. Returns before the turn is settled."""
        live = self._live.get(session_id)
        return live is not None and live.interrupt(by)

    async def stop(self, session_id: SessionId, by: str) -> bool:
        """Ends the current turn, drops the queued ones, puts the session to sleep; True when it does.

        False: a new turn came in meanwhile. Raises SessionNotFound, StoreUnavailable.
        """
        await self.store.get(session_id)
        live = self._live.get(session_id)
        current = live.turn if live else None
        dropped = await self.store.interrupt_queued(session_id, by, sparing=current.id if current else None)
        session = await self.store.get(session_id)
        for turn in dropped:
            self._tell(session, turn, Settled(Interrupted(by), turn.seconds))
        live = self._live.get(session_id)  # the one before may have ended, or one begun, meanwhile
        if live is None:
            return await self._sleep_dead(session)
        asleep = live.sleep()
        live.interrupt(by)
        return await asleep

    async def sleep(self, session_id: SessionId) -> bool:
        """Ends the session's worklet unless it works; the next turn wakes it. False: it works."""
        live = self._live.get(session_id)
        if live is None:
            return await self._sleep_dead(await self.store.get(session_id))
        return live.turn is None and await live.sleep()

    async def _sleep_dead(self, session: Session) -> bool:
        """Of a session that nobody runs here."""
        if session.state in (SessionState.NEW, SessionState.ASLEEP):
            return True
        if await self.store.put_to_sleep(session.id) is None:
            return False
        if session.id not in self._live:
            await self._host.close(session.worklet)
        return True

    # -- questions ---------------------------------------------------------

    async def get(self, session_id: SessionId) -> Session:
        """Raises SessionNotFound."""
        return await self.store.get(session_id)

    async def find(self, thread: ThreadId) -> Session | None:
        return await self.store.find(thread)

    async def list(
        self, *, user_id: str | None = None, states: Iterable[SessionState] | None = None, limit: int = 100
    ) -> list[Session]:
        """Newest first."""
        return await self.store.list(user_id=user_id, states=states, limit=limit)

    async def turns(self, session_id: SessionId) -> list_[Turn]:
        return await self.store.turns(session_id)

    def is_live(self, session_id: SessionId) -> bool:
        """A task of this process runs the session."""
        return session_id in self._live

    # -- start and end ---------------------------------------------------------

    async def replay(self) -> None:
        """Tells observers again about each turn that was not delivered. Before any live work begins."""
        for waiting in await self.store.undelivered():
            await self._replay(waiting)

    async def _replay(self, waiting: Waiting) -> None:
        session, turn = waiting.session, waiting.turn
        self._tell(session, turn, Queued(waiting.ahead))
        if turn.started_at is not None:
            self._tell(session, turn, Started())
        cursor = 0
        while entries := await self.transcript.read(session.id, turn_id=turn.id, after=cursor):
            for entry in entries:
                self._tell(session, turn, entry.event)
            cursor = entries[-1].cursor
        if outcome := outcome_of(turn):
            self._tell(session, turn, Settled(outcome, turn.seconds))

    def adopt(self, session: Session) -> None:
        """Runs a session that has a worklet from before, with or without work for it."""
        if session.id not in self._live and not self._draining:
            self._places.adopt(session.id)
            self._start(session.id)

    async def drain(self, grace: float) -> None:
        """Begins no further turn, gives running ones `grace` seconds, then lets go: their agents work on.

        What is not finished stays as it is in the table; the next start goes on with it.
        """
        self._draining = True
        for session_id, live in self._live.items():
            live.drain()
            if live.turn is None or live.turn.started_at is None:
                self._tasks[session_id].cancel()
        await self._wait(grace)
        for session_id, task in self._tasks.items():
            if not task.cancelling():
                log.info("letting go of a running turn; its agent works on", session=session_id)
                task.cancel()
        await self._wait(None)

    async def _wait(self, seconds: float | None) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)

    # -- tasks ---------------------------------------------------------

    def _start(self, session_id: SessionId) -> None:
        live = LiveSession(self._shared, session_id, self._owner, self._lease_seconds)
        task = self._group.create_task(self._run(live), name=f"session {session_id}")
        self._live[session_id], self._tasks[session_id] = live, task
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
        del self._live[live.id], self._tasks[live.id]
        live.ended()
        self._places.free(live.id)
        if not self._draining and not task.cancelled() and task.result():
            self._group.create_task(self._look_again(live.id), name=f"look again {live.id}")

    async def _look_again(self, session_id: SessionId) -> None:
        """A turn may have come in while the session fell asleep."""
        try:
            if await self.store.next_turn(session_id) is not None:
                self.ring(session_id)
        except StoreUnavailable as error:
            log.warning("left to the reaper", session=session_id, error=error.sentence())
        except Exception:
            log.exception("left to the reaper", session=session_id)

    def _evict(self, session_id: SessionId) -> None:
        if live := self._live.get(session_id):
            live.sleep()

    async def _renew(self) -> None:
        """Keeps the leases; lets go of sessions whose lease is lost, or could not be renewed before it ran out."""
        if self.store.db.exclusive:
            return
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            holders = [live for live in self._live.values() if live.holds_lease]
            held = {live.id for live in holders}
            try:
                held = await self.store.leases.renew(self._owner, self._lease_seconds)
                renewed = loop.time()
            except StoreUnavailable as error:
                log.warning("leases not renewed", error=error.sentence())
            except Exception:
                log.exception("leases not renewed")
            if loop.time() - renewed > self._lease_seconds * 2 / 3:
                held = set()
            for live in holders:
                if live.id not in held and self._live.get(live.id) is live:
                    log.warning("lease lost; letting go", session=live.id)
                    self._tasks[live.id].cancel()

    def _tell(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        for observer in self._observers:
            try:
                observer(session, turn, event)
            except Exception:
                log.exception("an observer failed", observer=repr(observer), session=session.id, turn=turn.id)
