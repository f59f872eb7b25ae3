"""What people set for themselves, a channel or a thread: the table `options`, kept in memory.

`get` and `level` never wait, so observers and listeners may call them. What another process sets is seen within
REFRESH seconds; what this one sets, at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import sqlalchemy as sa

from config.logging import get_logger
from sessions.db import Database
from sessions.errors import StoreUnavailable
from sessions.store import Clock, utcnow
from sessions.tables import Moment, metadata
from sessions.types import Session, SessionId

log = get_logger(__name__)

REFRESH = 10.0  # seconds
_OVERLAP = timedelta(minutes=5)  # other processes' clocks, and their transactions that take long
_EVER = datetime(2000, 1, 1, tzinfo=UTC)

Scope: TypeAlias = Literal["session", "channel", "user", "workspace"]

#: The row of a setting that was taken back stays, with the value null: other processes have to see it.
options = sa.Table(
    "options",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("scope_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON
    sa.Column("by", sa.Text, nullable=False),  # user id
    sa.Column("at", Moment, nullable=False),
    sa.Index("ix_options_at", "at"),
)


class Level(StrEnum):
    """How much of Claude's work a thread shows. Stored with each turn, so that it stays what it was at first."""

    QUIET = "quiet"  # how it goes, then the answer
    NORMAL = "normal"  # a line for each tool
    VERBOSE = "verbose"  # thinking, more of what tools print, and what sub-agents do


class Options:
    """An async context manager: read on entering, and again every REFRESH seconds beside other processes.

    `defaults`: what the settings say, by name.
    """

    def __init__(self, database: Database, defaults: Mapping[str, Any] | None = None, clock: Clock = utcnow) -> None:
        self._database = database
        self._defaults = dict(defaults or {})
        self._clock = clock
        self._values: dict[tuple[str, str, str], Any] = {}
        self._newest = _EVER
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises StoreUnavailable."""
        await self.refresh()
        if not self._database.exclusive:
            self._refreshing = asyncio.create_task(self._refresh_for_ever(), name="options")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    # ---- read ----

    def get(
        self, name: str, *, session: SessionId | None = None, channel: str | None = None, user: str | None = None
    ) -> Any:
        """The value of the narrowest scope that has one: session, channel, user, workspace, the default (or None)."""
        for scope, scope_id in (("session", session), ("channel", channel), ("user", user), ("workspace", "")):
            if scope_id is not None and (value := self._values.get((scope, scope_id, name))) is not None:
                return value
        return self._defaults.get(name)

    def own(self, user: str, name: str) -> Any:
        """What a person has set for themselves; None: nothing."""
        return self._values.get(("user", user, name))

    def level(self, session: Session, user: str | None = None) -> Level:
        """`user`: who asks, if not who began the session."""
        value = self.get("level", session=session.id, channel=session.thread.channel, user=user or session.user_id)
        return Level(value) if value in list(Level) else Level.NORMAL

    def mention(self, session: Session, user: str) -> bool:
        """Whether this person is to be told by a mention when a turn has ended."""
        return bool(self.get("mention", session=session.id, channel=session.thread.channel, user=user))

    # ---- change ----

    async def set(self, scope: Scope, key_id: str, name: str, value: Any, by: str) -> None:
        """`value` is anything JSON has; None takes it back. `key_id` of the workspace is of no matter.

        Fast: Slack may be waiting. Raises StoreUnavailable.
        """
        key_id = "" if scope == "workspace" else key_id
        row = {
            "scope": scope, "scope_id": key_id, "name": name, "value": json.dumps(value), "by": by, "at": self._clock(),
        }  # fmt: skip
        statement = self._database.insert(options)
        changed = {column: statement.excluded[column] for column in ("value", "by", "at")}
        keys = ["scope", "scope_id", "name"]
        async with self._database.transaction(fast=True) as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), row)
        self._values[scope, key_id, name] = value
        log.info("an option was set", scope=scope, of=key_id, name=name, value=value, by=by)

    # ---- other processes ----

    async def refresh(self) -> None:
        """Reads what has changed since the last time. Raises StoreUnavailable."""
        query = sa.select(options).where(options.c.at >= self._newest - _OVERLAP).order_by(options.c.at)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        for row in rows:
            self._values[row.scope, row.scope_id, row.name] = json.loads(row.value)
            self._newest = max(self._newest, row.at)

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self.refresh()
            except StoreUnavailable as error:
                log.debug("cannot look for changed options; trying again", error=str(error))
            except Exception:
                log.exception("cannot look for changed options; trying again")
