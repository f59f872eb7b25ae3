"""How long turns have worked: the table `worked`. Kept where time is limited only; the time of people is not in it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from sessions.db import Database
from sessions.tables import metadata
from sessions.types import SessionId, TurnId

worked = sa.Table(
    "worked",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Index("ix_worked_session", "session_id"),
)


@dataclass(frozen=True, slots=True)
class Worked:
    """Seconds: of one turn, and of all others of its session."""

    turn: float
    others: float


class WorkTimes:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of(self, session_id: SessionId, turn_id: TurnId) -> Worked:
        mine = sa.func.sum(sa.case((worked.c.turn_id == turn_id, worked.c.seconds), else_=0.0))
        total = sa.func.sum(worked.c.seconds)
        query = sa.select(mine.label("turn"), total.label("total")).where(worked.c.session_id == session_id)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one()
        return Worked(row.turn or 0.0, (row.total or 0.0) - (row.turn or 0.0))

    async def keep(self, session_id: SessionId, turn_id: TurnId, seconds: float) -> None:
        """In place of what was kept of the turn before."""
        statement = self._db.insert(worked).on_conflict_do_update(
            index_elements=[worked.c.turn_id], set_={"seconds": seconds}
        )
        async with self._db.transaction() as connection:
            await connection.execute(statement, {"turn_id": turn_id, "session_id": session_id, "seconds": seconds})
