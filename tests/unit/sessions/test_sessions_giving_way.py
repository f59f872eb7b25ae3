"""Who waits for people holds nobody up: not another thread, not another message, not a restart."""

from __future__ import annotations

import asyncio

import pytest
from heart import Heart, Start
from scripted import Process
from waiting import until

from config.settings import LimitSettings
from sessions.asks import Ask, AskKind, Decision
from sessions.events import AskOpened
from sessions.places import Places
from sessions.types import Done, Interrupted, SessionId, SessionState, Submitted
from worklets.events import Spent, ToolFinished, ToolStarted, TurnEnded, Usage

A, B, C, D = (SessionId(name) for name in "abcd")
THERE, ELSEWHERE = "1700000000.000900", "1700000000.000950"
LIMITS = LimitSettings(session=1.0, hard=9.0)


def asks(heart: Heart, submitted: Submitted) -> list[Ask]:
    return [event.ask for event in heart.events(submitted.turn.id) if isinstance(event, AskOpened)]


async def asked(heart: Heart, submitted: Submitted, kind: AskKind = AskKind.BUDGET) -> Ask:
    found = await until(lambda: [ask for ask in asks(heart, submitted) if ask.kind is kind], what=f"a question: {kind}")
    return found[-1]


async def spent(heart: Heart, dollars: float) -> None:
    """By a first turn in the thread, which is idle then."""
    submitted = await heart.ask("HOLD one")
    process = await heart.process(submitted)
    process.running = None
    process.say(TurnEnded("done", (submitted.turn.id,), Usage(10, 1, cost=dollars), 0.1))
    await heart.settled(submitted)


# -- places ---------------------------------------------------------


def evicting(limit: int, *idle: SessionId) -> tuple[Places, list[SessionId]]:
    evicted: list[SessionId] = []
    places = Places(limit, evicted.append)
    for session_id in idle:
        places.ask(session_id)
        places.idle(session_id)
    return places, evicted


async def test_who_falls_idle_after_it_was_asked_to_leave_is_asked_again() -> None:
    places, evicted = evicting(1, A)
    ticket = places.ask(B)
    places.idle(A)  # its turn ended before it wanted a place
    assert evicted == [A, A]
    assert not ticket.blocked.done()


async def test_who_cannot_leave_is_passed_over_until_it_can() -> None:
    places, evicted = evicting(2, A, B)
    ticket = places.ask(C)
    places.stays(A)
    assert evicted == [A, B]
    assert not ticket.blocked.done()
    places.stays(B)
    assert ticket.blocked.done()
    places.waits(A)  # says nothing new
    assert evicted == [A, B]
    places.idle(A)
    assert evicted == [A, B, A]
    places.free(A)
    assert ticket.granted.done()


# -- money ---------------------------------------------------------


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_thread_that_waits_for_money_gives_its_place_away(start: Start, decision: str) -> None:
    async with start(max_sessions=1, limits=LIMITS) as heart:
        await spent(heart, 2.0)
        second = await heart.ask("two")
        ask = await asked(heart, second)
        assert await heart.settled(await heart.ask("hi", thread=THERE)) == Done()
        assert (await heart.sessions.get(second.session.id)).state is SessionState.ASLEEP
        await heart.sessions.decide(ask.id, Decision("allow" if decision == "allow" else "deny"), "U1")
        assert await heart.settled(second) == (Done() if decision == "allow" else Interrupted("U1"))
        assert await heart.settled(await heart.ask("hi", thread=ELSEWHERE)) == Done()


async def test_a_place_that_was_wanted_while_the_message_came_in_is_given_away(start: Start) -> None:
    async with start(max_sessions=1, limits=LIMITS) as heart:
        await spent(heart, 2.0)
        second, there = await asyncio.gather(heart.ask("two"), heart.ask("hi", thread=THERE))
        assert await heart.settled(there) == Done()
        assert asks(heart, second) or await asked(heart, second)


async def test_a_lost_turn_that_waits_for_money_has_no_place(start: Start) -> None:
    async with start(max_sessions=1, limits=LIMITS) as heart:
        submitted = await overspent(heart)
        ask = await asked(heart, submitted)
        assert await heart.settled(await heart.ask("hi", thread=THERE)) == Done()
        await heart.sessions.decide(ask.id, Decision("allow"), "U1")
        (await heart.process(submitted)).answer("done")
        assert await heart.settled(submitted) == Done()


async def test_another_message_can_go_before_one_that_waits_for_money(start: Start) -> None:
    async with start(limits=LimitSettings(person_day=1.0)) as heart:
        await spent(heart, 2.0)
        second = await heart.ask("two")
        ask = await asked(heart, second)
        other = await heart.ask("three", user_id="U2")
        assert await heart.sessions.hurry(other.turn.id, "U2")
        assert await heart.settled(other) == Done()
        assert heart.outcomes(second.turn.id) == []
        await heart.sessions.decide(ask.id, Decision("allow"), "U1")
        assert await heart.settled(second) == Done()
        assert len(asks(heart, second)) == 1


async def overspent(heart: Heart, *, restart: bool = False) -> Submitted:
    """A turn that went beyond the limit, and whose process is lost; unless `restart`, while the program runs."""
    submitted = await heart.ask("HOLD one")
    process = await heart.process(submitted)
    usage = {"costUSD": 1.2, "costBasis": "list"}
    process.replies["get_usage"] = {"session": {"model_usage": {"a": usage}}}
    process.say(Spent(Usage(1, 1)))

    async def counted() -> bool:
        return await heart.sessions.budgets.reached(submitted.session, submitted.turn) is not None

    await until(counted)
    if restart:
        await heart.sessions.drain(0)
    process.die()
    return submitted


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_restart_does_not_spend_what_nobody_allowed(start: Start, asked_before: bool, decision: str) -> None:
    async with start(limits=LIMITS) as heart:
        submitted = await overspent(heart, restart=not asked_before)
        if asked_before:
            await asked(heart, submitted)
            await heart.sessions.drain(0)
    started = len(heart.host.opened)
    async with start(limits=LIMITS) as heart:
        heart.sessions.ring(submitted.session.id)
        ask = await asked(heart, submitted)
        assert ask.is_open
        if asked_before:
            assert len(heart.host.opened) == started
        assert all(not process.running for process in heart.host.processes.values() if not process.dead)
        await heart.sessions.decide(ask.id, Decision("allow" if decision == "allow" else "deny"), "U1")
        if decision == "allow":
            (await heart.process(submitted)).answer("done")
        assert await heart.settled(submitted) == (Done() if decision == "allow" else Interrupted("U1"))
        assert len(asks(heart, submitted)) == 1


# -- permissions ---------------------------------------------------------


async def asking_while_a_tool_runs(heart: Heart) -> tuple[Submitted, Process]:
    submitted = await heart.ask("HOLD")
    process = await heart.process(submitted)
    process.say(ToolStarted("running", "Bash", {"command": "make"}))
    process.ask("Bash", {"command": "touch x"})
    await asked(heart, submitted, AskKind.PERMISSION)
    return submitted, process


async def test_who_cannot_sleep_for_a_tool_that_runs_is_passed_over(start: Start) -> None:
    async with start(max_sessions=2) as heart:
        submitted, _ = await asking_while_a_tool_runs(heart)
        await heart.settled(await heart.ask("hi", thread=THERE))
        assert await heart.settled(await heart.ask("hi", thread=ELSEWHERE)) == Done()
        assert heart.outcomes(submitted.turn.id) == []


@pytest.mark.parametrize("then", ["stopped", "tool ends"])
async def test_who_waits_for_one_that_cannot_sleep_is_told_and_gets_its_place(start: Start, then: str) -> None:
    async with start(max_sessions=1) as heart:
        submitted, process = await asking_while_a_tool_runs(heart)
        there = await heart.ask("hi", thread=THERE)
        await until(lambda: "WaitingForPlace" in heart.kinds(there.turn.id))
        if then == "stopped":
            await heart.sessions.interrupt(submitted.session.id, "U1")
        else:
            process.say(ToolFinished("running", True, ""))
        assert await heart.settled(there) == Done()


async def test_the_end_of_the_program_does_not_wait_for_people(start: Start) -> None:
    async with start() as heart:
        submitted, process = await asking_while_a_tool_runs(heart)
        async with asyncio.timeout(60):
            await heart.sessions.drain(600)
        assert not process.dead
        assert heart.outcomes(submitted.turn.id) == []
