"""A turn is stopped: whatever Claude, its container or its start does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from heart import QUICK, Heart
from scripted import ScriptedHost
from waiting import until

from sessions.events import Stopping
from sessions.types import Aside, Done, Interrupted, Session, SessionState, Turn
from worklets.events import AgentExited, PromptTaken, Text, TextDelta


async def test_people_are_told_at_once_that_a_turn_is_being_stopped(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = process.deaf = True
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert heart.events(asked.turn.id)[-1] == Stopping("U2")
    await heart.sessions.interrupt(asked.session.id, "U3")
    assert await heart.settled(asked) == Interrupted("U2")
    assert heart.kinds(asked.turn.id).count("Stopping") == 1


async def test_a_cli_that_ignores_the_interrupt_is_told_to_end(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = True
    process.say(TextDelta("half a sen"))
    await until(lambda: TextDelta("half a sen") in heart.events(asked.turn.id))
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert process.journal[-1] == (AgentExited(143, ""),)
    assert Text("half a sen") in heart.events(asked.turn.id), "what people have seen is kept"
    entries = await heart.sessions.transcript.read(asked.session.id, turn_id=asked.turn.id)
    assert Text("half a sen") in [entry.event for entry in entries]
    assert (await heart.in_state(asked, SessionState.ASLEEP)).container_id is None
    assert await heart.settled(await heart.ask("next")) == Done()


async def test_a_cli_that_ignores_everything_loses_its_container(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.stubborn = process.deaf = True
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert process.dead
    assert AgentExited(143, "") not in [event for line in process.journal for event in line]
    told = len(heart.told)
    process.say(Text("late"))
    process.end()
    assert await heart.settled(await heart.ask("next")) == Done()
    assert all(turn.id != asked.turn.id for _, turn, _ in heart.told[told:]), "late words reach nobody"


async def test_a_prompt_that_the_cli_calls_cancelled_is_stopped_without_more_ado(start: Any) -> None:
    async with start(patience=replace(QUICK, interrupt=60.0)) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.stubborn = True
        await heart.sessions.interrupt(asked.session.id, "U2")
        process.say(PromptTaken(asked.turn.id, "cancelled"))
        assert await heart.settled(asked) == Interrupted("U2")
        assert not process.dead


async def test_a_start_that_is_stopped_leaves_no_worklet(heart: Heart, host: ScriptedHost) -> None:
    host.gate.clear()
    asked = await heart.ask("one")
    await until(lambda: host.opened)
    await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    assert host.closed == [asked.session.worklet]
    assert (await heart.in_state(asked, SessionState.ASLEEP)).container_id is None
    host.gate.set()
    assert await heart.settled(await heart.ask("two")) == Done()


async def test_a_turn_is_stopped_while_the_thread_is_being_read(start: Any, host: ScriptedHost) -> None:
    reading = asyncio.Event()

    async def never(_session: Session, _turn: Turn) -> None:
        reading.set()
        await asyncio.Event().wait()

    async with start(patience=replace(QUICK, backlog=60.0)) as heart:
        heart.sessions.backlog(never)
        asked = await heart.ask("one")
        await reading.wait()
        await until(lambda: "Preparing" in heart.kinds(asked.turn.id))
        await heart.sessions.interrupt(asked.session.id, "U2")
        assert await heart.settled(asked) == Interrupted("U2")
        assert all(not process.prompts for process in host.processes.values())


async def test_a_thread_that_cannot_be_read_holds_nothing_up(start: Any, host: ScriptedHost) -> None:
    calls: list[str] = []

    async def slow(_session: Session, turn: Turn) -> None:
        calls.append(turn.text)
        if turn.text == "slow":
            await asyncio.Event().wait()
        raise ZeroDivisionError

    async with start(patience=replace(QUICK, backlog=0.01)) as heart:
        heart.sessions.backlog(slow)
        assert await heart.settled(await heart.ask("slow", "1.0")) == Done()
        assert await heart.settled(await heart.ask("broken", "2.0")) == Done()
        assert await heart.settled(await heart.ask("broken again", "2.0")) == Done()
        assert await heart.settled(await heart.ask("a root", "3.0", ts="3.0")) == Done()
        assert calls == ["slow", "broken"], "only before the first turn, and only in a thread that stood already"


async def test_what_was_said_before_comes_with_the_first_prompt(heart: Heart, host: ScriptedHost) -> None:
    async def collect(session: Session, _turn: Turn) -> None:
        said = [("1700000000.000200", "Maya", "it fails"), ("1700000000.000300", "Jonas", "since Monday")]
        await heart.sessions.overheard(
            [Aside(session.thread, f"C1:{ts}", ts, author, author, text) for ts, author, text in said]
        )

    heart.sessions.backlog(collect)
    asked = await heart.ask("why?")
    await heart.settled(asked)
    process = host.processes[asked.session.worklet]
    (meanwhile,) = process.contexts[0]
    assert "Maya: it fails\nJonas: since Monday" in meanwhile
    await heart.settled(await heart.ask("and now?"))
    assert process.contexts[1] == (), "once"
