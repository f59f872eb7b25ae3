"""Reapers of two programs on one PostgreSQL: each looks after its own, what concerns both is done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import schema
import sqlalchemy as sa
from heart import QUICK, Heart
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from scripted import ScriptedHost
from waiting import until

from sessions.db import open_database
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.tables import firings
from sessions.tables import sessions as table
from sessions.types import Done, SessionState, Submitted

pytestmark = pytest.mark.postgres


@asynccontextmanager
async def replica(
    dsn: str, host: ScriptedHost, *, timeout: float = 1800, interval: float = 0.05
) -> AsyncIterator[Heart]:
    """`timeout`: seconds of silence after which sessions sleep."""
    db = open_database(dsn)
    try:
        store = Store(db)
        async with Sessions(store, host, max_sessions=5, patience=QUICK, lease_seconds=30) as sessions:
            times = {"session_timeout": timedelta(seconds=timeout), "interval": timedelta(seconds=interval)}
            reaper = Reaper(sessions, store, host, **times)
            heart = Heart(db, host, sessions, reaper)
            sessions.observe(lambda *told: heart.told.append(told))
            yield heart
    finally:
        await db.close()


@pytest.fixture
async def dsn(postgres_dsn: str) -> str:  # noqa: F811
    await schema.migrated(postgres_dsn)
    return postgres_dsn


async def answered(heart: Heart, text: str = "one") -> Submitted:
    asked = await heart.ask(text)
    await heart.settled(asked)
    await heart.sessions.delivered(asked.turn.id)
    return asked


async def dies(heart: Heart) -> None:
    """As if by SIGKILL, longer ago than its lease: its tasks are gone, its rows say what they said."""
    for task in list(heart.sessions._tasks.tasks.values()):
        task.cancel()
    await until(lambda: not heart.sessions._tasks.tasks)


async def expire(heart: Heart) -> None:
    async with heart.db.transaction() as connection:
        await connection.execute(sa.update(table).values(lease_owner="dead", lease_until=0))


async def test_the_worklet_of_a_session_that_another_process_runs_is_no_stray_and_does_not_sleep(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host, timeout=0) as leader:
        idle, working = await answered(one), await one.ask("HOLD", thread="1700000000.000200")
        process = await one.process(working)
        for _ in range(3):
            await leader.reaper.sweep()
            await asyncio.sleep(0.06)
        assert len(await claims(leader)) == 3, "it led each time"
        assert host.closed == []
        assert (await one.sessions.get(idle.session.id)).state is SessionState.IDLE
        process.answer("done")
        assert await one.settled(working) == Done()


async def test_what_a_dead_process_left_idle_is_taken_over_and_sleeps_in_time(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two, replica(dsn, host, timeout=0) as impatient:
        asked = await answered(one)
        await dies(one)
        await expire(one)
        await two.reaper.sweep()
        await until(lambda: two.sessions.is_live(asked.session.id))
        assert host.closed == []
        await dies(two)
        await expire(two)
        await impatient.reaper.sweep()
        await impatient.reaper.sweep()
        await impatient.in_state(asked, SessionState.ASLEEP)
        assert not await host.running()


async def test_a_row_of_a_dead_process_whose_worklet_is_gone_sleeps(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two:
        asked = await answered(one)
        await dies(one)
        await expire(one)
        host.processes[asked.session.worklet].die()
        await two.reaper.sweep()
        session = await two.sessions.get(asked.session.id)
        assert (session.state, session.container_id) == (SessionState.ASLEEP, None)


async def test_a_stray_is_removed_by_one_of_them(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host, interval=30) as one, replica(dsn, host, interval=30) as two:
        await host.open("stray", claude_session_id="x", has_history=False, position=None, on_step=lambda step: None)
        await asyncio.gather(*(heart.reaper.sweep() for heart in (one, two, one, two)))
        assert host.closed == ["stray"]
        assert len(await claims(one)) == 1


async def claims(heart: Heart) -> list[str]:
    async with heart.db.read() as connection:
        return [row.owner for row in await connection.execute(sa.select(firings.c.owner))]
