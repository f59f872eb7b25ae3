"""The account, the grants and what waits to be let in, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

from bot.held import Held, HeldStore
from config.settings import LimitSettings
from sessions.asks import Ask, AskId, AskKind, AskState
from sessions.budgets import Budgets
from sessions.costs import Costs, Spending
from sessions.db import Database
from sessions.store import Store
from sessions.transcript import Transcript
from sessions.types import Prompt, Submitted, ThreadId
from worklets.events import Position, Spent, TurnEnded, Usage

NOW = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
DAY = "2026-03-31"


async def begun(db: Database, number: int = 1, user_id: str = "U1") -> Submitted:
    ts = f"17000000{number:02}.000100"
    stored = await Store(db, lambda: NOW).submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, user_id, "do it"))
    assert stored is not None
    return stored.submitted


async def say(db: Database, submitted: Submitted, seq: int, *events: Spent | TurnEnded, epoch: str = "e1") -> None:
    store = Store(db, lambda: NOW)
    got = await store.leases.acquire(submitted.session.id, "me", 30)
    assert got is not None
    told = [(submitted.turn.id, event) for event in events]
    await Transcript(db, lambda: NOW).append(got[0], told, at=Position(epoch, seq), position=None)


def ended(submitted: Submitted, usage: Usage) -> TurnEnded:
    return TurnEnded("done", (submitted.turn.id,), usage, 0.1)


async def test_an_end_takes_the_place_of_what_was_provisional(db: Database) -> None:
    submitted, costs = await begun(db), Costs(db)
    await say(db, submitted, 1, Spent(Usage(10, 1)))
    await say(db, submitted, 2, Spent(Usage(20, 2)))
    assert await costs.of_turn(submitted.turn.id) == Spending(1, 30, 3, unpriced=33)
    for dollars in (0.1, 0.2):
        await costs.metered(submitted.session, submitted.turn.id, "e1", base=1.0, cost=dollars, now=NOW)
    assert await costs.of_turn(submitted.turn.id) == Spending(1, 30, 3, cost=0.2)
    assert await costs.base(submitted.session, submitted.turn.id, "e1") == 1.0
    for _ in range(2):
        await say(db, submitted, 3, ended(submitted, Usage(40, 4, 5, 6, 0.5)))
        await say(db, submitted, 2, Spent(Usage(20, 2)))
    await costs.metered(submitted.session, submitted.turn.id, "e1", base=1.0, cost=9.0, now=NOW)
    assert await costs.of_turn(submitted.turn.id) == Spending(1, 40, 4, 5, 6, 0.5)


async def test_sums_by_whatever_is_asked_for(db: Database) -> None:
    first, second = await begun(db), await begun(db, 2, "U2")
    costs = Costs(db)
    await say(db, first, 1, ended(first, Usage(1, 1, cost=1.0)))
    await say(db, second, 1, ended(second, Usage(2, 2)))
    assert (await costs.of_days(DAY, DAY)) == Spending(2, 3, 3, cost=1.0, unpriced=4)
    assert [(key, one.cost) for key, one in await costs.by("person", DAY, DAY)] == [("U1", 1.0), ("U2", 0.0)]
    assert [(key, one.turns) for key, one in await costs.by("channel", "2026-03-01", DAY)] == [("C1", 2)]
    assert await costs.by("day", "2026-04-01", "2026-04-30") == []
    assert await costs.of_person("U3", DAY, DAY) == Spending()


async def test_grants_and_warnings_count_once(db: Database) -> None:
    submitted = await begun(db)
    budgets = Budgets(db, LimitSettings(session=1.0, month=50.0), lambda: NOW)
    await say(db, submitted, 1, ended(submitted, Usage(1, 1, cost=1.5)))
    level = await budgets.reached(submitted.session, submitted.turn)
    assert level is not None
    assert (level.limit, level.spent, level.exceeded) == (1.0, 1.5, True)
    assert [await budgets.warned(level, submitted.turn.id) for _ in range(2)] == [True, False]
    for _ in range(2):
        await budgets.grant(level, allowed(submitted))
    assert await budgets.reached(submitted.session, submitted.turn) is None
    raised = (await budgets.levels(submitted.session, submitted.turn))[0]
    assert (raised.limit, raised.exceeded) == (2.5, False)
    assert raised.name != level.name


def allowed(submitted: Submitted) -> Ask:
    return Ask(
        id=AskId("a1"),
        session_id=submitted.session.id,
        turn_id=submitted.turn.id,
        kind=AskKind.BUDGET,
        tool="",
        tool_id="",
        input={},
        suggestions=(),
        state=AskState.ALLOWED,
        asked_at=NOW,
        expires_at=None,
        decided_by="UBOSS",
    )


async def test_what_is_held_keeps_its_order(db: Database) -> None:
    store = HeldStore(db)
    first = Held("m1", "U1", "C1", "message", {"text": "\ud83d half an emoji"}, NOW, "1.1", "U1")
    later = NOW.replace(second=30)
    for one in (first, first, Held("m2", "U2", "C1", "message", {}, later, "1.1", "U1")):
        await store.keep(one)
    await store.keep(Held("c1", "U3", None, "command", {"text": "hello"}, NOW.replace(second=10)))
    assert [one.id for one in await store.behind("U1")] == ["m1", "m2"]
    assert await store.people() == ["U1", "U3"]
    assert (await store.first_in("C1", "1.1"), await store.first_in("C1", "2.2")) == ("U1", None)
    (command,) = await store.behind("U3")
    assert (command.channel, command.body, command.thread_ts) == (None, {"text": "hello"}, None)
    assert [await store.drop("m1") for _ in range(2)] == [True, False]
    assert [one.id for one in await store.behind("U1")] == ["m2"]
