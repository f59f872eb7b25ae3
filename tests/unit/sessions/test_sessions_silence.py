"""A worklet whose relay hangs is ended, and the thread of an idle one hears of it; one that is only slow is not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from heart import Heart
from scripted import ScriptedHost

from sessions.silence import Silences
from sessions.types import Done, Session, SessionState
from worklets.relaydial import Answer


async def lasting(silences: Silences, *asked: str) -> list[str]:
    return [one.worklet for one in await silences.lasting({name: f"container of {name}" for name in asked})]


async def test_only_a_silence_that_lasts_counts() -> None:
    host = ScriptedHost()
    silences = Silences(host, seconds=0)
    host.silent = {"a", "b"}
    assert await lasting(silences, "a", "b", "c") == []
    assert await lasting(silences, "a", "c") == []
    assert await lasting(silences, "a", "b", "c") == ["a"], "nobody asked b meanwhile"
    host.silent = {"b"}
    assert await lasting(silences, "a", "b") == []
    host.silent = {"a", "b"}
    assert await lasting(silences, "a", "b") == ["b"], "a has answered"


async def test_rounds_that_follow_each_other_at_once_are_no_lasting_silence() -> None:
    """A container whose end the engine is slow to tell refuses each of them, in milliseconds."""
    host, now = ScriptedHost(), 0.0
    silences = Silences(host, seconds=30, clock=lambda: now)
    host.silent = {"a"}
    for _ in range(9):
        assert await lasting(silences, "a") == []
    now = 29.0
    assert await lasting(silences, "a") == []
    now = 30.0
    assert await lasting(silences, "a") == ["a"]
    host.silent = set()
    assert await lasting(silences, "a") == []
    host.silent = {"a"}
    assert await lasting(silences, "a") == [], "it counts from here again"


async def test_a_new_container_begins_anew() -> None:
    host = ScriptedHost()
    silences = Silences(host, seconds=0)
    host.silent = {"a"}
    for container in ("one", "one", "two", "two"):
        assert await silences.lasting({"a": container}) == []
    assert [one.container_id for one in await silences.lasting({"a": "two"})] == ["two"]


async def test_while_its_machine_cannot_be_reached_nobody_is_silent() -> None:
    host = ScriptedHost()
    silences = Silences(host, seconds=0)
    host.silent = {"a"}
    await lasting(silences, "a")
    await lasting(silences, "a")
    host.said = {"a": Answer.AWAY}
    for _ in range(4):
        assert await lasting(silences, "a") == []
    host.said = {}
    assert await lasting(silences, "a") == ["a"]


@pytest.mark.parametrize("resting", [False, True])
async def test_a_worklet_whose_relay_hangs_is_ended_and_its_thread_is_told(start: Any, resting: bool) -> None:
    async with start(rest_after=timedelta(0) if resting else None) as running:
        heart: Heart = running
        told: list[Session] = []

        async def tell(session: Session) -> None:
            told.append(session)

        heart.reaper.tell_silence = tell
        asked = await heart.ask("one")
        await heart.settled(asked)
        worklet = asked.session.worklet
        heart.host.silent = {worklet}
        for _ in range(2):
            await heart.reaper.sweep()
            assert worklet not in heart.host.closed
        await heart.reaper.sweep()
        assert worklet in heart.host.closed
        async with asyncio.timeout(60):
            while not told:
                await asyncio.sleep(0)
        assert [one.id for one in told] == [asked.session.id]
        assert (await heart.sessions.get(asked.session.id)).state is SessionState.ASLEEP
        await heart.reaper.sweep()
        assert len(told) == 1
        heart.host.silent = set()
        assert await heart.settled(await heart.ask("two")) == Done(), "it goes on"


async def test_the_end_of_an_old_relay_is_no_news_for_its_thread(heart: Heart) -> None:
    told: list[Session] = []

    async def tell(session: Session) -> None:
        told.append(session)

    heart.reaper.tell_silence = tell
    asked, other = await heart.ask("one"), await heart.ask("two", "1700000099.000000")
    await heart.settled(asked)
    await heart.settled(other)
    heart.host.said = {asked.session.worklet: Answer.OLD, other.session.worklet: Answer.SILENT}
    for _ in range(3):
        await heart.reaper.sweep()
    assert {asked.session.worklet, other.session.worklet} <= set(heart.host.closed)
    async with asyncio.timeout(60):
        while not told:
            await asyncio.sleep(0)
    assert [one.id for one in told] == [other.session.id]


async def test_one_at_work_is_ended_and_its_turn_goes_on_in_another(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    hung = await heart.process(asked)
    heart.host.silent = {asked.session.worklet}
    for _ in range(2):
        await heart.reaper.sweep()
    assert asked.session.worklet not in heart.host.closed
    await heart.reaper.sweep()
    assert asked.session.worklet in heart.host.closed
    heart.host.silent = set()
    async with asyncio.timeout(60):
        while (process := await heart.process(asked)) is hung or process.dead:
            await asyncio.sleep(0)
    process.answer("at last")
    assert await heart.settled(asked) == Done()


async def test_a_pass_waits_neither_for_relays_nor_for_slack(heart: Heart) -> None:
    """Slack that never answers holds up neither the next pass nor the end."""
    telling = asyncio.Event()

    async def tell(_session: Session) -> None:
        telling.set()
        await asyncio.Event().wait()

    heart.reaper.tell_silence = tell
    asked = await heart.ask("one")
    await heart.settled(asked)
    heart.host.silent = {asked.session.worklet}
    for _ in range(4):
        await heart.reaper.sweep()
    async with asyncio.timeout(60):
        await telling.wait()
    assert heart.reaper.last_sweep is not None
