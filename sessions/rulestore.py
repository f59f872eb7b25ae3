"""The table of permission rules that people set for a session, a channel or a workspace, and the queries on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import sqlalchemy as sa

from config.text import well_formed
from sessions.db import Connection, Database
from sessions.tables import Moment, metadata

rules = sa.Table(
    "rules",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),  # workspace | channel | session
    sa.Column("scope_id", sa.Text, nullable=False),  # team | team/channel | session id
    sa.Column("behavior", sa.Text, nullable=False),  # allow | ask | deny
    sa.Column("rule", sa.Text, nullable=False),  # in Claude Code's syntax
    sa.Column("server", sa.Text, nullable=False, default="", server_default=""),  # see StoredRule
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.UniqueConstraint("scope", "scope_id", "behavior", "rule", "server", name="uq_rules_rule"),
)

Behavior: TypeAlias = Literal["allow", "ask", "deny"]
RuleScope: TypeAlias = Literal["workspace", "channel", "session"]


@dataclass(frozen=True, slots=True)
class StoredRule:
    """`scope_id`: a team, "team/channel" or a session's id.

    `server`: the identity of the MCP server that the rule is about (worklets/mcpidentity.py). "": it is about none, or
    was stored when only a server's name was.
    """

    id: str
    scope: RuleScope
    scope_id: str
    behavior: Behavior
    rule: str
    by: str
    at: datetime
    server: str = ""


class RuleStore:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, scope: RuleScope, scope_id: str, behavior: Behavior, rule: str, by: str, now: datetime) -> None:
        """Idempotent."""
        async with self._db.transaction() as connection:
            await self.add_within(connection, scope, scope_id, behavior, rule, by, now)

    async def add_within(
        self,
        connection: Connection,
        scope: str,
        scope_id: str,
        behavior: Behavior,
        rule: str,
        by: str,
        now: datetime,
        server: str = "",
    ) -> None:
        """As `add`, in a transaction that does more. `server`: see `StoredRule`."""
        values = {"id": str(uuid4()), "scope": scope, "scope_id": scope_id, "behavior": behavior}
        values |= {"rule": well_formed(rule), "by": by, "server": server}
        await connection.execute(self._db.insert(rules).on_conflict_do_nothing(), values | {"at": now})

    async def of(self, scopes: Sequence[tuple[RuleScope, str]]) -> list[StoredRule]:
        """Those of each (scope, scope id), the oldest first."""
        where = sa.or_(sa.false(), *(sa.and_(rules.c.scope == one, rules.c.scope_id == id_) for one, id_ in scopes))
        async with self._db.read() as connection:
            found = (await connection.execute(sa.select(rules).where(where).order_by(rules.c.at, rules.c.rule))).all()
        return [_stored(row) for row in found]

    async def get(self, rule_id: str) -> StoredRule | None:
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(rules).where(rules.c.id == rule_id))).one_or_none()
        return _stored(row) if row is not None else None

    async def remove(self, rule_id: str) -> StoredRule | None:
        """The rule that was; None: there is no such rule."""
        async with self._db.transaction() as connection:
            statement = sa.delete(rules).where(rules.c.id == rule_id).returning(*rules.c)
            row = (await connection.execute(statement)).one_or_none()
        return _stored(row) if row is not None else None


def channel_scope(team: str, channel: str) -> str:
    """The `scope_id` of a channel's rules."""
    return f"{team}/{channel}"


def _stored(row: sa.Row[Any]) -> StoredRule:
    return StoredRule(row.id, row.scope, row.scope_id, row.behavior, row.rule, row.by, row.at, row.server)
