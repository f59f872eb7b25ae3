"""Two programs on one PostgreSQL: a session belongs to one of them at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import QUICK, Heart
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from scripted import ScriptedHost
from waiting import until

import migrations
from sessions.db import open_database
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.tables import sessions as table
from sessions.types import Done

pytestmark = pytest.mark.postgres


@asynccontextmanager
async def replica(dsn: str, host: ScriptedHost, lease_seconds: float = 30) -> AsyncIterator[Heart]:
    db = open_database(dsn)
    try:
        store = Store(db)
        async with Sessions(store, host, max_sessions=5, patience=QUICK, lease_seconds=lease_seconds) as sessions:
            reaper = Reaper(sessions, store, host, session_timeout=timedelta(minutes=30))
            heart = Heart(db, host, sessions, reaper)
            sessions.observe(lambda *told: heart.told.append(told))
            yield heart
    finally:
        await db.close()


@pytest.fixture
async def dsn(postgres_dsn: str) -> str:  # noqa: F811
    await migrations.upgrade(postgres_dsn)
    return postgres_dsn


async def test_a_reply_that_reaches_the_other_replica_is_answered_by_the_owner(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two:
        await one.settled(await one.ask("first"))
        reply = await two.ask("second")
        await until(lambda: not two.sessions.is_live(reply.session.id))
        await one.reaper.sweep()
        assert await one.settled(reply) == Done()
        assert two.outcomes(reply.turn.id) == []
        assert len(host.opened) == 1


async def test_a_replica_that_lost_its_lease_lets_go_and_does_no_harm(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host, lease_seconds=0.3) as one, replica(dsn, host) as two:
        asked = await one.ask("HOLD")
        process = await one.process(asked)
        await _take_away(one, asked.session.id)
        await until(lambda: not one.sessions.is_live(asked.session.id))
        two.sessions.ring(asked.session.id)
        await until(lambda: len(process.prompts) == 2)
        process.answer("from the second")
        assert await two.settled(asked.turn.id) == Done()
        assert one.outcomes(asked.turn.id) == []


async def _take_away(heart: Heart, session_id: Any) -> None:
    """As if the replica had been stopped for longer than its lease."""
    async with heart.db.transaction() as connection:
        await connection.execute(
            sa.update(table).where(table.c.id == session_id).values(lease_until=0, fence=table.c.fence + 1)
        )
