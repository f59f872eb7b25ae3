"""The program stops and starts again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

from heart import Heart
from scripted import ScriptedHost
from waiting import until

from sessions.events import Preparing, Queued, Settled, Started
from sessions.types import Done, Interrupted, SessionState, ThreadId, TurnState
from worklets.errors import RuntimeUnavailable
from worklets.events import PASSING, AgentReady, Text, TextDelta, ToolFinished


async def come_back(heart: Heart) -> None:
    """What the composition root does at boot."""
    await heart.reaper.sweep()


async def test_a_turn_goes_on_in_its_container_after_a_restart(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(Text("first. "))
        process.say(TextDelta("sec"))
        await until(lambda: TextDelta("sec") in before.events(asked.turn.id))
    assert not process.dead
    assert before.outcomes(asked.turn.id) == []
    process.say(TextDelta("ond"))
    process.say(Text("second."))
    process.end()
    async with start() as after:
        await come_back(after)
        assert await after.settled(asked.turn.id) == Done()
        told = [event for event in after.events(asked.turn.id) if not isinstance(event, PASSING)]
        assert [type(event).__name__ for event in told] == [
            "Queued", "Started", "AgentReady", "Text", "Text", "TurnEnded", "Settled",
        ]  # fmt: skip
        previews = [event.text for event in after.events(asked.turn.id) if isinstance(event, TextDelta)]
        assert previews == ["sec", "ond"], "the preview of the open block is given again, that of the stored one is not"
        entries = await after.sessions.transcript.read(asked.session.id, turn_id=asked.turn.id)
        assert [entry.event for entry in entries if isinstance(entry.event, Text)] == [Text("first. "), Text("second.")]
    assert process.prompts == [(asked.turn.id, "HOLD"), (asked.turn.id, "HOLD")], "the CLI runs one uuid once"
    assert host.opened[1]["fence"] > host.opened[0]["fence"]
    assert host.processes[asked.session.worklet] is process


async def test_events_beyond_an_open_preview_are_not_told_twice(start: Any) -> None:
    background = ToolFinished("background", ok=True)
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        process.say(TextDelta("half"))
        process.say(background)
        await until(lambda: background in before.events(asked.turn.id))
    process.say(Text("half and whole"))
    process.end()
    async with start() as after:
        await come_back(after)
        await after.settled(asked.turn.id)
        told = after.events(asked.turn.id)
        assert told.count(background) == 1
        assert TextDelta("half") in told
        entries = await after.sessions.transcript.read(asked.session.id)
        assert [entry.event for entry in entries].count(background) == 1


async def test_a_container_that_is_gone_after_a_restart_is_replaced(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        old = await before.process(asked)
        await until(lambda: "AgentReady" in before.kinds(asked.turn.id))
    old.die()
    async with start() as after:
        await come_back(after)
        new = await after.process(asked)
        assert new is not old
        assert new.resumed
        new.answer("done")
        assert await after.settled(asked.turn.id) == Done()
        assert after.kinds(asked.turn.id).count("Started") == 1
        assert Preparing("waking") in after.events(asked.turn.id)


async def test_an_end_that_was_stored_but_not_settled_is_settled_without_asking_again(
    start: Any, host: ScriptedHost
) -> None:
    """Killed between the last event's commit and the turn's: taken apart here by hand."""
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
        lease = await before.sessions.store.leases.acquire(asked.session.id, "another", 30)
        assert lease is not None, "the lock file allows it: from here on the first program cannot write"
        process.end()
        await until(lambda: not before.sessions.is_live(asked.session.id))
    async with start() as after:
        await come_back(after)
        assert await after.settled(asked.turn.id) == Done()
    async with start() as later:
        assert (await later.sessions.turns(asked.session.id))[0].state is TurnState.DONE


async def test_what_is_queued_is_worked_on_after_a_restart(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        first = await before.ask("HOLD", "1.0")
        process = await before.process(first)
        second = await before.ask("two", "1.0")
    process.answer("one")
    async with start() as after:
        await come_back(after)
        assert await after.settled(second.turn.id) == Done()
        assert await after.settled(first.turn.id) == Done()
        assert after.events(second.turn.id)[0] == Queued(1)
    assert [text for _, text in process.prompts] == ["HOLD", "HOLD", "two"]


async def test_an_idle_container_is_taken_over_and_counts_as_a_place(start: Any, host: ScriptedHost) -> None:
    async with start(max_sessions=1) as before:
        one = await before.ask("one", "1.0")
        await before.settled(one)
    async with start(max_sessions=1) as after:
        await come_back(after)
        two = await after.ask("two", "2.0")
        assert await after.settled(two) == Done()
        assert (await after.in_state(one, SessionState.ASLEEP)).container_id is None
        assert host.processes[one.session.worklet].dead
        await after.settled(await after.ask("three", "1.0"))
        assert host.opened[-1]["has_history"]


async def test_a_reply_reaches_the_idle_container_of_before(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        await before.settled(one := await before.ask("one"))
    async with start() as after:
        await come_back(after)
        assert await after.settled(await after.ask("two")) == Done()
        assert host.processes[one.session.worklet].prompts[-1][1] == "two"
        assert len({opened["position"].epoch for opened in host.opened if opened["position"]}) == 1
        entries = await after.sessions.transcript.read(one.session.id)
        assert [entry.event for entry in entries if isinstance(entry.event, Text)] == [Text("one"), Text("two")]


async def test_replay_tells_settled_turns_until_they_are_delivered(start: Any) -> None:
    async with start() as before:
        asked = await before.ask("hello")
        await before.settled(asked)
    async with start() as after:
        await come_back(after)
        assert await after.settled(asked.turn.id) == Done()
        told = after.events(asked.turn.id)
        assert [type(event) for event in told[:3]] == [Queued, Started, AgentReady]
        assert isinstance(told[-1], Settled)
        assert told[-1].seconds is not None
        await after.sessions.delivered(asked.turn.id)
    async with start() as later:
        await come_back(later)
        assert later.told == []


async def test_drain_waits_for_a_running_turn_and_begins_no_other(start: Any) -> None:
    async with start() as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        following = await heart.ask("two")
        draining = asyncio.create_task(heart.sessions.drain(grace=10))
        await asyncio.sleep(0)
        process.answer("finished in time")
        await draining
        assert heart.outcomes(asked.turn.id) == [Done()]
        assert heart.outcomes(following.turn.id) == []
        late = await heart.ask("three", "2.0")
        assert heart.events(late.turn.id) == [Queued(0)], "stored, for the next start"
        assert not heart.sessions.is_live(late.session.id)
    async with start() as after:
        await come_back(after)
        assert await after.settled(late.turn.id) == await after.settled(following.turn.id) == Done()


async def test_drain_lets_go_of_a_turn_that_takes_longer(start: Any) -> None:
    async with start() as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        await heart.sessions.drain(grace=0.05)
        assert heart.outcomes(asked.turn.id) == []
        assert (await heart.sessions.turns(asked.session.id))[0].state is TurnState.RUNNING
        assert not process.dead


async def test_drain_does_not_wait_for_a_container_that_starts(start: Any, host: ScriptedHost) -> None:
    host.gate.clear()
    async with start() as heart:
        asked = await heart.ask("one")
        await until(lambda: host.opened)
        await asyncio.wait_for(heart.sessions.drain(grace=120), 60)
    host.gate.set()
    async with start() as after:
        await come_back(after)
        assert await after.settled(asked.turn.id) == Done()


async def test_a_message_in_the_moment_of_falling_asleep_is_not_lost(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    for number in range(10):
        sleeping = asyncio.create_task(heart.sessions.sleep(asked.session.id))
        for _ in range(number):
            await asyncio.sleep(0)
        reply = await heart.ask(f"reply {number}")
        assert await heart.settled(reply) == Done()
        await sleeping
    prompts = [text for name in {asked.session.worklet} for _, text in heart.host.processes[name].prompts]
    assert prompts[-1] == "reply 9"


async def test_a_session_that_sleeps_wakes_with_its_conversation(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    assert await heart.sessions.sleep(asked.session.id)
    session = await heart.sessions.get(asked.session.id)
    assert (session.state, session.container_id) == (SessionState.ASLEEP, None)
    assert not await heart.host.running()
    reply = await heart.ask("two")
    assert await heart.settled(reply) == Done()
    assert heart.host.processes[session.worklet].resumed
    assert heart.host.opened[-1]["claude_session_id"] == session.claude_session_id
    assert Preparing("waking") in heart.events(reply.turn.id)


async def test_a_working_session_does_not_sleep(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    assert not await heart.sessions.sleep(asked.session.id)
    process.answer("x")
    assert await heart.settled(asked) == Done()
    assert not process.dead


async def test_a_runtime_that_is_down_does_not_keep_a_session_awake(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.delivered(asked.turn.id)
    heart.host.unavailable = RuntimeUnavailable()
    assert await heart.sessions.sleep(asked.session.id)
    assert (await heart.sessions.get(asked.session.id)).state is SessionState.ASLEEP
    heart.host.unavailable = None
    await heart.reaper.sweep()
    assert not await heart.host.running(), "the stray is removed by the next pass"


async def test_the_database_is_waited_for(start: Any) -> None:
    """While another program holds the file, the agent's words wait in its journal."""
    async with start() as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        other = sqlite3.connect(heart.db.dsn.path or "", timeout=60, check_same_thread=False)
        async with heart.db.read() as connection:
            await connection.exec_driver_sql("pragma busy_timeout=0")
        await asyncio.to_thread(other.execute, "begin immediate")  # a write may be under way on this loop
        process.answer("after the storm")
        await until(lambda: "TextDelta" in heart.kinds(asked.turn.id))  # told at once; what is to be stored waits
        assert heart.outcomes(asked.turn.id) == []
        other.rollback()
        other.close()
        assert await heart.settled(asked) == Done()


async def test_an_unknown_session_is_not_found_and_a_thread_finds_its_own(heart: Heart) -> None:
    asked = await heart.ask("one", "7.0")
    await heart.settled(asked)
    found = await heart.sessions.find(ThreadId("T1", "C1", "7.0"))
    assert found
    assert found.id == asked.session.id
    assert await heart.sessions.find(ThreadId("T1", "C1", "8.0")) is None
    assert [one.id for one in await heart.sessions.list(user_id="U1")] == [asked.session.id]
    assert await heart.sessions.list(user_id="U2") == []


async def test_a_message_that_comes_right_after_a_restart_is_announced_after_the_older_ones(start: Any) -> None:
    async with start() as before:
        first = await before.ask("HOLD")
        await before.process(first)
    async with start() as after:
        second = await after.ask("two")
        await until(lambda: "Queued" in after.kinds(second.turn.id))
        announced = [turn.id for _, turn, event in after.told if isinstance(event, Queued)]
        assert announced == [first.turn.id, second.turn.id]
        (await after.process(first)).answer("one")
        assert await after.settled(second) == Done()


async def test_a_stop_that_meets_a_restart_ends_the_turn_when_it_is_taken_over(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("HOLD")
        process = await before.process(asked)
    process.say(Text("said while nobody listened"))
    async with start() as after:
        assert await after.sessions.interrupt(asked.session.id, "U9"), "nobody runs it yet"
        await come_back(after)
        assert await after.settled(asked.turn.id) == Interrupted("U9")
        assert "Text" in after.kinds(asked.turn.id)
        assert process.running is None
        assert not process.dead
        assert await after.settled(await after.ask("usable")) == Done()


async def test_a_stop_before_anybody_ran_the_turn_starts_nothing(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        await before.sessions.drain(0)
        asked = await before.ask("hello")
    async with start() as after:
        assert await after.sessions.interrupt(asked.session.id, "U9")
        await come_back(after)
        assert await after.settled(asked.turn.id) == Interrupted("U9")
        assert host.opened == []
