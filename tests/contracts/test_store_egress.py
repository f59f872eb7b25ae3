"""What people decided about hosts, in the tables: the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from sessions.asks import Ask, AskKind, AskState, Decision, Scope, ask_id
from sessions.askstore import audit
from sessions.db import open_database
from sessions.egress import Grants
from sessions.egressstore import EgressStore
from sessions.store import Store
from sessions.types import Done, Prompt, SessionState, ThreadId, Turn
from worklets.egressgrants import tightened
from worklets.profile import Origin, Profile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    db = open_database(dsn, exclusive=False)
    try:
        yield Store(db, lambda: NOW)
    finally:
        await db.close()


class Thread:
    """A thread with a turn that runs, in which people are asked."""

    def __init__(self, store: Store, number: int, channel: str = "C1") -> None:
        self.store, self.number = store, number
        self.thread = ThreadId("T1", channel, f"1700000000.00{number:04}")

    async def begin(self) -> None:
        stored = await self.store.submit(Prompt(self.thread, f"{self.number}", f"{self.number}.0", "U1", "hello"))
        assert stored is not None
        self.session = stored.submitted.session
        acquired = await self.store.leases.acquire(self.session.id, "me", 60)
        assert acquired is not None
        self.lease = acquired[0]
        begun = await self.store.begin(self.lease, stored.submitted.turn.id, "c1", attempts=1)
        assert begun is not None
        self.turn: Turn = begun[1]

    async def decide(self, host: str, scope: Scope | None, by: str = "U1") -> None:
        """`scope` None: no."""
        ask = Ask(
            id=ask_id(self.session.id, host),
            session_id=self.session.id,
            turn_id=self.turn.id,
            kind=AskKind.EGRESS,
            tool="egress",
            tool_id=host,
            input={"host": host, "port": 443},
            suggestions=(),
            state=AskState.OPEN,
            asked_at=NOW,
            expires_at=None,
        )
        await self.store.asks.open(None, ask)
        decision = Decision("deny") if scope is None else Decision("allow", scope)
        await self.store.asks.decide(ask.id, decision, by, NOW)

    async def grant(self, profile: Profile = Profile()) -> dict[str, object]:  # noqa: B008 - a value
        """What its worklet's door is told at its opening."""
        grants = Grants(self.store.db, asked=True)
        origin = Origin(self.session.id, "U1", self.thread.channel)
        return dict((await grants.part(self.session.worklet, origin, profile)).grants["egress"])


async def test_each_answer_holds_where_it_was_given_for(store: Store) -> None:
    here, beside, elsewhere = Thread(store, 1), Thread(store, 2), Thread(store, 3, "C2")
    for thread in (here, beside, elsewhere):
        await thread.begin()
    for host, scope in (
        ("once.test", "once"),
        ("session.test", "session"),
        ("always.test", "channel"),
        ("no.test", None),
    ):
        await here.decide(host, scope)  # type: ignore[arg-type]
    assert await here.grant() == {
        "granted": ["always.test:443", "once.test:443", "session.test:443"], "refused": ["no.test:443"], "asks": True,
    }  # fmt: skip
    assert await beside.grant() == {"granted": ["always.test:443"], "refused": [], "asks": True}
    assert await elsewhere.grant() == {"granted": [], "refused": [], "asks": True}
    await beside.decide("always.test", None)  # what a session refuses goes before what its channel allows
    assert await beside.grant() == {"granted": [], "refused": ["always.test:443"], "asks": True}
    await store.settle(here.lease, here.turn.id, Done(), state=SessionState.IDLE, container_id="c1")
    assert (await here.grant())["granted"] == ["always.test:443", "session.test:443"]  # once is over
    async with store.db.read() as connection:
        records = (await connection.execute(sa.select(audit).order_by(audit.c.id))).all()
    assert [(one.kind, one.by, one.behavior, one.scope) for one in records] == [
        ("egress", "U1", behavior, scope)
        for behavior, scope in (
            ("allow", "once"), ("allow", "session"), ("allow", "channel"), ("deny", "once"), ("deny", "once"),
        )
    ]  # fmt: skip


async def test_what_was_granted_can_be_listed_and_taken_back(store: Store) -> None:
    thread = Thread(store, 1)
    await thread.begin()
    await thread.decide("a.test", "channel", by="U7")
    await thread.decide("b.test", None)
    kept = EgressStore(store.db)
    listed = await kept.of_session(thread.session.id)
    assert {(one.place, one.allowed, one.scope, one.by) for one in listed} == {
        (("a.test", 443), True, "channel", "U7"),
        (("b.test", 443), False, "session", "U1"),
    }
    (here,) = await kept.of_channel("T1", "C1")
    assert here.place == ("a.test", 443)
    assert await kept.of_channel("T1", "C2") == []
    assert await kept.remove(here.id) == here
    assert await kept.remove(here.id) is None
    assert (await thread.grant())["granted"] == []


async def test_an_answer_takes_the_place_of_an_older_one(store: Store) -> None:
    thread = Thread(store, 1)
    await thread.begin()
    await thread.decide("a.test", "session")
    ask = (await store.asks.of_turn(thread.turn.id))[0].ask
    async with store.db.transaction() as connection:
        from sessions.egressstore import decide_within

        await decide_within(store.db, connection, ask, Decision("deny"), "U2", NOW)
    (only,) = await EgressStore(store.db).of_session(thread.session.id)
    assert (only.allowed, only.by) == (False, "U2")


async def test_what_tightens_stays_beside_what_people_say(store: Store) -> None:
    thread = Thread(store, 1)
    await thread.begin()
    await thread.decide("a.test", "session")
    grant = await thread.grant(tightened(Profile(), ["b.test"]))
    assert grant == {"within": [["b.test"]], "granted": ["a.test:443"], "refused": [], "asks": True}
    unasked = Grants(store.db, asked=False)
    origin = Origin(thread.session.id, "U1", "C1")
    assert (await unasked.part("w", origin, Profile())).grants == {}  # FLOW_EGRESS_ASK was taken away
