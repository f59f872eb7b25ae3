"""Two programs on one PostgreSQL: a session belongs to one of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import schema
import sqlalchemy as sa
from heart import QUICK, Heart
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from scripted import ScriptedHost
from waiting import until

from sessions.asks import Decision
from sessions.db import open_database
from sessions.errors import StoreUnavailable
from sessions.holdings import Holdings
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.tables import sessions as table
from sessions.types import Done, Interrupted, SessionId, Withdrawn
from worklets.events import Text

pytestmark = pytest.mark.postgres


class Bells:
    """The bells of replicas in one process: what one rings the others hear."""

    def __init__(self) -> None:
        self.ears: list[tuple[Bell, Callable[[SessionId], None]]] = []


class Bell:
    def __init__(self, bells: Bells) -> None:
        self._bells = bells

    def listen(self, on_ring: Callable[[SessionId], None]) -> None:
        self._bells.ears.append((self, on_ring))

    async def ring(self, session_id: SessionId) -> None:
        for bell, on_ring in self._bells.ears:
            if bell is not self:
                on_ring(session_id)


@asynccontextmanager
async def replica(
    dsn: str, host: ScriptedHost, lease_seconds: float = 30, bells: Bells | None = None
) -> AsyncIterator[Heart]:
    db = open_database(dsn)
    try:
        store, bell = Store(db), Bell(bells) if bells else None
        async with Sessions(
            store, host, max_sessions=5, patience=QUICK, lease_seconds=lease_seconds, bell=bell
        ) as sessions:
            reaper = Reaper(sessions, store, host, session_timeout=timedelta(minutes=30))
            heart = Heart(db, host, sessions, reaper)
            sessions.observe(lambda *told: heart.told.append(told))
            yield heart
    finally:
        await db.close()


@pytest.fixture
async def dsn(postgres_dsn: str) -> str:  # noqa: F811
    await schema.migrated(postgres_dsn)
    return postgres_dsn


async def test_a_reply_that_reaches_the_other_replica_is_answered_by_the_holder(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two:
        await one.settled(await one.ask("first"))
        reply = await two.ask("second")
        await one.reaper.sweep()
        assert await one.settled(reply) == Done()
        assert two.told == [], "who does not hold a session shows nothing of it"
        assert one.kinds(reply.turn.id)[:2] == ["Queued", "Started"]
        assert len(host.opened) == 1


async def test_the_bell_spares_the_wait_for_the_next_sweep(dsn: str) -> None:
    host, bells = ScriptedHost(), Bells()
    async with replica(dsn, host, bells=bells) as one, replica(dsn, host, bells=bells) as two:
        asked = await one.ask("HOLD")
        process = await one.process(asked)
        reply = await two.ask("second")
        await until(lambda: one.kinds(reply.turn.id) == ["Queued"])
        process.answer("first")
        assert await one.settled(reply) == Done()
        assert two.told == []


async def test_a_decision_reaches_the_holder_through_the_other_replica(dsn: str) -> None:
    host, bells = ScriptedHost(), Bells()
    async with replica(dsn, host, bells=bells) as one, replica(dsn, host, bells=bells) as two:
        asked = await one.ask("HOLD")
        process = await one.process(asked)
        request = process.ask("Bash", {"command": "touch x"})
        (ask,) = await until(lambda: two.sessions.asks(session_id=asked.session.id))
        await two.sessions.decide(ask.id, Decision("allow"), "U2")
        assert (await until(lambda: process.heard.get(request)))["behavior"] == "allow"
        process.ask("Bash", {"command": "touch y"})
        (ask,) = await until(lambda: two.sessions.asks(session_id=asked.session.id))
        await one.sessions.park_waiting(datetime.now(UTC) + timedelta(hours=1))
        await until(lambda: process.dead)
        await two.sessions.decide(ask.id, Decision("deny"), "U2")
        again = await one.process(asked)
        again.answer("done")
        assert await one.settled(asked) == Done()
        kinds = one.kinds(asked.turn.id)
        assert (kinds.count("AskOpened"), kinds.count("AskClosed"), two.told) == (2, 2, [])


async def test_stop_and_now_reach_the_holder_through_the_other_replica(dsn: str) -> None:
    host, bells = ScriptedHost(), Bells()
    async with replica(dsn, host, bells=bells) as one, replica(dsn, host, bells=bells) as two:
        first = await one.ask("HOLD one")
        await one.process(first)
        second, third, fourth = [await two.ask(text) for text in ("HOLD two", "three", "four")]
        assert await two.sessions.withdraw(third.turn.id, "U3")
        assert await one.settled(third) == Withdrawn("U3")
        assert await two.sessions.hurry(fourth.turn.id, "U4")
        assert await one.settled(first) == Interrupted("U4")
        assert await one.settled(fourth) == Done()
        await one.process(second)
        assert await two.sessions.interrupt(first.session.id, "U5")
        assert await one.settled(second) == Interrupted("U5")
        assert not await two.sessions.interrupt(first.session.id, "U6"), "nothing runs any more"
        assert two.told == []


async def test_a_replica_that_lost_its_lease_lets_go_and_does_no_harm(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host, lease_seconds=9) as one, replica(dsn, host) as two:
        asked = await one.ask("HOLD")
        process = await one.process(asked)
        process.say(Text("stored"))
        await until(lambda: Text("stored") in one.events(asked.turn.id))
        assert one.sessions.holds(asked.session.id)
        await _take_away(one, asked.session.id)
        await until(lambda: not one.sessions.is_live(asked.session.id))
        assert not one.sessions.holds(asked.session.id)
        assert one.kinds(asked.turn.id)[-1] == "Released"
        two.sessions.ring(asked.session.id)
        await until(lambda: len(process.prompts) == 2)
        process.answer("from the second")
        assert await two.settled(asked.turn.id) == Done()
        assert one.outcomes(asked.turn.id) == []
        assert two.kinds(asked.turn.id)[0] == "Queued"
        assert two.events(asked.turn.id).count(Text("stored")) == 1


async def test_what_another_replica_has_shown_to_the_end_is_not_shown_by_whoever_stored_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stored it was cut off from the database before it could run it, and another was quicker."""
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two:
        back, acquire, undelivered = asyncio.Event(), one.sessions._holdings.acquire, one.sessions.store.undelivered
        known = asyncio.Event()

        async def when_back(session_id: SessionId) -> Any:
            await back.wait()
            return await acquire(session_id)

        async def when_known(session_id: SessionId) -> Any:
            await known.wait()
            return await undelivered(session_id)

        monkeypatch.setattr(one.sessions._holdings, "acquire", when_back)
        monkeypatch.setattr(one.sessions.store, "undelivered", when_known)
        asked = await one.ask("hello")
        assert one.kinds(asked.turn.id) == ["Queued"]
        two.sessions.ring(asked.session.id)
        assert await two.settled(asked.turn.id) == Done()
        await two.sessions.delivered(asked.turn.id)
        assert await two.sessions.sleep(asked.session.id)
        await until(lambda: not two.sessions.is_live(asked.session.id))
        back.set()
        await until(lambda: one.sessions.holds(asked.session.id))
        assert not one.sessions.may_show(asked.session.id), "what it knows is older than what is shown"
        known.set()
        await until(lambda: one.kinds(asked.turn.id) == ["Queued", "Released"])
        await until(lambda: not one.sessions.is_live(asked.session.id))


async def test_a_lease_is_kept_until_all_is_shown(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one, replica(dsn, host) as two:
        asked = await one.ask("hello")
        await one.settled(asked)
        assert await one.sessions.sleep(asked.session.id)
        two.sessions.ring(asked.session.id)
        await until(lambda: not two.sessions.is_live(asked.session.id))
        assert two.told == []
        assert one.sessions.holds(asked.session.id)
        await one.sessions.delivered(asked.turn.id)
        await until(lambda: not one.sessions.is_live(asked.session.id))
        assert await two.settled(await two.ask("again")) == Done()


async def test_what_a_dead_replica_did_not_show_is_shown_by_another(dsn: str) -> None:
    host = ScriptedHost()
    async with replica(dsn, host) as one:
        asked = await one.ask("hello")
        await one.settled(asked)
    async with replica(dsn, host) as two:
        await two.reaper.sweep()
        assert await two.settled(asked.turn.id) == Done()
        assert Text("hello") in two.events(asked.turn.id)
        assert [text for process in host.processes.values() for _, text in process.prompts] == ["hello"]


async def test_a_holder_that_cannot_renew_knows_when_its_time_is_up(dsn: str) -> None:
    async with replica(dsn, ScriptedHost()) as one:
        asked = await one.ask("hello")
        await one.settled(asked)
        await one.sessions.sleep(asked.session.id)
        await one.sessions.delivered(asked.turn.id)
        await until(lambda: not one.sessions.is_live(asked.session.id))
        holdings = Holdings(one.sessions.store.leases, 0.3, exclusive=False)

        async def held() -> bool:
            """On a busy machine its time may be up before it is acquired."""
            return bool(await holdings.acquire(asked.session.id)) and holdings.valid(asked.session.id)

        await until(held)
        await until(lambda: not holdings.valid(asked.session.id))


async def test_a_lease_that_could_not_be_given_back_runs_out(dsn: str) -> None:
    async with replica(dsn, ScriptedHost()) as one:
        asked = await one.ask("hello")
        await one.settled(asked)
        await one.sessions.sleep(asked.session.id)
        await one.sessions.delivered(asked.turn.id)
        await until(lambda: not one.sessions.is_live(asked.session.id))
        leases = one.sessions.store.leases
        holdings = Holdings(leases, 2, exclusive=False)
        keeping = asyncio.create_task(holdings.keep(lambda _session_id: None))
        acquired = await holdings.acquire(asked.session.id)
        assert acquired
        await _rename(one, "sessions", "elsewhere")
        with pytest.raises(StoreUnavailable):
            await holdings.release(acquired[0])
        await _rename(one, "elsewhere", "sessions")
        await until(lambda: leases.acquire(asked.session.id, "another", 30), 30)
        keeping.cancel()
        await asyncio.wait([keeping])


async def _rename(heart: Heart, old: str, new: str) -> None:
    async with heart.db.transaction() as connection:
        await connection.exec_driver_sql(f"alter table {old} rename to {new}")


async def _take_away(heart: Heart, session_id: Any) -> None:
    """As if the replica had been stopped for longer than its lease."""
    async with heart.db.transaction() as connection:
        await connection.execute(
            sa.update(table).where(table.c.id == session_id).values(lease_until=0, fence=table.c.fence + 1)
        )


async def test_a_turn_that_was_shown_over_is_told_again_by_whoever_has_its_session(dsn: str) -> None:
    host, bells = ScriptedHost(), Bells()
    async with replica(dsn, host, bells=bells) as one, replica(dsn, host, bells=bells) as two:
        asked = await one.ask("hello")
        assert not await two.sessions.show_again(asked.turn.id), "it is not shown to the end yet"
        await one.settled(asked)
        await one.sessions.delivered(asked.turn.id)
        told = one.kinds(asked.turn.id)
        assert await two.sessions.show_again(asked.turn.id)
        await until(lambda: one.kinds(asked.turn.id).count("Settled") == 2)
        again = one.kinds(asked.turn.id)[len(told) :]
        assert again[0] == "Queued"
        assert again[-1] == "Settled"
        assert "Text" in again
        await one.sessions.delivered(asked.turn.id)
        assert two.told == []
