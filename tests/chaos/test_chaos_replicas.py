"""Two `flow serve` on one PostgreSQL, one Slack app and one share directory: one is killed, stands still, or is cut
off from the database. The other takes its sessions over, and the law holds."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from chaos_batches import Batch, in_worlds, runs
from postgres import postgres_server  # noqa: F401 - a fixture
from proxy import Proxy
from storm import Storm, TrappedProgram, open_storm

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(4 * 3600)]

KINDS = ("replica killed", "replica paused", "replica cut off")
LEASE = 3.0  # seconds


async def test_one_of_two_replicas_dies(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    postgres_server: str,  # noqa: F811
) -> None:
    async def live(batch: Batch) -> None:
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(_database(postgres_server))
            proxies = [await stack.enter_async_context(Proxy(dsn)) for _ in range(2)]
            storm = await stack.enter_async_context(
                open_storm(
                    "local", batch.seed, tmp_path / batch.seed.rpartition("/")[2],
                    FLOW_DSN=proxies[0].dsn, FLOW_LEASE_SECONDS=str(LEASE),
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
                tally.hits += await _strike(storm, kind, proxies)
                if violations := await storm.judge():
                    batch.broken(kind, violations, storm.log)
                    return
            if violations := await storm.end():
                batch.broken(batch.kinds[-1], violations, storm.log)

    kinds = list(itertools.islice(itertools.cycle(KINDS), 3 * runs(pytestconfig, 0.1)))
    await in_worlds(pytestconfig, "replicas", "local", kinds, live)


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


async def _strike(storm: Storm, kind: str, proxies: list[Proxy]) -> bool:
    """True: somebody was waiting for an answer just then."""
    dice = storm.random
    victim = dice.randrange(2)
    program, proxy = (storm.program, *storm.others)[victim], proxies[victim]
    await storm.talk(dice.randint(2, 3))
    await asyncio.sleep(dice.uniform(0, 1))
    hit = bool(await storm.law.unfinished())
    away = LEASE * dice.uniform(0.5, 2.5)  # seconds: shorter than its lease, or longer
    if kind == "replica killed":
        await program.kill()
        await storm.talk(1)
        await asyncio.sleep(dice.uniform(0, LEASE))
        await program.start()
    elif kind == "replica paused":
        assert program.process
        program.process.send_signal(signal.SIGSTOP)
        await storm.talk(1)
        await asyncio.sleep(away)
        program.process.send_signal(signal.SIGCONT)
    else:
        proxy.cut()
        await storm.talk(1)
        await asyncio.sleep(away)
        proxy.mend()
    return hit
