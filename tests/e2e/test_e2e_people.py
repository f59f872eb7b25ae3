"""What people do around a turn: stop it, hurry, change their mind, talk to each other, write while Flow is away."""

from __future__ import annotations

from typing import Any

import pytest
from world import World

pytestmark = pytest.mark.one_runtime


def message(world: World, root: str, words: str) -> dict[str, Any]:
    """The thread's message with these words."""
    return next(m for m in world.slack.messages("general", thread_ts=root) if words in world.slack.visible_text(m))


async def stopped(world: World, root: str, by: str) -> None:
    """The last answer was stopped, and keeps what it said."""
    text = await world.slack.wait_for(lambda: next((t for t in world.thread(root)[1:] if f"Stopped by @{by}" in t), ""))
    assert "word2 " in text


async def test_stop_by_word_button_reaction_and_command(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow WORDS 2000 50")
    await world.see(root, "word2 ")
    await world.slack.post("jonas", "general", "Stop!", thread_ts=root)
    await stopped(world, root, "jonas")
    for number, by in enumerate(("button", "reaction", "command"), 2):
        await world.slack.post("maya", "general", "WORDS 2000 50", thread_ts=root)
        await world.slack.wait_for(lambda n=number: sum("word2 " in t for t in world.thread(root)) == n)
        live = world.slack.messages("general", thread_ts=root)[-1]
        match by:
            case "button":
                await world.slack.click("maya", live, "stop_turn")
            case "reaction":
                await world.slack.react("maya", live, "octagonal_sign")
            case _:
                await world.slack.command("maya", "general", "/flow", "stop")
        await world.slack.wait_for(lambda n=number: sum("Stopped by" in t for t in world.thread(root)) == n)
    await world.slack.post("maya", "general", "SAY usable again", thread_ts=root)
    await world.settled(root, "usable again")
    assert not [p for p in world.model.prompts() if p.strip().lower() in ("stop", "stop!")]


async def test_now_interrupts_and_steers(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow WORDS 2000 50")
    await world.see(root, "word2 ")
    await world.slack.post("jonas", "general", "SAY this instead", thread_ts=root)
    await world.see(root, "I will start when")
    await world.slack.click("jonas", message(world, root, "I will start when"), "now")
    await stopped(world, root, "jonas")
    await world.settled(root, "this instead")


async def test_edits_and_deletions_of_what_waits(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow HOLD it\nSAY the long one")
    await world.model.held("it")
    edited = await world.slack.post("maya", "general", "SAY a slip", thread_ts=root)
    deleted = await world.slack.post("maya", "general", "SAY regretted", thread_ts=root)
    await world.see(root, "the 2 messages before")
    await world.slack.edit("maya", edited, "SAY put right")
    await world.slack.delete("maya", deleted)
    await world.slack.wait_for(lambda: not any("the 2 messages before" in t for t in world.thread(root)))
    world.model.release("it")
    await world.settled(root, "put right")
    assert not [p for p in world.model.prompts() if "a slip" in p or "regretted" in p]


async def test_claude_hears_what_people_said_among_themselves(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("jonas", "general", "the build is red since noon")
    await world.slack.post("maya", "general", "@Flow SAY looking", thread_ts=root)
    await world.settled(root, "looking")
    await world.slack.post("maya", "general", "@Jonas was it the blue commit?", thread_ts=root)
    await world.slack.post("jonas", "general", "SAY going on", thread_ts=root)
    await world.settled(root, "going on")
    first, last = (
        next(str(r.body) for r in world.model.requests if words in str(r.body))
        for words in ("SAY looking", "SAY going")
    )
    assert "jonas: the build is red since noon" in first
    assert "blue commit" not in first
    assert "maya: @jonas was it the blue commit?" in last
    assert len([t for t in world.thread(root) if "in," in t and "out" in t]) == 2, "the aside was answered"


async def test_what_was_written_while_flow_was_away_is_answered(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow SAY before")
    await world.settled(root, "before")
    await world.program.end()
    await world.slack.post("maya", "general", "SAY meanwhile one", thread_ts=root)
    await world.slack.post("jonas", "general", "SAY meanwhile two", thread_ts=root)
    await world.program.start()
    await world.settled(root, "meanwhile one")
    await world.settled(root, "meanwhile two")
    prompts = [p for p in world.model.prompts() if "meanwhile" in p.rpartition("SAY")[2]]
    assert len(prompts) == 2
