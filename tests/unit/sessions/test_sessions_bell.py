"""The bell between replicas: heard by the others, at once, again after the connection was lost; never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from tcpproxy import TcpProxy
from waiting import until

from sessions.bell import Bell
from sessions.db import open_database
from sessions.types import SessionId


@asynccontextmanager
async def belled(dsn: str) -> AsyncIterator[tuple[Bell, list[str]]]:
    db, heard = open_database(dsn), list[str]()
    try:
        async with Bell(db, "test") as bell:
            bell.listen(heard.append)
            yield bell, heard
    finally:
        await db.close()


@pytest.mark.postgres
async def test_every_other_process_hears_a_ring_and_the_ringer_does_not(postgres_dsn: str) -> None:  # noqa: F811
    async with (
        belled(postgres_dsn) as (one, heard_one),
        belled(postgres_dsn) as (two, heard_two),
        belled(postgres_dsn) as (three, heard_three),
    ):
        await until(lambda: one.connected and two.connected and three.connected)
        await one.ring(SessionId("a"))
        await two.ring(SessionId("b"))
        await until(lambda: heard_one == ["b"] and heard_two == ["a"] and sorted(heard_three) == ["a", "b"])


@pytest.mark.postgres
async def test_a_lost_connection_comes_back_and_what_was_rung_meanwhile_is_heard(postgres_dsn: str) -> None:  # noqa: F811
    parts = urlsplit(postgres_dsn)
    async with (
        TcpProxy(parts.hostname or "", parts.port or 0) as proxy,
        belled(f"postgresql://flow@127.0.0.1:{proxy.port}{parts.path}") as (cut_off, heard),
        belled(postgres_dsn) as (other, heard_other),
    ):
        await until(lambda: cut_off.connected and other.connected)
        proxy.refuse()
        await until(lambda: not cut_off.connected)
        for number in range(5_000):
            await asyncio.wait_for(cut_off.ring(SessionId(str(number))), 30)
        proxy.restore()
        await until(lambda: len(heard_other) == 1_000)
        await other.ring(SessionId("back"))
        await until(lambda: heard == ["back"])


@pytest.mark.postgres
async def test_whoever_cannot_bear_a_ring_hears_the_next_one(postgres_dsn: str) -> None:  # noqa: F811
    async with belled(postgres_dsn) as (one, _), belled(postgres_dsn) as (two, _):
        heard = []

        def picky(session_id: SessionId) -> None:
            if session_id == "bad":
                raise ValueError
            heard.append(session_id)

        two.listen(picky)
        await until(lambda: one.connected and two.connected)
        await one.ring(SessionId("bad"))
        await one.ring(SessionId("good"))
        await until(lambda: heard == ["good"])


async def test_with_sqlite_it_does_nothing(tmp_path: Path) -> None:
    async with belled(f"sqlite://{tmp_path}/db.sqlite") as (bell, heard):
        await bell.ring(SessionId("x"))
        assert (heard, bell.connected) == ([], False)
