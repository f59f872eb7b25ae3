"""What people set: which scope counts, and that other processes see it. On SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from sessions.db import Database, open_database
from sessions.options import Level, Options
from sessions.store import Store
from sessions.types import Prompt, Session, SessionId, ThreadId


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = open_database(dsn, exclusive=False)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with opened(dsn) as database:
        yield database


async def session_of(store: Store, options: Options | None = None) -> Session:
    asked = Prompt(ThreadId("T1", "C1", "1.0"), "C1:1.0", "1.0", "U1", "help me")
    look = (lambda s, u: (options.level(s, u).value, options.mention(s, u))) if options else (lambda *_: (None, False))
    stored = await store.submit(asked, look)
    assert stored is not None
    return stored.submitted.session


async def test_the_narrowest_scope_counts(db: Database) -> None:
    session = await session_of(Store(db))
    async with Options(db, {"level": "quiet", "mention": True}) as options:
        assert (options.level(session), options.mention(session, "U2")) == (Level.QUIET, True)
        assert options.get("model") is None
        widest_first = ("workspace", ""), ("user", "U1"), ("channel", "C1"), ("session", session.id)
        for scope, key_id in widest_first:
            await options.set(scope, key_id, "level", "verbose", "U1")  # type: ignore[arg-type]
            assert options.level(session) is Level.VERBOSE
            await options.set(scope, key_id, "level", "normal", "U1")  # type: ignore[arg-type]
            assert options.level(session) is Level.NORMAL
        await options.set("user", "U1", "model", "opus", "U1")
        assert options.get("model", user="U1") == "opus"
        assert options.get("model", user="U2", channel="C1", session=SessionId("s")) is None
        for scope, key_id in widest_first:
            await options.set(scope, key_id, "level", None, "U1")  # type: ignore[arg-type]
        assert options.level(session) is Level.QUIET


async def test_what_nobody_knows_is_normal(db: Database) -> None:
    session = await session_of(Store(db))
    async with Options(db, {"level": "quiet"}) as options:
        await options.set("channel", "C1", "level", "loud", "U1")
        assert options.level(session) is Level.NORMAL


async def test_other_processes_see_it_and_a_restart_keeps_it(dsn: str, db: Database) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    behind = now - timedelta(minutes=3)  # of a machine whose clock is late
    async with opened(dsn) as other_db, Options(db, clock=lambda: now) as mine:
        other = Options(other_db, clock=lambda: behind)
        await mine.set("channel", "C1", "level", "quiet", "U1")
        await other.refresh()
        assert other.get("level", channel="C1") == "quiet"
        await other.set("channel", "C1", "level", "verbose", "U2")
        await other.set("channel", "C2", "level", {"any": ["json"]}, "U2")
        await mine.refresh()
        assert mine.get("level", channel="C1") == "verbose"
        assert mine.get("level", channel="C2") == {"any": ["json"]}
        await mine.set("channel", "C1", "level", None, "U1")
        await other.refresh()
        assert other.get("level", channel="C1") is None


async def test_a_turn_keeps_the_level_that_it_was_asked_at(db: Database) -> None:
    store = Store(db)
    async with Options(db, {"mention": True}) as options:
        await options.set("channel", "C1", "level", "verbose", "U1")
        session = await session_of(store, options)
        await options.set("channel", "C1", "level", "quiet", "U1")
        await options.set("user", "U1", "mention", False, "U1")
        (turn,) = await store.turns(session.id)
        assert (turn.level, turn.mention) == ("verbose", True)
