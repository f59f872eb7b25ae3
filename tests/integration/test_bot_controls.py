"""What people press below a finished answer, and the words that they write to Flow instead of to Claude."""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa
from slackdoor import Flow
from waiting import until

from bot import controls, forking
from bot.messages import take
from bot.threadwords import Word
from sessions.tables import sessions
from worklets.errors import AgentRefused


async def answered(flow: Flow, text: str = "hello there") -> tuple[str, dict[str, Any]]:
    """A thread with one answer, and that message."""
    ts = await flow.slack.post("maya", "#general", f"@flow {text}")
    return ts, await finished(flow, ts, 1)


async def finished(flow: Flow, ts: str, count: int) -> dict[str, Any]:
    """The latest of so many finished answers."""

    def found() -> dict[str, Any] | None:
        over = [m for m in flow.slack.messages("#general", ts) if "[Retry]" in flow.slack.visible_text(m)]
        return over[-1] if len(over) == count else None

    return await until(found, what=f"{count} finished answers in {flow.thread('#general', ts)}")


async def told(flow: Flow, user: str, words: str) -> str:
    """What was said to this person alone."""

    def found() -> str | None:
        texts = [flow.slack.visible_text(m) for m in flow.slack.ephemerals(user)]
        return next((text for text in texts if words in text), None)

    return await until(found, what=f"{words!r} to {user}")


# ---- buttons -----------------------------------------------------------------------------------------------------


async def test_retry_asks_the_same_again_once_a_press(flow: Flow) -> None:
    ts, message = await answered(flow)
    await flow.slack.click("jonas", message, "turn_retry")
    await finished(flow, ts, 2)
    await flow.slack.click("jonas", message, "turn_retry")
    await finished(flow, ts, 3)
    (process,) = flow.host.processes.values()
    assert [text for _, text in process.prompts] == ["hello there"] * 3
    (session,) = await flow.sessions.list()
    assert [turn.user_id for turn in await flow.sessions.turns(session.id)][1:] == [flow.slack.user("jonas").id] * 2
    await told(flow, "jonas", "answer that anew")
    edits = [call for call in flow.calls("chat.update") if call["ts"] == message["ts"]]
    assert [call for call in edits if "Retry" in str(call["blocks"])] == edits[-1:], "the first answer is not edited"


async def test_a_press_that_slack_tells_of_twice_counts_once(flow: Flow) -> None:
    ts, message = await answered(flow)
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    first = await controls.retry(flow.door, turn, "U1", "17.5")
    again = await controls.retry(flow.door, turn, "U1", "17.5")
    assert (bool(first), again) == (True, "")
    await finished(flow, ts, 2)
    assert len(await flow.sessions.turns(session.id)) == 2
    assert message["ts"]


async def test_a_double_click_asks_once(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    (await flow.process("HOLD on")).answer("done")
    await finished(flow, ts, 1)
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    told = await asyncio.gather(*(controls.retry(flow.door, turn, "U1", press) for press in ("17.5", "17.7")))
    assert sorted(told) == ["I am at that already, below.", "I will answer that anew, below."]
    assert len(await flow.sessions.turns(session.id)) == 2
    (await until(lambda: next((p for p in flow.host.processes.values() if len(p.prompts) == 2), None))).answer("again")
    await finished(flow, ts, 2)


async def test_a_double_click_uploads_once(flow: Flow) -> None:
    await answered(flow)
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    await asyncio.gather(*(controls.copy(flow.door, turn, "U1", press) for press in ("17.5", "17.7")))
    assert len(flow.calls("files.completeUploadExternal")) == 1


async def test_continue_goes_on_after_a_stop(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    await flow.process("HOLD on")
    await flow.slack.click("maya", flow.slack.messages("#general", ts)[1], "stop_turn")
    await flow.slack.click("maya", await finished(flow, ts, 1), "turn_continue")
    await finished(flow, ts, 2)
    (process,) = flow.host.processes.values()
    assert process.prompts[-1][1] == "Continue."


async def test_an_answer_can_be_had_as_a_file(flow: Flow) -> None:
    ts, message = await answered(flow, "# A title with `code`")
    await flow.slack.click("jonas", message, "turn_copy")

    def shared() -> list[Any]:
        return [file for m in flow.slack.messages("#general", ts) for file in m.get("files", [])]

    (file,) = await until(shared)
    assert file["name"] == "answer.md"
    assert flow.slack.workspace.files[file["id"]].content == b"# A title with `code`\n"


async def test_an_app_that_may_not_write_files_says_so(flow: Flow) -> None:
    _, message = await answered(flow)
    flow.slack.faults.fail("files.getUploadURLExternal", error="missing_scope")
    await flow.slack.click("maya", message, "turn_copy")
    await told(flow, "maya", "The app may not write files here")


async def test_opinions_are_kept_and_thanked_for(flow: Flow) -> None:
    _, message = await answered(flow)
    await flow.slack.click("maya", message, "turn_up")
    await told(flow, "maya", "👍 Noted")
    await flow.slack.click("jonas", message, "turn_down")
    await told(flow, "jonas", "👎 Noted")
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    maya, jonas = (flow.slack.user(name).id for name in ("maya", "jonas"))
    assert await flow.sessions.controls.ratings(turn.id) == {maya: True, jonas: False}


# ---- words -------------------------------------------------------------------------------------------------------


async def say(flow: Flow, ts: str, text: str, user: str = "maya") -> str:
    return await flow.slack.post(user, "#general", f"@flow {text}", thread_ts=ts)


def prompts(flow: Flow) -> list[str]:
    return [text for process in flow.host.processes.values() for _, text in process.prompts]


async def test_the_model_and_the_mode_are_set_for_everybody_to_see(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "model opus")
    await flow.shows("#general", ts, "@maya chose *opus*")
    await say(flow, ts, "mode plan", "jonas")
    await flow.shows("#general", ts, "@jonas set the mode to *plan*")
    (session,) = await flow.sessions.list()
    assert (session.model, session.mode) == ("opus", "plan")
    (process,) = flow.host.processes.values()
    assert ("set_model", {"model": "opus"}) in process.asked
    assert prompts(flow) == ["hello there"], "words to Flow are not for Claude"


async def test_a_model_that_is_refused_is_told_to_whoever_wanted_it(flow: Flow) -> None:
    ts, _ = await answered(flow)
    (process,) = flow.host.processes.values()
    process.replies["set_model"] = AgentRefused("Claude refused: no such model")
    await say(flow, ts, "model haiku")
    await told(flow, "maya", "no such model")


async def test_the_model_and_the_mode_are_told_to_whoever_asks(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "model")
    await told(flow, "maya", "I answer with the usual model; mention me with `model opus`")
    await say(flow, ts, "mode")
    await told(flow, "maya", "The mode is *auto*")
    await say(flow, ts, "model opus")
    await flow.shows("#general", ts, "@maya chose *opus*")
    await say(flow, ts, "model")
    await told(flow, "maya", "I answer with *opus*")
    assert prompts(flow) == ["hello there"]


async def test_cost_and_context_are_answered_privately(flow: Flow) -> None:
    ts, _ = await answered(flow)
    (process,) = flow.host.processes.values()
    usage = {"totalTokens": 12, "maxTokens": 1000, "categories": [{"name": "Messages", "tokens": 12, "kind": "used"}]}
    process.replies["get_context_usage"] = usage
    await say(flow, ts, "context")
    await told(flow, "maya", "12 of 1,000 tokens (1 %)")
    await say(flow, ts, "cost", "jonas")
    assert "30 tokens of unknown price for 1 answer" in await told(flow, "jonas", "This thread:")
    (session,) = await flow.sessions.list()
    await flow.sessions.sleep(session.id)
    await say(flow, ts, "context", "jonas")
    await told(flow, "jonas", "I sleep")
    assert len(flow.thread("#general", ts)) == 5, "nothing of it is in the thread"


async def test_compact_and_clear_are_given_to_the_cli(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "compact")
    await finished(flow, ts, 2)
    await say(flow, ts, "clear")
    await finished(flow, ts, 3)
    await say(flow, ts, "/compact focus on x")
    await finished(flow, ts, 4)
    assert prompts(flow) == ["hello there", "/compact", "/clear", "/compact focus on x"]


async def test_a_waiting_message_that_is_edited_to_a_word_is_that_word(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    waiting = await say(flow, ts, "compcat")
    await flow.shows("#general", ts, "I will start when")
    await flow.slack.edit("maya", waiting, "@flow compact")

    async def followed() -> bool:
        (session,) = await flow.sessions.list()
        return [turn.text for turn in await flow.sessions.turns(session.id)] == ["HOLD on", "/compact"]

    await until(followed)
    process.answer("done")
    await finished(flow, ts, 2)
    assert prompts(flow) == ["HOLD on", "/compact"]


async def test_a_slip_of_the_finger_is_a_prompt(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "modle opus")
    await finished(flow, ts, 2)
    await say(flow, ts, "cost of living")
    await finished(flow, ts, 3)
    assert prompts(flow)[1:] == ["modle opus", "cost of living"]


async def test_a_fork_is_a_thread_of_its_own_that_can_be_replied_to(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "fork", "jonas")
    root = await flow.root("#general", "@jonas forked")
    (link,) = [part for part in (await told(flow, "jonas", "Forked:")).split() if "hello" in part]
    assert link
    await flow.slack.post("jonas", "#general", "and the other way?", thread_ts=root)
    await flow.shows("#general", root, "and the other way?", "[Retry]")
    origin, forked = sorted(await flow.sessions.list(), key=lambda one: one.created_at)
    assert flow.host.copied == [(origin.worklet, forked.worklet)]
    assert forked.thread.thread_ts == root
    assert flow.host.opened[-1]["env"]["FLOW_FORK_OF"] == origin.claude_session_id
    assert len(flow.thread("#general", ts)) == 3, "the origin's thread stays as it was"


async def test_a_fork_whose_root_was_posted_before_a_crash_is_not_posted_again(flow: Flow) -> None:
    ts, _ = await answered(flow)
    (session,) = await flow.sessions.list()
    word = Word("fork", "", session.thread, "C1:x", ts, flow.slack.user("maya").id)
    await forking.fork(flow.door, session, word)
    (forked,) = [one for one in await flow.sessions.list() if one.fork_of]
    async with flow.db.transaction() as connection:
        await connection.execute(sa.update(sessions).where(sessions.c.id == forked.id).values(thread_ts=None))
    await forking.fork(flow.door, session, word)
    assert (await flow.sessions.get(forked.id)).thread == forked.thread
    assert len([m for m in flow.slack.messages("#general") if "forked" in flow.slack.visible_text(m)]) == 1


async def test_a_fork_of_a_working_thread_is_refused_privately(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    await say(flow, ts, "fork")
    await told(flow, "maya", "Claude is working here")
    assert len(await flow.sessions.list()) == 1
    process.answer("done")
    await finished(flow, ts, 1)


async def test_the_last_answer_is_shared_elsewhere_with_a_link(flow: Flow) -> None:
    ts, _ = await answered(flow, "an **answer** for <!channel>")
    place = flow.slack.channel("#engineering")
    await say(flow, ts, f"share <#{place.id}|engineering>")
    await told(flow, "maya", "Shared in")
    (shared,) = flow.slack.messages("#engineering")
    assert [block["type"] for block in shared["blocks"]] == ["context", "markdown"]
    head = shared["blocks"][0]["elements"][0]["text"]
    assert f"/archives/{flow.slack.channel('#general').id}/p{ts.replace('.', '')}" in head
    assert "answer" in flow.slack.visible_text(shared)
    assert "Retry" not in flow.slack.visible_text(shared)


async def test_a_long_answer_is_shared_whole_the_rest_below_its_beginning(flow: Flow) -> None:
    words = [f"word{number}" for number in range(4_000)]
    ts, _ = await answered(flow, " ".join(words))
    flow.slack.faults.fail("chat.postMessage", status=429, retry_after=1)
    await say(flow, ts, f"share <#{flow.slack.channel('#engineering').id}>")
    await told(flow, "maya", "Shared in")
    (first,) = flow.slack.messages("#engineering")
    parts = flow.slack.messages("#engineering", first["ts"])
    assert len(parts) > 2
    shown = " ".join(block["text"] for part in parts for block in part["blocks"] if block["type"] == "markdown")
    assert shown.split() == words


async def test_a_place_that_takes_no_messages_is_told_privately(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, f"share <#{flow.slack.channel('#random').id}|random>")
    await told(flow, "maya", "I am not in this channel")


async def test_nobody_has_us_write_where_they_are_no_member(flow: Flow) -> None:
    ts, _ = await answered(flow)
    place = flow.slack.channel("#engineering")
    place.members.remove(flow.slack.user("maya").id)
    await say(flow, ts, f"share <#{place.id}>")
    await told(flow, "maya", "You are not in")
    assert flow.slack.messages("#engineering") == []


async def test_the_level_of_a_thread(flow: Flow) -> None:
    ts, _ = await answered(flow)
    await say(flow, ts, "quiet")
    await flow.shows("#general", ts, "@maya set it: this thread shows")
    (session,) = await flow.sessions.list()
    assert flow.sessions.options.level(session) == "quiet"


async def test_help_and_words_where_there_is_no_session(flow: Flow) -> None:
    await flow.slack.post("maya", "#general", "@flow help")
    await told(flow, "maya", "`share #channel`")
    ts = await flow.slack.post("jonas", "#general", "among people")
    for word in ("cost", "compact"):
        await say(flow, ts, word, "jonas")
        await told(flow, "jonas", "There is no session in this thread yet")
        assert await flow.sessions.list() == []


async def test_a_word_that_is_read_after_a_gap_only_sets_and_does(flow: Flow) -> None:
    ts, _ = await answered(flow)
    general = flow.slack.channel("#general").id
    maya = flow.slack.user("maya").id
    for number, text in enumerate(("cost", "compact", "model haiku", "compact"), 1):
        at = f"{ts.split('.')[0]}.99999{number // 4 or number}"
        event = {"channel": general, "ts": at, "thread_ts": ts, "user": maya}
        mention = f"<@{flow.slack.bot_user_id}> {text}"
        await take(flow.door, {**event, "text": mention, "type": "message"}, late=True)
    await flow.shows("#general", ts, "chose *haiku*")
    await finished(flow, ts, 2)
    assert prompts(flow) == ["hello there", "/compact"]
    assert not any("This thread" in flow.slack.visible_text(m) for m in flow.slack.ephemerals("maya"))
