"""What becomes of worklets that end by themselves, and of what is left of those that no session claims."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from freezegun import freeze_time
from heart import Heart
from scripted import ScriptedHost
from structlog.testing import capture_logs
from waiting import until

from sessions.housekeeping import Housekeeping
from sessions.retention import Retention
from sessions.types import Done, SessionState
from worklets.errors import WorkletError
from worklets.events import Remark


async def test_an_idle_session_sleeps_as_soon_as_its_worklet_is_said_to_have_ended(
    start: Any, host: ScriptedHost
) -> None:
    """An adopted one, which has no agent that would notice."""
    async with start() as before:
        asked = await before.ask("one")
        await before.settled(asked)
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: after.sessions.is_live(asked.session.id))
        await after.reaper.ended(asked.session.worklet)
        assert (await after.sessions.get(asked.session.id)).state is SessionState.IDLE, "it runs: that was another one"
        with capture_logs() as logs:
            host.processes[asked.session.worklet].die("Claude's container ran out of memory")
            await after.reaper.ended(asked.session.worklet)
            await after.in_state(asked, SessionState.ASLEEP)
        reasons = [line["reason"] for line in logs if "ended by itself" in line["event"]]
        assert reasons == ["Claude's container ran out of memory"]
        assert await after.settled(await after.ask("two")) == Done()


async def test_a_worklet_of_nobody_and_one_at_work_are_not_put_to_sleep(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    await heart.reaper.ended("nobody")
    await heart.reaper.ended(asked.session.worklet)
    process.answer("done")
    assert await heart.settled(asked) == Done()
    assert heart.host.closed == []


async def test_the_thread_reads_once_in_a_turn_what_happened_to_its_worklet(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    for _ in range(30):
        assert heart.sessions.remark(asked.session.id, "A process ran out of memory.")
    assert heart.sessions.remark(asked.session.id, "Another thing.")

    def told() -> list[str]:
        return [event.text for event in heart.events(asked.turn.id) if isinstance(event, Remark)]

    await until(lambda: "Another thing." in told())
    process.answer("done")
    await heart.settled(asked)
    assert told() == ["A process ran out of memory.", "Another thing."]
    assert not heart.sessions.remark(asked.session.id, "Nobody is there to hear this.")


async def test_stopped_containers_of_nobody_and_of_sleepers_are_removed(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.delivered(asked.turn.id)
    await heart.sessions.sleep(asked.session.id)
    await until(lambda: not heart.sessions.is_live(asked.session.id))
    awake = await heart.ask("two", "1700000000.000200")
    await heart.settled(awake)
    heart.host.stopped |= {"stray", asked.session.worklet}
    heart.host.closed.clear()
    await heart.reaper.sweep()
    assert set(heart.host.closed) == {"stray", asked.session.worklet}
    assert heart.host.sweeps == 1, "what killed programs left at work goes too"


async def test_workspaces_that_no_session_claims_are_told_of_and_go_like_those_of_sessions(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    host, store = heart.host, heart.sessions.store
    now = datetime(2026, 3, 1, tzinfo=UTC)
    for name, age in (("old", 31), ("young", 29), ("unknown", None), ("stubborn", 31), ("broken", 31)):
        await host.open(name, claude_session_id="x", has_history=False, position=None, on_step=lambda _: None)
        host.processes[name].die()
        if age is not None:
            host.used[name] = now - timedelta(days=age)
    destroy, closed = host.destroy, list[str]()

    async def destroying(name: str) -> None:
        closed.append(name)
        if name == "stubborn":
            raise WorkletError("The engine refused.")
        if name == "broken":
            raise RecursionError("a directory in a directory")
        await destroy(name)

    host.destroy = destroying  # type: ignore[method-assign]

    def keeping(days: int | None) -> Retention:
        workspace = timedelta(days=days) if days is not None else None
        return Retention(
            store, host, Housekeeping(store.db, lambda _: None), workspace=workspace, transcript=None, archive=None
        )

    with freeze_time(now, real_asyncio=True) as clock, capture_logs() as logs:
        kept = keeping(None)
        await kept.sweep()
        assert kept.orphans == {"old", "young", "unknown", "stubborn", "broken"}
        assert closed == [], "nothing goes where workspaces are kept for good"
        assert [line["count"] for line in logs if line["event"].startswith("workspaces that no")] == [5]
        retention = keeping(30)
        await asyncio.gather(retention.sweep(), retention.sweep())
        assert sorted(closed) == ["broken", "old", "stubborn"]
        assert retention.orphans == {"young", "unknown", "stubborn", "broken"}
        await retention.sweep()
        assert len(closed) == 3, "it is looked at once an hour"
        clock.tick(timedelta(days=2))
        await retention.sweep()
        assert retention.orphans == {"unknown", "stubborn", "broken"}
    assert asked.session.worklet not in closed
