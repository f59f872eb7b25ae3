"""At most one process runs a session: leases with a fencing number.

The database's clock decides, never a process's own. `fence` grows with each acquisition; every write of the runner
repeats it, and the relay in the worklet refuses lower ones, so a stalled former runner can do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from sessions.db import Database
from sessions.errors import LeaseLost
from sessions.tables import session_of, sessions
from sessions.types import Session, SessionId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lease:
    session_id: SessionId
    owner: str
    fence: int

    def held(self, row: T | None) -> T:
        """The row that a fenced statement returned. Raises LeaseLost when there is none."""
        if row is None:
            raise LeaseLost
        return row


def mine(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition of a fenced write."""
    return (
        sessions.c.id == lease.session_id,
        sessions.c.lease_owner == lease.owner,
        sessions.c.fence == lease.fence,
    )


class Leases:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._now = db.now

    def free(self) -> sa.ColumnElement[bool]:
        """Nobody holds the session.

        With an exclusive database a lease in the table is one of a dead process, or of this one's housekeeping; that
        one runs out too, should it never be given back.
        """
        run_out = sessions.c.lease_until < self._now
        if self._db.exclusive:
            return sa.or_(sessions.c.lease_owner.is_distinct_from(self._db.housekeeper), run_out)
        return sa.or_(sessions.c.lease_owner.is_(None), run_out)

    def holder(self) -> sa.ColumnElement[str | None]:
        """Who holds the session now, in a query of sessions."""
        if self._db.exclusive:
            return sa.literal(None, sa.Text)
        return sa.case((sessions.c.lease_until >= self._now, sessions.c.lease_owner), else_=None)

    async def acquire(self, session_id: SessionId, owner: str, ttl: float) -> tuple[Lease, Session] | None:
        """None while another owner's lease lasts. `ttl` in seconds."""
        statement = (
            sa.update(sessions)
            .where(sessions.c.id == session_id, sa.or_(self.free(), sessions.c.lease_owner == owner))
            .values(lease_owner=owner, lease_until=self._now + ttl, fence=sessions.c.fence + 1)
            .returning(*sessions.c)
        )
        async with self._db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return (Lease(session_id, owner, row.fence), session_of(row)) if row else None

    async def renew(self, owner: str, held: Collection[SessionId], ttl: float) -> set[SessionId]:
        """Prolongs the leases of `owner` on sessions of `held` that have not run out; the sessions that it still holds.

        A lease that is in the table alone, since giving it back failed, runs out.
        """
        statement = (
            sa.update(sessions)
            .where(sessions.c.lease_owner == owner, sessions.c.lease_until > self._now, sessions.c.id.in_(held))
            .values(lease_until=self._now + ttl)
            .returning(sessions.c.id)
        )
        async with self._db.transaction() as connection:
            return {SessionId(row[0]) for row in await connection.execute(statement)}

    async def release(self, leases: Iterable[Lease]) -> None:
        """Gives leases back; those that are lost already stay as they are."""
        async with self._db.transaction() as connection:
            for lease in leases:
                await connection.execute(
                    sa.update(sessions).where(*mine(lease)).values(lease_owner=None, lease_until=None)
                )
