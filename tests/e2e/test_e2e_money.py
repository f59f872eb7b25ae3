"""Limits and the account, with the real CLI; Flow is killed between the question and its answer."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from world import World

pytestmark = pytest.mark.one_runtime


def message(world: World, root: str, words: str) -> dict[str, Any]:
    """The thread's last message with these words."""
    shown = world.slack.messages("general", thread_ts=root)
    return [m for m in shown if words in world.slack.visible_text(m)][-1]


async def account(world: World) -> dict[str, Any]:
    """`flow costs`, by person."""
    told = await world.program.flow("costs", "--json", "--days", "2")
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


async def test_a_budget_survives_a_kill(world: World) -> None:
    jonas, maya = world.slack.user("jonas").id, world.slack.user("maya").id
    world.program.env |= {"FLOW_LIMIT_SESSION": "0.001", "FLOW_LIMIT_HARD": "1000", "FLOW_APPROVERS": jonas}
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow SAY the first is free")
    await world.settled(root, "the first is free")
    await world.slack.post("maya", "general", "SAY the second is not", thread_ts=root)
    await world.see(root, "are spent in this thread. Go on?")
    await world.program.end(signal.SIGKILL)
    await world.program.start()
    asked = message(world, root, "Go on?")
    await world.slack.click("maya", asked, "ask_more")
    await world.slack.wait_for(lambda: [m for m in world.slack.ephemerals("maya") if "Only approvers" in m["text"]])
    assert not [prompt for prompt in world.model.prompts() if "the second" in prompt]
    await world.slack.click("jonas", asked, "ask_more")
    await world.settled(root, "the second is not")
    assert sum("Go on?" in text for text in world.thread(root)) == 1
    assert any("@jonas lets it continue" in text for text in world.thread(root))
    await world.slack.post("maya", "general", "SAY the third is too much", thread_ts=root)
    await world.slack.wait_for(lambda: sum("Go on?" in text for text in world.thread(root)) == 2)
    await world.slack.click("jonas", message(world, root, "[Stop]"), "ask_enough")
    await world.slack.wait_for(lambda: any("@jonas stopped here" in text for text in world.thread(root)))
    assert not [prompt for prompt in world.model.prompts() if "too much" in prompt.rpartition("\n")[2]]
    found = await account(world)
    (row,) = found["rows"]
    assert (row["person"], row["turns"], row["unpriced"]) == (maya, 2, 0)
    assert row["cost"] > 0.001
    assert row["input_tokens"] == sum(one["input_tokens"] for one in world.model.usage)
    assert row["output_tokens"] == sum(one["output_tokens"] for one in world.model.usage)


@pytest.mark.parametrize("runtime", ["local"], indirect=True)
async def test_a_running_turn_ends_at_the_hard_limit(world: World) -> None:
    world.program.env |= {"FLOW_LIMIT_TURN": "0.006", "FLOW_LIMIT_HARD": "1", "FLOW_LIMIT_WARNING": "50"}
    await world.program.start()
    steps = "\n".join(["BASH sleep 1"] * 30)
    root = await world.slack.post("maya", "general", f"@Flow {steps}\nSAY far too late")
    await world.see(root, "I had to stop here")
    thread = "\n".join(world.thread(root)[1:])
    assert "are spent for this answer" in thread
    assert "left)" in thread, "it was warned of first"
    assert "far too late" not in thread
    requests = len(world.model.answered)
    assert 2 <= requests < 15, "a few requests more than the limit allows, not all"
    found = await account(world)
    assert 0.006 <= found["total"]["cost"] < 0.03
    await world.slack.post("maya", "general", "SAY a new one begins anew", thread_ts=root)
    await world.settled(root, "a new one begins anew")
