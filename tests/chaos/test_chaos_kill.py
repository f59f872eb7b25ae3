"""The bot, Claude, the relay, containers are killed while people talk; the law holds after each run."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from chaos_batches import Batch, dealt, in_worlds, runs, told
from chaos_points import PAUSING, RECOVERING, SELDOM, TRUST, WORKING
from program import code_of
from storm import Storm, open_storm
from victims import strike

pytestmark = pytest.mark.timeout(4 * 3600)  # as long as --chaos-runs asks for; whatever is stuck has its own limit

LOCAL = ("relay", "container", "cli")
DOCKER = ("engine", "relay", "container", "cli")


@pytest.mark.parametrize("point", sorted({*WORKING, *RECOVERING, *PAUSING, *TRUST}))
def test_every_named_point_is_there(point: str) -> None:
    code, event = code_of(point)
    _, name, when = point.split(":")
    assert (code.co_name, event) == (name.rpartition(".")[2], when)


async def test_the_bot_dies_with_local_worklets(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    kinds = ["bot"] * runs(pytestconfig, 0.8)
    reports = await _die(pytestconfig, "bot_dies_with_local", "local", kinds, tmp_path)
    assert not reports, told(reports)


@pytest.mark.docker
async def test_the_bot_dies_with_containers(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    kinds = ["bot"] * runs(pytestconfig, 0.2)
    reports = await _die(pytestconfig, "bot_dies_with_containers", "docker", kinds, tmp_path)
    assert not reports, told(reports)


async def test_what_runs_inside_dies_with_local_worklets(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    kinds = dealt(pytestconfig, LOCAL, 0.1, few=2)
    reports = await _die(pytestconfig, "inside_dies_with_local", "local", kinds, tmp_path)
    assert not reports, told(reports)


@pytest.mark.docker
async def test_what_runs_inside_dies_with_containers(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    kinds = dealt(pytestconfig, DOCKER, 0.1, few=1)
    reports = await _die(pytestconfig, "inside_dies_with_containers", "docker", kinds, tmp_path)
    assert not reports, told(reports)


async def _die(config: pytest.Config, name: str, runtime: str, kinds: list[str], tmp_path: Path) -> list[str]:
    """The reports of `in_worlds`."""

    async def live(batch: Batch) -> None:
        async with open_storm(batch.runtime, batch.seed, tmp_path / batch.seed.rpartition("/")[2]) as storm:
            await storm.program.start()
            for kind in batch.kinds:
                tally = batch.tally(kind)
                tally.runs += 1
                tally.hits += await (_kill_bot(storm) if kind == "bot" else _kill_other(storm, kind))
                if violations := await storm.judge():
                    batch.broken(kind, violations, storm.log)
                    return
            if violations := await storm.end():
                batch.broken(batch.kinds[-1], violations, storm.log)

    return await in_worlds(config, name, runtime, kinds, live)


async def _kill_bot(storm: Storm) -> bool:
    """At a named point or at some moment; in a quarter of all cases once more while it recovers. True: as planned."""
    dice, program = storm.random, storm.program
    point = dice.choice(WORKING) if dice.random() < 0.7 else ""
    if point:
        program.set_trap(point, 1 if point.startswith(SELDOM) else dice.choice((1, 1, 2, 3)))
    if "opened" in point:
        await storm.command()
    await storm.talk(dice.randint(1, 3))
    if point:
        for _ in range(3):
            await _until_dead_or_done(storm)
            if ".close" in point or ".rest:" in point:
                await program.dies(within=8)  # when a session falls asleep
            if not program.alive:
                break
            await storm.talk(1)  # the point was not come by
    else:
        await asyncio.sleep(dice.uniform(0, 2.5))
    hit = await program.kill() or not point
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
    while time.monotonic() < end and await storm.law.unfinished():
        if await asyncio.to_thread(strike, kind, storm.world.runtime, storm.world.share_dir, dice):
            return True
        await asyncio.sleep(0.05)
    return False
