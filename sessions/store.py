"""Sessions and turns in the database: what changes them. The turns table is the mailbox of each session.

Whoever runs a session holds its lease; what only the runner may change takes the `Lease` and raises LeaseLost when
another process has taken the session over (leases.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from config.text import well_formed
from sessions.asides import Asides
from sessions.asks import AskState
from sessions.askstore import AskStore, asks, close_open
from sessions.brought import split_brought
from sessions.db import Connection, Database
from sessions.edits import Edits, one_by_one, overtaken
from sessions.errors import SessionError, SessionNotFound
from sessions.filestore import FileStore, attach
from sessions.leases import Lease, mine
from sessions.lookup import Lookup, in_thread
from sessions.tables import OPEN, session_of, sessions, turn_of, turns
from sessions.templatestore import keep, what_it_says
from sessions.types import (
    Aside,
    Cut,
    Done,
    Failed,
    Interrupted,
    Outcome,
    Prompt,
    Session,
    SessionId,
    SessionState,
    Submitted,
    Turn,
    TurnId,
    TurnState,
    Withdrawn,
)

Clock = Callable[[], datetime]
#: Of a session and who asks: the level of the turn, and whether its end mentions that person.
Look = Callable[[Session, str], tuple[str | None, bool]]
list_ = list  # `Store.list` hides the builtin inside the class

_TITLE = 60  # characters of a session's name


def _plain(_session: Session, _user_id: str) -> tuple[str | None, bool]:
    return None, False


def utcnow() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Stored:
    """`ahead`: open turns that come before it. `holder`: the process that holds the session's lease now."""

    submitted: Submitted
    ahead: int
    holder: str | None


class Store(Lookup):
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, clock: Clock = utcnow) -> None:
        super().__init__(db)
        self.edits = Edits(db)
        self.asides = Asides(db)
        self.asks = AskStore(db)
        self.files = FileStore(db)
        self.clock = clock

    # -- what comes in ---------------------------------------------------------

    async def submit(self, prompt: Prompt, look: Look = _plain) -> Stored | None:
        """Stores a prompt as a turn of its thread's session; one transaction. `look` says how the turn is shown.

        None: the thread has no session and the prompt starts none; or its message was deleted before it came. A source
        id that is known changes nothing, nor does a `sole` prompt while another of its kind is open: that one is given.
        Raises TemplateNotFound.
        """
        prompt = replace(prompt, text=well_formed(prompt.text))
        try:
            async with self.db.transaction(fast=True) as connection:  # Slack waits for it
                return await self._submit(connection, prompt, look)
        except _Known:
            async with self.db.read() as connection:
                return await self._known(connection, prompt)

    async def _submit(self, connection: Connection, prompt: Prompt, look: Look) -> Stored | None:
        await one_by_one(self.db, connection, prompt.thread.team, prompt.thread.channel, prompt.source_id)
        found = await self._of_thread(connection, prompt)
        if found is None and not prompt.starts:
            return None
        if found is not None and found.known:
            return await self._known(connection, prompt)
        if found is not None and prompt.sole is not None:
            await one_by_one(self.db, connection, prompt.thread.team, prompt.thread.channel, prompt.sole)
            begins = turns.c.source_id.startswith(prompt.sole, autoescape=True)
            query = sa.select(turns.c.source_id).where(turns.c.session_id == found.session.id, OPEN, begins).limit(1)
            if other := (await connection.execute(query)).scalar_one_or_none():
                return await self._known(connection, replace(prompt, source_id=other))
        edited = await overtaken(connection, prompt)
        if edited is not None:
            if edited.text is None:
                return None
            prompt = replace(prompt, text=edited.text)
        session = found.session if found else await self._insert_session(connection, prompt)
        edited_ts = edited.edited_ts if edited else None
        turn = await self._insert_turn(connection, session.id, prompt, edited_ts, look(session, prompt.user_id))
        if prompt.files:
            await attach(connection, turn.id, prompt.files)
        submitted = Submitted(session, turn, fresh=True, new_session=found is None)
        return Stored(submitted, found.ahead if found else 0, found.holder if found else None)

    async def _of_thread(self, connection: Connection, prompt: Prompt) -> _InThread | None:
        """The thread's session, and what else submitting wants to know. A mention comes twice: `known` is worth it."""
        if prompt.thread.thread_ts is None:
            return None
        ahead = (
            sa.select(sa.func.count())
            .select_from(turns)
            .where(turns.c.session_id == sessions.c.id, OPEN)
            .where(sa.or_(turns.c.started_at.is_not(None), turns.c.ts < prompt.ts))
            .scalar_subquery()
        )
        known = sa.select(turns.c.id).where(*_from_source(prompt)).exists()
        holder = self.leases.holder().label("holder")
        query = sa.select(sessions, ahead.label("ahead"), known.label("known"), holder)
        row = (await connection.execute(query.where(*in_thread(prompt.thread)))).one_or_none()
        return _InThread(session_of(row), row.ahead, row.known, row.holder) if row else None

    async def _insert_session(self, connection: Connection, prompt: Prompt) -> Session:
        now, id_ = self.clock(), str(uuid4())
        template = await what_it_says(connection, prompt.template) if prompt.template else None
        values = {
            "id": id_,
            "user_id": prompt.user_id,
            "name": _title(prompt.text),
            "status": SessionState.NEW.value,
            "repository": prompt.repository,
            "branch": prompt.branch,
            "model": prompt.model,
            "mode": prompt.mode,
            "template": prompt.template,
            "template_name": template.name if template else None,
            "startup_script": prompt.startup_script,
            "created_at": now,
            "updated_at": now,
            "last_activity_at": now,
            "team": prompt.thread.team,
            "channel": prompt.thread.channel,
            "thread_ts": prompt.thread.thread_ts,
            "claude_session_id": id_,
            "has_history": False,
            "worklet": "s" + id_.replace("-", "")[:16],
            "fence": 0,
            "seq": 0,
        }
        # Values go in beside the statement: in it, SQLAlchemy would look through each of them before it finds the SQL.
        statement = self.db.insert(sessions).on_conflict_do_nothing(index_elements=_THREAD)
        row = (await connection.execute(statement.returning(*sessions.c), values)).one_or_none()
        if row is None:  # another replica was quicker: now its row is visible
            row = (await connection.execute(sa.select(sessions).where(*in_thread(prompt.thread)))).one()
        elif template is not None:
            await keep(connection, self.db, id_, template)
        return session_of(row)

    async def _insert_turn(
        self,
        connection: Connection,
        session_id: SessionId,
        prompt: Prompt,
        edited_ts: str | None,
        look: tuple[str | None, bool],
    ) -> Turn:
        values = {
            "id": str(uuid4()),
            "session_id": session_id,
            "team": prompt.thread.team,
            "channel": prompt.thread.channel,
            "source_id": prompt.source_id,
            "ts": prompt.ts,
            "user_id": prompt.user_id,
            "text": prompt.text,
            "state": TurnState.QUEUED.value,
            "created_at": self.clock(),
            "delivered": False,
            "edited_ts": edited_ts,
            "level": look[0],
            "mention": look[1],
        }
        statement = self.db.insert(turns).on_conflict_do_nothing(index_elements=_SOURCE)
        row = (await connection.execute(statement.returning(*turns.c), values)).one_or_none()
        if row is None:
            raise _Known
        return turn_of(row)

    async def _known(self, connection: Connection, prompt: Prompt) -> Stored:
        turn = turn_of((await connection.execute(sa.select(turns).where(*_from_source(prompt)))).one())
        query = sa.select(sessions, self.leases.holder().label("holder")).where(sessions.c.id == turn.session_id)
        row = (await connection.execute(query)).one()
        return Stored(Submitted(session_of(row), turn, fresh=False, new_session=False), 0, row.holder)

    async def opened(self, session_id: SessionId, thread_ts: str) -> Session:
        """The door has posted the thread's root. Raises SessionError when that thread has another session."""
        try:
            return await self._change(session_id, thread_ts=thread_ts)
        except sa.exc.IntegrityError as error:
            raise SessionError("That thread has a session already.") from error

    # -- what a session's runner does --------------------------------------------------------------------------------

    async def begin(
        self, lease: Lease, turn_id: TurnId, container_id: str, *, attempts: int = 1
    ) -> tuple[Session, Turn] | None:
        """The prompt is about to go to Claude. None: the turn has been settled meanwhile.

        `attempts`: processes that were given it, this one included; set, so that a repeated call counts nothing twice.
        """
        now = self.clock()
        async with self.db.transaction() as connection:
            session = await self._fenced(
                connection, lease, status=SessionState.WORKING.value, container_id=container_id
            )
            statement = (
                sa.update(turns)
                .where(turns.c.id == turn_id, OPEN)
                .values(
                    state=TurnState.RUNNING.value,
                    attempts=attempts,
                    started_at=sa.func.coalesce(turns.c.started_at, sa.bindparam("now", now, turns.c.started_at.type)),
                )
                .returning(*turns.c)
            )
            row = (await connection.execute(statement)).one_or_none()
        return (session, turn_of(row)) if row else None

    async def settle(
        self, lease: Lease, turn_id: TurnId, outcome: Outcome, *, state: SessionState, container_id: str | None
    ) -> tuple[Session, Turn]:
        """The turn is over and the session is in `state`. A turn that was settled before stays as it was."""
        now = self.clock()
        async with self.db.transaction() as connection:
            session = await self._fenced(
                connection, lease, status=state.value, container_id=container_id, last_activity_at=now
            )
            row = (await connection.execute(_settled(outcome, now).where(turns.c.id == turn_id))).one_or_none()
            await close_open(connection, asks.c.turn_id == turn_id, AskState.WITHDRAWN, now)
            if row is None:
                row = (await connection.execute(sa.select(turns).where(turns.c.id == turn_id))).one()
        return session, turn_of(row)

    async def set_state(self, lease: Lease, state: SessionState, **columns: Any) -> Session:
        async with self.db.transaction() as connection:
            return await self._fenced(connection, lease, status=state.value, **columns)

    async def visited(self, session_id: SessionId) -> None:
        """Something of it is in use now. Raises SessionNotFound."""
        await self._change(session_id, last_activity_at=self.clock())

    async def set_mode(self, session_id: SessionId, mode: str, before: str | None) -> Session:
        """The permission mode of its next prompts. Raises SessionNotFound."""
        return await self._change(session_id, mode=mode, mode_before=before)

    async def _fenced(self, connection: Connection, lease: Lease, **columns: Any) -> Session:
        statement = sa.update(sessions).where(*mine(lease)).values(**columns, updated_at=self.clock())
        return session_of(lease.held((await connection.execute(statement.returning(*sessions.c))).one_or_none()))

    async def claim_asides(self, lease: Lease, turn: Turn) -> list_[Aside]:
        """What was said in the thread before this turn and is to be given with it; the same when asked again."""
        return await self.asides.claim(lease, turn)

    # -- what anybody may do ---------------------------------------------------------

    async def interrupt_queued(self, session_id: SessionId, by: str, sparing: TurnId | None) -> list[Turn]:
        """Settles the queued turns, `sparing` one, as interrupted."""
        statement = _settled(Interrupted(by), self.clock()).where(
            turns.c.session_id == session_id, turns.c.started_at.is_(None), turns.c.id != (sparing or "")
        )
        async with self.db.transaction() as connection:
            ended = [turn_of(row) for row in await connection.execute(statement)]
            those = asks.c.turn_id.in_([turn.id for turn in ended])
            await close_open(connection, those, AskState.WITHDRAWN, self.clock())
        return ended

    async def mark_delivered(self, turn_id: TurnId) -> SessionId | None:
        """The turn's session; None when the turn is gone."""
        statement = sa.update(turns).where(turns.c.id == turn_id).values(delivered=True).returning(turns.c.session_id)
        async with self.db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return SessionId(row.session_id) if row else None

    async def mark_undelivered(self, turn_id: TurnId) -> SessionId | None:
        """Its end is to be shown again. The turn's session; None where it is not shown to the end, or gone."""
        shown = sa.and_(turns.c.id == turn_id, turns.c.delivered)
        statement = sa.update(turns).where(shown).values(delivered=False).returning(turns.c.session_id)
        async with self.db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return SessionId(row.session_id) if row else None

    async def put_to_sleep(self, session_id: SessionId) -> Session | None:
        """Corrects a row that claims a worklet which is gone. None when another process runs the session."""
        statement = (
            sa.update(sessions)
            .where(sessions.c.id == session_id, self.leases.free())
            .values(status=SessionState.ASLEEP.value, container_id=None, updated_at=self.clock())
            .returning(*sessions.c)
        )
        async with self.db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return session_of(row) if row else None

    async def _change(self, session_id: SessionId, **columns: Any) -> Session:
        statement = (
            sa.update(sessions)
            .where(sessions.c.id == session_id)
            .values(**columns, updated_at=self.clock())
            .returning(*sessions.c)
        )
        async with self.db.transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise SessionNotFound
        return session_of(row)


_THREAD = ["team", "channel", "thread_ts"]
_SOURCE = ["team", "channel", "source_id"]


@dataclass(frozen=True, slots=True)
class _InThread:
    session: Session
    ahead: int
    known: bool
    holder: str | None


class _Known(Exception):
    """The source id is in the table: roll back."""


def _from_source(prompt: Prompt) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        turns.c.team == prompt.thread.team,
        turns.c.channel == prompt.thread.channel,
        turns.c.source_id == prompt.source_id,
    )


def _title(text: str) -> str:
    words = " ".join(split_brought(text)[0].split())
    return words if len(words) <= _TITLE else words[: _TITLE - 1].rsplit(" ", 1)[0] + "…"


def _settled(outcome: Outcome, now: datetime) -> Any:
    """An update that settles open turns; to be narrowed with `where`."""
    state, error, by = TurnState.DONE, None, None
    match outcome:
        case Done():
            pass
        case Failed(reason):
            state, error = TurnState.FAILED, reason
        case Interrupted(who):
            state, by = TurnState.INTERRUPTED, who
        case Withdrawn(who):
            state, by = TurnState.WITHDRAWN, who
        case Cut(reason):
            state, error = TurnState.CUT, reason
    values = {"state": state.value, "error": error, "stopped_by": by, "ended_at": now}
    return sa.update(turns).where(OPEN).values(values).returning(*turns.c)
