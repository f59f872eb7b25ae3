"""What people set without asking Claude anything, with the real CLI: model, context, compact, clear, fork, mode."""

from __future__ import annotations

import pytest
from modelrequests import in_conversation
from waiting import until
from world import World

pytestmark = pytest.mark.one_runtime


async def told(world: World, user: str, words: str) -> str:
    """What was said to this person alone."""

    def found() -> str:
        texts = [world.slack.visible_text(message) for message in world.slack.ephemerals(user)]
        return next((text for text in texts if words in text), "")

    return await until(found, what=f"{words!r} to {user}")


def asked_of(world: World, words: str) -> list[str]:
    """The models that were asked a prompt with these words, in order."""
    return [str(request.body["model"]) for request in in_conversation(world.model) if words in request.prompt]


async def test_a_thread_is_steered_by_words(world: World) -> None:
    await world.program.start()
    root = await world.slack.post("maya", "general", "@Flow WRITE note.txt the blue one\nSAY first matter")
    await world.settled(root, "first matter")

    async def say(text: str, thread: str = root) -> None:
        await world.slack.post("maya", "general", f"@Flow {text}", thread_ts=thread)

    await say("model haiku")
    await world.see(root, "chose *haiku*")
    await say("SAY with another model")
    await world.settled(root, "with another model")
    assert "haiku" not in asked_of(world, "SAY first matter")[0]
    assert "haiku" in asked_of(world, "SAY with another model")[-1]

    answer = [m for m in world.slack.messages("general", root) if "[Retry]" in world.slack.visible_text(m)][-1]
    await world.slack.click("jonas", answer, "turn_up")
    await told(world, "jonas", "👍 Noted")
    listed = (await world.program.flow("sessions", "list")).stdout
    shown = (await world.program.flow("sessions", "show", listed.splitlines()[-1].split()[0])).stdout
    assert "model        haiku" in shown
    assert "(done) 👍 1" in shown

    await say("context")
    assert "tokens" in await told(world, "maya", "My memory of this thread")
    await say("cost")
    assert "$" in await told(world, "maya", "This thread:")

    await say("fork")
    fork = await world.root("forked")
    await say("compact")
    await world.settled(root, "Compacted the conversation")
    await say("clear")
    await world.see(root, "The conversation begins anew")  # without a footer: it costs nothing
    await say("RECALL")
    assert "first matter" not in await world.settled(root, "I remember")

    await world.program.end()
    await world.program.start()
    await world.slack.post("jonas", "general", "BASH cat note.txt\nRECALL", thread_ts=fork)
    remembered = await world.settled(fork, "I remember", user="jonas")
    assert "first matter" in remembered, "the fork goes on from before"
    assert "with another model" in remembered
    assert "haiku" in asked_of(world, "BASH cat note.txt")[-1], "and with the same model"
    assert any("the blue one" in str(request.body) for request in in_conversation(world.model)[-2:]), (
        "on a copy of the files"
    )
    await say("SAY still new")
    await world.settled(root, "still new")
    await say("RECALL")
    assert "first matter" not in await world.settled(root, "still new\n")

    await say("mode plan")
    await world.see(root, "set the mode to *plan*")
    await say("SAY planning")
    await world.settled(root, "planning")
    assert "plan mode" in str(in_conversation(world.model)[-1].body).lower()
