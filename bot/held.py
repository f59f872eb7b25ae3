"""What came in from people of whom it was not known yet whether they may: kept until it is. Survives a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from config.text import well_formed
from sessions.db import Database
from sessions.tables import Moment, metadata

held = sa.Table(
    "held",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),  # "" for none
    sa.Column("thread_ts", sa.Text, nullable=False),  # "" for none
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON, as Slack sent it
    sa.Column("at", Moment, nullable=False),
    sa.Column("behind", sa.Text, nullable=False),  # user id: whose things go one after the other, this among them
    sa.Index("ix_held_behind", "behind", "at"),
)

#: A message's event; a command; anything that is pressed, submitted or reacted with.
Kind: TypeAlias = Literal["message", "command", "press"]


@dataclass(frozen=True, slots=True)
class Held:
    id: str
    user_id: str
    channel: str | None
    kind: Kind
    body: dict[str, Any]
    at: datetime
    thread_ts: str | None = None
    behind: str = ""  # user id: who wrote first in a thread that is yet to get its session; else the person


class HeldStore:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, one: Held) -> None:
        """Slack waits for it. The same one again changes nothing."""
        values: Mapping[str, Any] = {
            "id": one.id,
            "user_id": one.user_id,
            "channel": one.channel or "",
            "thread_ts": one.thread_ts or "",
            "kind": one.kind,
            "body": well_formed(json.dumps(one.body, ensure_ascii=False)),
            "at": one.at,
            "behind": one.behind or one.user_id,
        }
        async with self._database.transaction(fast=True) as connection:
            await connection.execute(self._database.insert(held).on_conflict_do_nothing(), values)

    async def behind(self, user_id: str) -> list[Held]:
        """What goes with a person's, in the order in which it came."""
        query = sa.select(held).where(held.c.behind == user_id).order_by(held.c.at, held.c.id)
        async with self._database.read() as connection:
            return [_held(row) for row in await connection.execute(query)]

    async def people(self) -> list[str]:
        """Whose things are kept, whoever waits longest first."""
        query = sa.select(held.c.behind).group_by(held.c.behind).order_by(sa.func.min(held.c.at))
        async with self._database.read() as connection:
            return [str(row.behind) for row in await connection.execute(query)]

    async def first_in(self, channel: str, thread_ts: str) -> str | None:
        """Behind whom what belongs to that thread waits; None: nothing of it does."""
        of_thread = sa.select(held.c.behind).where(held.c.channel == channel, held.c.thread_ts == thread_ts)
        async with self._database.read() as connection:
            return (await connection.execute(of_thread.order_by(held.c.at, held.c.id).limit(1))).scalar_one_or_none()

    async def drop(self, id_: str) -> bool:
        """False: another process was quicker."""
        async with self._database.transaction() as connection:
            dropped = await connection.execute(sa.delete(held).where(held.c.id == id_).returning(held.c.id))
            return dropped.first() is not None


def _held(row: sa.Row[Any]) -> Held:
    channel, thread_ts = row.channel or None, row.thread_ts or None
    return Held(row.id, row.user_id, channel, row.kind, json.loads(row.body), row.at, thread_ts, row.behind)
