"""What people say in a thread without asking anything of Claude: kept, and given to it with the next turn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from config.text import well_formed
from sessions.db import Database
from sessions.edits import NOT_GIVEN, one_by_one
from sessions.leases import Lease, mine
from sessions.tables import amendments, asides, session_of, sessions
from sessions.types import Aside, ThreadId, Turn

_MOST = 200  # given with one turn: the newest


class Asides:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, said: Sequence[Aside], now: datetime) -> None:
        """Keeps those of threads that have a session, each once, and none whose message was deleted before it came."""
        async with self._db.transaction(fast=True) as connection:
            for aside in sorted(
                said, key=lambda one: one.source_id
            ):  # in one order: two who add must not block each other
                thread = aside.thread
                source = {"team": thread.team, "channel": thread.channel, "source_id": aside.source_id}
                await one_by_one(self._db, connection, *source.values())
                session = sa.select(sessions.c.id).where(
                    sessions.c.team == thread.team,
                    sessions.c.channel == thread.channel,
                    sessions.c.thread_ts == thread.thread_ts,
                )
                known = sa.select(amendments.c.text).where(*(amendments.c[name] == source[name] for name in source))
                found = (await connection.execute(session)).one_or_none()
                edited = (await connection.execute(known)).one_or_none()
                if found is None or (edited is not None and edited.text is None):
                    continue
                values = source | {
                    "session_id": found.id,
                    "ts": aside.ts,
                    "user_id": aside.user_id,
                    "author": well_formed(aside.author),
                    "text": edited.text if edited is not None else well_formed(aside.text),
                    "created_at": now,
                }
                await connection.execute(self._db.insert(asides).on_conflict_do_nothing(), values)

    async def claim(self, lease: Lease, turn: Turn) -> list[Aside]:
        """What is to be given with this turn, in order: what was said before it and Claude has not been given yet.

        Asked again it is the same. Raises LeaseLost.
        """
        async with self._db.transaction() as connection:
            held = (await connection.execute(sa.select(sessions).where(*mine(lease)))).one_or_none()
            thread = session_of(lease.held(held)).thread
            free = sa.and_(asides.c.session_id == turn.session_id, NOT_GIVEN, asides.c.ts < turn.ts)
            await connection.execute(sa.update(asides).where(free).values(turn_id=turn.id))
            query = sa.select(asides).where(asides.c.turn_id == turn.id).order_by(asides.c.ts.desc()).limit(_MOST)
            rows = (await connection.execute(query)).all()
        return [Aside(thread, row.source_id, row.ts, row.user_id, row.author, row.text) for row in reversed(rows)]

    async def newest(self, thread: ThreadId) -> str | None:
        """The ts of the last thing said aside in the thread."""
        query = (
            sa.select(sa.func.max(asides.c.ts))
            .join(sessions, sessions.c.id == asides.c.session_id)
            .where(
                sessions.c.team == thread.team,
                sessions.c.channel == thread.channel,
                sessions.c.thread_ts == thread.thread_ts,
            )
        )
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()
