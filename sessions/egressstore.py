"""The table of hosts that people let worklets of a session or a channel reach, or not; and the queries on it.

What was allowed once stands in the ask itself, and counts until its turn has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import sqlalchemy as sa

from sessions.asks import Ask, Decision
from sessions.db import Connection, Database
from sessions.leases import Leases
from sessions.rulestore import channel_scope
from sessions.tables import Moment, metadata, sessions, turns
from sessions.types import SessionId
from worklets.egressgrants import Place

GrantScope: TypeAlias = Literal["session", "channel"]

egress_grants = sa.Table(
    "egress_grants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),  # channel | session
    sa.Column("scope_id", sa.Text, nullable=False),  # team/channel | session id
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("behavior", sa.Text, nullable=False),  # allow | deny
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.UniqueConstraint("scope", "scope_id", "host", "port", name="uq_egress_grants_place"),
)


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """`scope_id`: "team/channel" or a session's id."""

    id: str
    scope: GrantScope
    scope_id: str
    place: Place
    allowed: bool
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Working:
    """A session with its worklet. `works`: Claude has begun with a turn, and not ended. `held`: a process runs it."""

    worklet: str
    session_id: SessionId
    works: bool
    held: bool


class EgressStore:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_session(self, session_id: SessionId) -> list[StoredGrant]:
        """Its own and its channel's, the oldest first."""
        async with self._db.read() as connection:
            return await _of_session(connection, session_id)

    async def of_channel(self, team: str, channel: str) -> list[StoredGrant]:
        """Those that hold in all of the channel, the oldest first."""
        async with self._db.read() as connection:
            return await _of(connection, [("channel", channel_scope(team, channel))])

    async def working(self, worklets: Sequence[str]) -> list[Working]:
        """The sessions of these worklets. With an exclusive database none is held."""
        table, open_ = sessions.c, sa.and_(turns.c.started_at.is_not(None), turns.c.ended_at.is_(None))
        works = sa.exists().where(turns.c.session_id == table.id, open_)
        holder = Leases(self._db).holder()
        query = sa.select(table.worklet, table.id, works.label("works"), holder.label("holder"))
        async with self._db.read() as connection:
            rows = await connection.execute(query.where(table.worklet.in_(worklets)))
            return [Working(row.worklet, SessionId(row.id), row.works, row.holder is not None) for row in rows]

    async def stamp(self) -> str:
        """Another one when something was granted or taken back since, whatever the clock says of whoever did it."""
        table = egress_grants.c
        query = sa.select(table.id, table.behavior, table.at).order_by(table.id)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        return sha256("\n".join(f"{row.id} {row.behavior} {row.at}" for row in rows).encode()).hexdigest()

    async def get(self, grant_id: str) -> StoredGrant | None:
        async with self._db.read() as connection:
            query = sa.select(egress_grants).where(egress_grants.c.id == grant_id)
            row = (await connection.execute(query)).one_or_none()
        return _stored(row) if row is not None else None

    async def remove(self, grant_id: str) -> StoredGrant | None:
        """The one that was; None: there is no such one."""
        async with self._db.transaction(fast=True) as connection:
            statement = sa.delete(egress_grants).where(egress_grants.c.id == grant_id).returning(*egress_grants.c)
            row = (await connection.execute(statement)).one_or_none()
        return _stored(row) if row is not None else None


async def decide_within(
    db: Database, connection: Connection, ask: Ask, decision: Decision, by: str, now: datetime
) -> None:
    """Stores what was decided of an ask for a host, in the transaction that decides it. A no holds for the session."""
    scope, scope_id = ("session", str(ask.session_id))
    allowed = decision.behavior == "allow"
    if allowed and decision.scope == "once":
        return
    if allowed and decision.scope == "channel":
        where = sessions.c.id == ask.session_id
        thread = (await connection.execute(sa.select(sessions.c.team, sessions.c.channel).where(where))).one()
        scope, scope_id = "channel", channel_scope(thread.team, thread.channel)
    host, port = asked_place(ask)
    values = {"id": str(uuid4()), "scope": scope, "scope_id": scope_id, "host": host, "port": port}
    values |= {"behavior": "allow" if allowed else "deny", "by": by, "at": now}
    statement = db.insert(egress_grants)
    changed = {name: statement.excluded[name] for name in ("behavior", "by", "at")}
    keys = ["scope", "scope_id", "host", "port"]
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), values)


def asked_place(ask: Ask) -> Place:
    """The host and port that an ask of the kind EGRESS is about."""
    return str(ask.input["host"]), int(ask.input["port"])


async def _of_session(connection: Connection, session_id: SessionId) -> list[StoredGrant]:
    where = sessions.c.id == session_id
    thread = (await connection.execute(sa.select(sessions.c.team, sessions.c.channel).where(where))).one_or_none()
    scopes = [("session", str(session_id))]
    if thread is not None:
        scopes.append(("channel", channel_scope(thread.team, thread.channel)))
    return await _of(connection, scopes)


async def _of(connection: Connection, scopes: Sequence[tuple[str, str]]) -> list[StoredGrant]:
    table = egress_grants.c
    where = sa.or_(*(sa.and_(table.scope == scope, table.scope_id == id_) for scope, id_ in scopes))
    query = sa.select(egress_grants).where(where).order_by(table.at, table.host, table.port)
    return [_stored(row) for row in await connection.execute(query)]


def _stored(row: sa.Row[Any]) -> StoredGrant:
    return StoredGrant(row.id, row.scope, row.scope_id, (row.host, row.port), row.behavior == "allow", row.by, row.at)
