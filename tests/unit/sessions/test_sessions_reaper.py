"""The reaper: what sleeps, what is set right, and who rings it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from freezegun import freeze_time
from heart import Heart
from scripted import ScriptedHost
from waiting import until

from sessions.reaper import schedule
from sessions.types import Done, SessionState
from worklets.errors import RuntimeUnavailable


async def test_a_session_sleeps_after_half_an_hour_and_wakes_with_the_next_reply(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start() as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            clock.tick(timedelta(minutes=29, seconds=59))
            await heart.reaper.sweep()
            assert (await heart.sessions.get(asked.session.id)).state is SessionState.IDLE
            clock.tick(timedelta(seconds=1))
            await heart.reaper.sweep()
            session = await heart.sessions.get(asked.session.id)
            assert (session.state, session.container_id) == (SessionState.ASLEEP, None)
            assert not await heart.host.running()
            assert await heart.settled(await heart.ask("two")) == Done()
            assert heart.host.processes[session.worklet].resumed


async def test_a_session_that_works_is_never_put_to_sleep(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start() as heart:
            asked = await heart.ask("HOLD")
            process = await heart.process(asked)
            clock.tick(timedelta(hours=5))
            await heart.reaper.sweep()
            assert (await heart.sessions.get(asked.session.id)).state is SessionState.WORKING
            assert not process.dead
            process.answer("at last")
            await heart.settled(asked)
            clock.tick(timedelta(minutes=29))
            await heart.reaper.sweep()
            assert not process.dead, "the clock runs from the end of the work"


async def test_a_container_that_no_row_claims_is_removed(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.host.open("stray", claude_session_id="x", has_history=False, position=None, on_step=lambda step: None)
    await heart.reaper.sweep()
    assert set(await heart.host.running()) == {asked.session.worklet}


async def test_a_row_whose_container_is_gone_is_corrected(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("one")
        await before.settled(asked)
        await before.sessions.delivered(asked.turn.id)
    host.processes[asked.session.worklet].die()
    async with start() as after:
        await after.reaper.sweep()
        session = await after.sessions.get(asked.session.id)
        assert (session.state, session.container_id) == (SessionState.ASLEEP, None)
        assert asked.session.worklet in host.closed, "what is left of a stopped container must go too"
        await until(lambda: not after.sessions.is_live(asked.session.id))


async def test_a_dead_container_is_noticed_also_while_the_answer_is_still_to_be_shown(
    start: Any, host: ScriptedHost
) -> None:
    async with start() as before:
        asked = await before.ask("one")
        await before.settled(asked)
    host.processes[asked.session.worklet].die()
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: after.outcomes(asked.turn.id) == [Done()])
        await after.reaper.sweep()
        await after.in_state(asked, SessionState.ASLEEP)


async def test_the_worklet_of_a_session_that_sleeps_is_removed(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.delivered(asked.turn.id)
    await heart.sessions.sleep(asked.session.id)
    heart.host.processes[asked.session.worklet].dead = False  # as if the engine had refused to remove it
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    await heart.reaper.sweep()
    assert not await heart.host.running()
    assert await heart.settled(await heart.ask("two")) == Done()


async def test_a_message_that_comes_while_a_stray_is_removed_is_answered_after_that(
    heart: Heart,
) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.delivered(asked.turn.id)
    await heart.sessions.sleep(asked.session.id)
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    stray = heart.host.processes[asked.session.worklet]
    stray.dead = False
    removing, go_on, close = asyncio.Event(), asyncio.Event(), heart.host.close

    async def slow(*args: Any) -> Any:
        removing.set()
        await go_on.wait()
        return await close(*args)

    heart.host.close = slow  # type: ignore[method-assign]
    sweeping = asyncio.create_task(heart.reaper.sweep())
    await removing.wait()
    reply = await heart.ask("two")
    await until(lambda: not heart.sessions.is_live(asked.session.id))  # it looked, and found the session kept
    assert len(heart.host.opened) == 1
    go_on.set()
    await sweeping
    assert await heart.settled(reply) == Done()
    assert heart.host.processes[asked.session.worklet] is not stray


async def test_an_adopted_session_whose_container_dies_is_corrected(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked = await before.ask("one")
        await before.settled(asked)
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: after.sessions.is_live(asked.session.id))
        host.processes[asked.session.worklet].die()
        await after.reaper.sweep()
        await after.in_state(asked, SessionState.ASLEEP)


async def test_a_queued_turn_without_a_task_is_rung(heart: Heart) -> None:
    stored = await heart.sessions.store.submit(_prompt())
    assert stored
    assert not heart.sessions.is_live(stored.submitted.session.id)
    await heart.reaper.sweep()
    assert await heart.settled(stored.submitted) == Done()


async def test_a_runtime_that_is_down_does_not_stop_the_rest_of_the_pass(heart: Heart) -> None:
    heart.host.unavailable = RuntimeUnavailable()
    stored = await heart.sessions.store.submit(_prompt())
    assert stored
    await heart.reaper.sweep()
    await heart.settled(stored.submitted)
    assert heart.reaper.last_sweep is not None


async def test_the_scheduler_only_rings(heart: Heart) -> None:
    scheduler = schedule(heart.reaper, timedelta(seconds=0.05))
    try:
        first = await until(lambda: heart.reaper.last_sweep)
        await until(lambda: heart.reaper.last_sweep != first)
        (job,) = scheduler.get_jobs()
        assert (job.coalesce, job.max_instances) == (True, 1)
    finally:
        scheduler.shutdown(wait=False)
        await heart.reaper.close()


async def test_a_ring_during_a_pass_begins_no_other_and_the_end_cuts_it_off(heart: Heart) -> None:
    running, asked, stuck = heart.host.running, 0, asyncio.Event()

    async def hangs() -> Any:
        nonlocal asked
        asked += 1
        await stuck.wait()
        return await running()

    heart.host.running = hangs  # type: ignore[method-assign]
    await heart.reaper.ring()
    await until(lambda: asked == 4)  # taking over, looking after its own, listening to relays, the leader's
    await heart.reaper.ring()
    await heart.reaper.ring_take_over()
    await asyncio.sleep(0)
    assert asked == 4
    await heart.reaper.close()
    heart.host.running = running  # type: ignore[method-assign]
    await heart.reaper.ring()
    await until(lambda: heart.reaper.last_sweep)
    await heart.reaper.close()


async def test_what_the_leader_does_for_minutes_holds_nothing_else_up(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start() as heart:
            idle = await heart.ask("one", thread="1700000000.000300")
            await heart.settled(idle)
            clock.tick(timedelta(minutes=30))
            close, closing, go_on = heart.host.close, list[str](), asyncio.Event()

            async def slow(name: str, *rest: Any) -> Any:
                if name == "stray":
                    closing.append(name)
                    await go_on.wait()
                return await close(name, *rest)

            heart.host.close = slow  # type: ignore[method-assign]
            await heart.host.open(
                "stray", claude_session_id="x", has_history=False, position=None, on_step=lambda step: None
            )
            await heart.reaper.ring()
            await until(lambda: closing)
            stored = await heart.sessions.store.submit(_prompt())
            assert stored
            await heart.reaper.ring()
            assert await heart.settled(stored.submitted) == Done()
            await heart.in_state(idle, SessionState.ASLEEP)
            assert closing == ["stray"], "not twice at a time"
            go_on.set()
            await until(lambda: "stray" in heart.host.closed)
            await heart.reaper.close()


async def test_beside_other_processes_it_takes_over_as_soon_as_a_lease_runs_out(heart: Heart) -> None:
    scheduler = schedule(heart.reaper, timedelta(hours=1), timedelta(seconds=0.3))
    try:
        await until(lambda: heart.reaper.last_sweep)
        first = heart.reaper.last_sweep
        for number in range(1, 3):
            stored = await heart.sessions.store.submit(_prompt(number))
            assert stored
            assert await heart.settled(stored.submitted) == Done()
        assert heart.reaper.last_sweep == first, "the rest has time"
    finally:
        scheduler.shutdown(wait=False)
        await heart.reaper.close()


async def test_a_part_that_fails_does_not_stop_the_rest_of_the_pass(heart: Heart) -> None:
    async def broken() -> Any:
        raise ValueError("an answer that nobody understands")

    heart.host.running = broken  # type: ignore[method-assign]
    stored = await heart.sessions.store.submit(_prompt())
    assert stored
    await heart.reaper.sweep()
    assert await heart.settled(stored.submitted.turn.id) == Done()


def _prompt(number: int = 5) -> Any:
    from sessions.types import Prompt, ThreadId

    return Prompt(ThreadId("T1", "C1", f"{number}.0"), f"C1:{number}.0", f"{number}.0", "U1", "left over")
