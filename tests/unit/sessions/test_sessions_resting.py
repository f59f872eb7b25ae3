"""Sleep in two steps: Claude's process ends first, its container later; and sessions that begin in the pool."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from freezegun import freeze_time
from heart import THREAD, Heart
from scripted import ScriptedHost
from waiting import until

from sessions.poolstore import PoolStore
from sessions.templates import Draft, Resources, TemplateConfig
from sessions.types import Done, SessionState, ThreadId

MINUTES = timedelta(minutes=10)


async def test_first_the_process_ends_then_the_container(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(rest_after=MINUTES) as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            host, worklet = heart.host, asked.session.worklet
            clock.tick(timedelta(minutes=9))
            await heart.reaper.sweep()
            assert not host.rested
            clock.tick(timedelta(minutes=2))
            await heart.reaper.sweep()
            await until(lambda: host.rested)
            first = host.processes[worklet]
            assert first.resting
            session = await heart.sessions.get(asked.session.id)
            assert session.state is SessionState.IDLE
            assert session.container_id is not None
            await heart.reaper.sweep()
            await heart.reaper.sweep()
            assert host.rested == [worklet], "it is done once"
            assert await heart.settled(await heart.ask("two")) == Done()
            second = host.processes[worklet]
            assert second is not first
            assert second.resumed
            assert [text for _, text in second.prompts] == ["two"]
            clock.tick(timedelta(minutes=11))
            await heart.reaper.sweep()
            await until(lambda: host.rested == [worklet] * 2)
            clock.tick(timedelta(minutes=20))
            await heart.reaper.sweep()
            await until(lambda: worklet in host.closed)
            assert (await heart.sessions.get(asked.session.id)).state is SessionState.ASLEEP


async def test_a_session_that_works_or_waits_for_people_keeps_its_process(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(rest_after=MINUTES) as heart:
            asked = await heart.ask("HOLD")
            process = await heart.process(asked)
            clock.tick(timedelta(minutes=25))
            await heart.reaper.sweep()
            heart.sessions.rest(asked.session.id)
            process.answer("at last")
            assert await heart.settled(asked) == Done()
            assert not heart.host.rested
            assert not process.dead


async def test_a_resting_session_is_taken_over_after_a_restart(start: Any, host: ScriptedHost) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(rest_after=MINUTES) as before:
            asked = await before.ask("one")
            await before.settled(asked)
            await before.sessions.delivered(asked.turn.id)
            clock.tick(timedelta(minutes=11))
            await before.reaper.sweep()
            await until(lambda: host.rested)
        async with start(rest_after=MINUTES) as after:
            await after.reaper.sweep()
            session = await after.sessions.get(asked.session.id)
            assert session.state is SessionState.IDLE
            turn = await after.ask("two", thread=THREAD)
            assert await after.settled(turn) == Done()
            assert [text for _, text in host.processes[session.worklet].prompts] == ["two"]


async def test_who_writes_or_stops_while_the_process_ends_waits_for_its_end(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(rest_after=MINUTES) as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            host, worklet, ended = heart.host, asked.session.worklet, asyncio.Event()
            host.on_rest = ended.wait
            clock.tick(timedelta(minutes=11))
            await heart.reaper.sweep()
            await until(lambda: host.rested)
            first = host.processes[worklet]
            second, third = await heart.ask("two"), await heart.ask("three")
            assert not first.dead
            ended.set()
            assert [await heart.settled(each) for each in (second, third)] == [Done(), Done()]
            after = host.processes[worklet]
            assert after is not first
            assert [text for _, text in after.prompts] == ["two", "three"]
            assert [text for _, text in first.prompts] == ["one"]
            assert worklet not in host.closed, "the container was never ended"
            # And who stops it in that moment has it sleep.
            ended.clear()
            clock.tick(timedelta(minutes=11))
            await heart.reaper.sweep()
            await until(lambda: len(host.rested) == 2)
            stopping = asyncio.create_task(heart.sessions.stop(asked.session.id, "U1"))
            await asyncio.sleep(0)
            ended.set()
            assert await stopping
            assert (await heart.sessions.get(asked.session.id)).state is SessionState.ASLEEP


async def test_where_it_cannot_be_done_the_process_goes_on(start: Any) -> None:
    with freeze_time("2026-03-01 12:00:00", real_asyncio=True) as clock:
        async with start(rest_after=MINUTES) as heart:
            asked = await heart.ask("one")
            await heart.settled(asked)
            process = heart.host.processes[asked.session.worklet]
            process.restless = True
            clock.tick(timedelta(minutes=11))
            await heart.reaper.sweep()
            await until(lambda: heart.host.rested)
            assert await heart.settled(await heart.ask("two")) == Done()
            assert heart.host.processes[asked.session.worklet] is process


async def _pooled(heart: Heart, *names: str) -> PoolStore:
    pool = heart.sessions.pool
    assert pool is not None
    pool.pattern = "a"
    for name in names:
        await pool.add(name, f"conversation of {name}", "a")
        assert await pool.ready(name)
    return pool


async def test_a_new_session_begins_in_the_pool_and_stays_there(start: Any) -> None:
    async with start() as heart:
        pool = await _pooled(heart, "p1", "p2")
        asked = await heart.ask("one")
        assert await heart.settled(asked) == Done()
        session = await heart.sessions.get(asked.session.id)
        assert session.worklet == "p1"
        assert heart.host.opened[-1]["claude_session_id"] == "conversation of p1"
        assert await heart.settled(await heart.ask("two")) == Done()
        assert [member.name for member in await pool.members()] == ["p2"]
        await heart.reaper.sweep()
        assert set(await heart.host.running()) == {"p1"}


async def test_who_needs_a_workspace_of_its_own_making_takes_none(start: Any) -> None:
    async with start() as heart:
        pool = await _pooled(heart, "p1")
        thread = ThreadId("T1", "C1", "1700000000.000900")
        asked = await heart.ask("one", thread=thread, repository="https://example.org/a.git")
        assert await heart.settled(asked) == Done()
        assert (await heart.sessions.get(asked.session.id)).worklet == asked.session.worklet
        assert [member.name for member in await pool.members()] == ["p1"]


async def test_a_template_takes_one_that_can_become_what_it_says(start: Any) -> None:
    async with start() as heart:
        pool = await _pooled(heart, "p1", "p2")
        pool.least_memory = 800 << 20
        took = {}
        for number, (name, config) in enumerate(
            {
                "small": TemplateConfig(resources=Resources(memory=512 << 20)),
                "image": TemplateConfig(image="python:3.12"),
                "large": TemplateConfig(resources=Resources(memory=900 << 20), instructions="Answer in verse."),
                "script": TemplateConfig(startup_script="setup"),
                "plain": TemplateConfig(env={"EXTRA": "1"}),
            }.items()
        ):
            template = await heart.sessions.templates.add(Draft(name, "", config), "U1")
            thread = ThreadId("T1", "C1", f"1700000000.0007{number:02}")
            script = config.startup_script
            asked = await heart.ask("one", thread=thread, template=template.id, startup_script=script)
            assert await heart.settled(asked) == Done()
            took[name] = (await heart.sessions.get(asked.session.id)).worklet
        assert {name for name, worklet in took.items() if worklet in ("p1", "p2")} == {"large", "plain"}


async def test_what_stands_ready_is_no_stray(start: Any) -> None:
    async with start() as heart:
        await _pooled(heart, "p1")
        for name in ("p1", "stray"):
            await heart.host.open(name, claude_session_id=name, has_history=False, position=None, on_step=str)
        await heart.reaper.sweep()
        assert set(await heart.host.running()) == {"p1"}
