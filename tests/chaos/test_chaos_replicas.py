"""Two `flow serve` on one PostgreSQL, one Slack app and one share directory: one is killed, stands still, or is cut
off from the database. The other takes its sessions over, and the law holds."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from chaos_batches import Batch, dealt, in_worlds, told
from chaos_points import PAUSING
from e2e.world import ROOT
from postgres import postgres_server  # noqa: F401 - a fixture
from proxy import Proxy
from storm import Storm, TrappedProgram, open_storm

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(4 * 3600)]

KINDS = ("replica stalls", "replica killed", "replica cut off", "replica paused")
LEASE = 3.0  # seconds, where a program loads in less than a quarter of that
_MENDING = 30.0  # seconds: a process that stood still calls Slack once more, and then learns that it was late


async def test_one_of_two_replicas_dies(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    postgres_server: str,  # noqa: F811
) -> None:
    async def live(batch: Batch) -> None:
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(_database(postgres_server))
            proxies = [await stack.enter_async_context(Proxy(dsn)) for _ in range(2)]
            lease = await _lease()
            storm = await stack.enter_async_context(
                open_storm(
                    "local", batch.seed, tmp_path / batch.seed.rpartition("/")[2],
                    FLOW_DSN=proxies[0].dsn, FLOW_LEASE_SECONDS=str(lease),
                )
            )  # fmt: skip
            storm.law.dsn = dsn
            other = TrappedProgram({**storm.program.env, "FLOW_DSN": proxies[1].dsn}, storm.program.cwd)
            storm.others.append(other)
            for program in (storm.program, other):
                await program.start()
            for kind in batch.kinds:
                tally = batch.tally(kind)
                tally.runs += 1
                tally.hits += await _strike(storm, kind, proxies, lease)
                if violations := await storm.judge(mending=_MENDING):
                    batch.broken(kind, violations, storm.log)
                    return
            if violations := await storm.end():
                batch.broken(batch.kinds[-1], violations, storm.log)

    kinds = dealt(pytestconfig, KINDS, 0.1, few=3)
    reports = await in_worlds(pytestconfig, "replicas", "local", kinds, live)
    assert not reports, told(reports)


async def _lease() -> float:
    """So long that a program that lives and is served does not lose one: this machine may be slow, or busy."""
    began = time.monotonic()
    loading = await asyncio.create_subprocess_exec(sys.executable, "-c", "import bot.serve", cwd=ROOT)
    assert await loading.wait() == 0
    return min(30.0, max(LEASE, 4 * (time.monotonic() - began)))


@asynccontextmanager
async def _database(server: str) -> AsyncIterator[str]:
    """An empty one of this world's own."""
    name = f"chaos_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"create database {name}")
        yield f"{server}/{name}"
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()


async def _strike(storm: Storm, kind: str, proxies: list[Proxy], lease: float) -> bool:
    """True: somebody was waiting for an answer just then."""
    dice = storm.random
    if kind == "replica stalls":
        return await _stall(storm, lease)
    victim = dice.randrange(2)
    program, proxy = (storm.program, *storm.others)[victim], proxies[victim]
    await storm.talk(dice.randint(2, 3))
    await asyncio.sleep(dice.uniform(0, 1))
    hit = bool(await storm.law.unfinished())
    away = lease * dice.uniform(0.5, 2.5)  # seconds: shorter than its lease, or longer
    if kind == "replica killed":
        await program.kill()
        await storm.talk(1)
        await asyncio.sleep(dice.uniform(0, lease))
        await program.start()
    elif kind == "replica paused":
        program.pause()
        await storm.talk(1)
        await asyncio.sleep(away)
        program.go_on()
    else:
        proxy.cut()
        await storm.talk(1)
        await asyncio.sleep(away)
        proxy.mend()
    return hit


async def _stall(storm: Storm, lease: float) -> bool:
    """Both are to stand still at the same point; one that does goes on when its leases have run out. True: one did."""
    dice, programs = storm.random, (storm.program, *storm.others)
    point, times = dice.choice(PAUSING), dice.choice((1, 1, 1, 2))
    for program in programs:
        program.set_trap(point, times, signal.SIGSTOP)
    await storm.talk(dice.randint(2, 3))
    end = time.monotonic() + 20 * lease / LEASE
    stopped: list[TrappedProgram] = []
    while not stopped and time.monotonic() < end and await storm.law.unfinished():
        await asyncio.sleep(0.02)
        stopped = [program for program in programs if program.stands_still]
    storm.program.trap.unlink()
    for program in programs:
        if program not in stopped:
            program.disarm()
    await asyncio.sleep(lease * dice.uniform(1.2, 3))
    for program in programs:
        program.go_on()
    return bool(stopped)
