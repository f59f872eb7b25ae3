"""Housekeeping asks what is due, not every row: its queries stand on the partial indexes of both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from sessions.db import Database
from sessions.errors import StoreUnavailable
from sessions.housekeeping import Housekeeping
from sessions.leases import Leases
from sessions.store import Store
from sessions.tables import amendments, firings
from sessions.types import Prompt, Session, ThreadId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def session(db: Database) -> Session:
    stored = await Store(db).submit(Prompt(ThreadId("T", "C", "1.0"), "C:1.0", "1.0", "U", "x"))
    assert stored
    return stored.submitted.session


async def test_what_is_due_is_found_by_index(db: Database) -> None:
    one = await session(db)
    house = Housekeeping(db, lambda _session_id: None)
    asked: dict[str, Any] = {
        "ix_sessions_asleep": lambda: house.asleep_since(NOW, None, 50),
        "ix_sessions_asleep ": lambda: house.asleep_since(NOW, one, 50),
        "ix_sessions_retired": lambda: house.retired_since(NOW, None, 50),
        "ix_sessions_live": house.unheld,
        "worklet": lambda: house.named(["a", "b"]),
        "ix_turns_undelivered": lambda: Store(db).with_work("me"),
    }
    for index, ask in asked.items():
        assert index.strip() in await plan(db, ask), index
    renewing = await plan(db, lambda: Leases(db).renew("me", [one.id], 15))
    assert "index" in renewing.lower(), "by the id or by the owner"


async def plan(db: Database, ask: Any) -> str:
    """Of the statement that `ask` executes. With few rows PostgreSQL would rather read the table: it may not."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement not in ("select 1", "BEGIN IMMEDIATE"):
            seen.append((statement, parameters))

    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    try:
        await ask()
    finally:
        sa.event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    statement, parameters = seen[0]
    async with db.read() as connection:
        if db.sqlite:
            rows = await connection.exec_driver_sql(f"explain query plan {statement}", parameters)
            return "\n".join(str(row) for row in rows)
        await connection.exec_driver_sql("set local enable_seqscan = off")
        rows = await connection.exec_driver_sql(f"explain {statement}", parameters)
        return "\n".join(str(row) for row in rows)


async def test_what_nobody_can_use_any_more_is_forgotten(db: Database) -> None:
    async with db.transaction() as connection:
        for age in (timedelta(hours=23), timedelta(hours=25)):
            source = {"team": "T", "channel": "C", "source_id": str(age), "edited_ts": "1.0", "created_at": NOW - age}
            await connection.execute(sa.insert(amendments).values(source))
            await connection.execute(sa.insert(firings).values(job="sweep", due_at=NOW - age, owner="me"))
    await Housekeeping(db, lambda _session_id: None).clean(NOW)
    async with db.read() as connection:
        for table in (amendments, firings):
            assert (await connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() == 1


async def test_a_session_that_changed_since_it_was_read_is_not_kept(db: Database) -> None:
    one = await session(db)
    house = Housekeeping(db, lambda _session_id: None)
    async with house.keeping(one) as kept:
        assert kept is None, "its prompt waits"
    store = Store(db)
    for turn in await store.turns(one.id):
        await store.interrupt_queued(one.id, "U", None)
        await store.mark_delivered(turn.id)
    async with house.keeping(one) as kept:
        assert kept is not None
        async with house.keeping(one) as again:
            assert again is None, "it is kept already"
        assert await store.leases.acquire(one.id, "runner", 30) is None
    assert await store.leases.acquire(one.id, "runner", 30)


async def delivered(db: Database) -> Session:
    one, store = await session(db), Store(db)
    for turn in await store.turns(one.id):
        await store.interrupt_queued(one.id, "U", None)
        await store.mark_delivered(turn.id)
    return one


async def test_a_session_that_is_never_given_back_is_free_when_its_lease_runs_out(db: Database) -> None:
    one = await delivered(db)
    async with Housekeeping(db, lambda _session_id: None, seconds=-1).keeping(one) as kept:
        assert kept is not None
        assert await Store(db).leases.acquire(one.id, "runner", 30)


async def test_what_could_not_be_given_back_is_given_back_later_with_its_changes(db: Database) -> None:
    one, store, asked = await delivered(db), Store(db), list[str]()
    house = Housekeeping(db, asked.append)

    async def rename(old: str, new: str) -> None:
        async with db.transaction() as connection:
            await connection.exec_driver_sql(f"alter table {old} rename to {new}")

    async def failing() -> None:
        async with house.keeping(one) as kept:
            assert kept is not None
            kept.changes |= {"summary": "so it went"}
            await store.submit(Prompt(one.thread, "C:2.0", "2.0", "U", "are you there?"))
            await rename("sessions", "elsewhere")

    with pytest.raises(StoreUnavailable):
        await failing()
    with pytest.raises(StoreUnavailable):
        await house.settle()
    await rename("elsewhere", "sessions")
    assert await store.leases.acquire(one.id, "runner", 30) is None
    assert asked == []
    await house.settle()
    assert asked == [one.id]
    assert (await store.get(one.id)).summary == "so it went"
    assert await store.leases.acquire(one.id, "runner", 30)
    await house.settle()
    assert asked == [one.id], "once is enough"
