"""Claude's process is lost in the middle of a turn: the turn goes on in a new one, or people are asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from heart import QUICK, Heart
from scripted import Process, ScriptedHost
from waiting import until

from sessions.errors import LeaseLost
from sessions.events import Preparing
from sessions.loss import again_id
from sessions.types import Cut, Done, Failed, Interrupted, SessionState, Submitted, TurnState
from worklets.events import AgentExited, Restarted, Text, TextDelta, ToolFinished, ToolStarted, TurnEnded, Usage


async def told(heart: Heart, asked: Submitted, event: Any) -> None:
    await until(lambda: event in heart.events(asked.turn.id), what=f"{event} to be told")


async def next_process(heart: Heart, asked: Submitted, lost: Process) -> Process:
    found = await until(lambda: (p := heart.host.processes[asked.session.worklet]) is not lost and p.running and p)
    assert isinstance(found, Process)
    return found


def restarts(heart: Heart, asked: Submitted) -> list[str]:
    return [event.reason for event in heart.events(asked.turn.id) if isinstance(event, Restarted)]


async def test_claude_is_told_what_people_have_seen_and_people_are_told_why(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    first.say(Text("The first half."))
    first.say(ToolStarted("1", "Read", {"file_path": "a.py"}))
    first.say(TextDelta("And then"))
    await told(heart, asked, TextDelta("And then"))
    first.die("Claude's container ran out of memory (limit 1 GiB)")
    second = await next_process(heart, asked, first)
    assert second.prompts == [(again_id(asked.turn.id, second.epoch), "HOLD")]
    (note,) = second.contexts[0]
    assert "The first half.\n\nAnd then" in note
    assert "do not repeat" in note
    assert restarts(heart, asked) == ["Claude's container ran out of memory (limit 1 GiB); a new one goes on."]
    second.answer("the second half.")
    assert await heart.settled(asked) == Done()
    entries = await heart.sessions.transcript.read(asked.session.id, turn_id=asked.turn.id)
    lasting = [entry.event for entry in entries if isinstance(entry.event, (Text, Restarted))]
    assert [getattr(event, "text", "restarted") for event in lasting] == [
        "The first half.", "And then", "restarted", "the second half.",
    ]  # fmt: skip
    assert (await heart.sessions.turn(asked.turn.id)).attempts == 2


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([ToolStarted("1", "Bash", {"command": "make deploy"})], "while it ran `make deploy`."),
        (
            [ToolStarted("1", "Bash", {"command": "make deploy"}), ToolFinished("1", ok=True)],
            "after it had run `make deploy`.",
        ),
        (
            [ToolStarted("1", "Write", {"file_path": "a.py"}), ToolFinished("1", True), ToolStarted("2", "Read", {})],
            "after it had run Write on `a.py`.",
        ),
        ([ToolStarted("1", "Agent", {}), ToolStarted("2", "Bash", {"command": "ls"}, "1")], "while it ran `ls`."),
        ([ToolStarted("1", "mcp__jira__create", {})], "while it ran mcp__jira__create."),
    ],
)
async def test_a_turn_that_may_have_changed_something_is_cut(heart: Heart, tools: list[Any], reason: str) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    for event in tools:
        process.say(event)
    await told(heart, asked, tools[-1])
    process.die("Claude's container was killed")
    assert await heart.settled(asked) == Cut(f"Claude's container was killed {reason}")
    assert len(heart.host.opened) == 1, "nothing is started for it"
    assert restarts(heart, asked) == []
    session = await heart.sessions.get(asked.session.id)
    assert (session.state, session.container_id) == (SessionState.ASLEEP, None)
    assert await heart.settled(await heart.ask("go on")) == Done()


@pytest.mark.parametrize("name", ["Read", "Grep", "Glob", "TaskCreate", "TaskUpdate", "TaskList", "TaskGet"])
async def test_a_turn_that_has_only_looked_goes_on(heart: Heart, name: str) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(tool := ToolStarted("1", name, {}))
    await told(heart, asked, tool)
    process.die()
    (await next_process(heart, asked, process)).answer("x")
    assert await heart.settled(asked) == Done()


async def test_a_tool_in_what_the_lost_process_said_last_counts(start: Any, host: ScriptedHost) -> None:
    """Flow was away: the line stands only in the journal."""
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        await until(lambda: process.acked == 2)
    process.say(ToolStarted("1", "Bash", {"command": "terraform apply"}))
    process.say(AgentExited(-9))
    process.die("Claude's container was killed")
    async with start() as after:
        await after.reaper.recover()
        assert await after.settled(asked) == Cut("Claude's container was killed while it ran `terraform apply`.")
        assert host.processes[asked.session.worklet].prompts == []
        assert host.processes[asked.session.worklet].dead
        assert not host.put_aside


async def test_what_was_streamed_and_lost_while_flow_was_away_is_kept(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("half a "))
        await told(before, asked, TextDelta("half a "))
    process.say(TextDelta("sentence"))
    process.die()
    async with start() as after:
        await after.reaper.recover()
        second = await after.process(asked)
        assert "half a sentence" in second.contexts[0][0]
        assert restarts(after, asked) == ["Claude's container is gone; a new one goes on."]
        second.answer(", and its end")
        assert await after.settled(asked) == Done()
        texts = [event for event in after.events(asked.turn.id) if isinstance(event, Text)]
        assert texts == [Text("half a sentence"), Text(", and its end")]


async def test_the_program_dies_after_it_gave_the_prompt_to_the_new_process(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        first = await before.process(asked)
        first.say(Text("one"))
        await told(before, asked, Text("one"))
        first.die()
        second = await next_process(before, asked, first)
    async with start() as after:
        await after.reaper.recover()
        await until(lambda: len(second.prompts) == 2)
        assert {prompt_id for prompt_id, _ in second.prompts} == {again_id(asked.turn.id, second.epoch)}
        second.answer("two")
        assert await after.settled(asked) == Done()
        assert len(restarts(after, asked)) == 1, "told again from the transcript, not noted again"
        assert (await after.sessions.turn(asked.turn.id)).attempts == 2


async def test_the_program_dies_before_it_stored_a_word_of_the_process(start: Any, host: ScriptedHost) -> None:
    """The prompt is in it all the same: it must not get another one."""
    async with start() as before:
        host.on_start = lambda process: setattr(process, "mute", True)
        asked = await before.ask("HOLD")
        process = await until(lambda: (p := host.processes.get(asked.session.worklet)) and p.running and p)
        host.on_start = lambda process: None
        assert (await before.sessions.get(asked.session.id)).epoch is None
    async with start() as after:
        await after.reaper.recover()
        await until(lambda: len(process.prompts) == 2)
        assert {prompt_id for prompt_id, _ in process.prompts} == {asked.turn.id}
        process.answer("once")
        assert await after.settled(asked) == Done()
        assert restarts(after, asked) == []


async def test_a_second_loss_goes_on_from_the_first(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    first = await heart.process(asked)
    first.say(Text("one"))
    await told(heart, asked, Text("one"))
    first.die()
    second = await next_process(heart, asked, first)
    second.say(Text("two"))
    await told(heart, asked, Text("two"))
    second.exit(1, "panic\nout of luck.")
    third = await next_process(heart, asked, second)
    assert "one\n\ntwo" in third.contexts[0][0]
    assert restarts(heart, asked)[1] == "Claude's process ended with code 1 (out of luck); a new one goes on."
    third.answer("three")
    assert await heart.settled(asked) == Done()


async def test_a_prompt_that_kills_every_process_fails_after_a_number_of_them(start: Any, host: ScriptedHost) -> None:
    """Counted across restarts of the program: each of them would begin anew."""
    crash = lambda process: setattr(process, "crashes", True)  # noqa: E731
    host.on_start = crash
    patience = replace(QUICK, attempts=3, again=(0.0,) * 9)
    async with start(patience=patience) as heart:
        asked = await heart.ask("HOLD")
        outcome = await heart.settled(asked)
        assert isinstance(outcome, Failed)
        assert "; 3 were lost with this message." in outcome.reason
        assert len(host.opened) == 3
        host.on_start = lambda process: None
        assert await heart.settled(await heart.ask("again")) == Done()


async def test_attempts_are_counted_across_restarts(start: Any, host: ScriptedHost) -> None:
    patience = replace(QUICK, attempts=2)
    async with start(patience=patience) as before:
        asked = await before.ask("HOLD")
        first = await before.process(asked)
        first.die()
        second = await next_process(before, asked, first)
    second.die()
    async with start(patience=patience) as after:
        await after.reaper.recover()
        outcome = await after.settled(asked)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("Claude's container is gone; 2 were lost")
        assert (await after.sessions.turn(asked.turn.id)).state is TurnState.FAILED


async def test_an_end_among_the_last_words_ends_the_turn_without_asking_again(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        await until(lambda: process.acked == 2)
    process.say(Text("all of it"))
    process.say(TurnEnded("done", (asked.turn.id,), Usage(), 1.0))
    process.die()
    async with start() as after:
        await after.reaper.recover()
        assert await after.settled(asked) == Done()
        assert restarts(after, asked) == []
        assert host.processes[asked.session.worklet].prompts == []


async def test_the_prompt_of_a_lost_process_is_resumed_in_the_words_of_a_new_turn(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(tool := ToolStarted("1", "Bash", {"command": "x"}))
    await told(heart, asked, tool)
    process.die()
    assert isinstance(await heart.settled(asked), Cut)
    again = await heart.sessions.resume(asked.turn.id, "U2", "again", "1700000900.000000")
    assert again is not None
    assert again.turn.text == "HOLD"
    (await heart.process(again)).answer("x")
    assert await heart.settled(again) == Done()
    assert await heart.sessions.resume(asked.turn.id, "U2", "continue", "1700000901.000000") == replace(
        again, turn=await heart.sessions.turn(again.turn.id), session=await heart.sessions.get(asked.session.id),
        fresh=False, new_session=False,
    )  # fmt: skip


async def test_a_loss_while_the_turn_is_being_stopped_is_its_end(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = True
    await heart.sessions.interrupt(asked.session.id, "U2")
    process.die()
    assert await heart.settled(asked) == Interrupted("U2")
    assert Preparing("resuming") not in heart.events(asked.turn.id)
    assert len(heart.host.opened) == 1


async def test_a_worklet_that_another_process_has_taken_over_is_left_alone(start: Any, host: ScriptedHost) -> None:
    """Paused past its lease, and then told by the relay that somebody else owns the worklet."""
    async with start() as paused:
        asked = await paused.ask("HOLD")
        process = await paused.process(asked)
        lease = await paused.sessions.store.leases.acquire(asked.session.id, "another", 30)
        assert lease is not None
        process.refuse()
        await until(lambda: not paused.sessions.is_live(asked.session.id))
        assert host.closed == []
        assert not process.dead
        assert paused.outcomes(asked.turn.id) == []


async def test_who_opens_a_worklet_can_look_whether_it_is_its_own_before_it_ends_one(
    start: Any, host: ScriptedHost
) -> None:
    async with start() as paused:
        host.gate.clear()
        asked = await paused.ask("hello")
        (opening,) = await until(lambda: host.opened)
        await opening["still_owned"]()
        assert await paused.sessions.store.leases.acquire(asked.session.id, "another", 30)
        with pytest.raises(LeaseLost) as lost:
            await opening["still_owned"]()
        host.refusals.append(lost.value)
        host.gate.set()
        await until(lambda: not paused.sessions.is_live(asked.session.id))
        assert (host.closed, paused.outcomes(asked.turn.id)) == ([], [])
