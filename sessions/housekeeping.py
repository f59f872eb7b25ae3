"""Queries of what is done to sessions that nobody runs: leftovers of dead processes, and what is old.

Whoever changes such a session holds its lease meanwhile: a message that comes in that moment waits until it is given
back, and is then found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sessions.db import Database
from sessions.leases import Lease, Leases, mine
from sessions.poolstore import pool
from sessions.tables import (
    ASLEEP,
    LIVE,
    RETIRED,
    UNDELIVERED,
    amendments,
    asides,
    events,
    firings,
    session_of,
    sessions,
    turns,
)
from sessions.tooluse import tool_uses
from sessions.types import Session, SessionId, SessionState

_DAY = timedelta(days=1)
_NAMES = 500  # in one query


@dataclass(slots=True)
class Kept:
    """A session that nobody else may run now. `changes` of its row are made when it is given back."""

    lease: Lease
    session: Session
    changes: dict[str, Any] = field(default_factory=dict)

    def sleeps(self) -> None:
        self.changes |= {"status": SessionState.ASLEEP.value, "container_id": None}


class Housekeeping:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, on_asked: Callable[[SessionId], None], *, seconds: float = 120.0) -> None:
        """`on_asked` hears of a session that got a message while it was kept.

        `seconds`: how long a session is kept from others at most, should this process die meanwhile.
        """
        self._db = db
        self._leases = Leases(db)
        self._on_asked = on_asked
        self._seconds = seconds
        self._overdue: list[Kept] = []  # the database did not serve when they should have been given back

    # -- leftovers ---------------------------------------------------------

    async def unheld(self) -> list[Session]:
        """Sessions that claim a worklet, and that no process holds."""
        return await self._sessions(
            sa.select(sessions).where(LIVE, self._leases.free()).order_by(sessions.c.created_at)
        )

    async def named(self, worklets: Collection[str]) -> Mapping[str, Session]:
        """The sessions of these worklets, by worklet."""
        names, found = sorted(worklets), dict[str, Session]()
        for start in range(0, len(names), _NAMES):
            query = sa.select(sessions).where(sessions.c.worklet.in_(names[start : start + _NAMES]))
            found |= {session.worklet: session for session in await self._sessions(query)}
        return found

    async def pooled(self) -> set[str]:
        """Worklets that stand ready for a session, or were taken by one a moment ago."""
        async with self._db.read() as connection:
            return {row.name for row in await connection.execute(sa.select(pool.c.name))}

    async def clean(self, now: datetime) -> None:
        """Forgets edits whose message never came, and firings that nobody can claim any more."""
        async with self._db.transaction() as connection:
            await connection.execute(sa.delete(amendments).where(amendments.c.created_at < now - _DAY))
            await connection.execute(sa.delete(firings).where(firings.c.due_at < now - _DAY))

    # -- one session ---------------------------------------------------------

    @asynccontextmanager
    async def keeping(self, session: Session) -> AsyncIterator[Kept | None]:
        """Keeps others from running a session; its row is changed as told at the end, unless something was raised.

        None: it is held, has turns to work at or to show, or is not any more as it was read.
        """
        kept = await self._borrow(session)
        try:
            yield kept
        except BaseException:
            if kept is not None:
                kept.changes = {}
            raise
        finally:
            if kept is not None:
                await self._end(kept)

    async def settle(self) -> None:
        """Gives back what could not be given back before, with its changes, unless somebody has it by now."""
        while self._overdue:
            await self._end(self._overdue.pop())

    async def _end(self, kept: Kept) -> None:
        try:
            asked = await self._give_back(kept)
        except BaseException:
            self._overdue.append(kept)
            raise
        if asked:
            self._on_asked(kept.session.id)

    async def _borrow(self, session: Session) -> Kept | None:
        statement = (
            sa.update(sessions)
            .where(
                sessions.c.id == session.id,
                sessions.c.status == session.state.value,
                sessions.c.last_activity_at == session.last_activity_at,
                self._leases.free(),
                ~_HAS_TURNS,
            )
            .values(
                lease_owner=self._db.housekeeper,
                lease_until=self._db.now + self._seconds,
                fence=sessions.c.fence + 1,
            )
            .returning(*sessions.c)
        )
        async with self._db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return Kept(Lease(session.id, self._db.housekeeper, row.fence), session_of(row)) if row else None

    async def _give_back(self, kept: Kept) -> bool:
        """True: something was asked of it meanwhile."""
        changes = {**kept.changes, "lease_owner": None, "lease_until": None}
        asked = sa.select(sessions.c.id).where(sessions.c.id == kept.session.id, _HAS_TURNS)
        async with self._db.transaction() as connection:
            await connection.execute(sa.update(sessions).where(*mine(kept.lease)).values(**changes))
            return (await connection.execute(asked)).one_or_none() is not None

    # -- what is old ---------------------------------------------------------

    async def asleep_since(self, before: datetime, after: Session | None, limit: int) -> list[Session]:
        """Sessions with a volume that sleep since before then, the longest silent first, page by page."""
        return await self._page(ASLEEP, before, after, limit)

    async def retired_since(self, before: datetime, after: Session | None, limit: int) -> list[Session]:
        """Sessions without a volume whose transcript is in the table, the longest silent first, page by page."""
        return await self._page(RETIRED, before, after, limit)

    async def _page(
        self, condition: sa.TextClause, before: datetime, after: Session | None, limit: int
    ) -> list[Session]:
        order = sessions.c.last_activity_at, sessions.c.id
        query = sa.select(sessions).where(condition, order[0] <= before).order_by(*order).limit(limit)
        if after is not None:
            at = sa.bindparam("at", after.last_activity_at, order[0].type)
            query = query.where(order[0] >= at, sa.or_(order[0] > at, order[1] > after.id))
        return await self._sessions(query)

    async def asides(self, session_id: SessionId) -> list[Mapping[str, Any]]:
        """What was said aside in the session's thread, in order."""
        columns = asides.c.source_id, asides.c.turn_id, asides.c.ts, asides.c.user_id, asides.c.author, asides.c.text
        query = sa.select(*columns).where(asides.c.session_id == session_id).order_by(asides.c.ts)
        async with self._db.read() as connection:
            return [dict(row._mapping) for row in await connection.execute(query)]  # noqa: SLF001 - SQLAlchemy's API

    async def summarize(self, lease: Lease, summary: str) -> None:
        """Raises LeaseLost."""
        await self._fenced(lease, summary=summary)

    async def forget(self, lease: Lease, most: int) -> bool:
        """Removes the oldest `most` events; with the last ones asides and audit. False: nothing is left.

        Raises LeaseLost.
        """
        oldest = sa.select(events.c.id).where(events.c.session_id == lease.session_id).order_by(events.c.id).limit(most)
        async with self._db.transaction() as connection:
            lease.held((await connection.execute(sa.select(sessions.c.id).where(*mine(lease)))).one_or_none())
            ids = [row.id for row in await connection.execute(oldest)]
            if ids:
                these = sa.and_(events.c.session_id == lease.session_id, events.c.id <= ids[-1])
                await connection.execute(sa.delete(events).where(these))
            if len(ids) < most:
                await connection.execute(sa.delete(asides).where(asides.c.session_id == lease.session_id))
                await connection.execute(sa.delete(tool_uses).where(tool_uses.c.session_id == lease.session_id))
        return len(ids) == most

    async def _fenced(self, lease: Lease, **columns: Any) -> None:
        statement = sa.update(sessions).where(*mine(lease)).values(**columns).returning(sessions.c.id)
        async with self._db.transaction() as connection:
            lease.held((await connection.execute(statement)).one_or_none())

    async def _sessions(self, query: sa.Select[Any]) -> list[Session]:
        async with self._db.read() as connection:
            return [session_of(row) for row in await connection.execute(query)]


_HAS_TURNS = sa.select(turns.c.id).where(turns.c.session_id == sessions.c.id, UNDELIVERED).exists()
