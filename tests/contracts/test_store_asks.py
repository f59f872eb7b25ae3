"""Asks, decisions and rules in the table: the same on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import migrations
from sessions.asks import Ask, AskClosedAlready, AskKind, AskState, Decision, ask_id
from sessions.askstore import audit
from sessions.db import open_database
from sessions.errors import LeaseLost
from sessions.leases import Lease
from sessions.rulestore import channel_scope
from sessions.store import Store
from sessions.types import Prompt, ThreadId, Turn

THREAD = ThreadId("T1", "C1", "1700000000.000100")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
YES, NO = Decision("allow", answers={"Which?": "\ud83c\udf89"}), Decision("deny", message="no")


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    db = open_database(dsn, exclusive=False)
    try:
        yield Store(db, lambda: NOW)
    finally:
        await db.close()


async def running(store: Store) -> tuple[Lease, Turn]:
    stored = await store.submit(Prompt(THREAD, "C1:1.0", "1.0", "U1", "hello"))
    assert stored is not None
    acquired = await store.leases.acquire(stored.submitted.session.id, "me", 60)
    assert acquired is not None
    begun = await store.begin(acquired[0], stored.submitted.turn.id, "c1", attempts=1)
    assert begun is not None
    return acquired[0], begun[1]


def an_ask(turn: Turn, tool_id: str = "t1", command: str = "touch x") -> Ask:
    return Ask(
        id=ask_id(turn.session_id, tool_id),
        session_id=turn.session_id,
        turn_id=turn.id,
        kind=AskKind.PERMISSION,
        tool="Bash",
        tool_id=tool_id,
        input={"command": command, "why": "half an emoji \ud83d"},
        suggestions=("Bash(touch *)",),
        state=AskState.OPEN,
        asked_at=NOW,
        expires_at=NOW + HOUR,
    )


async def test_it_comes_back_as_it_went_in_and_once(store: Store) -> None:
    lease, turn = await running(store)
    ask = an_ask(turn)
    stored, fresh = await store.asks.open(lease, ask, request_id="r1", epoch="e1")
    assert fresh
    assert (stored.request_id, stored.epoch, stored.given, stored.parked) == ("r1", "e1", False, False)
    assert replace(stored.ask, input={}) == replace(ask, input={})
    assert stored.ask.input["why"].startswith("half an emoji")
    assert await store.asks.open(lease, ask, request_id="r1", epoch="e1") == (stored, False)
    assert await store.asks.open_ones(session_id=turn.session_id) == [stored.ask]
    with pytest.raises(LeaseLost):
        await store.asks.open(replace(lease, fence=lease.fence - 1), an_ask(turn, "t2"))


async def test_of_all_who_decide_at_the_same_time_one_does(store: Store) -> None:
    lease, turn = await running(store)
    ask = an_ask(turn)
    await store.asks.open(lease, ask)
    deciding = [store.asks.decide(ask.id, YES if n % 2 else NO, f"U{n}", NOW) for n in range(6)]
    results = await asyncio.gather(*deciding, return_exceptions=True)
    decided = [one for one in results if isinstance(one, Ask)]
    refused = [one.ask for one in results if isinstance(one, AskClosedAlready)]
    assert (len(decided), len(refused)) == (1, 5)
    assert {one.decided_by for one in refused} == {decided[0].decided_by}
    assert await store.asks.get(ask.id) == decided[0]
    async with store.db.read() as connection:
        records = (await connection.execute(sa.select(audit))).all()
    assert [(one.by, one.behavior) for one in records] == [
        (decided[0].decided_by, decided[0].decision and decided[0].decision.behavior)
    ]


async def test_what_expired_cannot_be_decided(store: Store) -> None:
    lease, turn = await running(store)
    ask = an_ask(turn)
    await store.asks.open(lease, ask)
    assert await store.asks.expire(NOW + HOUR - timedelta(seconds=1)) == []
    with pytest.raises(AskClosedAlready) as refused:
        await store.asks.decide(ask.id, YES, "U1", NOW + HOUR)
    assert refused.value.ask.state is AskState.EXPIRED
    assert await store.asks.expire(NOW + 2 * HOUR) == []


async def test_the_turns_end_takes_back_what_is_open(store: Store) -> None:
    from sessions.types import Done, SessionState

    lease, turn = await running(store)
    ask = an_ask(turn)
    await store.asks.open(lease, ask, request_id="r1", epoch="e1")
    await store.settle(lease, turn.id, Done(), state=SessionState.IDLE, container_id="c1")
    (closed,) = await store.asks.of_turn(turn.id)
    assert closed.ask.state is AskState.WITHDRAWN
    assert await store.asks.open_ones() == []


async def test_a_parked_turn_is_no_work_until_it_is_decided_or_stopped(store: Store) -> None:
    lease, turn = await running(store)
    assert await store.next_work(turn.session_id) == (turn, False)
    ask = an_ask(turn)
    await store.asks.open(lease, ask, request_id="r1", epoch="e1")
    assert await store.asks.waiting_since(NOW - HOUR) == []
    assert await store.asks.waiting_since(NOW) == [turn.session_id]
    assert await store.asks.park(lease, turn.id)
    assert await store.asks.waiting_since(NOW) == []
    assert await store.next_work(turn.session_id) == (None, True)
    await store.asks.decide(ask.id, NO, "U1", NOW)
    assert await store.next_work(turn.session_id) == (turn, False)
    assert not await store.asks.park(lease, turn.id), "nothing is open any more"


async def test_the_same_words_of_another_process_are_the_same_ask(store: Store) -> None:
    lease, turn = await running(store)
    ask = an_ask(turn)
    await store.asks.open(lease, ask, request_id="r1", epoch="e1")
    again, fresh = await store.asks.open(lease, an_ask(turn, "t2"), request_id="r2", epoch="e2")
    assert (again.ask.id, again.request_id, again.epoch, fresh) == (ask.id, "r2", "e2", False)
    other, fresh = await store.asks.open(lease, an_ask(turn, "t3"), request_id="r3", epoch="e2")
    assert fresh, "the same process means another call"
    assert other.ask.id != ask.id
    await store.asks.give(lease, [ask.id, other.ask.id])
    third, fresh = await store.asks.open(lease, an_ask(turn, "t4"), request_id="r4", epoch="e3")
    assert fresh, "what Claude may have heard the answer to is asked anew"
    assert third.ask.is_open


async def test_rules(store: Store) -> None:
    lease, turn = await running(store)
    ask = an_ask(turn)
    await store.asks.open(lease, ask)
    await store.asks.decide(ask.id, Decision("allow", scope="channel"), "U1", NOW)
    channel = ("channel", channel_scope("T1", "C1"))
    (rule,) = await store.asks.rules.of([channel, ("session", turn.session_id)])
    assert (rule.rule, rule.behavior, rule.by, rule.scope_id) == ("Bash(touch *)", "allow", "U1", "T1/C1")
    await store.asks.rules.add("channel", "T1/C1", "allow", "Bash(touch *)", "U2", NOW)
    assert await store.asks.rules.of([channel]) == [rule], "the first who said so stays"
    assert await store.asks.rules.of([("channel", "T1/C2")]) == []
    assert await store.asks.rules.remove(rule.id) == rule
    assert await store.asks.rules.of([channel]) == []
    for tool_id, server in (("t2", "own:one"), ("t3", "own:another"), ("t4", "own:one")):
        mcp = replace(an_ask(turn, tool_id, tool_id), suggestions=("mcp__db__drop",), servers={"mcp__db__drop": server})
        stored, _ = await store.asks.open(lease, mcp)
        assert stored.ask.servers == mcp.servers
        await store.asks.decide(mcp.id, Decision("allow", scope="channel"), "U1", NOW)
    found = await store.asks.rules.of([channel])
    assert sorted(one.server for one in found) == ["own:another", "own:one"], "each server once"


def migrated_to(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    (command.upgrade if revision == "head" else command.downgrade)(config, revision)


async def test_a_database_of_an_earlier_flow_keeps_its_rules(store: Store) -> None:
    await store.asks.rules.add("channel", "T1/C1", "allow", "mcp__db__drop", "U1", NOW)
    async with store.db.transaction() as connection:
        await connection.run_sync(lambda sync: migrated_to(sync, "0020"))
        names = (await connection.execute(sa.text("SELECT * FROM rules"))).keys()
        assert "server" not in names
        await connection.run_sync(lambda sync: migrated_to(sync, "head"))
    (rule,) = await store.asks.rules.of([("channel", "T1/C1")])
    assert (rule.rule, rule.server) == ("mcp__db__drop", "")
