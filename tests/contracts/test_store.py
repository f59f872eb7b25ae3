"""What the store promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import migrations
from sessions.db import Database, open_database
from sessions.errors import LeaseLost, SessionError, SessionNotFound
from sessions.store import Store
from sessions.tables import metadata
from sessions.transcript import REMARKS, Transcript
from sessions.types import Done, Failed, Interrupted, Prompt, SessionId, SessionState, ThreadId, TurnState, outcome_of
from worklets.events import AgentReady, Position, Remark, Restarted, Text, ToolStarted, TurnEnded, Usage

THREAD = ThreadId("T1", "C1", "1700000000.000100")


def prompt(source: str = "C1:1700000000.000100", ts: str = "1700000000.000100", **changes: Any) -> Prompt:
    return Prompt(**{"thread": THREAD, "source_id": source, "ts": ts, "user_id": "U1", "text": "help me", **changes})


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def opened(dsn: str, exclusive: bool = True) -> AsyncIterator[Database]:
    database = open_database(dsn, exclusive=exclusive)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(db: Database, clock: Clock) -> Iterator[Store]:
    return Store(db, clock)


async def acquire(store: Store, session_id: SessionId, owner: str = "me", ttl: float = 30) -> Any:
    got = await store.leases.acquire(session_id, owner, ttl)
    assert got is not None
    return got[0]


async def submit(store: Store, *args: Any, **changes: Any) -> Any:
    stored = await store.submit(prompt(*args, **changes))
    assert stored is not None
    return stored.submitted


async def test_migrations_make_what_the_code_expects(dsn: str, db: Database) -> None:
    def ours(_object: Any, name: str | None, kind: str, *_rest: Any) -> bool:
        return kind != "table" or name in metadata.tables  # a door keeps its own table beside them

    def differences(connection: sa.Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"include_object": ours}), metadata)

    async with db.read() as connection:
        assert await connection.run_sync(differences) == []
    assert await migrations.revision(dsn) == migrations.HEAD
    assert not await migrations.upgrade(dsn), "nothing is left to do"


async def test_a_new_thread_gets_a_session_named_after_its_first_words(store: Store) -> None:
    first = await submit(store, text="please   refactor " + "the parser " * 20, repository="https://x/y", branch="b")
    session = first.session
    assert (first.fresh, first.new_session, session.state) == (True, True, SessionState.NEW)
    assert session.name.startswith("please refactor the parser")
    assert session.name.endswith("…")
    assert len(session.name) <= 60
    assert (session.repository, session.branch, session.thread) == ("https://x/y", "b", THREAD)
    assert session.claude_session_id == session.id
    assert not session.has_history
    assert await store.get(session.id) == session == await store.find(THREAD)
    assert session.created_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_a_message_that_arrives_twice_is_one_turn(store: Store) -> None:
    first = await submit(store)
    again = await submit(store)
    assert (again.fresh, again.turn, again.session) == (False, first.turn, first.session)
    assert len(await store.turns(first.session.id)) == 1


async def test_a_slash_command_that_arrives_twice_makes_one_session(store: Store) -> None:
    nowhere = ThreadId("T1", "C1", None)
    first = await submit(store, "cmd:1", thread=nowhere)
    again = await submit(store, "cmd:1", thread=nowhere)
    other = await submit(store, "cmd:2", thread=nowhere)
    assert again.session == first.session
    assert not again.fresh
    assert other.session.id != first.session.id
    assert other.new_session
    assert len(await store.list()) == 2


async def test_one_message_at_the_same_moment_is_one_turn_in_one_session(store: Store) -> None:
    got = await asyncio.gather(*(store.submit(prompt()) for _ in range(8)))
    assert len({one.submitted.turn.id for one in got if one}) == 1
    assert sum(one.submitted.fresh for one in got if one) == 1
    assert len(await store.list()) == 1


async def test_different_messages_at_the_same_moment_share_the_threads_session(store: Store) -> None:
    got = await asyncio.gather(*(store.submit(prompt(f"C1:{n}", f"1700000000.{n:06}")) for n in range(8)))
    assert len({one.submitted.session.id for one in got if one}) == 1
    assert sum(one.submitted.new_session for one in got if one) >= 1
    assert len(await store.turns(got[0].submitted.session.id)) == 8  # type: ignore[union-attr]


async def test_a_sole_prompt_is_stored_once_while_another_of_its_kind_is_open(store: Store) -> None:
    began = await store.submit(prompt())
    assert began is not None

    async def press(n: int, sole: str = "retry:a_b:") -> Any:
        stored = await store.submit(prompt(f"{sole}{n}", f"1700000001.{n:06}", starts=False, sole=sole))
        assert stored is not None
        return stored.submitted

    got = await asyncio.gather(*(press(n) for n in range(8)))
    assert sorted(one.fresh for one in got) == [False] * 7 + [True]
    assert len({one.turn.id for one in got}) == 1
    assert (await press(1, "retry:aXb:")).fresh, "of another kind"
    again = got[0].turn
    acquired = await acquire(store, began.submitted.session.id)
    assert await store.begin(acquired, again.id, "box", attempts=1)
    await store.settle(acquired, again.id, Done(), state=SessionState.IDLE, container_id="box")
    assert (await press(9)).fresh, "the other one is over"
    assert not (await press(9)).fresh


async def test_a_reply_without_a_session_starts_none(store: Store) -> None:
    assert await store.submit(prompt(starts=False)) is None
    assert await store.list() == []


async def test_opened_tells_the_thread(store: Store) -> None:
    made = await submit(store, "cmd:1", thread=ThreadId("T1", "C1", None))
    session = await store.opened(made.session.id, "1700000009.000000")
    assert session.thread == ThreadId("T1", "C1", "1700000009.000000")
    assert await store.find(session.thread) == session
    reply = await submit(store, "C1:2", thread=session.thread, starts=False)
    assert reply.session.id == session.id
    assert not reply.new_session
    with pytest.raises(SessionNotFound):
        await store.opened(SessionId("nobody"), "1.0")
    other = await submit(store, "cmd:2", thread=ThreadId("T1", "C1", None))
    with pytest.raises(SessionError, match="has a session already"):
        await store.opened(other.session.id, "1700000009.000000")


async def test_turns_come_in_the_order_of_their_timestamps_and_know_who_is_ahead(store: Store) -> None:
    first = await submit(store)
    late = await store.submit(prompt("C1:3", "1700000003.000000"))
    early = await store.submit(prompt("C1:2", "1700000002.000000"))
    assert late
    assert early
    assert (late.ahead, early.ahead) == (1, 1)
    lease = await acquire(store, first.session.id)
    order = []
    while turn := await store.next_turn(first.session.id):
        order.append(turn.source_id)
        begun = await store.begin(lease, turn.id, "box")
        assert begun
        assert begun[1].state is TurnState.RUNNING
        assert begun[0].container_id == "box"
        await store.settle(lease, turn.id, Done(), state=SessionState.IDLE, container_id="box")
    assert order == ["C1:1700000000.000100", "C1:2", "C1:3"]


async def test_the_running_turn_comes_before_an_older_one_that_arrives_late(store: Store) -> None:
    first = await submit(store, ts="1700000005.000000")
    lease = await acquire(store, first.session.id)
    await store.begin(lease, first.turn.id, "box")
    stored = await store.submit(prompt("C1:2", "1700000001.000000"))
    assert stored
    assert stored.ahead == 1, "the running turn comes first"
    running = await store.next_turn(first.session.id)
    assert running
    assert running.id == first.turn.id


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Done(), TurnState.DONE), (Failed("No."), TurnState.FAILED), (Interrupted("U2"), TurnState.INTERRUPTED)],
)
async def test_an_outcome_is_stored_once_and_read_back(
    store: Store, clock: Clock, outcome: Any, state: TurnState
) -> None:
    made = await submit(store)
    lease = await acquire(store, made.session.id)
    await store.begin(lease, made.turn.id, "box")
    clock.now += timedelta(seconds=90)
    session, turn = await store.settle(lease, made.turn.id, outcome, state=SessionState.IDLE, container_id="box")
    assert (turn.state, outcome_of(turn), turn.seconds) == (state, outcome, 90)
    assert session.last_activity_at == clock.now
    assert session.state is SessionState.IDLE
    clock.now += timedelta(seconds=90)
    _, same = await store.settle(lease, made.turn.id, Failed("late"), state=SessionState.IDLE, container_id="box")
    assert same == turn
    assert await store.begin(lease, made.turn.id, "box") is None


async def test_a_lease_keeps_others_out_until_it_runs_out(dsn: str, db: Database) -> None:
    async with opened(dsn, exclusive=False) as shared:  # as two replicas see it
        store = Store(shared)
        made = await submit(store)
        lease = await acquire(store, made.session.id, "one", ttl=30)
        assert await store.leases.acquire(made.session.id, "two", 30) is None
        assert await store.put_to_sleep(made.session.id) is None
        assert await store.leases.renew("one", [made.session.id], 30) == {made.session.id}
        assert await store.leases.renew("two", [made.session.id], 30) == set()
        assert await store.leases.renew("one", [], 30) == set(), "it has let go, whatever the table says"
        again = await acquire(store, made.session.id, "one", ttl=-1)
        assert again.fence == lease.fence + 1
        taken = await acquire(store, made.session.id, "two")
        assert taken.fence == again.fence + 1
        assert await store.leases.renew("one", [made.session.id], 30) == set()


async def test_a_former_owner_can_do_no_harm(store: Store, db: Database) -> None:
    made = await submit(store)
    old = await acquire(store, made.session.id, "me", ttl=-1)
    new = await acquire(store, made.session.id, "me")
    at = Position("e", 1)
    with pytest.raises(LeaseLost):
        await store.begin(old, made.turn.id, "box")
    with pytest.raises(LeaseLost):
        await store.settle(old, made.turn.id, Done(), state=SessionState.IDLE, container_id=None)
    with pytest.raises(LeaseLost):
        await store.set_state(old, SessionState.WAITING)
    with pytest.raises(LeaseLost):
        await Transcript(db).append(old, [(made.turn.id, Text("x"))], at=at, position=at)
    await store.leases.release([old])
    assert await Transcript(db).read(made.session.id) == []
    assert await store.begin(new, made.turn.id, "box"), "the new owner's lease still holds"


async def test_a_released_lease_is_free(dsn: str, db: Database) -> None:
    async with opened(dsn, exclusive=False) as shared:
        store = Store(shared)
        made = await submit(store)
        await store.leases.release([await acquire(store, made.session.id, "one")])
        assert await store.leases.acquire(made.session.id, "two", 30)


async def test_transcript_and_position_are_stored_together(store: Store, db: Database) -> None:
    made = await submit(store)
    lease = await acquire(store, made.session.id)
    transcript = Transcript(db)
    ended = TurnEnded("done", (made.turn.id,), Usage(1, 2, cost=0.5), 1.5)
    said = [AgentReady("other-id", "model", "2.1"), Text("grüße ☕"), ToolStarted("t", "Bash", {"command": "ls"})]
    session = None
    for seq, event in enumerate([*said, ended], start=1):
        at = Position("e1", seq)
        session = await transcript.append(lease, [(made.turn.id, event)], at=at, position=at)
    assert session
    assert (session.epoch, session.seq) == ("e1", 4)
    assert (session.claude_session_id, session.has_history) == ("other-id", True)
    entries = await transcript.read(made.session.id)
    assert [entry.event for entry in entries] == [*said, ended]
    assert [e.event for e in await transcript.read(made.session.id, after=entries[1].cursor)] == [said[2], ended]
    assert len(await transcript.read(made.session.id, turn_id=made.turn.id, limit=2)) == 2
    assert await transcript.ended(made.turn.id) == ended
    at = Position(f"{REMARKS}{made.turn.id}", 1)  # hosts that were blocked are told after the end
    await transcript.append(lease, [(made.turn.id, Remark("Flow blocked a host: x."))], at=at, position=None)
    assert await transcript.ended(made.turn.id) == ended
    at = Position("e3", 0)
    await transcript.append(lease, [(made.turn.id, Restarted("again"))], at=at, position=None)
    assert await transcript.ended(made.turn.id) is None
    assert await transcript.stored_until(made.session.id, "e1") == 4
    assert await transcript.stored_until(made.session.id, "e2") == 0


async def test_appending_again_changes_nothing(store: Store, db: Database) -> None:
    made = await submit(store)
    lease = await acquire(store, made.session.id)
    transcript, at = Transcript(db), Position("e1", 7)
    for _ in range(2):
        await transcript.append(lease, [(made.turn.id, Text("a")), (None, Text("b"))], at=at, position=None)
    assert [entry.event for entry in await transcript.read(made.session.id)] == [Text("a"), Text("b")]
    assert (await store.get(made.session.id)).epoch is None, "the position stays behind an uncommitted preview"
    assert await transcript.stored_until(made.session.id, "e1") == 7


async def test_idle_sessions_are_found_by_their_last_activity(store: Store, clock: Clock) -> None:
    made = [await submit(store, f"cmd:{n}", thread=ThreadId("T1", "C1", None)) for n in range(3)]
    for one in made:
        lease = await acquire(store, one.session.id)
        await store.begin(lease, one.turn.id, "box")
        await store.settle(lease, one.turn.id, Done(), state=SessionState.IDLE, container_id="box")
        clock.now += timedelta(minutes=10)
    await store.opened(made[1].session.id, "1700000001.000000")
    await submit(store, "C1:9", thread=ThreadId("T1", "C1", "1700000001.000000"))
    idle = await store.idle_since(clock.now - timedelta(minutes=10))
    assert [one.id for one in idle] == [made[0].session.id, made[2].session.id], "one has an open turn"
    assert await store.idle_since(clock.now - timedelta(minutes=10), limit=1) == idle[:1]
    assert await store.idle_since(clock.now - timedelta(minutes=31)) == []
    for one in (made[0], made[2]):
        assert await store.mark_delivered(one.turn.id) == one.session.id
    assert await store.with_work("me") == [made[1].session.id]
    if not store.db.exclusive:
        assert await store.with_work("another") == [], "it is held"


async def test_the_latest_sessions_first(store: Store, clock: Clock) -> None:
    made = []
    for number in range(4):
        made.append(await submit(store, f"cmd:{number}", thread=ThreadId("T1", "C1", None)))
        lease = await acquire(store, made[-1].session.id)
        state = SessionState.IDLE if number % 2 else SessionState.ASLEEP
        await store.settle(lease, made[-1].turn.id, Done(), state=state, container_id=None)
        clock.now += timedelta(minutes=10)
    found = await store.recent(clock.now - timedelta(minutes=30), 10)
    assert [one.id for one in found] == [one.session.id for one in (made[3], made[2], made[1])]
    assert await store.recent(clock.now - timedelta(minutes=30), 2) == found[:2]
    awake = await store.recent(clock.now, 10)
    assert [one.id for one in awake] == [one.session.id for one in (made[3], made[1])], "however long ago"


async def test_live_ones_and_those_of_a_person(store: Store) -> None:
    mine = await submit(store, "cmd:1", thread=ThreadId("T1", "C1", None))
    other = await submit(store, "cmd:2", thread=ThreadId("T1", "C1", None), user_id="U2")
    assert await store.live() == []
    lease = await acquire(store, other.session.id)
    await store.set_state(lease, SessionState.STARTING)
    assert [one.id for one in await store.live()] == [other.session.id]
    assert [one.id for one in await store.list(user_id="U1")] == [mine.session.id]
    assert [one.id for one in await store.list(states=[SessionState.STARTING])] == [other.session.id]
    asleep = await store.put_to_sleep(mine.session.id)
    assert asleep
    assert asleep.state is SessionState.ASLEEP


async def test_undelivered_turns_in_order_with_who_is_ahead(store: Store) -> None:
    first = await submit(store)
    second = await submit(store, "C1:2", "1700000002.000000")
    third = await submit(store, "C1:3", "1700000003.000000")
    lease = await acquire(store, first.session.id)
    await store.begin(lease, first.turn.id, "box")
    await store.settle(lease, first.turn.id, Done(), state=SessionState.IDLE, container_id="box")
    found = await store.undelivered(first.session.id)
    assert [one.turn.id for one in found] == [first.turn.id, second.turn.id, third.turn.id]
    assert [one.ahead for one in found] == [0, 0, 1]
    await store.mark_delivered(first.turn.id)
    assert [one.turn.id for one in await store.undelivered(first.session.id)] == [second.turn.id, third.turn.id]


async def test_dropping_queued_turns_spares_the_running_one_and_the_current(store: Store) -> None:
    first = await submit(store)
    second = await submit(store, "C1:2", "1700000002.000000")
    third = await submit(store, "C1:3", "1700000003.000000")
    lease = await acquire(store, first.session.id)
    await store.begin(lease, first.turn.id, "box")
    dropped = await store.interrupt_queued(first.session.id, "U9", sparing=second.turn.id)
    assert [(turn.id, outcome_of(turn)) for turn in dropped] == [(third.turn.id, Interrupted("U9"))]
    assert [turn.state for turn in await store.turns(first.session.id)] == [
        TurnState.RUNNING, TurnState.QUEUED, TurnState.INTERRUPTED,
    ]  # fmt: skip


async def test_frequent_questions_use_their_indexes(store: Store, db: Database) -> None:
    """With few rows PostgreSQL prefers to read the table, so it is told not to."""
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement != "select 1":  # asks a pooled connection whether it lives
            asked.append(statement)

    sa.event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    await store.next_turn(SessionId("x"))
    await store.live()
    await store.idle_since(datetime.now(UTC))
    await store.with_work()
    await store.undelivered(SessionId("x"))
    await store.recent(datetime.now(UTC), 50)
    sa.event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    indexes = ["ix_turns_open", "ix_sessions_live", "ix_sessions_idle", *["ix_turns_undelivered"] * 2]
    indexes += ["ix_sessions_live", "ix_sessions_asleep"]
    for statement, index in zip(asked, indexes, strict=True):
        assert index in await _plan(db, statement), statement


async def _plan(db: Database, statement: str) -> str:
    async with db.read() as connection:
        if db.sqlite:
            values = tuple("x" for _ in range(statement.count("?")))
            rows = await connection.exec_driver_sql(f"explain query plan {statement}", values)
        else:
            await connection.execute(sa.text("set enable_seqscan = off"))
            literal = statement.replace("$1::VARCHAR", "'x'").replace("$1::TIMESTAMP WITH TIME ZONE", "now()")
            literal = re.sub(r"\$\d::INTEGER", "1", literal)
            rows = await connection.exec_driver_sql(f"explain {literal}")
        return "\n".join(str(row) for row in rows)
