"""The bot, Claude, the relay, containers are killed while people talk; the law holds after each run."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from chaos_batches import Batch, batches, parametrize
from chaos_points import RECOVERING, WORKING
from program import code_of
from storm import Storm, open_storm
from victims import strike

#: Part of all runs for each kind and runtime.
SHARES = {
    ("bot", "local"): 0.8,
    ("bot", "docker"): 0.2,
    ("cli", "local"): 0.1,
    ("cli", "docker"): 0.1,
    ("relay", "local"): 0.1,
    ("relay", "docker"): 0.1,
    ("container", "local"): 0.1,
    ("container", "docker"): 0.1,
    ("engine", "docker"): 0.2,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batch" in metafunc.fixturenames:
        found = [b for (kind, runtime), share in SHARES.items() for b in batches(metafunc.config, kind, runtime, share)]
        parametrize(metafunc, found)


@pytest.mark.parametrize("point", sorted({*WORKING, *RECOVERING}))
def test_every_named_point_is_there(point: str) -> None:
    code_of(point)


async def test_nothing_is_lost_or_answered_twice(batch: Batch, tmp_path: Path) -> None:
    async with open_storm(batch.runtime, batch.seed, tmp_path) as storm:
        await storm.program.start()
        for number in range(batch.runs):
            batch.tally.runs += 1
            batch.tally.hits += await (_kill_bot(storm) if batch.kind == "bot" else _kill_other(storm, batch.kind))
            if violations := await storm.judge():
                batch.fail(number, violations, storm.program.output)
        if violations := await storm.end():
            batch.fail(batch.runs, violations, storm.program.output)


async def _kill_bot(storm: Storm) -> bool:
    """At a named point or at some moment; in a quarter of all cases once more while it recovers. True: as planned."""
    dice, program = storm.random, storm.program
    at_point = dice.random() < 0.7
    if at_point:
        program.set_trap(dice.choice(WORKING), dice.choice((1, 1, 2, 3)))
    await storm.talk(dice.randint(1, 3))
    if at_point:
        await _until_dead_or_done(storm)
    else:
        await asyncio.sleep(dice.uniform(0, 2.5))
    hit = await program.kill() or not at_point
    if dice.random() < 0.3:
        await storm.talk(1)  # to a dead bot
    if dice.random() < 0.25:
        program.set_trap(dice.choice(RECOVERING))
        await program.spawn()
        await program.dies(within=dice.uniform(0.5, 4))
        await program.kill()
    await program.start()
    return hit


async def _until_dead_or_done(storm: Storm) -> None:
    end = time.monotonic() + 30
    while storm.program.alive and time.monotonic() < end:
        if not await storm.law.unfinished():
            return
        await asyncio.sleep(0.05)


async def _kill_other(storm: Storm, kind: str) -> bool:
    """While somebody waits for an answer. True: something died in the middle of one."""
    dice = storm.random
    await storm.talk(dice.randint(1, 3))
    await asyncio.sleep(dice.uniform(0, 2.5))
    end = time.monotonic() + 15
    while time.monotonic() < end and (waiting := await storm.law.unfinished()):
        share_dir = storm.world.share_dir
        if await asyncio.to_thread(strike, kind, storm.world.runtime, share_dir, dice):
            return bool(waiting)
        await asyncio.sleep(0.05)
    return False
