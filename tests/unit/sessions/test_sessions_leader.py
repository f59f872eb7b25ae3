"""One leader among replicas, and each firing of its jobs once: also when it dies, stands still or is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import schema
import sqlalchemy as sa
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from tcpproxy import TcpProxy
from waiting import until

from sessions.db import Database, open_database
from sessions.errors import StoreUnavailable
from sessions.leader import Leader
from sessions.tables import firings, leaders

DUE = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def db(postgres_dsn: str) -> AsyncIterator[Database]:  # noqa: F811
    await schema.migrated(postgres_dsn)
    db = open_database(postgres_dsn)
    yield db
    await db.close()


async def owners(db: Database) -> list[str]:
    async with db.read() as connection:
        found = await connection.execute(sa.select(firings.c.owner).order_by(firings.c.due_at))
        return [row.owner for row in found]


@pytest.mark.postgres
async def test_one_leads_and_keeps_the_lead(db: Database) -> None:
    leaders = [Leader(db, f"replica {n}") for n in range(5)]
    led = await asyncio.gather(*(leader.lead() for leader in leaders))
    (first,) = [leader for leader, now in zip(leaders, led, strict=True) if now is not None]
    for _ in range(3):
        assert [leader for leader in leaders if await leader.lead() is not None] == [first]


@pytest.mark.postgres
async def test_a_leader_that_resigns_is_followed_at_once(db: Database) -> None:
    one, two = Leader(db, "one"), Leader(db, "two")
    assert await one.lead() is not None
    await two.resign()  # not its own: nothing happens
    assert await two.lead() is None
    await one.resign()
    assert await two.lead() is not None


@pytest.mark.postgres
async def test_a_leader_that_dies_is_followed_when_its_lease_has_run_out(db: Database) -> None:
    dead, other = Leader(db, "dead", seconds=0.3), Leader(db, "other")
    assert await dead.lead() is not None
    await until(other.lead)
    assert await dead.lead() is None


@pytest.mark.postgres
async def test_a_firing_is_claimed_once_however_many_try(db: Database) -> None:
    claims = await asyncio.gather(*(Leader(db, str(n)).claim("sweep", DUE) for n in range(20)))
    assert sorted(claims) == [False] * 19 + [True]
    assert await Leader(db, "a").claim("another job", DUE)


@pytest.mark.postgres
async def test_a_leader_that_stood_still_finds_its_firing_taken(db: Database) -> None:
    """It was stopped between asking for the lead and claiming, for longer than its lease lasts."""
    paused, other = Leader(db, "paused", seconds=0.2), Leader(db, "other")
    now = await paused.lead()
    assert now is not None
    await until(other.lead)
    due = datetime.fromtimestamp(now - now % 60, UTC)
    assert await other.claim("sweep", due)
    assert not await paused.claim("sweep", due)


@pytest.mark.postgres
async def test_of_two_that_are_rung_all_the_time_each_firing_is_one_ones(db: Database) -> None:
    """The first leader falls silent half way: no firing is done twice, and the other goes on."""
    acted: list[tuple[str, float]] = []
    loop = asyncio.get_running_loop()

    async def ring(name: str, stop: asyncio.Event) -> None:
        leader = Leader(db, name, seconds=3600)  # a busy machine must not lose it in between
        while not stop.is_set():
            if await leader.turn("sweep", 0.2):
                acted.append((name, loop.time()))
            await asyncio.sleep(0.01)

    stops = {"one": asyncio.Event(), "two": asyncio.Event()}
    tasks = {name: asyncio.create_task(ring(name, stop)) for name, stop in stops.items()}
    await until(lambda: len(acted) >= 4)
    first = acted[0][0]
    assert {name for name, _ in acted} == {first}
    stops[first].set()
    await tasks[first]
    async with db.transaction() as connection:
        await connection.execute(sa.update(leaders).values(until=0))  # as if its lease had run out
    await until(lambda: len([name for name, _ in acted if name != first]) >= 4)
    for stop in stops.values():
        stop.set()
    await asyncio.gather(*tasks.values())
    assert await owners(db) == [name for name, _ in acted], "as many claims as deeds, in the same order"


@pytest.mark.postgres
async def test_a_leader_that_is_cut_off_does_nothing_and_another_leads(db: Database, postgres_dsn: str) -> None:  # noqa: F811
    parts = urlsplit(postgres_dsn)
    async with TcpProxy(parts.hostname or "", parts.port or 0) as proxy:
        far = open_database(f"postgresql://flow@127.0.0.1:{proxy.port}{parts.path}")
        cut_off, other = Leader(far, "cut off", seconds=0.3), Leader(db, "other")
        assert await cut_off.turn("sweep", 0.01)
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await cut_off.turn("sweep", 0.01)
        await until(lambda: other.turn("sweep", 0.01))
        proxy.restore()
        assert not await cut_off.turn("sweep", 0.01)
        await far.close()


async def test_with_sqlite_there_is_nobody_else(tmp_path: Path) -> None:
    db = open_database(f"sqlite://{tmp_path}/db.sqlite")
    assert await Leader(db, "me").turn("sweep", 30)
    assert await Leader(db, "me").turn("sweep", 30)
    await db.close()
