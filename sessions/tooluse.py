"""A row for every tool that Claude called: who asked, which tool, how much harm it can do, and what let it through.

It goes into the database in the transaction that stores the call's event, and leaves it with the transcript. Of the
input it has a digest: enough to say whether two calls were the same, and nothing to read. What people decided stands in
`asks` and is joined when it is read.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from config.text import well_formed
from sessions.asks import ask_id
from sessions.askstore import asks
from sessions.db import Connection, Database
from sessions.tables import Moment, metadata, turns
from sessions.types import Session, SessionId, TurnId
from worklets.events import AgentEvent, Position, ToolStarted
from worklets.permissions import Permissions
from worklets.toolrisk import RISKS, Risk

_LONGEST = 200  # characters of a tool's name: an MCP server makes up its own

tool_uses = sa.Table(
    "tool_uses",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("turn_id", sa.Text),
    sa.Column("at", Moment, nullable=False),
    sa.Column("ask_id", sa.Text, nullable=False),  # of the ask that there may be about the call
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("risk", sa.Text, nullable=False),
    sa.Column("basis", sa.Text, nullable=False),  # mode | rule: what lets it through where nobody is asked
    sa.Column("digest", sa.Text, nullable=False),  # SHA-256 of the input as JSON, in hexadecimal
    sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_tool_uses_place"),
    sa.Index("ix_tool_uses_session", "session_id", "id"),
    sa.Index("ix_tool_uses_at", "at"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`user_id`: who wrote the turn's message; None: Claude worked unasked.

    `decision`: mode, rule (what let it through), person, answered, denied, waiting, expired, withdrawn. `by`: who
    decided, where a person did. `digest`: of the input, with secrets masked.
    """

    at: datetime
    session_id: str
    turn_id: str | None
    user_id: str | None
    tool: str
    risk: str
    decision: str
    by: str | None
    digest: str


async def record(
    db: Database,
    connection: Connection,
    session: Session,
    at: Position,
    events: Sequence[tuple[TurnId | None, AgentEvent]],
    permissions: Permissions,
    now: datetime,
) -> None:
    """Writes down the calls among these events of one line. Harmless when repeated."""
    rows = [
        {
            "session_id": session.id,
            "epoch": at.epoch,
            "seq": at.seq,
            "part": part,
            "turn_id": turn_id,
            "at": now,
            "ask_id": ask_id(session.id, event.tool_id),
            "tool": well_formed(event.name[:_LONGEST]),
            "risk": permissions.risk(event.name),
            "basis": "rule" if permissions.names(event.name) else "mode",
            "digest": digest(event.input),
        }
        for part, (turn_id, event) in enumerate(events)
        if isinstance(event, ToolStarted)
    ]
    if rows:
        await connection.execute(db.insert(tool_uses).on_conflict_do_nothing(), rows)


def digest(value: dict[str, Any]) -> str:
    """The same for the same input, however its keys are ordered."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(well_formed(text).encode()).hexdigest()


_DECISION = sa.case(
    (asks.c.state.is_(None), tool_uses.c.basis),
    (sa.and_(asks.c.state == "allowed", asks.c.decided_by.is_(None)), "rule"),
    (asks.c.state == "allowed", "person"),
    (asks.c.state == "open", "waiting"),
    else_=asks.c.state,
)


class ToolUses:
    """All methods raise StoreUnavailable."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list(
        self,
        *,
        session_id: SessionId | None = None,
        since: datetime | None = None,
        risks: Sequence[Risk] = RISKS,
        limit: int = 1000,
    ) -> builtins.list[ToolUse]:
        """The newest `limit` calls, the oldest of them first."""
        used = tool_uses.c
        query = (
            sa.select(
                used.at, used.session_id, used.turn_id, turns.c.user_id, used.tool, used.risk,
                _DECISION.label("decision"), asks.c.decided_by.label("by"), used.digest,
            )
            .outerjoin(turns, turns.c.id == used.turn_id)
            .outerjoin(asks, asks.c.id == used.ask_id)
            .where(used.risk.in_(risks))
            .order_by(used.id.desc())
            .limit(limit)
        )  # fmt: skip
        if session_id is not None:
            query = query.where(used.session_id == session_id)
        if since is not None:
            query = query.where(used.at >= sa.bindparam("since", since, Moment()))
        async with self._db.read() as connection:
            found = (await connection.execute(query)).all()
        return [ToolUse(**row._mapping) for row in reversed(found)]  # noqa: SLF001 - SQLAlchemy's API
