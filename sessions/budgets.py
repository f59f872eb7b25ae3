"""How much may be spent: limits, what people granted beyond them, and which threads were told.

A limit counts for a turn, a session, a person's or a channel's day, or everybody's day or month (UTC). What was granted
is added to it for as long as its period lasts. Only dollars count: what has no known price cannot be limited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from config.settings import LimitSettings
from sessions.asks import Ask
from sessions.costs import Costs, Spending, day_of, dollars, month_of
from sessions.db import Database
from sessions.modelusage import ModelUsage
from sessions.tables import Moment, metadata
from sessions.types import Session, Turn, TurnId

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the ask's that was answered with yes
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("amount", sa.Double, nullable=False),  # US dollars
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Index("ix_grants_limit", "kind", "key", "period"),
)

#: Each limit is warned of once, and once more after each grant.
limit_warnings = sa.Table(
    "limit_warnings",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("period", sa.Text, primary_key=True),
    sa.Column("granted", sa.Double, primary_key=True),
    sa.Column("turn_id", sa.Text, nullable=False),
    sa.Column("at", Moment, nullable=False),
)


class LimitKind(StrEnum):
    TURN = "turn"
    SESSION = "session"
    PERSON = "person"
    CHANNEL = "channel"
    DAY = "day"
    MONTH = "month"


_WHERE = {
    LimitKind.TURN: "for this answer",
    LimitKind.SESSION: "in this thread",
    LimitKind.PERSON: "by one person today",
    LimitKind.CHANNEL: "in this channel today",
    LimitKind.DAY: "by everybody today",
    LimitKind.MONTH: "by everybody this month",
}


@dataclass(frozen=True, slots=True)
class Level:
    """Where one limit stands. `base`: the setting; `granted`: what was added to it. US dollars."""

    kind: LimitKind
    key: str
    period: str
    base: float
    granted: float
    spent: float
    hard_factor: float

    @property
    def limit(self) -> float:
        return self.base + self.granted

    @property
    def reached(self) -> bool:
        return self.spent >= self.limit

    @property
    def exceeded(self) -> bool:
        """Even what runs has to end."""
        return self.spent >= self.base * self.hard_factor + self.granted

    @property
    def name(self) -> str:
        """Of the question whether to go on; a new one after each grant."""
        return f"budget {self.kind} {self.key} {self.period} {self.granted:.2f}"

    @property
    def words(self) -> str:
        return f"{dollars(self.spent)} of {dollars(self.limit)} are spent {_WHERE[self.kind]}"


class Budgets:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, limits: LimitSettings, clock: Callable[[], datetime]) -> None:
        self.costs = Costs(db)
        self.usage = ModelUsage(db, clock)
        self.limits = limits
        self._db = db
        self._clock = clock

    @property
    def any(self) -> bool:
        """There is something to watch."""
        own = self.limits
        return any(
            one is not None for one in (own.turn, own.session, own.person_day, own.channel_day, own.day, own.month)
        )

    async def levels(self, session: Session, turn: Turn) -> list[Level]:
        """Where each limit that is set stands for this turn."""
        own, day, (first, last) = self.limits, day_of(self._clock()), month_of(self._clock())
        costs, channel = self.costs, session.thread.channel
        asked: list[tuple[LimitKind, float | None, str, str, Callable[[], object]]] = [
            (LimitKind.TURN, own.turn, turn.id, "", lambda: costs.of_turn(turn.id)),
            (LimitKind.SESSION, own.session, session.id, "", lambda: costs.of_session(session.id)),
            (LimitKind.PERSON, own.person_day, turn.user_id, day, lambda: costs.of_person(turn.user_id, day, day)),
            (LimitKind.CHANNEL, own.channel_day, channel, day, lambda: costs.of_channel(channel, day, day)),
            (LimitKind.DAY, own.day, "", day, lambda: costs.of_days(day, day)),
            (LimitKind.MONTH, own.month, "", first, lambda: costs.of_days(first, last)),
        ]
        found = []
        for kind, base, key, period, spend in asked:
            if base is not None:
                spent: Spending = await spend()  # type: ignore[misc]
                granted = await self._granted(kind, key, period)
                cost = spent.cost + await self._beyond(kind, key, period)
                found.append(Level(kind, key, period, base, granted, cost, own.hard))
        return found

    async def _beyond(self, kind: LimitKind, key: str, period: str) -> float:
        """Dollars that the gateway saw and no process told of. Whose they are among people is not known."""
        match kind:
            case LimitKind.SESSION:
                return await self.usage.beyond("0000", "9999", session_id=key)
            case LimitKind.CHANNEL:
                return await self.usage.beyond(period, period, channel=key)
            case LimitKind.DAY:
                return await self.usage.beyond(period, period)
            case LimitKind.MONTH:
                return await self.usage.beyond(period, month_of(self._clock())[1])
        return 0.0

    async def left(self, session: Session, turn: Turn) -> float | None:
        """Dollars until even what runs has to end; None: no limit is set."""
        levels = await self.levels(session, turn)
        return min((level.base * level.hard_factor + level.granted - level.spent for level in levels), default=None)

    async def reached(self, session: Session, turn: Turn) -> Level | None:
        """The limit that people have to decide on before the turn goes on."""
        return next((level for level in await self.levels(session, turn) if level.reached), None)

    async def _granted(self, kind: LimitKind, key: str, period: str) -> float:
        query = sa.select(sa.func.coalesce(sa.func.sum(grants.c.amount), 0.0)).where(
            grants.c.kind == kind.value, grants.c.key == key, grants.c.period == period
        )
        async with self._db.read() as connection:
            return float((await connection.execute(query)).scalar_one())

    async def grant(self, level: Level, ask: Ask) -> None:
        """`ask` was answered with yes: as much again as the limit, from where it stands. Harmless when repeated."""
        values = {
            "id": ask.id,
            "kind": level.kind.value,
            "key": level.key,
            "period": level.period,
            "amount": level.base + max(0.0, level.spent - level.limit),
            "by": ask.decided_by or "",
            "at": self._clock(),
        }
        async with self._db.transaction() as connection:
            await connection.execute(self._db.insert(grants).on_conflict_do_nothing(), values)

    async def warned(self, level: Level, turn_id: TurnId) -> bool:
        """Notes that people are told of it now. False: they were told."""
        if level.spent < level.limit * self.limits.warning / 100:
            return False
        values = {
            "kind": level.kind.value,
            "key": level.key,
            "period": level.period,
            "granted": level.granted,
            "turn_id": turn_id,
            "at": self._clock(),
        }
        async with self._db.transaction() as connection:
            statement = self._db.insert(limit_warnings).on_conflict_do_nothing().returning(limit_warnings.c.kind)
            return (await connection.execute(statement, values)).first() is not None
