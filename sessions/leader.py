"""What only one of several processes may do: a lease for the leader, and a claim for each firing of its jobs.

The lease keeps the others from trying; the claim makes it safe: a leader that was stopped for longer than its lease,
and goes on, finds its firing taken. With SQLite there is only one process.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from sessions.db import Database
from sessions.tables import firings, leaders

_NAME = "flow"


class Leader:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, owner: str, *, seconds: float = 75.0) -> None:
        """`owner` names this process. Who was silent for `seconds` leads no more."""
        self.owner = owner
        self._db = db
        self._seconds = seconds

    async def turn(self, job: str, every: float) -> bool:
        """It is for this process to do the job now. Once in `every` seconds, by the database's clock, some process is.

        With SQLite whoever rings says when.
        """
        if self._db.exclusive:
            return True
        now = await self.lead()
        return now is not None and await self.claim(job, datetime.fromtimestamp(now - now % every, UTC))

    async def lead(self) -> float | None:
        """Takes or keeps the lead; the database's time, in seconds since 1970. None: another process leads."""
        until = self._db.now + self._seconds
        statement = (
            self._db.insert(leaders)
            .values(name=_NAME, owner=self.owner, until=until)
            .on_conflict_do_update(
                index_elements=[leaders.c.name],
                set_={"owner": self.owner, "until": until},
                where=sa.or_(leaders.c.owner == self.owner, leaders.c.until < self._db.now),
            )
            .returning(leaders.c.until)
        )
        async with self._db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return float(row.until) - self._seconds if row else None

    async def resign(self) -> None:
        """Another process need not wait."""
        async with self._db.transaction() as connection:
            await connection.execute(sa.delete(leaders).where(leaders.c.owner == self.owner))

    async def claim(self, job: str, due_at: datetime) -> bool:
        """This firing is ours. False: another process has, or had, it."""
        statement = self._db.insert(firings).values(job=job, due_at=due_at, owner=self.owner)
        async with self._db.transaction() as connection:
            claimed = await connection.execute(statement.on_conflict_do_nothing().returning(firings.c.job))
            return claimed.one_or_none() is not None
