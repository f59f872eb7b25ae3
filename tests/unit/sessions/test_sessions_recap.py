"""What was said in a thread so far: as a text, and as what Claude gets when its volume is new."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from heart import Heart
from scripted import ScriptedHost
from waiting import until

from sessions.context import meanwhile
from sessions.recap import recap
from sessions.types import Aside, Cut, Done, SessionId, ThreadId, Turn, TurnId, TurnState
from worklets.events import AgentEvent, Text, ToolFinished, ToolStarted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def turn(number: int, text: str, state: TurnState = TurnState.DONE, error: str | None = None) -> Turn:
    return Turn(
        TurnId(f"t{number}"), SessionId("s"), f"C1:{number}", f"{number}.0", "U1", text, state, error,
        NOW, NOW, NOW, True,
    )  # fmt: skip


def test_it_says_who_said_what_in_order() -> None:
    events: dict[TurnId, list[AgentEvent]] = {
        TurnId("t1"): [
            ToolStarted("1", "Bash", {"command": "make test", "description": "Run the tests"}),
            ToolStarted("2", "Read", {"file_path": "a.py"}, "1"),
            ToolFinished("1", ok=True, output="secret output"),
            Text("It works."),
            Text("All of it."),
        ],
        TurnId("t2"): [Text("half")],
    }
    turns = [
        turn(1, "does it work?"),
        turn(2, "go on", TurnState.INTERRUPTED),
        turn(3, "taken back", TurnState.WITHDRAWN),
        turn(4, "deploy", TurnState.CUT, "The container was killed."),
        turn(5, "no event is left of it"),
    ]
    assert recap(turns, events, 60_000) == (
        "<@U1>: does it work?\n(tools you called: Bash (make test))\nYou: It works.\n\nAll of it.\n\n"
        "<@U1>: go on\nYou: half\n(somebody stopped this turn)\n\n"
        "<@U1>: deploy\n(this turn was cut off: The container was killed)\n\n"
        "<@U1>: no event is left of it"
    )
    assert recap([], {}, 1000) == ""


@pytest.mark.parametrize("limit", [120, 500, 4_000, 60_000])
def test_it_keeps_to_its_limit_and_the_newest_is_the_last_to_go(limit: int) -> None:
    turns = [turn(number, f"question {number} " + "x" * 300) for number in range(200)]
    events = {one.id: [Text(f"answer {one.id} " + "y" * 3_000)] for one in turns}
    said = recap(turns, events, limit)
    assert len(said) <= limit
    assert said.endswith("yyy")
    if limit >= 500:
        assert "question 199" in said
        assert "older messages are left out" in said.splitlines()[0]
    if limit == 60_000:
        assert "answer t199 " + "y" * 3_000 in said, "in full"
        assert "[…]" in said, "shortened"
        assert "question 150" in said


def test_many_tools_are_counted() -> None:
    calls: list[AgentEvent] = [ToolStarted(str(n), "Grep", {"pattern": "p" * 200}) for n in range(30)]
    said = recap([turn(1, "look")], {TurnId("t1"): calls}, 60_000)
    assert said.count("Grep") == 12
    assert said.endswith("and 18 more)")


def test_what_was_said_aside_is_bounded_and_the_newest_stays() -> None:
    thread = ThreadId("T1", "C1", "1.0")
    said = [Aside(thread, str(n), f"{n}.0", "U1", "Maya", f"{n} " + "x" * 5_000) for n in range(30)]
    told = meanwhile(said)
    assert len(told) < 35_000
    assert "Maya: 29 xx" in told
    assert "Maya: 5 xx" not in told


async def test_a_claude_without_its_volume_is_told_what_was_said(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("the first question")
        await before.settled(asked)
        await before.sessions.sleep(asked.session.id)
    await host.destroy(asked.session.worklet)
    async with start() as heart:
        reply = await heart.ask("HOLD")
        process = await heart.process(reply)
        (past,) = process.contexts[0]
        assert "<@U1>: the first question\nYou: the first question" in past
        assert "HOLD" not in past
        session = await heart.sessions.get(asked.session.id)
        assert session.retired_at is not None, "so it is known after a restart too"
        process.die()
        process = await until(lambda: (p := host.processes[session.worklet]) is not process and p.running and p)
        assert "the first question" in process.contexts[0][0], "the lost process took it with it"
        assert "process was lost" in process.contexts[0][1]
        process.answer("back")
        assert await heart.settled(reply) == Done()
        assert (await heart.sessions.get(asked.session.id)).retired_at is None
        await heart.settled(await heart.ask("next"))
        assert process.contexts[-1] == ()


async def test_a_conversation_that_was_put_away_goes_on_from_its_summary(heart: Heart, host: ScriptedHost) -> None:
    asked = await heart.ask("what was asked")
    await heart.settled(asked)
    await heart.sessions.sleep(asked.session.id)
    lease = await heart.sessions.store.leases.acquire(asked.session.id, "housekeeping", 30)
    assert lease is not None
    columns = {"retired_at": NOW, "archived_at": NOW, "summary": "They spoke of whales."}
    await heart.sessions.store.set_state(lease[0], (await heart.sessions.get(asked.session.id)).state, **columns)
    await heart.sessions.store.leases.release([lease[0]])
    reply = await heart.ask("go on")
    await heart.settled(reply)
    (past,) = host.processes[asked.session.worklet].contexts[0]
    assert "They spoke of whales." in past
    assert "<@U1>: what was asked" in past
    assert (await heart.sessions.get(asked.session.id)).retired_at is None


async def test_after_a_loss_the_next_process_is_told_of_the_turn_that_was_cut_off(
    heart: Heart, host: ScriptedHost
) -> None:
    await heart.settled(await heart.ask("long ago"))
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(Text("Deploying."))
    process.say(tool := ToolStarted("1", "Bash", {"command": "make deploy"}))
    await until(lambda: tool in heart.events(asked.turn.id))
    process.die()
    assert isinstance(await heart.settled(asked), Cut)
    assert await heart.settled(await heart.ask("go on")) == Done()
    process = host.processes[asked.session.worklet]
    (lost,) = process.contexts[0]
    assert "<@U1>: HOLD on\n(tools you called: Bash (make deploy))\nYou: Deploying." in lost
    assert "long ago" not in lost, "that it remembers"
    await heart.settled(await heart.ask("and then"))
    assert process.contexts[1] == ()
    await heart.sessions.sleep(asked.session.id)
    await heart.settled(await heart.ask("after a nap"))
    assert host.processes[asked.session.worklet].contexts == [()], "the turn before had its end"
