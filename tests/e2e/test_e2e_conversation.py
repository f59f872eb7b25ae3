"""People talk to Claude: slash command, mention, reply, direct message, two threads, a reply while it works."""

from __future__ import annotations

import asyncio

import pytest
from world import API_KEY, FOOTER, World

pytestmark = [pytest.mark.one_runtime, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def world(shared_world: World) -> World:
    return shared_world


async def test_a_slash_command_opens_a_thread_and_its_answer_streams_below(world: World) -> None:
    result = await world.slack.command("maya", "general", "/flow", "WORDS 120 40\nHOLD half\nSAY and all of it")
    assert result.ok
    root = await world.root("WORDS 120")
    assert "Maya" in world.thread(root)[0] or "maya" in world.thread(root)[0]
    await world.see(root, "word100 ")  # while the rest is yet to come
    world.model.release("half")
    answer = await world.settled(root, "and all of it")
    assert all(f"word{n} " in answer for n in range(1, 120))
    message = next(
        m for m in world.slack.messages("general", thread_ts=root)[1:] if "and all of it" in world.slack.visible_text(m)
    )
    revisions = world.slack.history(message)
    texts = [world.slack.visible_text(r.body) for r in revisions]
    growing = [t for t in texts if "word1 " in t and "and all of it" not in t]
    assert growing, "the message never showed a part of the answer"


async def test_replies_continue_the_conversation_with_its_context(world: World) -> None:
    await world.slack.command("maya", "general", "/flow", "SAY the first answer")
    root = await world.root("the first answer")
    await world.settled(root, "the first answer")
    await world.slack.post("jonas", "general", "RECALL", thread_ts=root)
    await world.settled(root, "SAY the first answer")
    sessions = (await world.program.flow("sessions", "list")).stdout
    assert sessions.count("the first answer") == 1


async def test_a_mention_starts_one_session_and_one_turn(world: World) -> None:
    ts = await world.slack.post("maya", "general", "@Flow SAY hello to the mention")
    await world.settled(ts, "hello to the mention")
    assert len(world.thread(ts)) == 2
    assert len([p for p in world.model.prompts() if "hello to the mention" in p]) == 1


async def test_a_direct_message_is_a_conversation(world: World) -> None:
    dm = world.slack.dm("maya").id
    ts = await world.slack.post("maya", dm, "SAY just between us")
    await world.settled(ts, "just between us", channel=dm)
    await world.slack.post("maya", dm, "RECALL", thread_ts=ts)
    await world.settled(ts, "SAY just between us", channel=dm)


async def test_what_does_not_address_the_bot_starts_nothing(world: World) -> None:
    plain = await world.slack.post("maya", "general", "SAY nobody asked the bot")
    await world.slack.post("jonas", "general", "SAY neither here", thread_ts=plain)
    asked = await world.slack.post("maya", "general", "@Flow SAY addressed")
    await world.settled(asked, "addressed")
    assert len(world.thread(plain)) == 2
    await world.slack.edit("maya", asked, "@Flow SAY edited afterwards")
    await world.slack.post("maya", "general", "SAY one more", thread_ts=asked)
    await world.settled(asked, "one more")
    assert not [p for p in world.model.prompts() if "nobody asked" in p or "neither" in p or "edited" in p]


async def test_two_threads_work_at_once_and_do_not_mix(world: World) -> None:
    first = await world.slack.post("maya", "general", "@Flow HOLD one\nSAY first thread done")
    await world.model.held("one")
    second = await world.slack.post("jonas", "engineering", "@Flow SAY second thread done")
    await world.settled(second, "second thread done", channel="engineering")
    assert not any("first thread done" in x for x in world.thread(first)[1:])
    world.model.release("one")
    await world.settled(first, "first thread done")
    assert not any("second" in x for x in world.thread(first)[1:])


async def test_a_reply_while_claude_works_waits_its_turn_and_says_so(world: World) -> None:
    ts = await world.slack.post("maya", "general", "@Flow HOLD it\nSAY the long one")
    await world.model.held("it")
    await world.slack.post("jonas", "general", "SAY the next one", thread_ts=ts)
    await world.see(ts, "aiting")
    world.model.release("it")
    await world.settled(ts, "the long one")
    await world.settled(ts, "the next one")
    assert not any("aiting" in text for text in world.thread(ts)), "the waiting note must become the answer"
    prompts = [p for p in world.model.prompts() if "the next one" in p]
    assert len(prompts) == 1


async def test_tools_show_what_they_do_and_how_they_end(world: World) -> None:
    ts = await world.slack.post("maya", "general", "@Flow BASH echo made > made.txt && exit 3\nSAY after the tool")
    answer = await world.settled(ts, "after the tool")
    assert "echo made" in answer
    assert "3" in answer
    assert FOOTER.search(answer)


async def test_long_answers_go_on_in_a_next_message_with_fences_closed(world: World) -> None:
    ts = await world.slack.post("maya", "general", "@Flow CODE 900")
    await world.slack.wait_for(lambda: len(world.thread(ts)) > 2 and FOOTER.search(world.thread(ts)[-1]), 90)
    parts = world.slack.messages("general", thread_ts=ts)[1:]
    for part in parts:
        for block in part.get("blocks", []):
            if block["type"] == "markdown":
                assert block["text"].count("```") % 2 == 0
    refused = [c for c in world.slack.calls if c.method.startswith("chat.") and not c.response.get("ok")]
    assert refused == []


async def test_the_credential_is_nowhere_in_the_worklet(world: World) -> None:
    # A plain process may look at every other one of its user: there, only what Flow hands over is looked through.
    places = "/proc/*/environ /run/worklet/*" if world.runtime == "docker" else "/proc/self/environ"
    find = f"grep -laE 'never-in-a-[c]ontainer|xoxb-|xapp-' {places} 2>/dev/null | wc -l | sed s/^/found=/"
    ts = await world.slack.post("maya", "general", f"@Flow BASH {find}\nBASH env\nSAY looked around")
    await world.settled(ts, "looked around")
    outputs = str([r.body for r in world.model.requests])
    assert "ANTHROPIC_BASE_URL" in outputs, "the tool's output must have reached the model"
    assert "found=0" in outputs
    assert API_KEY not in outputs
    assert world.slack.bot_token not in outputs
    assert API_KEY not in "".join(world.program.output)


async def test_help_status_and_sessions_answer_privately(world: World) -> None:
    for text in ("", "help"):
        await world.slack.command("maya", "general", "/flow", text)
    await world.slack.wait_for(lambda: len(world.slack.ephemerals("maya")) >= 2)
    assert "/flow" in world.slack.visible_text(world.slack.ephemerals("maya")[-1])
    ts = await world.slack.post("maya", "general", "@Flow HOLD on\nSAY never mind")
    await world.model.held("on")
    await world.slack.command("maya", "general", "/flow", "sessions")
    listed = await world.slack.wait_for(
        lambda: [m for m in world.slack.ephemerals("maya") if "HOLD on" in world.slack.visible_text(m)]
    )
    await asyncio.gather(world.slack.click("maya", listed[-1], "stop"))
    await world.see(ts, "topped")
    await world.slack.post("maya", "general", "SAY usable again", thread_ts=ts)
    await world.settled(ts, "usable again")


async def test_stop_ends_the_turn_and_keeps_what_was_written(world: World) -> None:
    ts = await world.slack.post("maya", "general", "@Flow WORDS 2000 50")
    await world.see(ts, "word5 ")
    await world.slack.command("maya", "general", "/flow", "stop")
    stopped = await world.see(ts, "topped")
    assert "word5 " in stopped
