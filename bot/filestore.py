"""What Claude sent with `send_file`, in the database: whoever goes on after a crash knows how far each file came.

A row is claimed by a process for a while, as the session may be another's by then, or nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sessions.db import Database
from sessions.store import Clock, utcnow
from sessions.tables import Moment, metadata
from sessions.types import TurnId
from worklets.files import HandedOver

_OPEN = sa.text("state in ('begun', 'uploaded')")

#: States of a row: begun → uploaded (Slack has the content, nobody sees it) → shared; or failed.
files = sa.Table(
    "files",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tool_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("file_id", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("owner", sa.Text),
    sa.Column("until", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_files_open", "until", sqlite_where=_OPEN, postgresql_where=_OPEN),
)
_CLAIM = timedelta(seconds=20)
RENEWED = 5.0  # seconds after which whoever is about a file says so again


@dataclass(frozen=True, slots=True)
class SentFile:
    """`file_id`: Slack's, once it has the content. `mine`: this process may go on with it."""

    turn_id: TurnId
    tool_id: str
    name: str
    title: str
    comment: str
    file_id: str | None
    state: str
    error: str | None
    created_at: datetime
    mine: bool

    @property
    def settled(self) -> bool:
        return self.state in ("shared", "failed")


class SentFiles:
    """All methods raise StoreUnavailable when the database does not serve. `owner` names this process."""

    def __init__(self, database: Database, owner: str, clock: Clock = utcnow) -> None:
        self._database, self._owner, self._clock = database, owner, clock

    async def claim(self, turn_id: TurnId, tool_id: str, handed: HandedOver | None = None) -> SentFile | None:
        """The file's row, made of `handed` where there is none. None: there is none, and nothing to make it of."""
        now = self._clock()
        async with self._database.transaction() as connection:
            if handed is not None:
                row = {
                    "turn_id": turn_id,
                    "tool_id": tool_id,
                    "name": handed.name,
                    "title": handed.title,
                    "comment": handed.comment,
                    "state": "begun",
                    "created_at": now,
                }
                await connection.execute(self._database.insert(files).on_conflict_do_nothing(), row)
            claim = sa.update(files).where(*_is(turn_id, tool_id), _OPEN, self._free(now))
            values: dict[str, Any] = {"owner": self._owner, "until": now + _CLAIM}
            claimed = (await connection.execute(claim.values(**values).returning(*files.c))).one_or_none()
            found = claimed or (
                await connection.execute(sa.select(files).where(*_is(turn_id, tool_id)))
            ).one_or_none()  # fmt: skip
        return _sent(found, mine=claimed is not None) if found is not None else None

    def _free(self, now: datetime) -> sa.ColumnElement[bool]:
        """Where no other process can be at work on the same database, a claim of another is of one that died."""
        if self._database.exclusive:
            return sa.true()
        return sa.or_(files.c.until.is_(None), files.c.until < now, files.c.owner == self._owner)

    async def renew(self, sent: SentFile) -> None:
        await self._set(sent, until=self._clock() + _CLAIM)

    async def uploaded(self, sent: SentFile, file_id: str) -> bool:
        """Slack has the content; sharing comes next. False: it took so long that another process is, or was, about it.

        That one has put the content there anew, and shares that.
        """
        values: dict[str, Any] = {"file_id": file_id, "state": "uploaded", "until": self._clock() + _CLAIM}
        ours = sa.update(files).where(*_is(sent.turn_id, sent.tool_id), _OPEN, files.c.owner == self._owner)
        async with self._database.transaction() as connection:
            noted = await connection.execute(ours.values(**values).returning(files.c.tool_id))
            return noted.one_or_none() is not None

    async def settle(self, sent: SentFile, error: str | None) -> None:
        """It is in the thread, or never will be."""
        await self._set(sent, state="failed" if error else "shared", error=error, owner=None, until=None)

    async def abandoned(self) -> list[tuple[TurnId, str]]:
        """Files that nobody is about: turn and tool."""
        free = self._free(self._clock())
        query = sa.select(files.c.turn_id, files.c.tool_id).where(_OPEN, free).order_by(files.c.created_at).limit(100)
        async with self._database.read() as connection:
            return [(TurnId(row.turn_id), row.tool_id) for row in (await connection.execute(query)).all()]

    async def _set(self, sent: SentFile, **values: Any) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(files).where(*_is(sent.turn_id, sent.tool_id)).values(**values))


def _is(turn_id: TurnId, tool_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return files.c.turn_id == turn_id, files.c.tool_id == tool_id


def _sent(row: sa.Row[Any], *, mine: bool) -> SentFile:
    return SentFile(
        TurnId(row.turn_id),
        row.tool_id,
        row.name,
        row.title,
        row.comment,
        row.file_id,
        row.state,
        row.error,
        row.created_at,
        mine,
    )
