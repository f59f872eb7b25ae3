"""What sessions used of the model as the gateway counted it, beside what Claude's processes told of themselves.

The account (sessions/costs.py) is what processes tell. Both count the same answers, so what the gateway has beyond it
was asked past Claude's process, by other code in the worklet, or is of an answer that was cut off: `beyond` tells its
dollars, and limits count them too. What a process tells passes through the worklet and may be forged: a line counts
against the gateway's dollars by the dollars that it puts on the account, not by its tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from config.logging import get_logger
from sessions.costs import costs, day_of
from sessions.db import Database
from sessions.errors import StoreUnavailable
from sessions.tables import Moment, metadata, sessions, turns
from worklets.errors import WorkletError
from worklets.gatewaymeter import Metered, rates

log = get_logger(__name__)

#: One row for each answer. No foreign keys, as in `costs`.
model_usage = sa.Table(
    "model_usage",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the first book's that it was in, and its number there
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),  # who began the session
    sa.Column("at", Moment, nullable=False),
    sa.Column("day", sa.Text, nullable=False),  # of `at`, as 2026-11-21
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("hour_tokens", sa.BigInteger, nullable=False),  # those of the cache's writes that are kept for an hour
    sa.Column("dollars", sa.Double, nullable=False),  # at most, by list prices
    sa.Index("ix_model_usage_session", "session_id", "day"),
    sa.Index("ix_model_usage_day", "day"),
)

#: Of a gateway: which book, from which number on; the book's name and rows. Raises WorkletError.
Fetch: TypeAlias = Callable[[str, int], Awaitable[tuple[str, list[dict[str, Any]]]]]

_KINDS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_COUNTED = (*_KINDS, "hour_tokens", "dollars")
_NEGLIGIBLE = 0.02  # of all dollars: an answer that was cut off is counted a little differently


class ModelUsage:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db, self._clock = db, clock

    async def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows of a gateway's book down. Harmless when repeated."""
        now = self._clock()
        async with self._db.transaction() as connection:
            known = sa.select(sessions.c.id, sessions.c.thread_ts, sessions.c.channel, sessions.c.user_id)
            ids = {row["worklet_id"] for row in rows if row["worklet_id"]}
            found = {row.id: row for row in await connection.execute(known.where(sessions.c.id.in_(ids)))}
            values = [
                {
                    "id": row["id"],
                    "session_id": session.id,
                    "channel": session.channel,
                    "user_id": session.user_id,
                    "at": now,
                    "day": day_of(now),
                    "model": row["model"],
                    **{name: row[name] for name in _COUNTED},
                }
                for row in rows
                if (session := found.get(row["worklet_id"])) is not None
            ]
            if values:
                await connection.execute(self._db.insert(model_usage).on_conflict_do_nothing(), values)

    async def beyond(
        self, first: str, last: str, *, session_id: str | None = None, channel: str | None = None
    ) -> float:
        """Dollars of what was asked past Claude's processes on the days `first` to `last`, of one session or channel.

        Days before the gateway began to count are left out, and so are turns that run: of those a process tells what
        sub-agents used only at the end.
        """
        counted, told = model_usage.c, costs.c
        ours: list[sa.ColumnElement[bool]] = [counted.day.between(first, last)]
        theirs: list[sa.ColumnElement[bool]] = [told.day.between(first, last)]
        if session_id is not None:
            ours.append(counted.session_id == session_id)
            theirs.append(told.session_id == session_id)
        if channel is not None:
            ours.append(counted.channel == channel)
            theirs.append(told.channel == channel)
        running = sa.and_(turns.c.started_at.is_not(None), turns.c.ended_at.is_(None))
        since_begin = sa.and_(running, turns.c.session_id == counted.session_id, turns.c.started_at <= counted.at)
        ours.append(~sa.select(turns.c.id).where(since_begin).exists())
        theirs.append(~sa.select(turns.c.id).where(running, turns.c.id == told.turn_id).exists())
        sums = [sa.func.sum(counted[name]).label(name) for name in _COUNTED]
        by_model = sa.select(counted.model, sa.func.min(counted.day).label("since"), *sums).where(*ours)
        async with self._db.read() as connection:
            models = (await connection.execute(by_model.group_by(counted.model))).all()
            if not models:
                return 0.0
            told_sums = [sa.func.sum(told[name]).label(name) for name in (*_KINDS, "cost")]
            since = min(row.since for row in models)
            account = (await connection.execute(sa.select(*told_sums).where(*theirs, told.day >= since))).one()
        return _difference(models, account)


def _difference(models: Sequence[sa.Row[Any]], account: sa.Row[Any]) -> float:
    """Dollars of the sums `models` beyond the sum `account`: the more of two ways to compare.

    Token by token, each kind for itself, at the price of the dearest model that was asked. And dollar by dollar: of
    models that have a list price, since Claude's process knows no price of others.
    """
    kinds = {name: sum(int(getattr(row, name)) for row in models) for name in _KINDS}
    beyond = {name: max(0, count - int(getattr(account, name) or 0)) for name, count in kinds.items()}
    dearest = max((row.model for row in models), key=lambda model: Metered(model, output_tokens=1).dollars)
    hour = min(beyond["cache_write_tokens"], sum(int(row.hour_tokens) for row in models))
    by_kind = Metered(dearest, **beyond, hour_tokens=hour).dollars
    by_dollars = sum(float(row.dollars) for row in models if rates(row.model)) - float(account.cost or 0.0)
    dollars = sum(float(row.dollars) for row in models)
    found = min(max(by_kind, by_dollars), dollars)
    return found if found > _NEGLIGIBLE * dollars else 0.0


class Bookkeeper:
    """Fetches what a gateway has counted and writes it down, whenever it is rung and now and then."""

    def __init__(self, usage: ModelUsage, fetch: Fetch, every: float = 30.0) -> None:
        """`every` in seconds: a ring may be lost."""
        self._usage, self._fetch, self._every = usage, fetch, every
        self._rung = asyncio.Event()
        self._book, self._after = "", 0

    def ring(self) -> None:
        self._rung.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._rung.wait()  # before there is a process, nothing has been counted
        while True:
            self._rung.clear()
            try:
                await self.once()
            except (WorkletError, StoreUnavailable) as error:  # the gateway keeps them
                log.debug("what the gateway has counted is not written down yet", error=error.sentence())
            except Exception:  # whatever it was, later answers are to be written down
                log.exception("what the gateway has counted could not be written down")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._rung.wait()

    async def once(self) -> None:
        """Writes down all that there is. Raises WorkletError, StoreUnavailable."""
        while True:
            book, rows = await self._fetch(self._book, self._after)
            if book != self._book:
                self._book, self._after = book, 0
            if not rows:
                return
            await self._usage.note(rows)
            self._after = max(int(row["number"]) for row in rows)
