"""Edits, deletions, asides, Now and stop in the table: the same on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from waiting import until

from sessions.db import Database, open_database
from sessions.edits import Edited, one_by_one
from sessions.errors import LeaseLost, SessionNotFound
from sessions.store import Store
from sessions.transcript import Transcript
from sessions.types import (
    Aside,
    Failed,
    Interrupted,
    Outcome,
    Prompt,
    SessionState,
    ThreadId,
    TurnState,
    Withdrawn,
    outcome_of,
)
from worklets.events import Position, Text

THREAD = ThreadId("T1", "C1", "1700000000.000100")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    db = open_database(dsn, exclusive=False)
    try:
        yield Store(db, lambda: NOW)
    finally:
        await db.close()


def prompt(ts: str, text: str = "hello", **changes: Any) -> Prompt:
    values = {"thread": THREAD, "source_id": f"C1:{ts}", "ts": ts, "user_id": "U1", "text": text}
    return Prompt(**{**values, **changes})


async def submit(store: Store, ts: str, text: str = "hello", **changes: Any) -> Any:
    stored = await store.submit(prompt(ts, text, **changes))
    assert stored is not None
    return stored.submitted


def aside(ts: str, text: str = "by the way") -> Aside:
    return Aside(THREAD, f"C1:{ts}", ts, "U2", "Jonas", text)


async def amend(store: Store, ts: str, text: str | None, edited_ts: str) -> Any:
    return await store.edits.amend("T1", "C1", f"C1:{ts}", Edited(text, edited_ts), by="U1", now=NOW)


async def begin(store: Store, one: Any, owner: str = "me") -> Any:
    got = await store.leases.acquire(one.session.id, owner, 30)
    assert got is not None
    assert await store.begin(got[0], one.turn.id, "box", attempts=1)
    return got[0]


async def test_an_edit_reaches_a_turn_that_waits_and_the_newest_counts(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    assert (await amend(store, "1700000001.000000", "second", "1700000003.000000")).text == "second"
    assert await amend(store, "1700000001.000000", "first", "1700000002.000000") is None, "it came late"
    assert (await store.turn(one.turn.id)).text == "second"


async def test_a_running_turn_follows_no_edit(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    await begin(store, one)
    assert await amend(store, "1700000001.000000", "too late", "1700000003.000000") is None
    assert await amend(store, "1700000001.000000", None, "1700000004.000000") is None
    assert (await store.turn(one.turn.id)).text == "hello"


async def test_a_deleted_message_takes_its_turn_back(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    gone = await amend(store, "1700000001.000000", None, "1700000003.000000")
    assert gone.state is TurnState.WITHDRAWN
    assert outcome_of(gone) == Withdrawn("U1")
    assert await store.next_turn(one.session.id) is None


async def test_an_edit_that_overtakes_its_message_counts(store: Store) -> None:
    await submit(store, "1700000001.000000")
    await amend(store, "1700000002.000000", "older", "1700000003.000000")
    await amend(store, "1700000002.000000", "newer", "1700000005.000000")
    await amend(store, "1700000002.000000", "oldest", "1700000002.500000")
    late = await submit(store, "1700000002.000000", "as first written")
    assert late.turn.text == "newer"
    assert await amend(store, "1700000002.000000", "older", "1700000004.000000") is None
    assert (await store.turn(late.turn.id)).text == "newer"


async def test_a_deletion_that_overtakes_its_message_makes_it_nothing(store: Store) -> None:
    await amend(store, "1700000002.000000", None, "1700000003.000000")
    assert await store.submit(prompt("1700000002.000000")) is None
    assert await store.list() == []


async def test_edits_of_old_messages_are_not_kept(store: Store) -> None:
    await amend(store, "1700000002.000000", None, "1700009999.000000")
    assert await store.submit(prompt("1700000002.000000")) is not None


async def test_only_a_waiting_turn_is_taken_back_or_hurried(store: Store) -> None:
    one, two, three = [await submit(store, f"170000000{n}.000000") for n in (1, 2, 3)]
    await begin(store, one)
    assert await store.edits.withdraw(one.turn.id, "U1", NOW) is None
    assert await store.edits.hurry(one.turn.id) is None
    taken = await store.edits.withdraw(two.turn.id, "U7", NOW)
    assert taken is not None
    assert outcome_of(taken) == Withdrawn("U7")
    assert await store.edits.hurry(two.turn.id) is None
    four = await submit(store, "1700000004.000000")
    assert (await store.edits.hurry(four.turn.id)) is not None
    running = await store.next_turn(one.session.id)
    assert running is not None
    assert running.id == one.turn.id, "what runs stays first"
    lease = await store.leases.acquire(one.session.id, "me", 30)
    assert lease is not None
    await store.settle(lease[0], one.turn.id, Withdrawn(), state=SessionState.IDLE, container_id="box")
    following = await store.next_turn(one.session.id)
    assert following is not None
    assert (following.id, following.hurried) == (four.turn.id, True)
    assert three.turn.id != following.id


async def test_whoever_runs_the_turn_finds_that_its_end_is_asked(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    two = await submit(store, "1700000002.000000")
    await begin(store, one)
    assert not await store.edits.ask_stop(one.session.id, "U2", only=two.turn.id)
    assert await store.edits.stop_asked(one.turn.id) is None
    assert await store.edits.ask_stop(one.session.id, "U3", only=one.turn.id)
    assert await store.edits.stop_asked(one.turn.id) == "U3"


async def test_asides_go_with_the_next_turn_once_and_the_same_again(store: Store) -> None:
    await store.asides.add([aside("1700000000.500000", "of a thread without a session")], NOW)
    one = await submit(store, "1700000001.000000")
    await store.asides.add([aside("1700000002.000000", "b"), aside("1700000001.500000", "a")], NOW)
    await store.asides.add([aside("1700000002.000000", "b again")], NOW)
    await store.asides.add([aside("1700000009.000000", "later")], NOW)
    two = await submit(store, "1700000003.000000")
    lease = await begin(store, one)
    assert await store.claim_asides(lease, one.turn) == []
    for _ in range(2):
        assert [one.text for one in await store.claim_asides(lease, two.turn)] == ["a", "b"]
    assert await store.asides.newest(THREAD) == "1700000009.000000"
    await store.leases.release([lease])
    with pytest.raises(LeaseLost):
        await store.claim_asides(lease, two.turn)


@pytest.mark.parametrize("outcome", [Interrupted("U1"), Failed("no container"), Withdrawn("U1")])
async def test_asides_of_a_turn_that_claude_said_nothing_to_go_with_the_next(store: Store, outcome: Outcome) -> None:
    one, two = await submit(store, "1700000001.000000"), await submit(store, "1700000002.000000")
    await store.asides.add([aside("1700000000.500000", "as written")], NOW)
    lease = await begin(store, one)
    assert len(await store.claim_asides(lease, one.turn)) == 1
    assert await store.claim_asides(lease, two.turn) == []
    await store.settle(lease, one.turn.id, outcome, state=SessionState.IDLE, container_id="box")
    await amend(store, "1700000000.500000", "as edited", "1700000000.600000")
    assert [one.text for one in await store.claim_asides(lease, two.turn)] == ["as edited"]


async def test_asides_of_a_turn_that_claude_heard_are_given_once(store: Store) -> None:
    one, two = await submit(store, "1700000001.000000"), await submit(store, "1700000002.000000")
    await store.asides.add([aside("1700000000.500000")], NOW)
    lease = await begin(store, one)
    assert len(await store.claim_asides(lease, one.turn)) == 1
    at = Position("e1", 1)
    await Transcript(store.db).append(lease, [(one.turn.id, Text("I see"))], at=at, position=at)
    await store.settle(lease, one.turn.id, Interrupted("U1"), state=SessionState.IDLE, container_id="box")
    assert await store.claim_asides(lease, two.turn) == []


async def test_half_an_emoji_hinders_nothing(store: Store) -> None:
    one = await submit(store, "1700000001.000000", "cut \ud83d")
    assert one.turn.text == "cut \ufffd"
    assert one.session.name == "cut \ufffd"
    await store.asides.add([Aside(THREAD, "C1:1", "1700000000.1", "U2", "Jo\ude00", "\ud83d aside")], NOW)
    lease = await begin(store, one)
    (said,) = await store.claim_asides(lease, one.turn)
    assert (said.author, said.text) == ("Jo\ufffd", "\ufffd aside")
    at = Position("e1", 1)
    await Transcript(store.db).append(lease, [(one.turn.id, Text("an \ud83d"))], at=at, position=at)
    (entry,) = await Transcript(store.db).read(one.session.id)
    assert entry.event == Text("an \ufffd")
    two = await submit(store, "1700000002.000000")
    changed = await amend(store, "1700000002.000000", "\ude00", "1700000003.000000")
    assert (changed.id, changed.text) == (two.turn.id, "\ufffd")


@pytest.mark.postgres
async def test_an_edit_and_its_message_wait_for_each_other(newest_postgres: str) -> None:
    """Each looks for the other, and would not see what is not committed."""
    db = open_database(newest_postgres, exclusive=False)
    store, ts = Store(db, lambda: NOW), "1700000001.000000"
    try:
        for say in (store.submit(prompt(ts)), amend(store, ts, "edited", "1700000002.000000")):
            async with db.transaction() as connection:
                await one_by_one(db, connection, "T1", "C1", f"C1:{ts}")
                saying = asyncio.create_task(say)
                await until(lambda: _waits(db))
            await saying
        stored = await store.submit(prompt(ts))
        assert stored is not None
        assert stored.submitted.turn.text == "edited"
    finally:
        await db.close()


async def _waits(db: Database) -> bool:
    """Somebody waits for an advisory lock of this database."""
    own = "database = (select oid from pg_database where datname = current_database())"
    query = f"select 1 from pg_locks where locktype = 'advisory' and not granted and {own}"
    async with db.read() as connection:
        return (await connection.execute(sa.text(query))).first() is not None


async def test_asides_follow_their_messages(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    await store.asides.add([aside("1700000000.100000", "as written"), aside("1700000000.200000", "to be deleted")], NOW)
    await amend(store, "1700000000.100000", "as edited", "1700000000.300000")
    await amend(store, "1700000000.200000", None, "1700000000.300000")
    await amend(store, "1700000000.400000", None, "1700000000.500000")
    await store.asides.add([aside("1700000000.400000", "deleted before it came")], NOW)
    lease = await begin(store, one)
    assert [one.text for one in await store.claim_asides(lease, one.turn)] == ["as edited"]


async def test_each_process_that_has_the_prompt_counts(store: Store) -> None:
    one = await submit(store, "1700000001.000000")
    lease = await begin(store, one)
    await store.begin(lease, one.turn.id, "box")
    for _ in range(2):  # the answer to the first was lost
        again = await store.begin(lease, one.turn.id, "other box", attempts=2)
        assert again is not None
        assert again[1].attempts == 2


async def test_submitting_tells_who_holds_the_session(store: Store) -> None:
    first = await store.submit(prompt("1700000001.000000"))
    assert first is not None
    assert first.holder is None
    await store.leases.acquire(first.submitted.session.id, "somebody", 30)
    second = await store.submit(prompt("1700000002.000000"))
    assert second is not None
    assert (second.holder, second.ahead) == ("somebody", 1)
    await store.leases.acquire(first.submitted.session.id, "somebody", -1)
    third = await store.submit(prompt("1700000003.000000"))
    assert third is not None
    assert third.holder is None, "the lease has run out"


async def test_a_turn_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(SessionNotFound):
        await store.turn("nowhere")  # type: ignore[arg-type]
    assert await store.mark_delivered("nowhere") is None  # type: ignore[arg-type]
