"""Worklets push, reach hosts that people allow, use a vendor's tools and secrets of Vault, and are looked into by
browsers, while the bot, the gateway, Claude, relays and containers die."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_batches import Batch, dealt, in_worlds, told
from chaos_points import SELDOM, TRUST
from deeds import Deeds
from images import worklet_image
from law_trust import TrustLaw
from outside import open_outside
from storm import Storm, open_storm
from victims import strike

pytestmark = pytest.mark.timeout(4 * 3600)  # as long as --chaos-runs asks for; whatever is stuck has its own limit

KINDS = ("bot", "gateway", "container", "bot", "gateway", "cli", "relay")


async def test_what_worklets_are_trusted_with_survives_with_local_worklets(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    kinds = dealt(pytestconfig, KINDS, 0.1, few=3)
    reports = await _live(pytestconfig, "trust_with_local", "local", kinds, tmp_path)
    assert not reports, told(reports)


@pytest.mark.docker
async def test_what_worklets_are_trusted_with_survives_with_containers(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    await worklet_image()
    kinds = dealt(pytestconfig, KINDS, 0.1, few=3)
    reports = await _live(pytestconfig, "trust_with_containers", "docker", kinds, tmp_path)
    assert not reports, told(reports)


async def _live(config: pytest.Config, name: str, runtime: str, kinds: list[str], tmp_path: Path) -> list[str]:
    """The reports of `in_worlds`."""

    async def live(batch: Batch) -> None:
        home = tmp_path / batch.seed.rpartition("/")[2]
        async with (
            open_outside(home / "outside", home / "data", hosts=runtime == "docker") as outside,
            open_storm(runtime, batch.seed, home, **outside.env) as storm,
        ):
            if runtime == "docker":
                storm.program.env["FLOW_PREVIEW_URL"] = "http://*.localhost:0"
            deeds = Deeds(storm, outside, storm.random)
            law = TrustLaw(storm.world.slack, outside, deeds, storm.world.share_dir)
            await storm.program.start()
            people = asyncio.create_task(deeds.answer_for_ever())
            try:
                if not await _die(batch, storm, deeds, law):
                    return
            finally:
                people.cancel()
                await asyncio.wait([people])
            if violations := [*await storm.end(), *law.left_over()]:
                batch.broken(batch.kinds[-1], violations, storm.log)

    return await in_worlds(config, name, runtime, kinds, live)


async def _die(batch: Batch, storm: Storm, deeds: Deeds, law: TrustLaw) -> bool:
    """One death after the other; False: the law was broken."""
    for kind in batch.kinds:
        tally = batch.tally(f"trust: {kind}")
        tally.runs += 1
        tally.hits += await (_kill_bot(storm, deeds) if kind == "bot" else _kill_other(storm, deeds, kind))
        await deeds.open_previews()
        if violations := [*await storm.judge(), *law.violations()]:
            batch.broken(f"trust: {kind}", violations, storm.log)
            return False
    return True


async def _deeds(storm: Storm, deeds: Deeds) -> None:
    for _ in range(storm.random.randint(1, 2)):
        await deeds.ask(storm.random.choice(deeds.kinds))
        await asyncio.sleep(storm.random.uniform(0, 0.5))
    await storm.talk(1)


async def _kill_bot(storm: Storm, deeds: Deeds) -> bool:
    """At a named point, or at some moment. True: as planned."""
    dice, program = storm.random, storm.program
    point = dice.choice(TRUST) if dice.random() < 0.7 else ""
    if point:
        program.set_trap(point, 1 if point.startswith(SELDOM) else dice.choice((1, 1, 2)))
    await _deeds(storm, deeds)
    for _ in range(400 if point else 1):
        if not program.alive or not await storm.law.unfinished():
            break
        await asyncio.sleep(0.05 if point else dice.uniform(0, 4))
    if point and ("secretstokens" in point or "vaulttokens" in point):
        await program.dies(within=8)  # when a session falls asleep
    hit = await program.kill() or not point
    await asyncio.sleep(dice.uniform(0, 1))
    await program.start()
    return hit


async def _kill_other(storm: Storm, deeds: Deeds, kind: str) -> bool:
    """While something is under way. True: it died in the middle of it."""
    dice = storm.random
    await _deeds(storm, deeds)
    await asyncio.sleep(dice.uniform(0, 4))
    for _ in range(300):
        if not await storm.law.unfinished():
            break
        if kind == "gateway":
            died = await deeds.outside.kill_gateway()
            storm.law.gateway_died()
            return died
        if await asyncio.to_thread(strike, kind, storm.world.runtime, storm.world.share_dir, dice):
            return True
        await asyncio.sleep(0.05)
    return False
