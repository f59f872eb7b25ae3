"""What people and rules decided, as it is read: the rows of the audit, which `askstore.py` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from sessions.askstore import audit
from sessions.db import Database
from sessions.tables import Moment
from sessions.types import SessionId


@dataclass(frozen=True, slots=True)
class Decided:
    """`behavior`: allow, deny, expired, withdrawn. `by`: a user id; None: no person decided.

    `rules`: those that a person's yes added, or, where nobody was asked, by which it went ahead. `input`: JSON.
    """

    at: datetime
    session_id: str
    turn_id: str
    kind: str
    tool: str
    behavior: str
    scope: str | None
    by: str | None
    rules: tuple[str, ...]
    message: str
    input: str


async def decisions(
    db: Database, *, session_id: SessionId | None = None, since: datetime | None = None, limit: int = 1000
) -> list[Decided]:
    """The newest `limit`, the oldest of them first. Raises StoreUnavailable."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if session_id is not None:
        query = query.where(audit.c.session_id == session_id)
    if since is not None:
        query = query.where(audit.c.at >= sa.bindparam("since", since, Moment()))
    async with db.read() as connection:
        found = (await connection.execute(query)).all()
    return [
        Decided(
            row.at, row.session_id, row.turn_id, row.kind, row.tool, row.behavior, row.scope, row.by,
            tuple(json.loads(row.rule)) if row.rule else (), row.message or "", row.input,
        )
        for row in reversed(found)
    ]  # fmt: skip
