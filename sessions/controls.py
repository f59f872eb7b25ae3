"""What people can say about a session without asking Claude anything: its model, a fork of it, feedback."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

import sqlalchemy as sa

from config.text import well_formed
from sessions.db import Database
from sessions.errors import SessionNotFound
from sessions.lookup import Lookup
from sessions.recap import recap
from sessions.tables import Moment, metadata, session_of, sessions, turns
from sessions.templatestore import keep_of
from sessions.transcript import Transcript
from sessions.types import Session, SessionId, SessionState, TurnId
from worklets.events import AgentEvent

#: Names that the CLI resolves to the newest model of each family (CLI 2.1.329, `set_model`).
MODELS = ("opus", "sonnet", "haiku")
MODES = ("auto", "ask", "plan")  # with each next one Claude does less without being let


def at_least(mode: str) -> tuple[str, ...]:
    """The mode and those in which Claude does still less by itself."""
    return MODES[MODES.index(mode) :]


_SUMMARY = 4_000  # characters of what a fork knows should its volume be lost
_NEWEST = 40  # turns that are read for it

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("good", sa.Boolean, nullable=False),
    sa.Column("at", Moment, nullable=False),
)


class Controls:
    """Every method raises StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, lookup: Lookup, transcript: Transcript, clock: Callable[[], datetime]) -> None:
        self._db, self._lookup, self._transcript, self._clock = db, lookup, transcript, clock

    async def configure(self, session_id: SessionId, **columns: str | None) -> Session:
        """Sets `model` or `mode`, whoever runs the session: the process has it before its next prompt.

        Raises SessionNotFound.
        """
        statement = sa.update(sessions).where(sessions.c.id == session_id)
        async with self._db.transaction() as connection:
            changed = statement.values(**columns, updated_at=self._clock()).returning(*sessions.c)
            row = (await connection.execute(changed)).one_or_none()
        if row is None:
            raise SessionNotFound
        return session_of(row)

    async def fork(self, origin: Session, source_id: str, by: str) -> Session:
        """A session without a thread that knows what `origin` knows; the same again for the same `source_id`.

        Its volume is the caller's to copy. What was said is kept in its summary too, for the time when there is no
        volume any more; it is all that there is when the origin has none.
        """
        id_ = str(uuid5(NAMESPACE_URL, f"flow-fork:{origin.thread.team}:{source_id}"))
        now = self._clock()
        values = {
            "id": id_,
            "user_id": by,
            "name": f"Fork: {origin.name}",
            "status": SessionState.ASLEEP.value,
            "repository": origin.repository,
            "branch": origin.branch,
            "startup_script": origin.startup_script,
            "model": origin.model,
            "mode": origin.mode,
            "mode_before": origin.mode_before,
            "template": origin.template,
            "template_name": origin.template_name,
            "created_at": now,
            "updated_at": now,
            "last_activity_at": now,
            "team": origin.thread.team,
            "channel": origin.thread.channel,
            "thread_ts": None,
            "claude_session_id": id_,
            "has_history": origin.has_history,
            "worklet": "s" + id_.replace("-", "")[:16],
            "fence": 0,
            "seq": 0,
            "fork_of": origin.claude_session_id,
            "retired_at": origin.retired_at,
            "summary": well_formed(await self._said(origin)),
        }
        insert = self._db.insert(sessions).on_conflict_do_nothing(index_elements=["id"])
        async with self._db.transaction() as connection:
            await connection.execute(insert, values)
            await keep_of(connection, self._db, id_, origin.id)
            row = (await connection.execute(sa.select(sessions).where(sessions.c.id == id_))).one()
        return session_of(row)

    async def discard(self, session_id: SessionId) -> bool:
        """Forgets a fork that has no thread yet. False: it has one."""
        statement = sa.delete(sessions).where(sessions.c.id == session_id, sessions.c.thread_ts.is_(None))
        async with self._db.transaction() as connection:
            return (await connection.execute(statement.returning(sessions.c.id))).one_or_none() is not None

    async def _said(self, origin: Session) -> str:
        turns = [turn for turn in await self._lookup.turns(origin.id) if turn.state.settled][-_NEWEST:]
        said: dict[TurnId, list[AgentEvent]] = {}
        for turn in turns:
            said[turn.id] = [entry.event for entry in await self._transcript.read(origin.id, turn_id=turn.id)]
        told = recap([turn for turn in turns if said[turn.id]], said, _SUMMARY)
        return "\n\n".join(part for part in (origin.summary, told) if part)[-_SUMMARY:]

    async def rate(self, turn_id: TurnId, user_id: str, good: bool) -> None:
        """One opinion for each person; the latest counts. Raises SessionNotFound."""
        values = {"turn_id": turn_id, "user_id": user_id, "good": good, "at": self._clock()}
        changed = {"good": good, "at": values["at"]}
        insert = self._db.insert(feedback).values(values)
        await self._lookup.turn(turn_id)
        async with self._db.transaction() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=["turn_id", "user_id"], set_=changed))

    async def opinions(self, session_id: SessionId) -> dict[TurnId, tuple[int, int]]:
        """How many liked each of the session's answers, and how many did not; without those of nobody."""
        liked = sa.func.sum(sa.case((feedback.c.good, 1), else_=0)).label("liked")
        query = sa.select(feedback.c.turn_id, liked, sa.func.count().label("all"))
        query = query.join(turns, turns.c.id == feedback.c.turn_id).where(turns.c.session_id == session_id)
        async with self._db.read() as connection:
            rows = (await connection.execute(query.group_by(feedback.c.turn_id))).all()
        return {TurnId(row.turn_id): (int(row.liked), int(row.all) - int(row.liked)) for row in rows}

    async def ratings(self, turn_id: TurnId) -> dict[str, bool]:
        """Who thought what of the turn's answer."""
        query = sa.select(feedback.c.user_id, feedback.c.good).where(feedback.c.turn_id == turn_id)
        async with self._db.read() as connection:
            return {row.user_id: row.good for row in await connection.execute(query)}
