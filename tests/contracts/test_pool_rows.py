"""What the rows of the pool promise, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from sessions.db import Database, open_database
from sessions.errors import LeaseLost
from sessions.housekeeping import Housekeeping
from sessions.leases import Lease
from sessions.poolstore import PoolStore
from sessions.store import Store
from sessions.types import Prompt, Session, SessionState, ThreadId


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Replica:
    """One process: its rows of the pool, and its sessions."""

    def __init__(self, db: Database, name: str, clock: Clock) -> None:
        self.db, self.name = db, name
        self.store = Store(db, clock)
        self.pool = PoolStore(db, clock)
        self.pool.pattern = "a"
        self.got: list[bool] = []
        self.pool.on_start = self.got.append

    async def session(self, number: int) -> tuple[Lease, Session]:
        ts = f"1700000000.{number:06d}"
        stored = await self.store.submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "help"))
        assert stored is not None
        acquired = await self.store.leases.acquire(stored.submitted.session.id, self.name, 60)
        assert acquired is not None
        return acquired

    async def stand_ready(self, *names: str, pattern: str = "a") -> None:
        for name in names:
            await self.pool.add(name, f"conversation of {name}", pattern)
            assert await self.pool.ready(name)


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def replicas(dsn: str, clock: Clock) -> AsyncIterator[list[Replica]]:
    """Two processes on PostgreSQL; with SQLite there can be one, which stands for both."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(1 if dsn.startswith("sqlite") else 2):
            database = open_database(dsn)
            stack.push_async_callback(database.close)
            opened.append(database)
        yield [Replica(opened[number % len(opened)], f"replica {number}", clock) for number in range(2)]


async def test_a_session_takes_over_name_and_conversation(replicas: list[Replica]) -> None:
    one = replicas[0]
    lease, session = await one.session(1)
    assert await one.pool.claim(lease) is None
    await one.stand_ready("p1", "p2")
    claimed = await one.pool.claim(lease)
    assert claimed is not None
    assert (claimed.id, claimed.worklet, claimed.claude_session_id) == (session.id, "p1", "conversation of p1")
    assert claimed.state is SessionState.STARTING
    assert await one.store.get(session.id) == claimed
    assert [member.name for member in await one.pool.members()] == ["p2"]
    assert one.got == [False, True]
    # A reply that was lost: what was taken is given again, and no second one.
    assert await one.pool.claim(lease) == claimed
    assert [member.name for member in await one.pool.members()] == ["p2"]


async def test_two_never_get_the_same(replicas: list[Replica]) -> None:
    names = [f"p{number:02d}" for number in range(12)]
    await replicas[0].stand_ready(*names)
    asking = [(replicas[number % 2], await replicas[number % 2].session(number)) for number in range(20)]
    claims = await asyncio.gather(*(replica.pool.claim(lease) for replica, (lease, _) in asking))
    taken = sorted(session.worklet for session in claims if session is not None)
    # Who finds a row locked passes over it, and goes without: on PostgreSQL fewer may be taken, never one twice.
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(names)
    assert len(taken) >= 6
    if replicas[0].db.sqlite:
        assert taken == names


async def test_only_what_is_ready_and_alike_is_taken(replicas: list[Replica]) -> None:
    one = replicas[0]
    lease, _ = await one.session(1)
    await one.pool.add("pstarting", "id", "a")
    await one.stand_ready("pother", pattern="b")
    await one.stand_ready("pgoing")
    assert await one.pool.take_out("pgoing")
    assert await one.pool.claim(lease) is None
    one.pool.pattern = None
    await one.stand_ready("pgood")
    assert await one.pool.claim(lease) is None
    one.pool.pattern = "b"
    claimed = await one.pool.claim(lease)
    assert claimed is not None
    assert claimed.worklet == "pother"


async def test_who_may_have_too_little_memory_takes_none(replicas: list[Replica]) -> None:
    one = replicas[0]
    one.pool.least_memory = 800 << 20
    await one.stand_ready("p1")
    await one.pool.add("p2", "id", "a")
    lease, _ = await one.session(1)
    assert await one.pool.claim(lease, 512 << 20) is None
    assert one.got == [], "it is no demand that the pool could meet"
    assert await one.pool.states() == {"p1": "ready", "p2": "starting"}
    assert await one.pool.claim(lease, 800 << 20) is not None
    assert await one.pool.take_out("p2")
    assert await one.pool.states() == {"p2": "leaving"}


async def test_without_the_lease_nothing_is_taken(replicas: list[Replica]) -> None:
    one, other = replicas
    lease, session = await one.session(1)
    await one.stand_ready("p1")
    await one.store.leases.release([lease])
    assert await other.store.leases.acquire(session.id, other.name, 60) is not None
    with pytest.raises(LeaseLost):
        await one.pool.claim(lease)
    assert [member.name for member in await one.pool.members()] == ["p1"]
    assert (await one.store.get(session.id)).worklet == session.worklet


async def test_what_a_session_has_is_not_removed(replicas: list[Replica]) -> None:
    one = replicas[0]
    lease, _ = await one.session(1)
    await one.stand_ready("p1", "p2")
    await one.pool.claim(lease)
    assert not await one.pool.take_out("p1")
    assert await one.pool.take_out("p2")
    assert await one.pool.take_out("p2")  # again, by whoever finds it half removed
    assert not await one.pool.ready("p2")
    [member] = await one.pool.members()
    assert member.leaving
    await one.pool.forget("p1")
    await one.pool.forget("p2")
    assert await one.pool.members() == []
    assert await Housekeeping(one.db, lambda _: None).pooled() == {"p1"}  # no stray, as its session's row says too


async def test_claims_count_for_a_while(replicas: list[Replica], clock: Clock) -> None:
    one = replicas[0]
    await one.stand_ready("p1", "p2")
    for number in (1, 2):
        lease, _ = await one.session(number)
        await one.pool.claim(lease)
        clock.now += timedelta(minutes=4)
    assert len(await one.pool.taken(timedelta(minutes=10))) == 2
    clock.now += timedelta(minutes=3)
    assert len(await one.pool.taken(timedelta(minutes=10))) == 1
    assert await Housekeeping(one.db, lambda _: None).pooled() == {"p2"}
