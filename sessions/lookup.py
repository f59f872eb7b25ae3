"""What can be asked about sessions and turns; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from sessions.askstore import OPEN as ASK_OPEN
from sessions.askstore import asks
from sessions.db import Database
from sessions.errors import SessionNotFound
from sessions.leases import Leases
from sessions.tables import ASLEEP, IDLE, LIVE, OPEN, UNDELIVERED, session_of, sessions, turn_of, turns
from sessions.types import Session, SessionId, SessionState, ThreadId, Turn, TurnId

list_ = list  # `Lookup.list` hides the builtin inside the class


@dataclass(frozen=True, slots=True)
class Waiting:
    """A turn with its session, and how many open turns of that session come first."""

    session: Session
    turn: Turn
    ahead: int


class Lookup:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.leases = Leases(db)

    async def get(self, session_id: SessionId) -> Session:
        """Raises SessionNotFound."""
        found = await self._sessions(sa.select(sessions).where(sessions.c.id == session_id))
        if not found:
            raise SessionNotFound
        return found[0]

    async def find(self, thread: ThreadId) -> Session | None:
        found = await self._sessions(sa.select(sessions).where(*in_thread(thread)))
        return found[0] if found else None

    async def counts(self) -> dict[str, int]:
        """How many sessions are in each state that any is in."""
        query = sa.select(sessions.c.status, sa.func.count().label("number")).group_by(sessions.c.status)
        async with self.db.read() as connection:
            return {row.status: row.number for row in await connection.execute(query)}

    async def list(
        self, *, user_id: str | None = None, states: Iterable[SessionState] | None = None, limit: int = 100
    ) -> list[Session]:
        """Newest first."""
        query = sa.select(sessions).order_by(sessions.c.created_at.desc(), sessions.c.id).limit(limit)
        if user_id is not None:
            query = query.where(sessions.c.user_id == user_id)
        if states is not None:
            query = query.where(sessions.c.status.in_([state.value for state in states]))
        return await self._sessions(query)

    async def live(self) -> list_[Session]:
        """Those that have a worklet or wait for one."""
        return await self._sessions(sa.select(sessions).where(LIVE).order_by(sessions.c.created_at))

    async def held_in(self, team: str, channel: str | None = None) -> list_[SessionId]:
        """Those of the channel, or of the whole workspace, that are awake, and that some process holds."""
        query = sa.select(sessions.c.id).where(LIVE, sessions.c.team == team, self.leases.holder().is_not(None))
        if channel is not None:
            query = query.where(sessions.c.channel == channel)
        async with self.db.read() as connection:
            return [SessionId(row.id) for row in await connection.execute(query)]

    async def recent(self, since: datetime, limit: int) -> list_[Session]:
        """Those that are awake or were active since then, the latest first."""
        latest = sa.select(sessions).order_by(sessions.c.last_activity_at.desc()).limit(limit)
        awake = await self._sessions(latest.where(LIVE))
        asleep = await self._sessions(latest.where(ASLEEP, sessions.c.last_activity_at >= since))
        found = {one.id: one for one in (*awake, *asleep)}
        return sorted(found.values(), key=lambda one: one.last_activity_at, reverse=True)[:limit]

    async def idle_since(self, before: datetime, limit: int = 100) -> list_[Session]:
        """Idle sessions without activity since `before` and without open turns; the longest idle first."""
        busy = sa.select(turns.c.id).where(turns.c.session_id == sessions.c.id, OPEN).exists()
        query = (
            sa.select(sessions)
            .where(IDLE, sessions.c.last_activity_at <= before, ~busy)
            .order_by(sessions.c.last_activity_at)
            .limit(limit)
        )
        return await self._sessions(query)

    async def with_work(self, owner: str | None = None) -> list_[SessionId]:
        """Sessions with turns that are open or not delivered, the one with the oldest turn first.

        Those that another process than `owner` holds are left out.
        """
        query = (
            sa.select(turns.c.session_id)
            .join(sessions, sessions.c.id == turns.c.session_id)
            .where(UNDELIVERED, sa.or_(self.leases.free(), sessions.c.lease_owner == owner))
            .group_by(turns.c.session_id)
            .order_by(sa.func.min(turns.c.ts))
        )
        async with self.db.read() as connection:
            return [SessionId(row[0]) for row in await connection.execute(query)]

    async def turns(self, session_id: SessionId) -> list_[Turn]:
        """All turns of a session in order."""
        query = sa.select(turns).where(turns.c.session_id == session_id).order_by(turns.c.ts, turns.c.created_at)
        async with self.db.read() as connection:
            return [turn_of(row) for row in await connection.execute(query)]

    async def turn(self, turn_id: TurnId) -> Turn:
        """Raises SessionNotFound."""
        async with self.db.read() as connection:
            row = (await connection.execute(sa.select(turns).where(turns.c.id == turn_id))).one_or_none()
        if row is None:
            raise SessionNotFound("There is no such message any more.")
        return turn_of(row)

    async def undelivered(self, session_id: SessionId) -> list_[Waiting]:
        """The session's turns whose end the door has not shown, in order."""
        query = sa.select(turns).where(UNDELIVERED, turns.c.session_id == session_id)
        async with self.db.read() as connection:
            rows = await connection.execute(query.order_by(turns.c.ts, turns.c.created_at))
            found = [turn_of(row) for row in rows]
        if not found:
            return []
        session, ahead, waiting = await self.get(session_id), 0, []
        for turn in found:
            waiting.append(Waiting(session, turn, ahead))
            ahead += not turn.state.settled
        return waiting

    async def _sessions(self, query: sa.Select[Any]) -> list_[Session]:
        async with self.db.read() as connection:
            return [session_of(row) for row in await connection.execute(query)]

    async def next_turn(self, session_id: SessionId) -> Turn | None:
        """The turn that is running, else a hurried one, else the queued one with the lowest ts."""
        query = (
            sa.select(turns)
            .where(turns.c.session_id == session_id, OPEN)
            .order_by(turns.c.started_at.is_(None), turns.c.hurried.desc(), turns.c.ts, turns.c.created_at, turns.c.id)
            .limit(1)
        )
        async with self.db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return turn_of(row) if row else None

    async def next_work(self, session_id: SessionId) -> tuple[Turn | None, bool]:
        """`next_turn`, unless its process sleeps until people have decided: then none, and True."""
        turn = await self.next_turn(session_id)
        if turn is None or turn.started_at is None or turn.stop_asked is not None:
            return turn, False
        query = sa.select(asks.c.id).where(asks.c.turn_id == turn.id, asks.c.parked, ASK_OPEN).limit(1)
        async with self.db.read() as connection:
            parked = (await connection.execute(query)).one_or_none() is not None
        return (None, True) if parked else (turn, False)


def in_thread(thread: ThreadId) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition of a query for the thread's session."""
    return (
        sessions.c.team == thread.team,
        sessions.c.channel == thread.channel,
        sessions.c.thread_ts == thread.thread_ts,
    )
