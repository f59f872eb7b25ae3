"""Processes that ring each other about a session which one of them holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from waiting import until

from sessions.livetasks import LiveTasks
from sessions.types import SessionId

HELD = SessionId("held")


class Elsewhere:
    """Another process holds the session: it is refused, once `may` is set."""

    exclusive = False

    def __init__(self) -> None:
        self.asked, self.may = 0, asyncio.Event()

    async def acquire(self, _session_id: SessionId) -> None:
        self.asked += 1
        await self.may.wait()

    def valid(self, _session_id: SessionId) -> bool:
        return False

    async def keep(self, _lost: Any) -> None:
        await asyncio.Event().wait()

    async def release_all(self) -> None: ...


class Bell:
    def __init__(self) -> None:
        self.rung: list[SessionId] = []
        self.heard: Callable[[SessionId], None] = lambda _session_id: None

    def listen(self, on_ring: Callable[[SessionId], None]) -> None:
        self.heard = on_ring

    async def ring(self, session_id: SessionId) -> None:
        self.rung.append(session_id)


class Store:
    async def next_work(self, _session_id: SessionId) -> tuple[object, bool]:
        return object(), False


def tasks_of(holdings: Elsewhere, bell: Bell) -> LiveTasks:
    async def stored(read: Callable[[], Any]) -> Any:
        return await read()

    silent = SimpleNamespace(release=lambda _id: None, ended=lambda _id: None, free=lambda _id: None)
    shared: Any = SimpleNamespace(store=Store(), places=silent, stored=stored)
    unlike: Any = holdings, silent
    return LiveTasks(shared, *unlike, bell)


async def test_who_is_rung_while_it_is_refused_looks_again_and_rings_nobody() -> None:
    """Two refusals for each ring would go on between many for as long as the turn is open."""
    holdings, bell = Elsewhere(), Bell()
    async with tasks_of(holdings, bell) as tasks:
        bell.heard(HELD)
        live = tasks.get(HELD)
        assert live is not None
        await until(lambda: holdings.asked == 1)
        bell.heard(HELD)
        await until(lambda: live.missed)
        holdings.may.set()
        await until(lambda: holdings.asked == 2, what="the second look")
        await until(lambda: HELD not in tasks)
        assert bell.rung == []


async def test_who_is_refused_of_itself_rings_the_holder_once() -> None:
    holdings, bell = Elsewhere(), Bell()
    holdings.may.set()
    async with tasks_of(holdings, bell) as tasks:
        tasks.ring(HELD)
        await until(lambda: bell.rung)
        await until(lambda: HELD not in tasks)
        assert (holdings.asked, bell.rung) == (1, [HELD])
