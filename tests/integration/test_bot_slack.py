"""The Slack door between the simulated workspace and real sessions."""

from __future__ import annotations

import pytest
from slackdoor import Flow, Start
from waiting import until

from sessions.types import SessionState
from simulator.slack import SlackSimulator
from worklets.events import PreviewVoided, Text, TextDelta, ToolFinished, ToolStarted


async def test_a_mention_is_answered_once_in_its_thread(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow say <b>hello</b> & bye")
    _, answer = await flow.shows("#general", ts, "say <b>hello</b> & bye", "tokens in")
    assert "say <b>hello</b> & bye" in answer
    assert flow.host.processes
    assert [p for process in flow.host.processes.values() for _, p in process.prompts] == ["say <b>hello</b> & bye"]
    await until(lambda: len(flow.show.outbox) == 0)
    assert len(flow.thread("#general", ts)) == 2


async def test_a_reply_continues_with_and_without_mention(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow one")
    await flow.shows("#general", ts, "one", "tokens in")
    await flow.slack.post("jonas", "#general", "two", thread_ts=ts)
    await flow.shows("#general", ts, "two")
    await until(lambda: len(flow.show.outbox) == 0)
    await flow.slack.post("maya", "#general", "@flow three", thread_ts=ts)
    await until(lambda: sum("three" in text for text in flow.thread("#general", ts)) == 2)
    assert len(flow.host.processes) == 1


async def test_what_nobody_asked_the_bot_is_left_alone(flow: Flow) -> None:
    lone = await flow.slack.post("maya", "#general", "hello everybody")
    await flow.slack.post("jonas", "#general", "hello maya", thread_ts=lone)
    await flow.slack.edit("maya", lone, "hello @flow everybody")
    flow.slack.invite("#random")
    await until(lambda: len(flow.slack.acks) >= 3)
    done = await flow.slack.post("maya", "#engineering", "@flow ping")
    await flow.shows("#engineering", done, "tokens in")
    assert len(await flow.sessions.list()) == 1
    assert all(delivery.acked for delivery in flow.slack.deliveries)


async def test_a_direct_message_is_a_conversation(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "dm", "hi there")
    texts = await flow.shows("dm", ts, "tokens in", user="maya")
    assert "hi there" in texts[1]


async def test_slash_opens_a_thread_that_says_who_asked_what(flow: Flow) -> None:
    result = await flow.slack.command("maya", "#general", "/flow", "help me <!channel> refactor")
    assert result.ok
    ts = await flow.root("#general", "help me")
    texts = await flow.shows("#general", ts, "tokens in")
    assert "@maya asked:" in texts[0]
    assert len(texts) == 2
    (post, *_) = flow.calls("chat.postMessage")
    assert "<!channel>" not in str(post)
    session = (await flow.sessions.list())[0]
    assert session.thread.thread_ts == ts
    await flow.slack.post("maya", "#general", "and now?", thread_ts=ts)
    await flow.shows("#general", ts, "and now?")


async def test_slash_where_the_bot_is_not_in_says_so_privately(flow: Flow) -> None:
    await flow.slack.command("maya", "#random", "/flow", "HOLD hello")
    await flow.slack.wait_for(lambda: any("Invite me" in m["text"] for m in flow.slack.ephemerals("maya")))
    await until(lambda: len(flow.show.outbox) == 0)

    async def over() -> bool:
        (session,) = await flow.sessions.list()
        (turn,) = await flow.sessions.turns(session.id)
        # NEW: the turn was stopped before its session was taken up.
        return turn.state.settled and session.state in (SessionState.ASLEEP, SessionState.NEW)

    await until(over)


async def test_help_status_sessions_and_stop(flow: Flow) -> None:
    for text in ("", "help", "HELP"):
        result = await flow.slack.command("maya", "#general", "/flow", text)
        assert "opens a thread" in flow.slack.visible_text(result.message)
    ts = await flow.slack.post("maya", "#general", "@flow HOLD this")
    process = await flow.process("HOLD this")
    status = await flow.slack.command("maya", "#general", "/flow", "status")
    assert "1 awake (1 working, 0 idle)" in flow.slack.visible_text(status.message)
    assert "Flow 1.2.3, worklets run on scripted." in flow.slack.visible_text(status.message)
    listed = await flow.slack.command("maya", "#general", "/flow", "sessions")
    assert "HOLD this" in flow.slack.visible_text(listed.message)
    assert f"/archives/{flow.slack.channel('#general').id}/p{ts.replace('.', '')}" in str(listed.message["blocks"])
    other = await flow.slack.command("jonas", "#general", "/flow", "sessions")
    assert "no session" in flow.slack.visible_text(other.message)
    process.say(TextDelta("half a thought"))
    stopped = await flow.slack.command("maya", "#general", "/flow", "stop")
    assert "Stopping HOLD this" in flow.slack.visible_text(stopped.message)
    texts = await flow.shows("#general", ts, "Stopped by @maya")
    assert "half a thought" in texts[1]


async def test_a_prompt_may_begin_with_a_subcommands_word(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "status of the build, please")
    ts = await flow.root("#general", "status of the build")
    await flow.shows("#general", ts, "tokens in")


async def test_who_wants_an_end_never_starts_a_session(flow: Flow) -> None:
    told = await flow.slack.command("maya", "#general", "/flow", "stop the server from crashing")
    assert "started nothing" in flow.slack.visible_text(told.message)
    told = await flow.slack.command("maya", "#general", "/flow", "stop everything please")
    assert "nothing to stop" in flow.slack.visible_text(told.message)
    assert await flow.sessions.list() == []


async def test_all_of_ones_own_can_be_stopped_at_once(flow: Flow) -> None:
    first = await flow.slack.post("maya", "#general", "@flow HOLD a")
    second = await flow.slack.post("maya", "#engineering", "@flow HOLD b")
    other = await flow.slack.post("jonas", "#general", "@flow HOLD c")
    for text in ("HOLD a", "HOLD b", "HOLD c"):
        await flow.process(text)
    told = await flow.slack.command("maya", "#general", "/flow", "stop all")
    text = flow.slack.visible_text(told.message)
    assert "HOLD a" in text
    assert "HOLD b" in text
    assert "HOLD c" not in text
    await flow.shows("#general", first, "Stopped by @maya")
    await flow.shows("#engineering", second, "Stopped by @maya")
    assert not any("Stopped" in text for text in flow.thread("#general", other))


async def test_sessions_are_listed_awake_or_not_the_newest_first(flow: Flow) -> None:
    for number in range(17):
        ts = await flow.slack.post("maya", "#general", f"@flow question {number}")
        await flow.shows("#general", ts, "tokens in")
    newest, *_ = await flow.sessions.list()
    await flow.sessions.sleep(newest.id)
    listed = await flow.slack.command("maya", "#general", "/flow", "sessions")
    lines = flow.slack.visible_text(listed.message).splitlines()
    assert [line for line in lines if "question" in line][:2] == ["question 16", "question 15"]
    states = [line for line in lines if "begun" in line]
    assert len(states) == 15
    assert "asleep" in states[0]
    assert "idle" in states[1]
    assert "Older ones are left out." in lines


async def test_the_stop_button_of_a_list(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD a")
    await flow.process("HOLD a")
    other = await flow.slack.post("maya", "#general", "@flow HOLD b")
    await flow.process("HOLD b")
    listed = await flow.slack.command("maya", "#general", "/flow", "stop")
    assert "Which one?" in flow.slack.visible_text(listed.message)
    block = next(b for b in listed.message["blocks"] if "HOLD a" in str(b))
    assert "begun " in str(block), "two threads with the same words can be told apart"
    await flow.slack.click("maya", listed.message, "stop_one", block_id=block["block_id"])
    await flow.shows("#general", ts, "Stopped by @maya")
    await flow.slack.wait_for(lambda: any("Stopped" in m.get("text", "") for m in flow.slack.ephemerals("maya")))
    assert "Stopped" not in str(flow.thread("#general", other))


async def test_the_home_tab_lists_a_persons_sessions(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow tidy up")
    await flow.shows("#general", ts, "tokens in")
    await flow.slack.open_home("maya")
    await flow.slack.wait_for(lambda: "tidy up" in str(flow.slack.home("maya")))
    await flow.slack.open_home("jonas")
    await flow.slack.wait_for(lambda: "no session yet" in str(flow.slack.home("jonas")))


async def test_an_empty_mention_explains_itself(flow: Flow) -> None:
    await flow.slack.post("maya", "#general", "@flow")
    await flow.slack.wait_for(lambda: any("opens a thread" in m["text"] for m in flow.slack.ephemerals("maya")))
    assert await flow.sessions.list() == []


async def test_a_message_while_working_waits_and_says_so(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD one")
    process = await flow.process("HOLD one")
    await flow.slack.post("maya", "#general", "two", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when the current answer is done")
    process.answer("first done")
    await flow.shows("#general", ts, "first done", "tokens in")
    await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)


async def test_the_message_grows_in_place_with_tools(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD work")
    process = await flow.process("HOLD work")
    process.say(TextDelta("Looking"))
    await flow.shows("#general", ts, "Looking")
    process.say(TextDelta(" around."), Text("Looking around."))
    process.say(ToolStarted("t1", "Bash", {"command": "pytest -q"}))
    process.say(ToolFinished("t1", False, "boom", {"exit_code": 1}))
    process.answer("All seen.")
    texts = await flow.shows("#general", ts, "Looking around.", "All seen.", "tokens in")
    assert len(texts) == 2
    assert "✗ Bash `pytest -q` – exit 1" in texts[1]
    answer = flow.slack.messages("#general", ts)[1]
    assert len(flow.slack.history(answer)) >= 3
    assert "⏳" not in texts[1]


async def test_a_long_answer_goes_on_in_further_messages(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD long")
    process = await flow.process("HOLD long")
    body = "\n".join(f"print({number})  # a line of code" for number in range(1200))
    process.say(Text(f"Here:\n\n```python\n{body}\n```\n\nThat was it."))
    process.end()
    texts = await flow.shows("#general", ts, "That was it.")
    assert len(texts) > 3
    for text in texts[1:]:
        assert text.count("```") % 2 == 0
    shown = [line for text in texts[1:] for line in text.splitlines() if line.startswith("print(")]
    assert shown == body.splitlines()
    await until(lambda: len(flow.show.outbox) == 0)


async def test_a_restart_in_mid_answer_edits_the_same_message(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD on")
        process = await flow.process("HOLD on")
        process.say(Text("Before."))
        await flow.shows("#general", ts, "Before.")
    async with start() as flow:
        process.say(Text("After."))
        process.end()
        texts = await flow.shows("#general", ts, "After.", "tokens in")
        assert len(texts) == 2
        assert "Before." in texts[1]


async def test_a_restart_takes_no_words_away_that_people_were_reading(start: Start, slack: SlackSimulator) -> None:
    """The words of an open preview are in no table: the journal tells them again, a moment later."""
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD on")
        process = await flow.process("HOLD on")
        process.say(TextDelta("one two "))
        await flow.shows("#general", ts, "one two")
        edits = len(flow.calls("chat.update"))
    async with start() as flow:
        process.say(TextDelta("three"))
        await flow.shows("#general", ts, "one two three")
        again = flow.calls("chat.update")[edits:]
        assert again
        assert all("one two" in str(call) for call in again), "it went blank for a moment"
        process.say(Text("one two three"))
        process.end()
        await flow.shows("#general", ts, "tokens in")


@pytest.mark.parametrize("fault", ["fail", "reset", "hang"])
async def test_a_post_without_an_answer_is_not_doubled(flow: Flow, fault: str) -> None:
    getattr(flow.slack.faults, fault)("chat.postMessage", after=True)
    ts = await flow.slack.post("maya", "#general", "@flow once")
    texts = await flow.shows("#general", ts, "tokens in")
    assert len(texts) == 2
    looked = [call for call in flow.calls("conversations.replies") if call.get("include_all_metadata")]
    assert len(looked) == 1, "catching up reads without it"


@pytest.mark.parametrize("fault", ["fail", "reset"])
async def test_a_root_without_an_answer_is_found_again(flow: Flow, fault: str) -> None:
    getattr(flow.slack.faults, fault)("chat.postMessage", after=True)
    await flow.slack.command("maya", "#general", "/flow", "only once")
    ts = await flow.root("#general", "only once")
    await flow.shows("#general", ts, "tokens in")
    assert len([m for m in flow.slack.messages("#general") if "asked" in flow.slack.visible_text(m)]) == 1


async def test_a_crash_before_the_root_was_noted_adopts_it(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        slack.faults.hang("chat.postMessage", after=True)
        await slack.command("maya", "#general", "/flow", "HOLD tight")
        ts = await flow.root("#general", "HOLD tight")
    async with start() as flow:
        (await flow.process("HOLD tight")).answer("Adopted.")
        await flow.shows("#general", ts, "Adopted.", "tokens in")
        assert len([m for m in slack.messages("#general") if "asked" in slack.visible_text(m)]) == 1


async def test_retry_after_is_honoured_and_everything_is_shown(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD slow")
    process = await flow.process("HOLD slow")
    flow.slack.faults.fail("chat.update", status=429, retry_after=2)
    process.answer("the end of it")
    await flow.shows("#general", ts, "the end of it", "tokens in")
    edits = [call for call in flow.slack.calls if call.method == "chat.update"]
    refused = next(index for index, call in enumerate(edits) if call.status == 429)
    assert edits[refused + 1].time - edits[refused].time >= 2.0


@pytest.mark.parametrize(("error", "times"), [("invalid_blocks", 1), ("msg_too_long", 2), ("invalid_attachments", 3)])
async def test_refused_blocks_never_drop_an_answer(flow: Flow, error: str, times: int) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD it")
    process = await flow.process("HOLD it")
    await flow.shows("#general", ts, "Thinking")
    flow.slack.faults.fail("chat.update", error=error, times=times)
    words = " ".join(f"word{number}" for number in range(1500))
    process.say(Text(words))
    process.end()
    texts = await flow.shows("#general", ts, "word1499")
    assert " ".join(texts[1:]).count("word7 ") == 1
    assert "word0 " in texts[1]


async def test_a_message_that_a_person_deleted_is_posted_anew_once(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD gone")
    process = await flow.process("HOLD gone")
    await flow.shows("#general", ts, "Thinking")
    answer = flow.slack.messages("#general", ts)[1]
    flow.slack.faults.fail("chat.update", error="message_not_found")
    process.answer("still here")
    texts = await flow.shows("#general", ts, "still here", "tokens in")
    assert len(texts) == 3
    assert "still here" not in flow.slack.visible_text(flow.slack.shown(flow.slack.record(answer["ts"])))
    await until(lambda: len(flow.show.outbox) == 0)


async def test_an_archived_channel_ends_the_showing(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD far")
    process = await flow.process("HOLD far")
    await flow.shows("#general", ts, "Thinking")
    flow.slack.archive("#general")
    process.answer("unseen")
    await until(lambda: len(flow.show.outbox) == 0)
    (session,) = await flow.sessions.list()
    assert all(turn.delivered for turn in await flow.sessions.turns(session.id))


async def test_a_store_that_does_not_answer_leaves_the_event_to_redelivery(flow: Flow) -> None:
    async with flow.db.transaction() as connection:
        await connection.exec_driver_sql("alter table turns rename to away")
    ts = await flow.slack.post("maya", "#general", "@flow again")
    told = await flow.slack.command("maya", "#general", "/flow", "hello")
    assert "flow db upgrade" in flow.slack.visible_text(told.message)
    await flow.slack.wait_for(lambda: any(delivery.attempt > 0 for delivery in flow.slack.deliveries))
    async with flow.db.transaction() as connection:
        await connection.exec_driver_sql("alter table away rename to turns")
    texts = await flow.shows("#general", ts, "tokens in")
    assert len(texts) == 2


async def test_nothing_stays_unacknowledged(flow: Flow) -> None:
    await flow.slack.react("maya", await flow.slack.post("maya", "#general", "hello"), "wave")
    assert (await flow.slack.shortcut("maya", "unknown")).ok
    assert (await flow.slack.command("maya", "#general", "/flow", "sessions")).ok
    await until(lambda: flow.slack.deliveries and all(delivery.acked for delivery in flow.slack.deliveries))


async def test_messages_of_a_voided_preview_are_taken_away(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD void")
    process = await flow.process("HOLD void")
    process.say(TextDelta("never mind " * 2500))
    await until(lambda: len(flow.thread("#general", ts)) == 4)
    process.say(PreviewVoided())
    process.answer("short")
    await until(lambda: len(flow.thread("#general", ts)) == 2)
    await flow.shows("#general", ts, "short", "tokens in")
    assert "never mind" not in str(flow.thread("#general", ts))


async def test_two_threads_at_once_stay_apart(flow: Flow) -> None:
    one = await flow.slack.post("maya", "#general", "@flow HOLD one")
    two = await flow.slack.post("jonas", "#general", "@flow HOLD two")
    first, second = await flow.process("HOLD one"), await flow.process("HOLD two")
    for number in range(20):
        first.say(TextDelta(f"a{number} "))
        second.say(TextDelta(f"b{number} "))
    second.end()
    first.end()
    assert "b1" not in (await flow.shows("#general", one, "a19", "tokens in"))[1]
    assert "a1" not in (await flow.shows("#general", two, "b19", "tokens in"))[1]


async def test_a_revoked_token_keeps_the_turn_for_the_next_start(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD keep")
        process = await flow.process("HOLD keep")
        await flow.shows("#general", ts, "Thinking")
        slack.faults.fail("chat.update", error="token_revoked")
        process.answer("kept")
        await until(lambda: [call for call in slack.calls if call.response.get("error") == "token_revoked"])
        assert not await flow.show.outbox.flush(0.1)
    async with start() as flow:
        texts = await flow.shows("#general", ts, "kept", "tokens in")
        assert len(texts) == 2


async def test_the_scope_of_the_manifest_is_enough(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow enough")
    await flow.shows("#general", ts, "tokens in")
    await flow.slack.open_home("maya")
    await flow.slack.wait_for(lambda: "enough" in str(flow.slack.home("maya")))
    assert not [call for call in flow.slack.calls if call.response.get("error") == "missing_scope"]
