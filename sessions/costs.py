"""What was spent: a row for each turn's end, written with the transcript's own, and the sums over them.

The rows come with the events that tell of them, in one transaction and under the same key (a line of a journal), so
nothing counts twice, whoever reads the journal again. Until a turn's end comes, each answer of the API counts in
tokens alone; the meter (sessions/budgets.py) adds what the process says that it has spent. All of that is provisional:
the turn's end takes its place. If the process is lost, it stays, as the best that is known.
A sum tells dollars and, apart from them, the tokens whose price nobody knows: they never count as 0 dollars.
Days are those of UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from sessions.db import Connection, Database
from sessions.tables import Moment, metadata, sessions, turns
from sessions.types import Session, SessionId, TurnId
from worklets.events import AgentEvent, Position, Spent, TurnEnded, Usage

PROVISIONAL = sa.text("final = false")
_METER = -1  # `seq` of the row that the meter keeps for a process

#: No foreign keys: the account outlives what it is about.
costs = sa.Table(
    "costs",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("turn_id", sa.Text),  # null: the agent worked unasked
    sa.Column("team", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),  # who asked; else who began the session
    sa.Column("at", Moment, nullable=False),
    sa.Column("day", sa.Text, nullable=False),  # of `at`, as 2026-11-21
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.Double),  # US dollars; null: no price is known
    sa.Column("base", sa.Double),  # of the meter's row: what the process had spent before
    sa.Column("final", sa.Boolean, nullable=False),
    sa.UniqueConstraint("session_id", "epoch", "seq", "part", name="uq_costs_place"),
    sa.Index("ix_costs_turn", "turn_id"),
    sa.Index("ix_costs_person", "user_id", "day"),
    sa.Index("ix_costs_channel", "channel", "day"),
    sa.Index("ix_costs_day", "day"),
    sqlite_autoincrement=True,
)

By: TypeAlias = Literal["person", "channel", "day"]
_BY: dict[By, sa.Column[str]] = {"person": costs.c.user_id, "channel": costs.c.channel, "day": costs.c.day}


@dataclass(frozen=True, slots=True)
class Spending:
    """A sum. `cost`: US dollars of all that has a price; `unpriced`: tokens of all that has none."""

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


def day_of(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()


def month_of(at: datetime) -> tuple[str, str]:
    """The first and the last day of its month, as `between` takes them."""
    first = at.astimezone(UTC).date().replace(day=1)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first.isoformat(), date.fromordinal(following.toordinal() - 1).isoformat()


def dollars(amount: float) -> str:
    """For people: "$4.80", "$0.0026", "under $0.0001"; never rounds something to nothing."""
    if amount >= 0.01 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if amount >= 0.0001 else "under $0.0001"


def described(spending: Spending) -> str:
    """For people: "$4.80", "12,000 tokens", or both; what has no known price is told in tokens."""
    words = [dollars(spending.cost)] if spending.cost or not spending.unpriced else []
    if spending.unpriced:
        words.append(f"{spending.unpriced:,} tokens of unknown price")
    return " and ".join(words)


async def record(
    db: Database,
    connection: Connection,
    session: Session,
    at: Position,
    events: Sequence[tuple[TurnId | None, AgentEvent]],
    now: datetime,
) -> None:
    """Writes down what these events of one line tell of money. Harmless when repeated."""
    for part, (turn_id, event) in enumerate(events):
        if not isinstance(event, Spent | TurnEnded) or not _tokens(event.usage):
            continue
        final = isinstance(event, TurnEnded)
        if final:
            provisional = sa.delete(costs).where(_of_process(session.id, at.epoch), PROVISIONAL)
            await connection.execute(provisional.where(sa.or_(costs.c.seq < at.seq, costs.c.seq == _METER)))
        elif await _is_final(connection, session.id, at):
            continue
        row = await _row(connection, session, turn_id, now) | _counts(event.usage)
        row |= {"epoch": at.epoch, "seq": at.seq, "part": part, "final": final}
        await connection.execute(db.insert(costs).on_conflict_do_nothing(), row)


async def _is_final(connection: Connection, session_id: SessionId, at: Position) -> bool:
    """The end that it was a part of is written down already."""
    later = sa.select(costs.c.id).where(_of_process(session_id, at.epoch), costs.c.final, costs.c.seq >= at.seq)
    return (await connection.execute(later.limit(1))).first() is not None


async def _row(connection: Connection, session: Session, turn_id: TurnId | None, now: datetime) -> dict[str, Any]:
    user_id = session.user_id
    if turn_id is not None:
        asker = (await connection.execute(sa.select(turns.c.user_id).where(turns.c.id == turn_id))).scalar_one_or_none()
        user_id = asker or user_id
    return {
        "session_id": session.id,
        "turn_id": turn_id,
        "team": session.thread.team,
        "channel": session.thread.channel,
        "user_id": user_id,
        "at": now,
        "day": day_of(now),
    }


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cost": usage.cost,
    }


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def _of_process(session_id: SessionId, epoch: str) -> sa.ColumnElement[bool]:
    return sa.and_(costs.c.session_id == session_id, costs.c.epoch == epoch)


class Costs:
    """All methods raise StoreUnavailable when the database does not serve. Days are written like 2026-11-21."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- the running turn ---------------------------------------------------------

    async def base(self, session: Session, turn_id: TurnId, epoch: str) -> float | None:
        """What the process had spent when the turn began, if the meter has noted it."""
        query = sa.select(costs.c.base).where(
            _of_process(session.id, epoch), costs.c.seq == _METER, costs.c.turn_id == turn_id
        )
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def metered(
        self, session: Session, turn_id: TurnId, epoch: str, *, base: float, cost: float, now: datetime
    ) -> None:
        """The process has spent `cost` dollars on the turn so far, by its own account."""
        async with self._db.transaction() as connection:
            # The transcript takes the session's row first too: its end of the turn comes before this, or after it.
            await connection.execute(sa.select(sessions.c.id).where(sessions.c.id == session.id).with_for_update())
            ended = sa.select(costs.c.id).where(_of_process(session.id, epoch), costs.c.turn_id == turn_id)
            if (await connection.execute(ended.where(costs.c.final).limit(1))).first() is not None:
                return
            row = await _row(connection, session, turn_id, now) | _counts(Usage(cost=cost))
            row |= {"epoch": epoch, "seq": _METER, "part": 0, "base": base, "final": False}
            statement = self._db.insert(costs).values(row)
            changed = {name: row[name] for name in ("turn_id", "user_id", "at", "day", "cost", "base")}
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["session_id", "epoch", "seq", "part"], set_=changed, where=costs.c.final.is_(False)
                )
            )
            counted = sa.update(costs).where(_of_process(session.id, epoch), PROVISIONAL, costs.c.seq != _METER)
            await connection.execute(counted.values(cost=0.0))  # their dollars are in the meter's row

    # -- sums ---------------------------------------------------------

    async def of_turn(self, turn_id: TurnId) -> Spending:
        return await self._sum(costs.c.turn_id == turn_id)

    async def of_session(self, session_id: SessionId) -> Spending:
        return await self._sum(costs.c.session_id == session_id)

    async def of_person(self, user_id: str, first: str, last: str) -> Spending:
        return await self._sum(costs.c.user_id == user_id, costs.c.day.between(first, last))

    async def of_channel(self, channel: str, first: str, last: str) -> Spending:
        return await self._sum(costs.c.channel == channel, costs.c.day.between(first, last))

    async def of_days(self, first: str, last: str) -> Spending:
        return await self._sum(costs.c.day.between(first, last))

    async def by(self, what: By, first: str, last: str) -> list[tuple[str, Spending]]:
        """Sums of the days from `first` to `last`: of each person or channel, the dearest first, or of each day."""
        column = _BY[what]
        query = sa.select(column.label("key"), *_SUMS).where(costs.c.day.between(first, last)).group_by(column)
        async with self._db.read() as connection:
            found = [(str(row.key), _spending(row)) for row in await connection.execute(query)]
        if what == "day":
            return sorted(found, key=lambda one: one[0])
        return sorted(found, key=lambda one: (-one[1].cost, -one[1].tokens, one[0]))

    async def _sum(self, *where: sa.ColumnElement[bool]) -> Spending:
        async with self._db.read() as connection:
            return _spending((await connection.execute(sa.select(*_SUMS).where(*where))).one())


_ALL_TOKENS = costs.c.input_tokens + costs.c.output_tokens + costs.c.cache_read_tokens + costs.c.cache_write_tokens
_SUMS = (
    sa.func.count(costs.c.turn_id.distinct()).label("turns"),
    *(
        sa.func.sum(costs.c[name]).label(name)
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost")
    ),
    sa.func.sum(sa.case((costs.c.cost.is_(None), _ALL_TOKENS), else_=0)).label("unpriced"),
)


def _spending(row: sa.Row[Any]) -> Spending:
    return Spending(
        row.turns,
        int(row.input_tokens or 0),
        int(row.output_tokens or 0),
        int(row.cache_read_tokens or 0),
        int(row.cache_write_tokens or 0),
        float(row.cost or 0.0),
        int(row.unpriced or 0),
    )
