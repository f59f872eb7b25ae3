"""Two things in one moment: somebody looks, waits for the table, and finds that what was looked at is no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from heart import Heart, Start
from scripted import ScriptedHost
from waiting import until

from sessions.errors import StoreUnavailable
from sessions.housekeeping import Housekeeping
from sessions.leases import Lease
from sessions.types import (
    Done,
    Interrupted,
    Session,
    SessionId,
    SessionState,
    Submitted,
    Turn,
    TurnId,
)


async def test_a_message_whose_commit_was_not_heard_of_is_shown_while_another_turn_runs(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    monkeypatch.setattr(heart.sessions._prompts._telling, "stored", lambda *_told, **_more: None)
    monkeypatch.setattr(heart.sessions._tasks, "ring_here", lambda _id: None)
    await heart.ask("two", ts="1700000150.000000")
    monkeypatch.undo()
    again = await heart.ask("two", ts="1700000150.000000")
    await until(lambda: heart.kinds(again.turn.id) == ["Queued"])
    process.answer("one is done")
    assert await heart.settled(again) == Done()


async def test_a_message_waits_for_the_end_of_a_worklet_that_nobody_ran(
    start: Any, host: ScriptedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its turn would begin in what is being ended, and be lost with it."""
    async with start() as before:
        asked = await before.ask("one")
        await before.settled(asked)
    async with start() as heart:
        close, late = host.close, list[Any]()

        async def slowly(*worklet: Any) -> Any:
            monkeypatch.setattr(host, "close", close)
            late.append(await heart.ask("two"))
            await asyncio.sleep(0.1)  # time in which a turn would begin
            return await close(*worklet)

        monkeypatch.setattr(host, "close", slowly)
        assert await heart.sessions.sleep(asked.session.id)
        assert await heart.settled(late[0]) == Done()
        assert "Restarted" not in heart.kinds(late[0].turn.id)
        assert heart.kinds(late[0].turn.id).count("Started") == 1


async def test_a_stop_finds_what_begins_while_what_ran_before_ends(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("HOLD one")
    process = await heart.process(asked)
    waits = await heart.ask("HOLD two")
    store, drop = heart.sessions.store, heart.sessions.store.interrupt_queued

    async def late(*session: Any, **sparing: Any) -> list[Turn]:
        process.answer("one is done")
        await heart.process(waits)
        return await drop(*session, **sparing)

    monkeypatch.setattr(store, "interrupt_queued", late)
    assert await heart.sessions.halt(asked.session.id, "U2")
    assert await heart.settled(waits) == Interrupted("U2")


async def test_a_message_whose_commit_was_not_heard_of_is_taken_up_when_slack_delivers_it_again(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, submit = heart.sessions.store, heart.sessions.store.submit

    async def unheard(*prompt: Any) -> None:
        monkeypatch.setattr(store, "submit", submit)
        await submit(*prompt)
        raise StoreUnavailable("The connection broke.")

    monkeypatch.setattr(store, "submit", unheard)
    with pytest.raises(StoreUnavailable):
        await heart.ask("one", ts="1700000101.000000")
    again = await heart.ask("one", ts="1700000101.000000")
    assert not again.fresh
    assert await heart.settled(again) == Done()
    assert (await heart.ask("one", ts="1700000101.000000")).turn.id == again.turn.id
    await heart.sessions.drain(0)
    assert len(heart.outcomes(again.turn.id)) == 1


async def test_a_stop_in_the_moment_in_which_the_session_has_fallen_asleep_is_answered(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    look = heart.sessions.store.next_turn

    async def late(session_id: SessionId) -> Turn | None:
        monkeypatch.setattr(heart.sessions.store, "next_turn", look)
        await heart.sessions.sleep(session_id)
        await until(lambda: not heart.sessions.is_live(session_id))
        return await look(session_id)

    monkeypatch.setattr(heart.sessions.store, "next_turn", late)
    async with asyncio.timeout(30):
        assert await heart.sessions.stop(asked.session.id, "U2")


async def test_a_sleep_in_the_moment_in_which_a_session_begins_leaves_it_its_lease(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await heart.ask("one")
    await heart.settled(first)
    await heart.in_state(first, SessionState.IDLE)
    heart.sessions._tasks._lost(first.session.id)
    await until(lambda: not heart.sessions.is_live(first.session.id))
    look = heart.sessions.store.get

    async def late(session_id: SessionId) -> Session:
        monkeypatch.setattr(heart.sessions.store, "get", look)
        session = await look(session_id)
        coming.append(await heart.ask("HOLD"))
        await heart.process(coming[0])
        return session

    coming: list[Submitted] = []
    monkeypatch.setattr(heart.sessions.store, "get", late)
    assert not await heart.sessions.sleep(first.session.id)
    (await heart.process(coming[0])).answer("two")
    assert await heart.settled(coming[0], timeout=20) == Done()


async def test_a_session_that_is_given_back_while_its_task_is_being_refused_is_looked_at_again(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await heart.ask("one")
    await heart.settled(first)
    assert await heart.sessions.sleep(first.session.id)
    await until(lambda: not heart.sessions.is_live(first.session.id))
    housekeeping, session = Housekeeping(heart.db, heart.sessions.ring), await heart.sessions.get(first.session.id)
    acquire, refused, given_back = heart.sessions._holdings.acquire, asyncio.Event(), asyncio.Event()

    async def late(session_id: SessionId) -> tuple[Lease, Session] | None:
        acquired = await acquire(session_id)
        if acquired is None:
            refused.set()
            await given_back.wait()
        return acquired

    monkeypatch.setattr(heart.sessions._holdings, "acquire", late)
    await heart.sessions.delivered(first.turn.id)
    async with housekeeping.keeping(session) as kept:
        assert kept is not None
        second = await heart.ask("two")
        await refused.wait()
    given_back.set()
    assert await heart.settled(second, timeout=20) == Done()


async def test_who_gives_up_waiting_for_a_session_to_sleep_ends_nobody_elses_wait(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.in_state(asked, SessionState.IDLE)
    close, free = heart.host.close, asyncio.Event()

    async def slow(name: str, grace: float = 5.0) -> str | None:
        await free.wait()
        return await close(name, grace)

    monkeypatch.setattr(heart.host, "close", slow)
    waiting = [asyncio.create_task(heart.sessions.sleep(asked.session.id)) for _ in range(2)]
    await until(lambda: heart.sessions._tasks.live[asked.session.id]._sleep is not None)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    late = asyncio.create_task(heart.sessions.sleep(asked.session.id))
    await asyncio.sleep(0)
    free.set()
    assert await asyncio.gather(waiting[1], late) == [True, True]


async def test_who_asks_a_session_whose_task_is_over_is_answered_at_once(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    live = heart.sessions._tasks.get(asked.session.id)
    assert live is not None
    assert await heart.sessions.sleep(asked.session.id)
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    async with asyncio.timeout(30):
        assert await live.sleep()
        assert not await live.visit()


def while_taken_up(heart: Heart, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Turn], Awaitable[Any]]) -> None:
    """`meanwhile` is done between the look at the table that finds the next turn, and its run."""
    look = heart.sessions.store.next_work

    async def late(session_id: SessionId) -> tuple[Turn | None, bool]:
        turn, parked = await look(session_id)
        if turn is not None and turn.text == "HOLD":
            monkeypatch.setattr(heart.sessions.store, "next_work", look)
            await meanwhile(turn)
        return turn, parked

    monkeypatch.setattr(heart.sessions.store, "next_work", late)


async def test_an_interrupt_in_the_moment_in_which_its_turn_is_taken_up_counts(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(turn: Turn) -> None:
        assert await heart.sessions.interrupt(turn.session_id, "U2")

    while_taken_up(heart, monkeypatch, interrupt)
    asked = await heart.ask("HOLD")
    assert await heart.settled(asked, timeout=20) == Interrupted("U2")
    assert heart.host.opened == []


async def test_a_turn_that_is_dropped_as_it_is_taken_up_waits_for_no_place(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(max_sessions=1) as heart:
        await heart.process(await heart.ask("HOLD on", thread="1700000000.000900"))

        async def halt(turn: Turn) -> None:
            assert await heart.sessions.halt(turn.session_id, "U2")

        while_taken_up(heart, monkeypatch, halt)
        asked = await heart.ask("HOLD")
        assert await heart.settled(asked) == Interrupted("U2")
        async with asyncio.timeout(20):
            assert await heart.sessions.stop(asked.session.id, "U2")
        assert heart.kinds(asked.turn.id) == ["Queued", "Settled"]


async def test_a_stop_in_the_moment_in_which_its_turn_begins_ends_it(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, drop, free = heart.sessions.store.next_work, heart.sessions.store.interrupt_queued, asyncio.Event()

    async def held(session_id: SessionId) -> tuple[Turn | None, bool]:
        await free.wait()
        return await look(session_id)

    async def late(session_id: SessionId, by: str, sparing: TurnId | None) -> list[Turn]:
        free.set()
        await heart.process(asked)
        return await drop(session_id, by, sparing)

    monkeypatch.setattr(heart.sessions.store, "next_work", held)
    monkeypatch.setattr(heart.sessions.store, "interrupt_queued", late)
    asked = await heart.ask("HOLD")
    async with asyncio.timeout(20):
        assert await heart.sessions.stop(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")


async def test_now_does_not_interrupt_the_turn_that_it_was_said_of_and_that_begins_in_that_moment(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("HOLD one")
    process = await heart.process(asked)
    waits = await heart.ask("HOLD two")
    edits, hurry = heart.sessions.store.edits, heart.sessions.store.edits.hurry

    async def late(turn_id: TurnId) -> Turn | None:
        turn = await hurry(turn_id)
        process.answer("one is done")
        await heart.process(waits)
        return turn

    monkeypatch.setattr(edits, "hurry", late)
    assert await heart.sessions.hurry(waits.turn.id, "U2")
    assert "Stopping" not in heart.kinds(waits.turn.id)
    (await heart.process(waits)).answer("two is done")
    assert await heart.settled(waits) == Done()


def chosen(heart: Heart, asked: Submitted) -> list[str]:
    """The models that the session's process was told."""
    process = heart.host.processes[asked.session.worklet]
    return [fields["model"] for subtype, fields in process.asked if subtype == "set_model"]


async def test_a_process_that_begins_while_a_model_is_chosen_answers_with_it(
    heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await heart.ask("one", model="haiku")
    await heart.settled(asked)
    assert await heart.sessions.sleep(asked.session.id)
    configure = heart.sessions.controls.configure

    async def late(session_id: SessionId, **columns: str | None) -> Session:
        await heart.process(await heart.ask("HOLD two"))
        return await configure(session_id, **columns)

    monkeypatch.setattr(heart.sessions.controls, "configure", late)
    assert (await heart.sessions.choose_model(asked.session.id, "opus")).model == "opus"
    assert chosen(heart, asked) == ["haiku", "opus"]


@pytest.mark.parametrize("running", [False, True])
async def test_a_turn_that_begins_while_a_model_is_chosen_does_not_go_back_to_the_one_before(
    heart: Heart, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    asked = await heart.ask("one", model="haiku")
    await heart.settled(asked)
    if not running:
        assert await heart.sessions.sleep(asked.session.id)
    configure, introduce = heart.sessions.controls.configure, heart.host.introduce
    begun, free = asyncio.Event(), asyncio.Event()

    async def slowly(*who: str) -> None:  # between the look at the table and the choice of the model
        begun.set()
        await free.wait()
        await introduce(*who)

    async def late(session_id: SessionId, **columns: str | None) -> Session:
        coming.append(await heart.ask("HOLD two"))
        await begun.wait()
        return await configure(session_id, **columns)

    coming: list[Submitted] = []
    monkeypatch.setattr(heart.host, "introduce", slowly)
    monkeypatch.setattr(heart.sessions.controls, "configure", late)
    await heart.sessions.choose_model(asked.session.id, "opus")
    free.set()
    await heart.process(coming[0])
    assert chosen(heart, asked)[-1] == "opus"


async def test_a_choice_that_a_turn_overtakes_is_made_again(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await heart.ask("one", model="haiku")
    await heart.settled(asked)
    configure = heart.sessions.controls.configure

    async def late(session_id: SessionId, **columns: str | None) -> Session:
        await heart.process(await heart.ask("HOLD two"))  # tells the process the model of before
        return await configure(session_id, **columns)

    monkeypatch.setattr(heart.sessions.controls, "configure", late)
    await heart.sessions.choose_model(asked.session.id, "opus")
    assert chosen(heart, asked) == ["haiku", "opus", "haiku", "opus"]
