"""How turns and sessions are brought to a stop: a turn interrupted, waiting ones dropped, a session put to sleep."""

from __future__ import annotations

from config.logging import get_logger
from sessions.livetasks import LiveTasks
from sessions.store import Store
from sessions.telling import Telling
from sessions.types import Session, SessionId, SessionState, Turn, TurnId

log = get_logger(__name__)


class Halting:
    """Of sessions that run here, in another process, or nowhere. `Sessions` says what its methods promise."""

    def __init__(self, store: Store, telling: Telling, tasks: LiveTasks) -> None:
        self._store = store
        self._telling = telling
        self._tasks = tasks

    async def interrupt(self, session_id: SessionId, by: str | None, only: TurnId | None = None) -> bool:
        live = self._tasks.get(session_id)
        if live is not None and live.turn is not None:
            return (only is None or live.turn.id == only) and live.interrupt(by)
        # Another process runs it, or nobody yet: whoever does finds it in the table.
        asked = await self._store.edits.ask_stop(session_id, by or "", only)
        if asked is None:
            return False
        live = self._tasks.get(session_id)
        if live is not None and live.turn is not None and live.turn.id == asked.id:
            live.interrupt(by)
        await self._tasks.ring_all(session_id)
        return True

    async def halt(self, session_id: SessionId, by: str) -> bool:
        since, running = self._store.clock(), await self._store.next_turn(session_id)
        if running is None:
            return False
        live = self._tasks.get(session_id)
        current = live.turn if live and live.turn else running if running.started_at is not None else None
        dropped = await self._store.interrupt_queued(session_id, by, sparing=current.id if current else None)
        for turn in dropped:
            await self.settled_elsewhere(turn)
        if current is not None and await self.interrupt(session_id, by, only=current.id):
            return True
        # One that waited may have begun in this moment, and so been spared.
        begun = await self._store.next_turn(session_id)
        if begun is not None and begun.started_at is not None and begun.created_at <= since:
            return await self.interrupt(session_id, by, only=begun.id) or bool(dropped)
        return bool(dropped)

    async def stop(self, session_id: SessionId, by: str) -> bool:
        halted = await self._store.next_turn(session_id)
        live = self._tasks.get(session_id)
        asleep = live.sleep() if live else None
        await self.halt(session_id, by)
        if asleep is not None and await asleep:
            return True
        # It may have been taken up in this moment, or have begun with the turn that is halted now.
        coming = await self._store.next_turn(session_id)
        if coming is not None and (halted is None or coming.id != halted.id):
            return False
        if live := self._tasks.get(session_id):
            return await live.sleep()
        return await self._sleep_dead(await self._store.get(session_id))

    async def sleep(self, session_id: SessionId) -> bool:
        live = self._tasks.get(session_id)
        if live is None:
            return await self._sleep_dead(await self._store.get(session_id))
        return live.turn is None and await live.sleep()

    async def settled_elsewhere(self, turn: Turn) -> None:
        """The table has the turn's end already: its runner, if it was about it, and observers are told."""
        for stored in await self._store.asks.of_turn(turn.id):
            self._telling.ask(stored.ask)  # what was open of it is closed in the table
        self._telling.settled(turn)
        live = self._tasks.get(turn.session_id)
        if live is not None and live.turn is not None and live.turn.id == turn.id:
            live.interrupt(turn.stopped_by)
        await self._tasks.ring_all(turn.session_id)

    async def _sleep_dead(self, session: Session) -> bool:
        """Of a session that nobody runs here."""
        return session.state in (SessionState.NEW, SessionState.ASLEEP) or await self._tasks.sleep(session.id)
