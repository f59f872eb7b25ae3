"""What the door keeps: which messages show which turn (`messages`), which reactions may stand on the message that asked
for it (`reactions`), until when all was read (`caught_up`), and which words to Flow are done (`words`).

A row of `messages` is written before a message is posted, without a ts: if Flow dies in between, it knows to look
before it posts again. `digest` is of the last look that was stored; only a final one is trusted after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from sessions.db import Database
from sessions.tables import Moment, metadata, turns
from sessions.types import SessionId, TurnId, TurnState

_COVERED = "covered"  # in place of a digest: a call that came late has put an older look over the last one
_MANY = 500  # turns that one query asks for

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("ts", sa.Text),
    sa.Column("digest", sa.Text),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("opens_at", sa.Text),  # set: it was begun there, below what people wrote
)

#: Of turns whose reactions change yet: noted before one is added, gone when the last one stands alone.
reactions = sa.Table(
    "reactions",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("ts", sa.Text, nullable=False),
    sa.Column("names", sa.Text, nullable=False),  # of emoji, with spaces between them
)

#: Whatever was written in a workspace before `at` has been heard, or read.
caught_up = sa.Table(
    "caught_up",
    metadata,
    sa.Column("team", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False),
)

#: The latest message of a thread that did `what` (set the mode, say): neither it nor one above it is done again.
words = sa.Table(
    "words",
    metadata,
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("ts", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Posted:
    """Part `part` of a turn. `ts` None: a post was begun and its end is not known. `opens_at`: see bot.layout.Place."""

    part: int
    ts: str | None
    digest: str | None
    final: bool
    opens_at: str | None = None


class MessageStore:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_turn(self, turn_id: TurnId) -> list[Posted]:
        """In the order of their parts."""
        query = sa.select(messages).where(messages.c.turn_id == turn_id).order_by(messages.c.part)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [Posted(row.part, row.ts, row.digest, row.final, row.opens_at) for row in rows]

    async def intend(self, turn_id: TurnId, part: int, channel: str, opens_at: str | None = None) -> bool:
        """This part is about to be posted. False: that was noted before, so it may have been posted."""
        row = {"turn_id": turn_id, "part": part, "channel": channel, "final": False, "opens_at": opens_at}
        try:
            async with self._database.transaction() as connection:
                await connection.execute(sa.insert(messages).values(row))
        except sa.exc.IntegrityError:
            return False
        return True

    async def posted(self, turn_id: TurnId, part: int, ts: str) -> str | None:
        """Where a post ended up that another process may be looking for; changes nothing that is known.

        Returns where the part stands by the table; "": the turn has no such part any more; None: it is gone itself.
        """
        async with self._database.transaction() as connection:
            unknown = sa.and_(_is(turn_id, part), messages.c.ts.is_(None))
            await connection.execute(sa.update(messages).where(unknown).values(ts=ts))
            query = sa.select(messages.c.ts).select_from(turns.outerjoin(messages, _is(turn_id, part)))
            row = (await connection.execute(query.where(turns.c.id == turn_id))).one_or_none()
        return None if row is None else row.ts or ""

    async def doubt(self, turn_id: TurnId, covered: int | None = None) -> None:
        """None of its messages is sure to have its last look; the part `covered` has another than its process knows."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(messages).where(messages.c.turn_id == turn_id).values(final=False))
            if covered is not None:
                posted = sa.and_(_is(turn_id, covered), messages.c.ts.is_not(None))
                await connection.execute(sa.update(messages).where(posted).values(digest=_COVERED))

    async def covered(self, turn_ids: Sequence[TurnId]) -> list[tuple[TurnId, int]]:
        """Parts of these turns that another process has put an older look over, and nobody has shown anew."""
        found: list[tuple[TurnId, int]] = []
        for start in range(0, len(turn_ids), _MANY):
            some = messages.c.turn_id.in_(turn_ids[start : start + _MANY])
            query = sa.select(messages.c.turn_id, messages.c.part).where(some, messages.c.digest == _COVERED)
            async with self._database.read() as connection:
                found += [(TurnId(row.turn_id), row.part) for row in await connection.execute(query)]
        return found

    async def uploaded(self, turn_id: TurnId, part: int, file_id: str) -> None:
        """The file with this id is about to be shown as this part."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(messages).where(_is(turn_id, part)).values(digest=file_id))

    async def shown(
        self, turn_id: TurnId, part: int, ts: str, digest: str | None, final: bool, was: str | None = None
    ) -> None:
        """This part is at `ts` and looks so. `was`: where the caller knew it to be; a row that names another message
        than these two is another process's, and stays."""
        ours = sa.and_(_is(turn_id, part), sa.or_(messages.c.ts.is_(None), messages.c.ts.in_([ts, was or ts])))
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(messages).where(ours).values(ts=ts, digest=digest, final=final))

    async def forget(self, turn_id: TurnId, part: int, ts: str | None) -> None:
        """This part's message at `ts` is gone; a row that names another one stays."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(messages).where(_is(turn_id, part), messages.c.ts == ts))


def _is(turn_id: TurnId, part: int) -> sa.ColumnElement[bool]:
    return sa.and_(messages.c.turn_id == turn_id, messages.c.part == part)


@dataclass(frozen=True, slots=True)
class Reacted:
    """`names`: the reactions that may stand on the message at `ts`. `state`: of the turn, which is shown to the end."""

    turn_id: TurnId
    channel: str
    ts: str
    names: frozenset[str]
    state: TurnState


class ReactionStore:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_turn(self, turn_id: TurnId) -> frozenset[str]:
        """Names of the reactions that may stand on its message."""
        query = sa.select(reactions.c.names).where(reactions.c.turn_id == turn_id)
        async with self._database.read() as connection:
            return frozenset(((await connection.execute(query)).scalar_one_or_none() or "").split())

    async def keep(self, turn_id: TurnId, channel: str, ts: str, names: Iterable[str]) -> None:
        row = {"turn_id": turn_id, "channel": channel, "ts": ts, "names": " ".join(sorted(names))}
        statement = self._database.insert(reactions)
        changed = statement.on_conflict_do_update(index_elements=["turn_id"], set_={"names": statement.excluded.names})
        async with self._database.transaction() as connection:
            await connection.execute(changed, row)

    async def forget(self, turn_id: TurnId) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(reactions).where(reactions.c.turn_id == turn_id))

    async def left_over(self, limit: int = 100) -> list[Reacted]:
        """Of turns that are shown to the end, and so are told no more."""
        joined = reactions.join(turns, turns.c.id == reactions.c.turn_id)
        query = sa.select(reactions, turns.c.state).select_from(joined).where(turns.c.delivered).limit(limit)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Reacted(TurnId(row.turn_id), row.channel, row.ts, frozenset(row.names.split()), TurnState(row.state))
            for row in rows
        ]


class CaughtUp:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def until(self, team: str) -> datetime | None:
        """None: it was never noted."""
        query = sa.select(caught_up.c.at).where(caught_up.c.team == team)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def caught_up(self, team: str, at: datetime) -> None:
        row = self._database.insert(caught_up).values(team=team, at=at)
        async with self._database.transaction() as connection:
            await connection.execute(row.on_conflict_do_update(index_elements=["team"], set_={"at": at}))


class WordStore:
    """Every method raises StoreUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def done(self, session_id: SessionId, what: str, ts: str) -> bool:
        """That message did it, or a later one."""
        query = sa.select(words.c.ts).where(words.c.session_id == session_id, words.c.what == what, words.c.ts >= ts)
        async with self._database.read() as connection:
            return (await connection.execute(query)).one_or_none() is not None

    async def note(self, session_id: SessionId, what: str, ts: str) -> None:
        """To be called with rising `ts`."""
        row = self._database.insert(words).values(session_id=session_id, what=what, ts=ts)
        changed = row.on_conflict_do_update(index_elements=["session_id", "what"], set_={"ts": ts})
        async with self._database.transaction() as connection:
            await connection.execute(changed)
