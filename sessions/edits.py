"""What people do to messages that wait: edit them, delete them, take them back, put them first.

Slack may tell of an edit before it tells of the message: then the edit is kept, and found when the message comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from config.text import well_formed
from sessions.asks import AskState
from sessions.askstore import asks, close_open
from sessions.db import Connection, Database
from sessions.filestore import attach
from sessions.tables import OPEN, amendments, asides, events, turn_of, turns
from sessions.types import Attached, Prompt, SessionId, Turn, TurnId, TurnState

_LATE = 3600.0  # seconds: an edit of an older message overtakes nothing


@dataclass(frozen=True, slots=True)
class Edited:
    """`text` None: the message was deleted. `files` None: those it had."""

    text: str | None
    edited_ts: str
    files: Sequence[Attached] | None = None


class Edits:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def amend(
        self, team: str, channel: str, source_id: str, edited: Edited, *, by: str | None, now: datetime
    ) -> Turn | None:
        """The waiting turn of that message, as it is now. None: there is none."""
        if edited.text is not None:
            edited = replace(edited, text=well_formed(edited.text))
        async with self._db.transaction(fast=True) as connection:
            await one_by_one(self._db, connection, team, channel, source_id)
            query = sa.select(turns.c.id).where(*_of(turns, team, channel, source_id))
            if (await connection.execute(query)).one_or_none() is not None:
                return await self._amend_turn(connection, (team, channel, source_id), edited, by, now)
            if not await self._amend_aside(connection, (team, channel, source_id), edited):
                await self._remember(connection, (team, channel, source_id), edited, now)
        return None

    async def _amend_turn(
        self, connection: Connection, source: tuple[str, str, str], edited: Edited, by: str | None, now: datetime
    ) -> Turn | None:
        newer = sa.or_(turns.c.edited_ts.is_(None), turns.c.edited_ts < edited.edited_ts)
        statement = sa.update(turns).where(*_of(turns, *source), _WAITS, newer)
        if edited.text is None:
            statement = statement.values(**_taken_back(by, now), edited_ts=edited.edited_ts)
        else:
            statement = statement.values(text=edited.text, edited_ts=edited.edited_ts)
        row = (await connection.execute(statement.returning(*turns.c))).one_or_none()
        if row is not None and edited.text is None:
            await close_open(connection, asks.c.turn_id == row.id, AskState.WITHDRAWN, now)
        if row is not None and edited.files is not None:
            await attach(connection, row.id, edited.files)
        return turn_of(row) if row else None

    async def _amend_aside(self, connection: Connection, source: tuple[str, str, str], edited: Edited) -> bool:
        """Of what Claude was not given yet. False: nobody said such a thing."""
        where = _of(asides, *source)
        if (await connection.execute(sa.select(asides.c.source_id).where(*where))).one_or_none() is None:
            return False
        if edited.text is None:
            await connection.execute(sa.delete(asides).where(*where, NOT_GIVEN))
        else:
            statement = sa.update(asides).where(*where, NOT_GIVEN)
            await connection.execute(statement.values(text=edited.text))
        return True

    async def _remember(
        self, connection: Connection, source: tuple[str, str, str], edited: Edited, now: datetime
    ) -> None:
        written = source[2].rpartition(":")[2]
        if float(edited.edited_ts) - float(written) > _LATE:
            return
        where = _of(amendments, *source)
        values = {"text": edited.text, "edited_ts": edited.edited_ts, "created_at": now}
        known = dict(zip(("team", "channel", "source_id"), source, strict=True))
        await connection.execute(self._db.insert(amendments).on_conflict_do_nothing(), known | values)
        newer = amendments.c.edited_ts < edited.edited_ts
        await connection.execute(sa.update(amendments).where(*where, newer).values(**values))

    async def withdraw(self, turn_id: TurnId, by: str, now: datetime) -> Turn | None:
        """None: the turn does not wait."""
        statement = sa.update(turns).where(turns.c.id == turn_id, _WAITS).values(**_taken_back(by, now))
        async with self._db.transaction(fast=True) as connection:
            row = (await connection.execute(statement.returning(*turns.c))).one_or_none()
            if row is not None:
                await close_open(connection, asks.c.turn_id == row.id, AskState.WITHDRAWN, now)
        return turn_of(row) if row else None

    async def hurry(self, turn_id: TurnId) -> Turn | None:
        """None: the turn does not wait."""
        return await self._one(sa.update(turns).where(turns.c.id == turn_id, _WAITS).values(hurried=True))

    async def ask_stop(self, session_id: SessionId, by: str, only: TurnId | None = None) -> Turn | None:
        """Notes for the process that holds the session that its running turn is to end. False: none is open.

        Nor is it where `only` this turn is meant, and another runs.
        """
        first = (
            sa.select(turns.c.id)
            .where(turns.c.session_id == session_id, OPEN)
            .order_by(turns.c.started_at.is_(None), turns.c.hurried.desc(), turns.c.ts, turns.c.created_at)
            .limit(1)
            .scalar_subquery()
        )
        meant = turns.c.id == first if only is None else sa.and_(turns.c.id == first, turns.c.id == only)
        return await self._one(sa.update(turns).where(meant).values(stop_asked=by))

    async def stop_asked(self, turn_id: TurnId) -> str | None:
        """Who asked for the turn's end, of an open one."""
        query = sa.select(turns.c.stop_asked).where(turns.c.id == turn_id, OPEN)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return row.stop_asked if row else None

    async def _one(self, statement: Any) -> Turn | None:
        async with self._db.transaction(fast=True) as connection:
            row = (await connection.execute(statement.returning(*turns.c))).one_or_none()
        return turn_of(row) if row else None


async def overtaken(connection: Connection, prompt: Prompt) -> Edited | None:
    """The edit or deletion of the prompt's message that came before the message."""
    where = _of(amendments, prompt.thread.team, prompt.thread.channel, prompt.source_id)
    query = sa.select(amendments.c.text, amendments.c.edited_ts).where(*where)
    row = (await connection.execute(query)).one_or_none()
    return Edited(row.text, row.edited_ts) if row else None


async def one_by_one(db: Database, connection: Connection, team: str, channel: str, source_id: str) -> None:
    """Until the transaction ends, nobody else stores this message, or an edit of it.

    In PostgreSQL each would not see what the other has not committed yet; SQLite has one writer at a time.
    """
    if not db.sqlite:
        key = sa.func.hashtextextended("/".join((team, channel, source_id)), 0)
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


_UNHEARD = [state.value for state in (TurnState.INTERRUPTED, TurnState.WITHDRAWN, TurnState.FAILED)]

#: Asides that went with no turn, or with one that ended before Claude said anything to it: stopped before it was sent.
NOT_GIVEN = sa.or_(
    asides.c.turn_id.is_(None),
    sa.and_(
        sa.exists().where(turns.c.id == asides.c.turn_id, turns.c.state.in_(_UNHEARD)),
        ~sa.exists().where(events.c.turn_id == asides.c.turn_id),
    ),
)
_WAITS = sa.and_(OPEN, turns.c.started_at.is_(None))


def _taken_back(by: str | None, now: datetime) -> dict[str, Any]:
    return {"state": TurnState.WITHDRAWN.value, "stopped_by": by, "ended_at": now}


def _of(table: sa.Table, team: str, channel: str, source_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.team == team, table.c.channel == channel, table.c.source_id == source_id
