"""Sessions that are woken without a prompt: their worklet runs, nobody is told of a turn."""

from __future__ import annotations

import asyncio

import pytest
from heart import Heart, Start
from scripted import ScriptedHost
from waiting import until

from sessions.errors import SessionNotFound
from sessions.types import Done, SessionId, SessionState
from worklets.errors import WorkletError

THERE = "1700000000.000900"


async def asleep(heart: Heart, text: str = "hi", **where: str) -> SessionId:
    submitted = await heart.ask(text, **where)
    assert await heart.settled(submitted) == Done()
    assert await heart.sessions.sleep(submitted.session.id)
    return submitted.session.id


async def state(heart: Heart, session_id: SessionId) -> SessionState:
    return (await heart.sessions.get(session_id)).state


async def test_a_visit_wakes_the_worklet_and_gives_claude_nothing(heart: Heart, host: ScriptedHost) -> None:
    session_id = await asleep(heart)
    before = (await heart.sessions.get(session_id)).last_activity_at
    opened = len(host.opened)
    await asyncio.gather(*(heart.sessions.wake(session_id) for _ in range(3)))
    session = await heart.sessions.get(session_id)
    assert (session.state, len(host.opened)) == (SessionState.IDLE, opened + 1)
    assert [one["prompted"] for one in host.opened] == [True, False]
    assert session.container_id is not None
    assert session.last_activity_at >= before
    assert host.processes[session.worklet].prompts == []
    await heart.sessions.wake(session_id)  # it is awake
    assert len(host.opened) == opened + 1
    assert await heart.sessions.sleep(session_id)
    assert await state(heart, session_id) is SessionState.ASLEEP


async def test_a_prompt_goes_to_the_woken_worklet(heart: Heart, host: ScriptedHost) -> None:
    session_id = await asleep(heart)
    await heart.sessions.wake(session_id)
    opened = len(host.opened)
    assert await heart.settled(await heart.ask("and now")) == Done()
    assert len(host.opened) == opened


async def test_why_it_cannot_be_woken(heart: Heart, host: ScriptedHost) -> None:
    session_id = await asleep(heart)
    host.refusals.append(WorkletError("The engine is away."))
    with pytest.raises(WorkletError, match="The engine is away"):
        await heart.sessions.wake(session_id)
    await until(lambda: session_id not in heart.sessions._tasks)
    assert await state(heart, session_id) is SessionState.ASLEEP
    await heart.sessions.wake(session_id)
    assert await state(heart, session_id) is SessionState.IDLE


async def test_a_visit_takes_a_place_of_somebody_idle(start: Start) -> None:
    async with start(max_sessions=1) as heart:
        session_id = await asleep(heart)
        other = await heart.ask("hi", thread=THERE)
        assert await heart.settled(other) == Done()
        await heart.sessions.wake(session_id)
        assert await state(heart, other.session.id) is SessionState.ASLEEP
        assert await state(heart, session_id) is SessionState.IDLE


async def test_a_visit_that_is_let_go_of_while_it_waits_for_a_place_harms_nobody(start: Start) -> None:
    async with start(max_sessions=1) as heart:
        session_id, other = await asleep(heart), SessionId("other")
        await until(lambda: session_id not in heart.sessions._tasks)
        places = heart.sessions._shared.places
        places.ask(other)
        visit = asyncio.create_task(heart.sessions.wake(session_id))
        await until(lambda: places.waiting)
        heart.sessions._tasks._lost(session_id)
        places.free(other)  # before that session's task has ended
        await visit
        assert await state(heart, session_id) is SessionState.IDLE, "tried again"


async def test_who_has_no_workspace_is_not_woken(heart: Heart) -> None:
    with pytest.raises(SessionNotFound):
        await heart.sessions.wake(SessionId("nobody"))
    session_id = await asleep(heart)
    await heart.sessions.store._change(session_id, retired_at=heart.sessions.store.clock())
    with pytest.raises(WorkletError, match="workspace is gone"):
        await heart.sessions.wake(session_id)


async def test_a_visit_in_the_moment_of_a_stop_is_answered(start: Start, host: ScriptedHost) -> None:
    async with start() as heart:
        session_id = await asleep(heart)
        host.gate.clear()
        visit = asyncio.create_task(heart.sessions.wake(session_id))
        await until(lambda: heart.sessions._tasks.live)
        await heart.sessions.drain(0)
        with pytest.raises(WorkletError, match="is stopping"):
            await visit
        host.gate.set()
