"""What agents said: append-only events per session and turn, read from a cursor.

Passing events (previews) are not kept: the relay's journal gives them again from the session's stored position.
So that position never lies beyond an uncommitted preview, while events beyond it may be stored already (a background
tool that ends in mid-preview); `stored_until` tells which, so that they are not taken twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from config.text import well_formed
from sessions import costs, tooluse
from sessions.db import Database
from sessions.leases import Lease, mine
from sessions.store import Clock, utcnow
from sessions.tables import events as events_table
from sessions.tables import session_of, sessions
from sessions.types import Session, SessionId, TurnId
from worklets.events import AgentEvent, AgentReady, Position, TurnEnded, dump, load
from worklets.permissions import Permissions

REMARKS = "remarks-"  # before a turn's id: the epoch of what Flow itself said in it


@dataclass(frozen=True, slots=True)
class Entry:
    """`cursor` grows within a session. `turn_id` None: the agent spoke unasked, between turns. `epoch`: its process."""

    cursor: int
    turn_id: TurnId | None
    event: AgentEvent
    created_at: datetime
    epoch: str


class Transcript:
    def __init__(self, db: Database, clock: Clock = utcnow) -> None:
        self._db = db
        self._clock = clock

    async def append(
        self,
        lease: Lease,
        events: Sequence[tuple[TurnId | None, AgentEvent]],
        *,
        at: Position,
        position: Position | None,
        permissions: Permissions | None = None,
    ) -> Session:
        """Stores what came from `at` in the journal, and the position to attach at (None: as before); one transaction.

        What it says of money goes into the account (sessions/costs.py), calls of tools into the audit
        (sessions/tooluse.py), for which `permissions` are those that the process has. AgentReady also tells which
        conversation to resume. Harmless when repeated. Raises LeaseLost, StoreUnavailable.
        """
        now = self._clock()
        rows = [
            {
                "session_id": lease.session_id,
                "turn_id": turn_id,
                "epoch": at.epoch,
                "seq": at.seq,
                "part": part,
                "body": well_formed(json.dumps(dump(event), ensure_ascii=False, separators=(",", ":"))),
                "created_at": now,
            }
            for part, (turn_id, event) in enumerate(events)
        ]
        columns: dict[str, Any] = {"updated_at": now}
        if position is not None:
            columns |= {"epoch": position.epoch, "seq": position.seq}
        for _, event in events:
            if isinstance(event, AgentReady):
                columns |= {"claude_session_id": event.claude_session_id, "has_history": True}
        async with self._db.transaction() as connection:
            statement = sa.update(sessions).where(*mine(lease)).values(**columns).returning(*sessions.c)
            session = session_of(lease.held((await connection.execute(statement)).one_or_none()))
            # Rows beside the statement, not in it: so SQLAlchemy compiles it once, whatever their number.
            await connection.execute(self._db.insert(events_table).on_conflict_do_nothing(), rows)
            await costs.record(self._db, connection, session, at, events, now)
            await tooluse.record(self._db, connection, session, at, events, permissions or Permissions(), now)
        return session

    async def read(
        self, session_id: SessionId, *, turn_id: TurnId | None = None, after: int = 0, limit: int = 1000
    ) -> list[Entry]:
        """At most `limit` entries after the cursor, of the session or of one of its turns."""
        table = events_table
        query = sa.select(table).where(table.c.session_id == session_id, table.c.id > after)
        if turn_id is not None:
            query = query.where(table.c.turn_id == turn_id)
        async with self._db.read() as connection:
            found = (await connection.execute(query.order_by(table.c.id).limit(limit))).all()
        return [_entry(row) for row in found]

    async def stored_until(self, session_id: SessionId, epoch: str) -> int:
        """The highest stored number of that journal; 0 for none."""
        here = sa.and_(events_table.c.session_id == session_id, events_table.c.epoch == epoch)
        async with self._db.read() as connection:
            return int((await connection.execute(sa.select(sa.func.max(events_table.c.seq)).where(here))).scalar() or 0)

    async def ended(self, turn_id: TurnId) -> TurnEnded | None:
        """The turn's end, if the transcript has it; Flow's own remarks may follow it."""
        said = events_table.c.turn_id == turn_id, events_table.c.epoch != f"{REMARKS}{turn_id}"
        query = sa.select(events_table).where(*said).order_by(events_table.c.id.desc()).limit(1)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        event = _entry(row).event if row else None
        return event if isinstance(event, TurnEnded) else None


def _entry(row: sa.Row[Any]) -> Entry:
    turn_id = TurnId(row.turn_id) if row.turn_id else None
    return Entry(row.id, turn_id, load(json.loads(row.body)), row.created_at, row.epoch)
