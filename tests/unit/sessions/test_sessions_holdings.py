"""Leases that are given back while the program ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from heart import Heart

from sessions.db import Database
from sessions.holdings import Holdings
from sessions.leases import Lease, Leases
from sessions.types import Prompt, ThreadId


class SlowLeases(Leases):
    """Gives nothing back before it may."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def release(self, leases: Iterable[Lease]) -> None:
        self.asked.set()
        await self.may.wait()
        await super().release(leases)


async def test_a_lease_whose_return_is_cancelled_goes_with_the_others(heart: Heart) -> None:
    store = heart.sessions.store
    thread = ThreadId("T1", "C1", "1700000001.000000")
    stored = await store.submit(Prompt(thread, "C1:1700000001.000000", "1700000001.000000", "U1", "hello"))
    assert stored is not None
    session_id = stored.submitted.session.id
    leases = SlowLeases(store.db)
    holdings = Holdings(leases, 30, exclusive=False)
    acquired = await holdings.acquire(session_id)
    assert acquired is not None
    returning = asyncio.create_task(holdings.release(acquired[0]))
    await leases.asked.wait()
    returning.cancel()
    await asyncio.wait([returning])
    leases.may.set()
    await holdings.release_all()
    other = Holdings(Leases(store.db), 30, exclusive=False)
    assert await other.acquire(session_id) is not None, "it is free"
