"""The gateway is killed under load, and PostgreSQL too: what was acknowledged is there, and nothing only in part."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import kvstorm
import pytest
from kvpostgres import postgres_source
from kvserving import Program, Source, sqlite_source
from postgres import Cluster
from waiting import until

from kvstore.aio import AsyncWorkletKVStore, create_async_worklet_kv_store

WRITERS = 12
#: Kills in one life without --chaos-runs.
SMALL = 3
_LONG = 90.0
Kill = Callable[[random.Random], Awaitable[None]]


async def live(config: pytest.Config, source: Source, program: Program, kill: Kill, name: str) -> None:
    """Programs write and one watches while `kill` strikes again and again; then all is compared."""
    dice = random.Random(f"{config.getoption('--chaos-seed')}/{name}")
    worklet = await source.register()
    token = source.signing_key.mint_worklet(worklet)
    book, over = kvstorm.Book(), asyncio.Event()
    async with clients(program.url, worklet, token, WRITERS + 2) as (reader, watched, *stores):
        await kvstorm.prepare(reader)
        mirror = kvstorm.Mirror(watched)
        writers = [kvstorm.Writer(n, store, book, random.Random(dice.random())) for n, store in enumerate(stores)]
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(mirror.follow())
            writing = [tasks.create_task(writer.write(over)) for writer in writers]
            for _ in range(config.getoption("--chaos-runs") or SMALL):
                await everybody_writes(writers)
                await asyncio.sleep(dice.random() * 0.3)
                await kill(dice)
            await everybody_writes(writers)
            over.set()
            await asyncio.gather(*writing)
            held = (await reader.export_data("default"))["default"]
            await until(lambda: mirror.entries == held or mirror.failures, _LONG, "the mirror to be the store")
            following.cancel()
    assert [*kvstorm.broken(book, held), *mirror.failures] == []
    assert book.answers > WRITERS
    assert mirror.entries == held


async def everybody_writes(writers: list[kvstorm.Writer]) -> None:
    """Each has had three more answers: all are past what broke the last time."""
    before = [writer.answers for writer in writers]
    pairs = list(zip(writers, before, strict=True))
    await until(lambda: all(writer.answers >= old + 3 for writer, old in pairs), _LONG, "answers to every writer")


@asynccontextmanager
async def clients(url: str, worklet: str, token: str, number: int) -> AsyncIterator[list[AsyncWorkletKVStore]]:
    stores = [create_async_worklet_kv_store(worklet, url=url, token=token, timeout=5.0) for _ in range(number)]
    try:
        yield stores
    finally:
        for store in stores:
            await store.aclose()


def killing(program: Program) -> Kill:
    async def kill(_: random.Random) -> None:
        await program.kill()
        await program.start()

    return kill


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[Program]:
    program = Program(source)
    await program.start()
    try:
        yield program
    finally:
        await program.end()


@pytest.mark.timeout(3600)
async def test_killed_sqlite_gateway_keeps_its_word(pytestconfig: pytest.Config) -> None:
    with sqlite_source() as source:
        async with running(source) as program:
            await live(pytestconfig, source, program, killing(program), "sqlite")
        with sqlite3.connect(Path(source.place)) as file:
            assert file.execute("pragma integrity_check").fetchone() == ("ok",)
        file.close()


@pytest.mark.postgres
@pytest.mark.timeout(3600)
async def test_killed_gateway_and_crashed_postgres_keep_their_word(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """In turns: the gateway, the server ("immediate": as a crash), both at once."""
    cluster = Cluster()
    try:
        await asyncio.to_thread(cluster.make)
        await cluster.start()
        source = await postgres_source(cluster.address, await cluster.make_database(), f"{tmp_path}/signing-key.pem")
        async with running(source) as program:
            victims = iter(range(1 << 30))

            async def kill(_: random.Random) -> None:
                turn = next(victims) % 3
                if turn != 1:
                    await program.kill()
                if turn != 0:
                    await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
                    await cluster.start()
                if turn != 1:
                    await program.start()

            await live(pytestconfig, source, program, kill, "postgres")
    finally:
        cluster.remove()
