"""The model's answer is not cut when the bot goes, and what became of the gateway's process shows nowhere."""

from __future__ import annotations

import os
import signal

import pytest
from waiting import until
from world import World, containers, end_worklets

from worklets.gatewaycontrol import holder


def asked(world: World, text: str) -> int:
    """How often the model was asked for the answer to that prompt; what the CLI asks beside it is left out."""
    return sum(text in prompt for prompt in world.model.prompts())


def journal(world: World) -> str:
    """What all agents have said."""
    files = world.share_dir.glob("worklets/*/run/journal/*.log")
    return "".join(file.read_text(errors="replace") for file in files)


@pytest.mark.one_runtime
async def test_a_killed_program_costs_no_second_request(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow WORDS 40 50\nHOLD away\nSAY the end of it")
    await world.see(ts, "word10 ")
    gateway = holder(world.share_dir)
    assert gateway
    await world.program.end(signal.SIGKILL)
    await world.model.held("away")
    world.model.release("away")
    await until(lambda: "the end of it" in journal(world), what="the answer to end without the program")
    await world.program.start()
    answer = await world.settled(ts, "the end of it")
    assert [answer.count(f"word{n} ") for n in range(1, 40)] == [1] * 39
    assert asked(world, "HOLD away") == 1
    assert holder(world.share_dir) == gateway
    assert len(world.thread(ts)) == 2


async def test_a_killed_gateway_is_started_again_and_the_answer_comes_once(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow WORDS 20 50\nHOLD cut\nSAY after all")
    await world.model.held("cut")
    killed = holder(world.share_dir)
    assert killed
    os.kill(killed, signal.SIGKILL)
    await until(lambda: holder(world.share_dir) not in (None, killed))
    world.model.release("cut")
    answer = await world.settled(ts, "after all")
    assert answer.count("word7 ") == 1
    status, body = await world.program.health()
    assert (status, body["gateway"]["state"], body["gateway"]["doors"]) == (200, "ok", 1)
    assert body["gateway"]["pid"] == holder(world.share_dir)


@pytest.mark.one_runtime
async def test_nothing_is_left_when_program_and_worklets_have_ended(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow SAY all is well")
    await world.settled(ts, "all is well")
    assert await world.program.end(signal.SIGTERM) == 0
    assert holder(world.share_dir)
    await end_worklets(world)
    assert not containers(world)
    await until(lambda: holder(world.share_dir) is None, timeout=60, what="the gateway's process to end by itself")
