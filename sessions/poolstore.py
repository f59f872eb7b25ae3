"""The rows of the warm worklets, and how a session takes one.

A worklet that is taken becomes the session's own in the same transaction: the session's row names it, its volume and
the conversation that its Claude was started with. So whoever dies, and whenever, the worklet belongs either to the
pool or to a session, and two replicas never give the same one away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sessions.db import Database
from sessions.leases import Lease, mine
from sessions.tables import Moment, metadata, session_of, sessions
from sessions.types import Session, SessionState
from worklets.pool import Member

#: In `claimed_by`: it is being removed.
_NOBODY = ""

pool = sa.Table(
    "pool",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("pattern", sa.Text, nullable=False),
    sa.Column("claude_session_id", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("ready_at", Moment),
    sa.Column("claimed_by", sa.Text),  # the session's id
    sa.Column("claimed_at", Moment),
)


class PoolStore:
    """All methods raise StoreUnavailable when the database does not serve.

    `pattern` is what a worklet has to be like to be handed out, None: none is. `least_memory`: bytes, none can be held
    to less. `on_start` hears of each session that could have had one: whether it got one.
    """

    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.pattern: str | None = None
        self.least_memory = 0
        self.on_start: Callable[[bool], None] = lambda _got: None
        self._db = db
        self._clock = clock

    async def claim(self, lease: Lease, memory: int | None = None) -> Session | None:
        """The session, about to start in the worklet that has stood ready longest. None: there is none.

        `memory`: bytes that it may have at most; None: as the settings say. Raises LeaseLost.
        """
        if self.pattern is None or (memory is not None and memory < self.least_memory):
            return None
        now, free = self._clock(), pool.c.claimed_by.is_(None)
        taken_before = pool.c.claimed_by == lease.session_id  # and nobody could tell whether it was committed
        usable = sa.and_(free, pool.c.pattern == self.pattern, pool.c.ready_at.is_not(None))
        ready = (
            sa.select(pool.c.name)
            .where(sa.or_(taken_before, usable))
            .order_by(free, pool.c.ready_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        statement = (
            sa.update(pool)
            .where(pool.c.name == ready, sa.or_(free, taken_before))
            .values(claimed_by=lease.session_id, claimed_at=now)
            .returning(pool.c.name, pool.c.claude_session_id)
        )
        async with self._db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                session = None
            else:
                taken = (
                    sa.update(sessions)
                    .where(*mine(lease))
                    .values(
                        worklet=row.name,
                        claude_session_id=row.claude_session_id,
                        status=SessionState.STARTING.value,
                        updated_at=now,
                    )
                    .returning(*sessions.c)
                )
                session = session_of(lease.held((await connection.execute(taken)).one_or_none()))
        self.on_start(session is not None)
        return session

    async def states(self) -> dict[str, str]:
        """Those that no session has taken, by name: "ready", "starting" or "leaving"."""
        found = await self.members()
        return {one.name: "leaving" if one.leaving else "ready" if one.ready else "starting" for one in found}

    async def members(self) -> list[Member]:
        """Those that no session has taken, the oldest first."""
        free = sa.or_(pool.c.claimed_by.is_(None), pool.c.claimed_by == _NOBODY)
        async with self._db.read() as connection:
            rows = await connection.execute(sa.select(pool).where(free).order_by(pool.c.created_at, pool.c.name))
            return [
                Member(row.name, row.pattern, row.created_at, row.ready_at is not None, row.claimed_by is not None)
                for row in rows
            ]

    async def add(self, name: str, claude_session_id: str, pattern: str) -> None:
        """It is about to be started."""
        values: dict[str, Any] = {
            "name": name,
            "pattern": pattern,
            "claude_session_id": claude_session_id,
            "created_at": self._clock(),
        }
        async with self._db.transaction() as connection:
            await connection.execute(sa.insert(pool).values(values))

    async def ready(self, name: str) -> bool:
        """From now on it can be handed out. False: somebody has removed it meanwhile."""
        statement = sa.update(pool).where(pool.c.name == name, pool.c.claimed_by.is_(None))
        async with self._db.transaction() as connection:
            done = await connection.execute(statement.values(ready_at=self._clock()).returning(pool.c.name))
            return done.one_or_none() is not None

    async def take_out(self, name: str) -> bool:
        """It is not handed out any more. False: a session has it."""
        statement = (
            sa.update(pool)
            .where(pool.c.name == name, sa.or_(pool.c.claimed_by.is_(None), pool.c.claimed_by == _NOBODY))
            .values(claimed_by=_NOBODY)
            .returning(pool.c.name)
        )
        async with self._db.transaction() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def forget(self, name: str) -> None:
        """It is removed, container and volume."""
        async with self._db.transaction() as connection:
            await connection.execute(sa.delete(pool).where(pool.c.name == name, pool.c.claimed_by == _NOBODY))

    async def taken(self, within: timedelta) -> Sequence[datetime]:
        """When sessions took one, in that time; what is older is forgotten."""
        since = self._clock() - within
        theirs = sa.and_(pool.c.claimed_by.is_not(None), pool.c.claimed_by != _NOBODY)
        async with self._db.transaction() as connection:
            await connection.execute(sa.delete(pool).where(theirs, pool.c.claimed_at < since))
            rows = await connection.execute(sa.select(pool.c.claimed_at).where(theirs))
            return [row.claimed_at for row in rows]
