"""The table of Vault tokens that sessions have: by their accessors, which can end a token and read nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from sessions.db import Database
from sessions.tables import Moment, metadata, sessions
from sessions.types import SessionState
from worklets.secretstokens import Issued

vault_tokens = sa.Table(
    "vault_tokens",
    metadata,
    sa.Column("accessor", sa.Text, primary_key=True),
    # No foreign key: the token of a session that is gone still has to be revoked.
    sa.Column("session_id", sa.Text, nullable=False, index=True),
    sa.Column("expires_at", Moment, nullable=False),
)
_AWAKE = sa.select(sessions.c.id).where(
    sessions.c.id == vault_tokens.c.session_id,
    sessions.c.status.not_in([SessionState.NEW.value, SessionState.ASLEEP.value]),
)


class VaultTokens:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, issued: Issued) -> None:
        values = {"accessor": issued.accessor, "session_id": issued.session_id, "expires_at": issued.expires_at}
        async with self._db.transaction() as connection:
            await connection.execute(sa.insert(vault_tokens).values(**values))

    async def renewed(self, accessor: str, expires_at: datetime) -> None:
        """It lasts until then."""
        statement = sa.update(vault_tokens).where(vault_tokens.c.accessor == accessor).values(expires_at=expires_at)
        async with self._db.transaction() as connection:
            await connection.execute(statement)

    async def of(self, session_id: str) -> list[str]:
        """The accessors of a session's tokens."""
        query = sa.select(vault_tokens.c.accessor).where(vault_tokens.c.session_id == session_id)
        async with self._db.read() as connection:
            return [str(row.accessor) for row in await connection.execute(query)]

    async def remove(self, accessor: str) -> None:
        """Idempotent."""
        async with self._db.transaction() as connection:
            await connection.execute(sa.delete(vault_tokens).where(vault_tokens.c.accessor == accessor))

    async def due(self, now: datetime, until: datetime) -> list[Issued]:
        """Those of sessions that are awake, that end between the two; a hundred at most."""
        ends = vault_tokens.c.expires_at
        query = sa.select(vault_tokens).where(_AWAKE.exists(), ends > now, ends <= until).order_by(ends).limit(100)
        async with self._db.read() as connection:
            return [_issued(row) for row in await connection.execute(query)]

    async def useless(self, now: datetime) -> list[Issued]:
        """Those of sessions that sleep, never ran or are gone, and those that have ended; a hundred at most."""
        over = sa.or_(~_AWAKE.exists(), vault_tokens.c.expires_at <= now)
        query = sa.select(vault_tokens).where(over).order_by(vault_tokens.c.expires_at).limit(100)
        async with self._db.read() as connection:
            return [_issued(row) for row in await connection.execute(query)]


def _issued(row: sa.Row[Any]) -> Issued:
    return Issued(row.accessor, row.session_id, row.expires_at)
