"""The way of a turn through the heart."""

from __future__ import annotations

from typing import Any

import pytest
from heart import Heart
from scripted import ScriptedHost
from waiting import until

from sessions.events import Preparing, Queued, Settled, WaitingForPlace
from sessions.loss import again_id
from sessions.types import (
    Done,
    Failed,
    Interrupted,
    SessionState,
    ThreadId,
    TurnState,
)
from worklets.errors import AgentGone, CloneFailed, ImageMissing, NoCredential, RuntimeUnavailable
from worklets.events import (
    AgentExited,
    AgentReady,
    PromptTaken,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
    Usage,
)


async def test_a_prompt_is_answered_and_observers_are_told_in_order(heart: Heart) -> None:
    asked = await heart.ask("hello you")
    assert asked.new_session
    assert await heart.settled(asked) == Done()
    assert heart.kinds(asked.turn.id) == [
        "Queued", "Preparing", "Started", "PromptTaken", "AgentReady", "TextDelta", "TextDelta", "Text", "TurnEnded",
        "Settled",
    ]  # fmt: skip
    assert heart.events(asked.turn.id)[:2] == [Queued(0), Preparing("starting")]
    settled = heart.events(asked.turn.id)[-1]
    assert settled.seconds is not None
    session = await heart.sessions.get(asked.session.id)
    assert (session.state, session.has_history) == (SessionState.IDLE, True)
    assert session.container_id == f"container of {heart.host.processes[session.worklet].epoch}"
    assert (session.epoch, session.seq) == (heart.host.processes[session.worklet].epoch, 6)
    (turn,) = await heart.sessions.turns(session.id)
    assert turn.state is TurnState.DONE


async def test_the_transcript_keeps_what_lasts(heart: Heart) -> None:
    asked = await heart.ask("hello")
    await heart.settled(asked)
    entries = await heart.sessions.transcript.read(asked.session.id)
    assert [type(entry.event) for entry in entries] == [AgentReady, Text, TurnEnded]
    assert {entry.turn_id for entry in entries} == {asked.turn.id}
    assert heart.host.processes[asked.session.worklet].acked == 6


async def test_a_reply_goes_to_the_same_process(heart: Heart) -> None:
    await heart.settled(await heart.ask("one"))
    reply = await heart.ask("two", starts=False)
    assert not reply.new_session
    assert await heart.settled(reply) == Done()
    assert len(heart.host.opened) == 1
    assert [text for _, text in heart.host.processes[reply.session.worklet].prompts] == ["one", "two"]
    assert "Preparing" not in heart.kinds(reply.turn.id)


async def test_a_reply_in_a_thread_without_a_session_starts_nothing(heart: Heart) -> None:
    assert await heart.try_to_ask("hm", starts=False) is None
    assert heart.told == []


async def test_a_message_while_claude_works_is_the_next_turn(heart: Heart) -> None:
    first = await heart.ask("HOLD")
    process = await heart.process(first)
    second = await heart.ask("two")
    third = await heart.ask("three", ts="1700000101.500000")  # written before the second, arrives after it
    assert [heart.events(one.turn.id) for one in (second, third)] == [[Queued(1)], [Queued(1)]]
    assert len(process.prompts) == 1, "the CLI would merge it into the running turn"
    process.answer("done")
    await heart.settled(second)
    assert [text for _, text in process.prompts] == ["HOLD", "three", "two"]


async def test_a_message_that_arrives_twice_is_answered_once(heart: Heart) -> None:
    first = await heart.ask("hello", source_id="C1:1")
    again = await heart.ask("hello", source_id="C1:1")
    assert not again.fresh
    assert again.turn.id == first.turn.id
    await heart.settled(first)
    assert heart.kinds(first.turn.id).count("Queued") == 1
    assert len(heart.host.processes[first.session.worklet].prompts) == 1


async def test_two_threads_work_at_the_same_time(heart: Heart) -> None:
    one, two = await heart.ask("HOLD 1", "1.0"), await heart.ask("HOLD 2", "2.0")
    first, second = await heart.process(one), await heart.process(two)
    second.answer("b")
    assert await heart.settled(two) == Done()
    assert heart.outcomes(one.turn.id) == []
    first.answer("a")
    assert await heart.settled(one) == Done()
    assert [event for event in heart.events(one.turn.id) if isinstance(event, Text)] == [Text("a")]


async def test_the_worklet_is_told_repository_and_environment_but_no_password(start: Any) -> None:
    async with start(env={"VAULT_ADDR": "https://vault"}) as heart:
        asked = await heart.ask("hello", repository="https://bob:secret@git/x", branch="dev")
        await heart.settled(asked)
        (opened,) = heart.host.opened
    address = "https://bob:secret@git/x"  # Flow itself clones with it
    assert (opened["name"], opened["repository"], opened["branch"]) == (asked.session.worklet, address, "dev")
    assert opened["env"] == {"VAULT_ADDR": "https://vault", "GIT_REPO": "https://git/x", "GIT_BRANCH": "dev"}
    assert (opened["claude_session_id"], opened["has_history"]) == (asked.session.id, False)


async def test_opened_moves_the_session_of_a_slash_command(heart: Heart) -> None:
    asked = await heart.ask("HOLD", ThreadId("T1", "C1", None))
    process = await heart.process(asked)
    await heart.sessions.opened(asked.session.id, "1700000500.000000")
    process.answer("x")
    await heart.settled(asked)
    assert heart.told[-1][0].thread == ThreadId("T1", "C1", "1700000500.000000")
    reply = await heart.ask("y", "1700000500.000000", starts=False)
    assert reply.session.id == asked.session.id


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (RuntimeUnavailable(), "flow doctor"),
        (ImageMissing(), "flow image build"),
        (CloneFailed("The repository https://x could not be cloned."), "https://x"),
        (NoCredential(), "ANTHROPIC_API_KEY"),
    ],
)
async def test_what_cannot_start_fails_the_turn_in_one_sentence_and_the_session_goes_on(
    heart: Heart, refusal: Exception, sentence: str
) -> None:
    heart.host.refusals = [refusal]
    asked = await heart.ask("one")
    outcome = await heart.settled(asked)
    assert isinstance(outcome, Failed)
    assert sentence in outcome.reason
    assert (await heart.sessions.get(asked.session.id)).container_id is None
    assert await heart.settled(await heart.ask("two")) == Done()


async def test_an_unexpected_error_is_one_threads_affair(heart: Heart) -> None:
    other = await heart.ask("HOLD", "2.0")
    process = await heart.process(other)
    heart.host.refusals = [ZeroDivisionError("secret detail")]
    outcome = await heart.settled(await heart.ask("one", "1.0"))
    assert isinstance(outcome, Failed)
    assert "secret" not in outcome.reason
    assert "log" in outcome.reason
    assert await heart.settled(await heart.ask("again", "1.0")) == Done()
    process.answer("fine")
    assert await heart.settled(other) == Done()


async def test_an_observer_that_fails_harms_nobody(heart: Heart) -> None:
    def broken(*_told: Any) -> None:
        raise ZeroDivisionError

    heart.sessions.observe(broken)
    assert await heart.settled(await heart.ask("hello")) == Done()


async def test_what_claude_reports_as_failed_is_failed(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    (await heart.process(asked)).end("failed", "The API refused the key.")
    assert await heart.settled(asked) == Failed("The API refused the key.")
    assert await heart.settled(await heart.ask("go on")) == Done()
    assert len(heart.host.opened) == 1, "the process is fine"


async def test_the_end_of_an_unasked_turn_is_not_this_turns_end(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(TurnEnded("done", (), Usage(), 1.0))
    process.answer("mine")
    await heart.settled(asked)
    assert heart.kinds(asked.turn.id).count("TurnEnded") == 1
    entries = await heart.sessions.transcript.read(asked.session.id)
    assert [entry.turn_id for entry in entries if isinstance(entry.event, TurnEnded)] == [None, asked.turn.id]


async def test_what_is_said_between_turns_is_kept_and_changes_no_settled_turn(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    before = len(heart.told)
    process = heart.host.processes[asked.session.worklet]
    process.say(Text("the background task has finished"))
    process.say(TurnEnded("failed", (asked.turn.id,), Usage(), 1.0, "late"))
    await until(lambda: process.acked == len(process.journal), what="it to be stored")
    assert len(heart.told) == before
    (turn,) = await heart.sessions.turns(asked.session.id)
    assert turn.state is TurnState.DONE
    entries = await heart.sessions.transcript.read(asked.session.id)
    assert [entry.turn_id for entry in entries[-2:]] == [None, None]


# -- losing the agent


async def test_a_killed_container_is_replaced_and_the_prompt_sent_again(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    first.say(Text("half"))
    await until(lambda: Text("half") in heart.events(asked.turn.id))
    first.die()
    second = await until(lambda: (p := heart.host.processes[asked.session.worklet]) is not first and p.running and p)
    assert second.resumed
    assert second.prompts == [(again_id(asked.turn.id, second.epoch), "HOLD")]
    second.answer("whole")
    assert await heart.settled(asked) == Done()
    kinds = heart.kinds(asked.turn.id)
    assert kinds.count("Started") == kinds.count("Restarted") == 1
    assert Preparing("resuming") in heart.events(asked.turn.id)
    assert heart.host.opened[1]["fence"] == heart.host.opened[0]["fence"]
    assert heart.host.closed == [asked.session.worklet], "never two processes on one session"


async def test_an_agent_that_is_lost_again_and_again_fails_the_turn(heart: Heart) -> None:
    heart.host.on_start = lambda process: process.exit(137, "line one\nout of memory")
    asked = await heart.ask("HOLD")
    outcome = await heart.settled(asked)
    assert isinstance(outcome, Failed)
    assert "137" in outcome.reason
    assert "out of memory" in outcome.reason
    assert len(heart.host.opened) == 3
    heart.host.on_start = lambda process: None
    assert await heart.settled(await heart.ask("again")) == Done()


async def test_an_engine_that_restarts_under_a_turn_is_waited_for(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    heart.host.refusals = [RuntimeUnavailable()]
    first.die()
    second = await until(lambda: (p := heart.host.processes[asked.session.worklet]) is not first and p.running and p)
    second.answer("x")
    assert await heart.settled(asked) == Done()


async def test_what_a_killed_container_said_last_is_told_before_the_next_ones_words(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    await until(lambda: first.acked == 2)
    first.cut()
    first.journal += [[Text("last words")], [AgentExited(137, "killed")]]
    second = await until(lambda: (p := heart.host.processes[asked.session.worklet]) is not first and p.running and p)
    second.answer("and on")
    assert await heart.settled(asked) == Done()
    assert [event for event in heart.events(asked.turn.id) if isinstance(event, Text)] == [
        Text("last words"), Text("and on"),
    ]  # fmt: skip
    assert "AgentExited" not in heart.kinds(asked.turn.id)


async def test_an_answer_that_a_killed_container_still_wrote_down_is_the_answer(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    await until(lambda: first.acked == 2)
    first.cut()
    first.journal += [
        [Text("all of it")],
        [PromptTaken(asked.turn.id, "completed")],
        [TurnEnded("done", (asked.turn.id,), Usage(), 1.0)],
        [AgentExited(137)],
    ]
    assert await heart.settled(asked) == Done()
    assert heart.kinds(asked.turn.id).count("TurnEnded") == 1
    assert await heart.settled(await heart.ask("next")) == Done()


async def test_the_exit_of_the_process_that_slept_is_not_the_end_of_the_next(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.sleep(asked.session.id)
    heart.host.processes[asked.session.worklet].journal.append([AgentExited(143)])  # it was ended politely
    reply = await heart.ask("two")
    assert await heart.settled(reply) == Done()
    assert len(heart.host.opened) == 2
    assert "AgentExited" not in heart.kinds(reply.turn.id)
    last = (await heart.sessions.transcript.read(asked.session.id))[-1]
    assert (type(last.event), last.turn_id) == (TurnEnded, reply.turn.id)


async def test_a_prompt_that_the_cli_refuses_fails(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    (await heart.process(asked)).say(PromptTaken(asked.turn.id, "refused"))
    assert isinstance(await heart.settled(asked), Failed)


async def test_an_idle_agent_that_exits_sends_the_session_to_sleep(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    heart.host.processes[asked.session.worklet].exit(0)
    await heart.in_state(asked, SessionState.ASLEEP)
    reply = await heart.ask("two")
    assert await heart.settled(reply) == Done()
    assert Preparing("waking") in heart.events(reply.turn.id)


# -- interrupting


async def test_an_interrupt_ends_the_turn_and_the_next_one_follows(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    following = await heart.ask("next")
    assert await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert await heart.settled(following) == Done()
    assert heart.host.processes[asked.session.worklet] is process
    assert not await heart.sessions.interrupt(asked.session.id, "U2"), "nothing runs"


async def test_an_interrupt_that_the_cli_ignores_ends_its_container(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = True
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert process.dead
    process.end()  # late
    assert await heart.settled(await heart.ask("next")) == Done()
    assert heart.outcomes(asked.turn.id) == [Interrupted("U2")]


async def test_an_interrupt_while_the_container_starts_ends_the_turn_at_once(heart: Heart) -> None:
    heart.host.gate.clear()
    asked = await heart.ask("one")
    await until(lambda: heart.host.opened)
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert heart.events(asked.turn.id)[-1] == Settled(Interrupted("U2"), None)
    heart.host.gate.set()
    assert await heart.settled(await heart.ask("two")) == Done()
    assert [text for _, text in heart.host.processes[asked.session.worklet].prompts] == ["two"]


async def test_an_interrupted_result_without_a_prompt_is_this_turns(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = True
    await heart.sessions.interrupt(asked.session.id, "U2")
    process.end("interrupted", prompt_ids=())
    assert await heart.settled(asked) == Interrupted("U2")
    assert not process.dead


async def test_stop_drops_what_is_queued_and_puts_the_session_to_sleep(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    queued = await heart.ask("two")
    assert await heart.sessions.stop(asked.session.id, "U2")
    assert heart.outcomes(asked.turn.id) == heart.outcomes(queued.turn.id) == [Interrupted("U2")]
    session = await heart.sessions.get(asked.session.id)
    assert (session.state, session.container_id) == (SessionState.ASLEEP, None)
    assert process.dead
    assert [text for _, text in process.prompts] == ["HOLD"]
    assert await heart.sessions.stop(asked.session.id, "U2"), "again: harmless"


async def test_a_turn_that_is_dropped_while_its_container_starts_is_not_sent(heart: Heart) -> None:
    heart.host.gate.clear()
    asked = await heart.ask("one")
    await until(lambda: heart.host.opened)
    dropped = await heart.sessions.store.interrupt_queued(asked.session.id, "U2", sparing=None)
    assert [turn.id for turn in dropped] == [asked.turn.id]
    heart.host.gate.set()
    session = await heart.in_state(asked, SessionState.IDLE)
    assert session.container_id
    assert heart.host.processes[session.worklet].prompts == []
    assert "Started" not in heart.kinds(asked.turn.id)
    assert await heart.settled(await heart.ask("two")) == Done()


# -- previews and positions


async def test_the_position_stays_behind_an_open_preview(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(TextDelta("half a sen"))  # 3
    process.say(ToolFinished("background", ok=True))  # 4
    await until(lambda: ToolFinished("background", ok=True) in heart.events(asked.turn.id))
    session = await heart.sessions.get(asked.session.id)
    assert session.seq == 2, "an attach must give the preview again"
    assert process.acked == 2
    process.say(Text("half a sentence"))
    await until(lambda: process.acked == 5)
    assert (await heart.sessions.get(asked.session.id)).seq == 5


async def test_several_events_of_one_line_are_kept(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(Thinking(""), ToolStarted("1", "Bash", {"command": "ls"}), ToolStarted("2", "Read", {}))
    process.answer("x")
    await heart.settled(asked)
    entries = await heart.sessions.transcript.read(asked.session.id)
    assert [type(entry.event).__name__ for entry in entries] == [
        "AgentReady", "Thinking", "ToolStarted", "ToolStarted", "Text", "TurnEnded",
    ]  # fmt: skip


# -- places


async def test_a_full_house_puts_the_longest_idle_session_to_sleep(start: Any) -> None:
    async with start(max_sessions=2) as heart:
        one, two = await heart.ask("1", "1.0"), await heart.ask("2", "2.0")
        await heart.settled(one)
        await heart.settled(two)
        again = await heart.ask("1 again", "1.0")
        await heart.settled(again)  # now 2 is the longest idle
        three = await heart.ask("3", "3.0")
        assert await heart.settled(three) == Done()
        assert "WaitingForPlace" not in heart.kinds(three.turn.id)
        assert (await heart.sessions.get(two.session.id)).state is SessionState.ASLEEP
        assert (await heart.sessions.get(one.session.id)).state is SessionState.IDLE
        assert await heart.settled(await heart.ask("2 again", "2.0")) == Done()


async def test_when_all_work_the_next_ones_wait_in_order_of_arrival(start: Any) -> None:
    async with start(max_sessions=1) as heart:
        one = await heart.ask("HOLD", "1.0")
        process = await heart.process(one)
        two = await heart.ask("2", "2.0")
        await until(lambda: WaitingForPlace(1) in heart.events(two.turn.id))
        assert (await heart.in_state(two, SessionState.WAITING)).container_id is None
        three = await heart.ask("3", "3.0")
        await until(lambda: WaitingForPlace(1) in heart.events(three.turn.id))
        process.answer("free")
        assert await heart.settled(three) == await heart.settled(two) == Done()
        ended = [turn.id for _, turn, event in heart.told if isinstance(event, Settled)]
        assert ended == [one.turn.id, two.turn.id, three.turn.id]
        running = await heart.host.running()
        assert set(running) <= {three.session.worklet, two.session.worklet}
        await until(lambda: len([p for p in heart.host.processes.values() if not p.dead]) == 1)


async def test_who_waits_for_a_place_can_be_interrupted(start: Any) -> None:
    async with start(max_sessions=1) as heart:
        process = await heart.process(await heart.ask("HOLD", "1.0"))
        two = await heart.ask("2", "2.0")
        await until(lambda: WaitingForPlace(1) in heart.events(two.turn.id))
        await heart.sessions.interrupt(two.session.id, "U2")
        assert await heart.settled(two) == Interrupted("U2")
        three = await heart.ask("3", "3.0")
        process.answer("free")
        assert await heart.settled(three) == Done()


async def test_a_failed_start_gives_its_place_back(start: Any, host: ScriptedHost) -> None:
    async with start(max_sessions=1) as heart:
        host.refusals = [ImageMissing()]
        await heart.settled(await heart.ask("1", "1.0"))
        assert await heart.settled(await heart.ask("2", "2.0")) == Done()


async def test_agent_gone_is_told_with_its_own_sentence(heart: Heart) -> None:
    heart.host.refusals = [
        AgentGone("The relay refused."),
        AgentGone("The relay refused."),
        AgentGone("The relay refused."),
    ]
    outcome = await heart.settled(await heart.ask("x"))
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("The relay refused. Write again")
