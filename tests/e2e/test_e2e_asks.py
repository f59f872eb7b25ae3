"""What Claude asks, with the real CLI; Flow is killed between each question and its answer."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from modelrequests import in_conversation
from world import World

pytestmark = pytest.mark.one_runtime


def message(world: World, root: str, words: str) -> dict[str, Any]:
    """The thread's last message with these words."""
    shown = world.slack.messages("general", thread_ts=root)
    return [m for m in shown if words in world.slack.visible_text(m)][-1]


async def killed(world: World, root: str, words: str) -> dict[str, Any]:
    """Waits for the question, then kills Flow and starts it again; the question as it stood before."""
    await world.see(root, words)
    await world.see(root, "Waiting for you")
    asked = message(world, root, words)
    await world.program.end(signal.SIGKILL)
    await world.program.start()
    return asked


def listing(world: World) -> list[dict[str, Any]]:
    """Answers to the word `rules`, as they stand."""
    return [m for m in world.slack.ephemerals("jonas") if "what Claude may do" in str(m).replace("What", "what")]


def one_after_another(world: World, root: str, *words: str) -> None:
    """These stand in messages of their own, in this order, and nothing can be pressed any more but on the last."""
    shown = world.thread(root)[1:]
    places = [[n for n, text in enumerate(shown) if each in text] for each in words]
    assert all(len(place) == 1 for place in places), shown
    assert [place[0] for place in places] == sorted(place[0] for place in places), shown
    assert not any("[Allow once]" in text or "[Approve]" in text or "[Redis]" in text for text in shown), shown


async def test_a_permission_survives_a_kill_and_is_remembered(world: World) -> None:
    world.program.env["FLOW_ASK"] = "Bash(touch *)"
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow SAY First a file.\nBASH touch made && ls\nSAY There it is.")
    asked = await killed(world, root, "Allow once")
    assert "touch made && ls" in world.slack.visible_text(asked)
    await world.slack.click("jonas", asked, "ask_allow_once")
    refused = "Only people who asked Claude something in this thread"
    await world.slack.wait_for(lambda: [m for m in world.slack.ephemerals("jonas") if refused in m["text"]])
    await world.slack.click("maya", asked, "ask_allow_channel")
    await world.settled(root, "There it is.")
    one_after_another(world, root, "First a file.", "✓ @maya allowed it for this channel from now on", "There it is.")
    await world.slack.post("maya", "general", "BASH touch made && ls\nSAY Once more.", thread_ts=root)
    await world.settled(root, "Once more.")
    assert not any("[Allow once]" in text for text in world.thread(root)[1:]), "it was asked again"
    # Taken back by anybody, it is asked for again.
    await world.slack.post("jonas", "general", "@Flow rules", thread_ts=root)
    listed = (await world.slack.wait_for(lambda: listing(world)))[-1]
    assert "`Bash(touch made &amp;&amp; ls)`: allowed without asking in all threads of the channel, by" in str(listed)
    await world.slack.click("jonas", listed, "rule_revoke_1")
    await world.slack.wait_for(lambda: "Nobody has decided in this thread" in str(listing(world)[-1]))
    await world.slack.post("maya", "general", "BASH touch made && ls\nSAY Asked again.", thread_ts=root)
    await world.see(root, "[Allow once]")
    await world.slack.click("maya", message(world, root, "[Allow once]"), "ask_allow_once")
    await world.settled(root, "Asked again.")
    await world.slack.post("maya", "general", "BASH touch other\nSAY So be it.", thread_ts=root)
    await world.see(root, "[Allow once]")
    await world.slack.click("maya", message(world, root, "[Allow once]"), "ask_deny_why")
    await world.slack.wait_for(lambda: world.slack.views("maya"))
    await world.slack.submit("maya", {"text": "it is called made"})
    await world.settled(root, "So be it.")
    assert any("denied it: it is called made" in text for text in world.thread(root))
    assert "it is called made" in str(in_conversation(world.model)[-1].body["messages"])


@pytest.mark.parametrize("runtime", ["local"], indirect=True)
async def test_a_question_and_a_plan_survive_a_kill(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow ASK Which cache? | Redis | PostgreSQL\nSAY Fine.")
    await world.slack.click("maya", await killed(world, root, "Which cache?"), "ask_choice_1")
    await world.settled(root, "Fine.")
    one_after_another(world, root, "✓ @maya answered: PostgreSQL", "Fine.")
    assert "PostgreSQL" in str(in_conversation(world.model)[-1].body["messages"][-1])
    steps = "PLAN # Small steps\\n1. look\\n2. write\nWRITE out.txt done\nSAY Carried out."
    await world.slack.post("jonas", "general", steps, thread_ts=root)
    asked = await killed(world, root, "[Keep planning]")
    assert "# Small steps" in world.slack.visible_text(asked)
    await world.slack.click("jonas", asked, "ask_approve")
    await world.settled(root, "Carried out.")
    one_after_another(world, root, "Fine.", "✓ @jonas approved the plan.", "Carried out.\n")
