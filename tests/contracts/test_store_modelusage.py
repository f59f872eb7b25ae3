"""What the gateway counted beside what processes told, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from waiting import until

from sessions.db import Database
from sessions.modelusage import Bookkeeper, ModelUsage, model_usage
from sessions.store import Store
from sessions.tables import turns
from sessions.transcript import Transcript
from sessions.types import Prompt, Submitted, ThreadId
from worklets.errors import WorkletError
from worklets.events import Position, TurnEnded, Usage
from worklets.gatewaymeter import Metered

NOW = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
DAY = "2026-03-31"


async def begun(db: Database, number: int = 1, channel: str = "C1") -> Submitted:
    ts = f"17000000{number:02}.000100"
    prompt = Prompt(ThreadId("T1", channel, ts), f"{channel}:{ts}", ts, "U1", "do it")
    stored = await Store(db, lambda: NOW).submit(prompt)
    assert stored is not None
    return stored.submitted


async def told(db: Database, submitted: Submitted, used: Usage) -> None:
    """Claude's process says what the turn used."""
    got = await Store(db, lambda: NOW).leases.acquire(submitted.session.id, "me", 30)
    assert got is not None
    event = TurnEnded("done", (submitted.turn.id,), used, 0.1)
    await Transcript(db, lambda: NOW).append(got[0], [(submitted.turn.id, event)], at=Position("e", 1), position=None)


def row(number: int, submitted: Submitted | None, model: str = "sonnet", **tokens: int) -> dict[str, Any]:
    used = Metered(model, **tokens)
    worklet_id = submitted.session.id if submitted else None
    return {"id": f"book:{number}", "number": number, "worklet_id": worklet_id, **asdict(used), "dollars": used.dollars}


async def test_what_no_process_told_of_counts(db: Database) -> None:
    usage, one, other = ModelUsage(db, lambda: NOW), await begun(db), await begun(db, 2, "C2")
    assert await usage.beyond(DAY, DAY) == 0
    million = row(1, one, input_tokens=1_000_000)  # $3
    strange = row(3, None, input_tokens=9_000_000)
    await usage.note([million, row(2, other, input_tokens=5_000_000), strange])
    await usage.note([million])  # again
    await usage.note([million | {"id": "another:1"}])
    await told(db, other, Usage(4_990_000, cost=14.97))  # the rest is an answer that was cut off
    assert await usage.beyond(DAY, DAY, session_id=one.session.id) == pytest.approx(6.0)
    assert await usage.beyond(DAY, DAY, session_id=other.session.id) == 0
    await told(db, one, Usage(1_500_000, cost=4.5))
    assert await usage.beyond(DAY, DAY, session_id=one.session.id) == pytest.approx(1.5)
    assert await usage.beyond(DAY, DAY, channel="C1") == pytest.approx(1.5)
    assert await usage.beyond(DAY, DAY) == pytest.approx(1.53)
    assert await usage.beyond("2026-04-01", "2026-04-30") == 0


CACHED = {"cache_read_tokens": 20_000_000}  # of Sonnet, $6
DEAR = {"model": "claude-opus-4-1", "output_tokens": 390_000}  # $29.25


@pytest.mark.parametrize(
    ("account", "dollars"),
    [
        (Usage(cache_read_tokens=20_000_000, cost=6.0), 29.25),
        (Usage(cache_read_tokens=20_000_000, output_tokens=390_000, cost=35.25), 0.0),
        (Usage(cache_read_tokens=20_000_000, cost=60.0), 29.25),  # dearer than by the list: that hides nothing
        (Usage(10**9, 10**9, 10**9, 10**9, cost=0.0), 35.25),  # forged
        (Usage(10**9, 10**9, 10**9, 10**9), 35.25),
        (Usage(10**9, 10**9, 10**9, 10**9, cost=6.0), 29.25),
    ],
)
async def test_dear_tokens_are_not_hidden_among_cheap_ones(db: Database, account: Usage, dollars: float) -> None:
    usage, one = ModelUsage(db, lambda: NOW), await begun(db)
    await usage.note([row(1, one, **CACHED), row(2, one, **DEAR)])  # type: ignore[arg-type]
    await told(db, one, account)
    assert await usage.beyond(DAY, DAY) == pytest.approx(dollars)


async def test_a_model_without_a_price_counts_where_no_process_told_of_its_tokens(db: Database) -> None:
    usage, one = ModelUsage(db, lambda: NOW), await begun(db)
    await usage.note([row(1, one, "our own", input_tokens=1_000, output_tokens=10)])
    await told(db, one, Usage(1_000, 10))
    assert await usage.beyond(DAY, DAY) == 0
    await usage.note([row(2, one, "our own", output_tokens=1_000_000)])
    assert await usage.beyond(DAY, DAY) == pytest.approx(75.0)


async def test_of_a_turn_that_runs_nothing_is_compared(db: Database) -> None:
    usage, one = ModelUsage(db, lambda: NOW), await begun(db)
    running = sa.update(turns).where(turns.c.id == one.turn.id)
    async with db.transaction() as connection:
        await connection.execute(running.values(started_at=NOW))
    await usage.note([row(1, one, input_tokens=1_000_000)])
    assert await usage.beyond(DAY, DAY) == 0
    async with db.transaction() as connection:
        await connection.execute(running.values(ended_at=NOW))
    assert await usage.beyond(DAY, DAY) == pytest.approx(3.0)


async def test_a_bookkeeper_writes_all_down_once_and_goes_on_after_a_failure(db: Database) -> None:
    one = await begun(db)
    books = {"a": [row(number, one, input_tokens=10) | {"id": f"a:{number}"} for number in range(1, 6)]}
    asked: list[tuple[str, int]] = []
    failing: Exception | None = WorkletError()

    async def fetch(since: str, after: int) -> tuple[str, list[dict[str, Any]]]:
        asked.append((since, after))
        if failing is not None:
            raise failing
        ((book, rows),) = books.items()
        return book, [found for found in rows if since != book or found["number"] > after][:2]

    async def numbers() -> list[str]:
        async with db.read() as connection:
            return [found.id for found in await connection.execute(sa.select(model_usage.c.id).order_by("id"))]

    keeper = Bookkeeper(ModelUsage(db, lambda: NOW), fetch, every=3600)
    running = asyncio.create_task(keeper.run())
    try:
        keeper.ring()
        await until(lambda: asked)
        failing = KeyError("of a row that nobody expects")
        keeper.ring()
        await until(lambda: len(asked) == 2)
        failing = None
        keeper.ring()

        async def all_of(*expected: str) -> bool:
            return await numbers() == list(expected)

        await until(lambda: all_of("a:1", "a:2", "a:3", "a:4", "a:5"))
        await until(lambda: asked[-1] == ("a", 5))
        books.clear()
        books["b"] = [row(1, one, input_tokens=10) | {"id": "b:1"}]  # another process: its numbers begin anew
        keeper.ring()
        await until(lambda: all_of("a:1", "a:2", "a:3", "a:4", "a:5", "b:1"))
        await until(lambda: asked[-1] == ("b", 1))
    finally:
        running.cancel()
        await asyncio.wait([running])
