"""The tables of asks and of decisions, and the queries on them.

`audit` has a row for every decision, in the transaction that made it: who allowed or denied what, and what expired.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from config.text import well_formed
from sessions.asks import Ask, AskClosedAlready, AskId, AskKind, AskNotFound, AskState, Decision, decided
from sessions.db import Connection, Database
from sessions.egressstore import decide_within
from sessions.leases import Lease, mine
from sessions.rulestore import RuleStore, channel_scope
from sessions.tables import Moment, metadata, sessions, turns
from sessions.types import SessionId, TurnId
from worklets.permissions import EDITS

OPEN = sa.text("state = 'open'")

asks = sa.Table(
    "asks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("tool_id", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),  # of the CLI's request; "" where Flow itself asks
    sa.Column("epoch", sa.Text, nullable=False),  # of the process that waits for the answer
    sa.Column("input", sa.Text, nullable=False),  # JSON
    sa.Column("suggestions", sa.Text, nullable=False),  # JSON
    sa.Column("servers", sa.Text, nullable=False, default="{}", server_default="{}"),  # JSON
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("asked_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_at", Moment),
    sa.Column("decision", sa.Text),  # JSON
    sa.Column("given", sa.Boolean, nullable=False),  # the decision may have reached Claude
    sa.Column("parked", sa.Boolean, nullable=False),  # the process was ended while it waited
    sa.Index("ix_asks_turn", "turn_id", "asked_at"),
    sa.Index("ix_asks_open", "asked_at", sqlite_where=OPEN, postgresql_where=OPEN),
)

#: No foreign keys: the record outlives what it is about.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("by", sa.Text),  # user id; null: nobody answered
    sa.Column("session_id", sa.Text, nullable=False),
    sa.Column("turn_id", sa.Text, nullable=False),
    sa.Column("ask_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),  # JSON
    sa.Column("behavior", sa.Text, nullable=False),  # allow | deny | expired | withdrawn
    sa.Column("scope", sa.Text),
    sa.Column("rule", sa.Text),  # JSON list of the rules that were added
    sa.Column("message", sa.Text),
    sa.Index("ix_audit_session", "session_id", "id"),
    sa.Index("ix_audit_at", "at"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class StoredAsk:
    """An ask, and how its answer gets to Claude."""

    ask: Ask
    request_id: str  # "" where Flow itself asks
    epoch: str
    given: bool  # the decision may have reached Claude: what it allowed may have run
    parked: bool  # Claude's process was put to sleep while it waited


class AskStore:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.rules = RuleStore(db)

    # -- Claude's side ---------------------------------------------------------

    async def open(
        self, lease: Lease | None, ask: Ask, *, request_id: str = "", epoch: str = ""
    ) -> tuple[StoredAsk, bool]:
        """Stores an ask; the row as it is, and whether it is new. Harmless when repeated. Raises LeaseLost.

        One that a lost process had asked in the same words, and that is open still, is asked again rather than anew;
        one that was withdrawn, and that Claude asks again, is open again.
        """
        async with self._db.transaction() as connection:
            if lease is not None:
                lease.held((await connection.execute(sa.select(sessions.c.id).where(*mine(lease)))).one_or_none())
            known = [one for one in await _of_turn(connection, ask.turn_id) if _same(one, ask, epoch)]
            if known:
                return await self._again(connection, known[-1], ask, request_id, epoch), False
            values = _row(ask) | {"request_id": request_id, "epoch": epoch, "given": False, "parked": False}
            await self._supersede(connection, ask, epoch)
            await connection.execute(self._db.insert(asks).on_conflict_do_nothing(), values)
            row = (await connection.execute(sa.select(asks).where(asks.c.id == ask.id))).one()
            await self._record_policy(connection, ask)
        return _stored(row), True

    async def _record_policy(self, connection: Connection, ask: Ask) -> None:
        """Of an ask that nobody need answer."""
        if ask.decision is not None:
            await connection.execute(sa.insert(audit), _record(ask, ask.asked_at, None, ask.decision.behavior, ()))

    async def _supersede(self, connection: Connection, ask: Ask, epoch: str) -> None:
        """What a lost process had asked in other words is not waited for any more."""
        lost = sa.and_(asks.c.turn_id == ask.turn_id, asks.c.request_id != "", asks.c.epoch != epoch)
        await close_open(connection, sa.and_(lost, asks.c.kind == ask.kind.value), AskState.WITHDRAWN, ask.asked_at)

    async def _again(
        self, connection: Connection, known: StoredAsk, ask: Ask, request_id: str, epoch: str
    ) -> StoredAsk:
        if known.epoch == epoch and known.request_id == request_id:
            return known
        changed = {"tool_id": ask.tool_id, "request_id": request_id, "epoch": epoch, "given": False, "parked": False}
        if known.ask.state is AskState.WITHDRAWN:
            changed |= _row(ask)
            await self._record_policy(connection, ask)
        statement = sa.update(asks).where(asks.c.id == known.ask.id).values(**changed).returning(*asks.c)
        return _stored((await connection.execute(statement)).one())

    async def of_turn(self, turn_id: TurnId) -> list[StoredAsk]:
        """In the order in which they were asked."""
        async with self._db.read() as connection:
            return await _of_turn(connection, turn_id)

    async def give(self, lease: Lease, ids: Sequence[AskId]) -> None:
        """Their decisions are about to go to Claude. Raises LeaseLost."""
        async with self._db.transaction() as connection:
            lease.held((await connection.execute(sa.select(sessions.c.id).where(*mine(lease)))).one_or_none())
            await connection.execute(sa.update(asks).where(asks.c.id.in_(ids)).values(given=True))

    async def park(self, lease: Lease, turn_id: TurnId) -> bool:
        """Claude's process is about to be put to sleep while it waits. False: nothing is open. Raises LeaseLost."""
        async with self._db.transaction() as connection:
            lease.held((await connection.execute(sa.select(sessions.c.id).where(*mine(lease)))).one_or_none())
            own = asks.c.request_id != ""  # Flow's own questions wake nobody
            statement = sa.update(asks).where(asks.c.turn_id == turn_id, OPEN, own).values(parked=True)
            return bool((await connection.execute(statement.returning(asks.c.id))).all())

    async def unpark(self, turn_id: TurnId) -> None:
        async with self._db.transaction() as connection:
            await connection.execute(sa.update(asks).where(asks.c.turn_id == turn_id).values(parked=False))

    async def cancel(self, turn_id: TurnId, request_id: str, now: datetime) -> Ask | None:
        """The CLI does not wait for that answer any more. None: it was not open."""
        where = sa.and_(asks.c.turn_id == turn_id, asks.c.request_id == request_id)
        async with self._db.transaction() as connection:
            closed = await close_open(connection, where, AskState.WITHDRAWN, now)
        return closed[0] if closed else None

    async def take_back(self, turn_id: TurnId, kind: AskKind, now: datetime) -> list[Ask]:
        """Nobody waits for answers of that kind any more. Those that were open."""
        where = sa.and_(asks.c.turn_id == turn_id, asks.c.kind == kind.value)
        async with self._db.transaction() as connection:
            return await close_open(connection, where, AskState.WITHDRAWN, now)

    async def withdraw(self, ids: Sequence[AskId], now: datetime) -> list[Ask]:
        """What they ask is decided elsewhere. Those that were open."""
        async with self._db.transaction() as connection:
            return await close_open(connection, asks.c.id.in_(ids), AskState.WITHDRAWN, now)

    async def waiting_since(self, before: datetime) -> list[SessionId]:
        """Sessions whose process has waited for people since then."""
        since = sa.bindparam("before", before, Moment())
        query = sa.select(asks.c.session_id).where(OPEN, asks.c.asked_at <= since, ~asks.c.parked).distinct()
        async with self._db.read() as connection:
            return [SessionId(row.session_id) for row in await connection.execute(query)]

    async def allowed_once(self, session_id: SessionId) -> list[Ask]:
        """Hosts that people let the session's worklet reach until the turn ends in which they were asked."""
        mine = sa.and_(asks.c.session_id == session_id, asks.c.kind == AskKind.EGRESS.value)
        query = sa.select(asks).join(turns, turns.c.id == asks.c.turn_id).where(mine, turns.c.ended_at.is_(None))
        async with self._db.read() as connection:
            found = [_ask(row) for row in await connection.execute(query)]
        return [ask for ask in found if ask.state is AskState.ALLOWED and ask.decision and ask.decision.scope == "once"]

    async def note(self, ask: Ask, rules: Sequence[str]) -> None:
        """A row in the audit for what went ahead without anybody being asked, by these rules. Once for each ask."""
        assert ask.decision is not None
        async with self._db.transaction() as connection:
            known = sa.select(audit.c.id).where(audit.c.ask_id == ask.id, audit.c.session_id == ask.session_id)
            if (await connection.execute(known)).first() is None:
                record = _record(ask, ask.asked_at, None, ask.decision.behavior, rules)
                await connection.execute(sa.insert(audit), record)

    # -- people's side ---------------------------------------------------------

    async def get(self, ask_id: AskId) -> Ask | None:
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(asks).where(asks.c.id == ask_id))).one_or_none()
        return _ask(row) if row else None

    async def open_ones(self, *, session_id: SessionId | None = None, user_id: str | None = None) -> list[Ask]:
        """Those that wait, of a session, or of the sessions that a person began; the oldest first."""
        query = sa.select(asks).where(OPEN).order_by(asks.c.asked_at, asks.c.id)
        if session_id is not None:
            query = query.where(asks.c.session_id == session_id)
        if user_id is not None:
            query = query.join(sessions, sessions.c.id == asks.c.session_id).where(sessions.c.user_id == user_id)
        async with self._db.read() as connection:
            return [_ask(row) for row in await connection.execute(query)]

    async def decide(self, ask_id: AskId, decision: Decision, by: str, now: datetime) -> Ask:
        """Raises AskNotFound, AskClosedAlready."""
        async with self._db.transaction(fast=True) as connection:
            row = (await connection.execute(sa.select(asks).where(asks.c.id == ask_id))).one_or_none()
            if row is None:
                raise AskNotFound
            values = {
                "state": decided(AskKind(row.kind), decision).value,
                "decided_by": by,
                "decided_at": now,
                "decision": _json(asdict(decision)),
            }
            late = row.expires_at is not None and row.expires_at <= now
            where = sa.and_(asks.c.id == ask_id, OPEN, sa.false() if late else sa.true())
            done = (
                await connection.execute(sa.update(asks).where(where).values(**values).returning(*asks.c))
            ).one_or_none()
            if done is not None:
                ask = _ask(done)
                added = await self._add_rules(connection, ask, decision, by, now)
                if ask.kind is AskKind.EGRESS:
                    await decide_within(self._db, connection, ask, decision, by, now)
                await connection.execute(sa.insert(audit), _record(ask, now, by, decision.behavior, added))
        if done is None:
            raise AskClosedAlready(await self._closed(ask_id, now))
        return ask

    async def _closed(self, ask_id: AskId, now: datetime) -> Ask:
        await self.expire(now)
        ask = await self.get(ask_id)
        if ask is None:
            raise AskNotFound
        return ask

    async def expire(self, now: datetime) -> list[Ask]:
        """Closes what nobody answered in time; those that were."""
        late = sa.and_(asks.c.expires_at.is_not(None), asks.c.expires_at <= sa.bindparam("now", now, Moment()))
        async with self._db.transaction() as connection:
            return await close_open(connection, late, AskState.EXPIRED, now)

    async def _add_rules(
        self, connection: Connection, ask: Ask, decision: Decision, by: str, now: datetime
    ) -> tuple[str, ...]:
        added, scope, scope_id = ask.suggestions, decision.scope, str(ask.session_id)
        if ask.kind is AskKind.PLAN and decision.mode == "acceptEdits":
            added, scope = EDITS, "session"
        if decision.behavior != "allow" or scope == "once":
            return ()
        if scope == "channel":
            where = sessions.c.id == ask.session_id
            thread = (await connection.execute(sa.select(sessions.c.team, sessions.c.channel).where(where))).one()
            scope_id = channel_scope(thread.team, thread.channel)
        for rule in added:
            server = ask.servers.get(rule, "")
            await self.rules.add_within(connection, scope, scope_id, "allow", rule, by, now, server)
        return added


async def close_open(
    connection: Connection, where: sa.ColumnElement[bool], state: AskState, now: datetime
) -> list[Ask]:
    """Closes open asks without a decision, with their rows in the audit."""
    statement = sa.update(asks).where(OPEN, where).values(state=state.value, decided_at=now).returning(*asks.c)
    closed = [_ask(row) for row in (await connection.execute(statement)).all()]
    if closed:
        await connection.execute(sa.insert(audit), [_record(ask, now, None, state.value, ()) for ask in closed])
    return closed


async def _of_turn(connection: Connection, turn_id: TurnId) -> list[StoredAsk]:
    query = sa.select(asks).where(asks.c.turn_id == turn_id).order_by(asks.c.asked_at, asks.c.id)
    return [_stored(row) for row in await connection.execute(query)]


def _same(known: StoredAsk, ask: Ask, epoch: str) -> bool:
    """The very ask; or one in the same words of a process that is gone, whose answer Claude has not heard."""
    if known.ask.id == ask.id:
        return True
    waits = known.epoch != epoch and not known.given and known.ask.state is not AskState.WITHDRAWN
    return waits and known.ask.tool == ask.tool and _words(known.ask) == _words(ask)


def _words(ask: Ask) -> object:
    """Of a plan its text: the file that it stands in may have another name."""
    words: object = json.loads(_json(ask.input))  # as it is stored
    return words.get("plan") if ask.kind is AskKind.PLAN and isinstance(words, dict) else words


def _row(ask: Ask) -> dict[str, Any]:
    return {
        "id": ask.id,
        "session_id": ask.session_id,
        "turn_id": ask.turn_id,
        "kind": ask.kind.value,
        "tool": ask.tool,
        "tool_id": ask.tool_id,
        "input": _json(ask.input),
        "suggestions": _json(ask.suggestions),
        "servers": _json(ask.servers),
        "state": ask.state.value,
        "asked_at": ask.asked_at,
        "expires_at": ask.expires_at,
        "decided_at": ask.decided_at,
        "decision": _json(asdict(ask.decision)) if ask.decision else None,
    }


def _record(ask: Ask, now: datetime, by: str | None, behavior: str, added: Sequence[str]) -> dict[str, Any]:
    return {
        "at": now,
        "by": by,
        "session_id": ask.session_id,
        "turn_id": ask.turn_id,
        "ask_id": ask.id,
        "kind": ask.kind.value,
        "tool": ask.tool,
        "input": _json(ask.input),
        "behavior": behavior,
        "scope": ask.decision.scope if ask.decision else None,
        "rule": _json(added) if added else None,
        "message": ask.decision.message if ask.decision else None,
    }


def _json(value: object) -> str:
    return well_formed(json.dumps(value, ensure_ascii=False))


def _stored(row: sa.Row[Any]) -> StoredAsk:
    return StoredAsk(_ask(row), row.request_id, row.epoch, row.given, row.parked)


def _ask(row: sa.Row[Any]) -> Ask:
    return Ask(
        id=AskId(row.id),
        session_id=SessionId(row.session_id),
        turn_id=TurnId(row.turn_id),
        kind=AskKind(row.kind),
        tool=row.tool,
        tool_id=row.tool_id,
        input=json.loads(row.input),
        suggestions=tuple(json.loads(row.suggestions)),
        servers=json.loads(row.servers),
        state=AskState(row.state),
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        decision=Decision(**json.loads(row.decision)) if row.decision else None,
    )
