"""The account: each dollar once, whatever is told again, stopped or lost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from heart import Heart, Start
from waiting import until

from sessions.costs import Costs, Spending, described, dollars, month_of
from sessions.types import Done, Interrupted
from worklets.events import Spent, TurnEnded, Usage

PRICED = Usage(100, 20, 5, 3, 0.25)


def ended(turn_id: str, usage: Usage, outcome: str = "done") -> TurnEnded:
    return TurnEnded(outcome, (turn_id,), usage, 0.5)  # type: ignore[arg-type]


def today(heart: Heart) -> str:
    return heart.sessions.store.clock().date().isoformat()


async def test_a_turns_end_is_written_down_once_and_summed_for_all(heart: Heart) -> None:
    costs, day = Costs(heart.db), today(heart)
    first = await heart.ask("HOLD one")
    (await heart.process(first)).say(ended(first.turn.id, PRICED))
    await heart.settled(first)
    second = await heart.ask("HOLD two", user_id="U2")
    (await heart.process(second)).say(ended(second.turn.id, Usage(10, 2, 0, 0, 0.5)))
    await heart.settled(second)
    assert await costs.of_turn(first.turn.id) == Spending(1, 100, 20, 5, 3, 0.25)
    assert await costs.of_session(first.session.id) == Spending(2, 110, 22, 5, 3, 0.75)
    assert (await costs.of_person("U2", day, day)).cost == 0.5
    assert (await costs.of_channel("C1", day, day)).cost == (await costs.of_days(day, day)).cost == 0.75
    assert await costs.of_days("2020-01-01", "2020-12-31") == Spending()
    assert [key for key, _ in await costs.by("person", day, day)] == ["U2", "U1"]
    assert [(key, one.turns) for key, one in await costs.by("channel", day, day)] == [("C1", 2)]
    assert [key for key, _ in await costs.by("day", day, day)] == [day]


async def test_what_is_told_again_after_a_restart_counts_once(start: Start) -> None:
    async with start() as heart:
        asked = await heart.ask("HOLD on")
        process = await heart.process(asked)
        process.say(Spent(Usage(7, 1)))
        await heart.sessions.drain(0)
    process.say(ended(asked.turn.id, PRICED))
    async with start() as heart:
        heart.sessions.ring(asked.session.id)
        assert await heart.settled(asked) == Done()
        assert await Costs(heart.db).of_turn(asked.turn.id) == Spending(1, 100, 20, 5, 3, 0.25)


async def test_without_a_price_there_are_tokens_and_never_0_dollars(heart: Heart) -> None:
    asked = await heart.ask("HOLD on")
    (await heart.process(asked)).say(ended(asked.turn.id, Usage(1000, 200)))
    await heart.settled(asked)
    spent = await Costs(heart.db).of_turn(asked.turn.id)
    assert (spent.cost, spent.unpriced) == (0.0, 1200)
    assert described(spent) == "1,200 tokens of unknown price"


async def test_a_stopped_turn_costs_what_the_cli_says(heart: Heart) -> None:
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.stubborn = True  # its own end comes from here
    await heart.sessions.interrupt(asked.session.id, "U1")
    process.say(Spent(Usage(80, 10)), ended(asked.turn.id, PRICED, "interrupted"))
    assert await heart.settled(asked) == Interrupted("U1")
    assert (await Costs(heart.db).of_turn(asked.turn.id)).cost == 0.25


async def test_a_lost_process_has_spent_what_it_had_told(heart: Heart) -> None:
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(Spent(Usage(80, 10)))
    process.say(Spent(Usage(90, 20)))
    process.die()
    again = await heart.process(asked)
    assert again is not process
    again.say(ended(asked.turn.id, PRICED))
    assert await heart.settled(asked) == Done()
    spent = await Costs(heart.db).of_turn(asked.turn.id)
    assert (spent.cost, spent.unpriced, spent.input_tokens) == (0.25, 200, 270)
    assert described(spent) == "$0.25 and 200 tokens of unknown price"


async def test_the_meters_dollars_stay_with_a_lost_process_and_go_with_an_ended_one(heart: Heart) -> None:
    costs = Costs(heart.db)
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(Spent(Usage(80, 10)))

    async def metered(epoch: str, cost: float) -> None:
        now = heart.sessions.store.clock()
        await costs.metered(asked.session, asked.turn.id, epoch, base=1.0, cost=cost, now=now)

    await until(lambda: "Spent" in heart.kinds(asked.turn.id))
    await metered(process.epoch, 0.1)
    await metered(process.epoch, 0.2)
    spent = await costs.of_turn(asked.turn.id)
    assert (spent.cost, spent.unpriced) == (0.2, 0)
    assert await costs.base(asked.session, asked.turn.id, process.epoch) == 1.0
    process.die()
    again = await heart.process(asked)
    await metered(again.epoch, 0.05)
    again.say(ended(asked.turn.id, PRICED))
    await heart.settled(asked)
    await metered(again.epoch, 0.9)  # it comes too late
    assert (await costs.of_turn(asked.turn.id)).cost == pytest.approx(0.45)


async def test_work_that_nobody_asked_for_is_the_sessions(heart: Heart) -> None:
    asked = await heart.ask("hello")
    await heart.settled(asked)
    heart.host.processes[asked.session.worklet].say(TurnEnded("done", ("another",), PRICED, 0.1))
    costs = Costs(heart.db)

    async def counted() -> bool:
        return (await costs.of_session(asked.session.id)).cost == 0.25

    await until(counted)
    assert (await costs.of_turn(asked.turn.id)).cost == 0.0


def test_months_and_dollars_for_people() -> None:
    assert month_of(datetime(2026, 12, 31, 23, tzinfo=UTC)) == ("2026-12-01", "2026-12-31")
    assert month_of(datetime(2024, 2, 1, tzinfo=UTC)) == ("2024-02-01", "2024-02-29")
    amounts = (0.0, 0.00001, 0.0026, 4.8, 1234.5)
    assert [dollars(one) for one in amounts] == ["$0.00", "under $0.0001", "$0.0026", "$4.80", "$1,234.50"]
    assert described(Spending()) == "$0.00"
