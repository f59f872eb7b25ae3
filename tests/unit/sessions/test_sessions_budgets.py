"""Limits: asked for before a turn begins, warned of, and enforced in the middle of one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from heart import Heart, Start
from scripted import Process, ScriptedHost
from waiting import until

from config.settings import LimitSettings
from sessions.asks import Ask, AskKind, AskState, Decision
from sessions.edits import Edited
from sessions.events import AskClosed, AskOpened
from sessions.modelusage import ModelUsage
from sessions.policy import Policy
from sessions.types import Done, Failed, Interrupted, Submitted
from worklets.events import Remark, Spent, TurnEnded, Usage


def end(process: Process, submitted: Submitted, cost: float) -> None:
    """The turn is over, and has cost so much."""
    process.running = None
    process.say(TurnEnded("done", (submitted.turn.id,), Usage(10, 1, cost=cost), 0.1))


def spend(process: Process, total: float) -> None:
    """An answer of the API has ended; the process has spent so much by now."""
    usage = {"costUSD": total, "costBasis": "list"}
    process.replies["get_usage"] = {"session": {"model_usage": {"a": usage}}}
    process.say(Spent(Usage(1, 1)))


async def costing(heart: Heart, text: str, cost: float, **changes: str) -> Submitted:
    submitted = await heart.ask(f"HOLD {text}", **changes)
    end(await heart.process(submitted), submitted, cost)
    await heart.settled(submitted)
    return submitted


def asks(heart: Heart, submitted: Submitted) -> Sequence[Ask]:
    return [event.ask for event in heart.events(submitted.turn.id) if isinstance(event, AskOpened)]


async def asked(heart: Heart, submitted: Submitted) -> Ask:
    """The open question about the turn."""
    return (await until(lambda: asks(heart, submitted), what="a question about money"))[-1]


def remarks(heart: Heart, submitted: Submitted) -> list[str]:
    return [event.text for event in heart.events(submitted.turn.id) if isinstance(event, Remark)]


async def test_without_limits_nobody_is_asked(heart: Heart) -> None:
    await costing(heart, "dear", 1_000.0)
    second = await heart.ask("again")
    assert await heart.settled(second) == Done()


@pytest.mark.parametrize("kind", ["session", "person_day", "channel_day", "day", "month"])
async def test_a_reached_limit_is_asked_about_before_the_next_turn(start: Start, kind: str) -> None:
    async with start(limits=LimitSettings(**{kind: 5.0})) as heart:
        await costing(heart, "one", 4.0)
        await costing(heart, "two", 1.25)
        third = await heart.ask("three")
        ask = await asked(heart, third)
        assert (ask.kind, ask.input["more"]) == (AskKind.BUDGET, 5.0)
        assert str(ask.input["text"]).startswith("$5.25 of $5.00 are spent")
        assert "Started" not in heart.kinds(third.turn.id)
        await heart.sessions.decide(ask.id, Decision("allow"), "UBOSS")
        assert await heart.settled(third) == Done()
        assert [type(one).__name__ for one in heart.events(third.turn.id)].count("AskOpened") == 1
        level = (await heart.sessions.budgets.levels(third.session, third.turn))[0]
        assert (level.limit, level.reached) == (10.25, False)


async def test_what_others_spend_is_not_a_persons(start: Start) -> None:
    async with start(limits=LimitSettings(person_day=1.0, session=1.0)) as heart:
        await costing(heart, "one", 2.0)
        other = await heart.ask("two", thread="1700000000.000900", user_id="U2")
        assert await heart.settled(other) == Done()


async def test_who_says_no_ends_the_turn(start: Start) -> None:
    async with start(limits=LimitSettings(session=1.0)) as heart:
        await costing(heart, "one", 2.0)
        second = await heart.ask("two")
        await heart.sessions.decide((await asked(heart, second)).id, Decision("deny"), "UBOSS")
        assert await heart.settled(second) == Interrupted("UBOSS")
        third = await heart.ask("three")
        assert (await asked(heart, third)).id != (await asked(heart, second)).id


async def test_a_turn_that_waits_for_money_can_be_stopped(start: Start) -> None:
    async with start(limits=LimitSettings(session=1.0)) as heart:
        await costing(heart, "one", 2.0)
        second = await heart.ask("two")
        ask = await asked(heart, second)
        await heart.sessions.halt(second.session.id, "U1")
        assert await heart.settled(second) == Interrupted("U1")
        assert heart.kinds(second.turn.id)[-2:] == ["AskClosed", "Settled"]
        closed = await heart.sessions.ask(ask.id)
        assert closed is not None
        assert closed.state is AskState.WITHDRAWN


@pytest.mark.parametrize("decided_while_away", [True, False])
async def test_the_question_outlives_the_program(start: Start, decided_while_away: bool) -> None:
    limits = LimitSettings(session=1.0)
    async with start(limits=limits) as heart:
        await costing(heart, "one", 2.0)
        second = await heart.ask("two")
        ask = await asked(heart, second)
        await heart.sessions.drain(0)
        if decided_while_away:
            await heart.sessions.store.asks.decide(ask.id, Decision("allow"), "UBOSS", heart.sessions.store.clock())
    async with start(limits=limits) as heart:
        heart.sessions.ring(second.session.id)
        if not decided_while_away:
            assert (await asked(heart, second)).id == ask.id
            await heart.sessions.decide(ask.id, Decision("allow"), "UBOSS")
        assert await heart.settled(second) == Done()
        assert len(await heart.sessions.asks(session_id=second.session.id)) == 0
        (level,) = await heart.sessions.budgets.levels(second.session, second.turn)
        assert level.limit == 3.0
        await until(lambda: any(isinstance(one, AskClosed) for one in heart.events(second.turn.id)))


async def test_a_running_turn_ends_at_the_hard_limit(start: Start) -> None:
    async with start(limits=LimitSettings(turn=1.0, hard=2.0)) as heart:
        submitted = await heart.ask("HOLD on")
        process = await heart.process(submitted)
        spend(process, 1.9)
        await until(lambda: remarks(heart, submitted))
        assert process.running
        spend(process, 2.1)
        outcome = await heart.settled(submitted)
        assert isinstance(outcome, Failed)
        assert "$2.10 of $1.00 are spent for this answer" in outcome.reason
        assert outcome.reason.endswith("Write again to go on.")
        again = await heart.ask("go on")
        assert await heart.settled(again) == Done()


async def test_the_hard_limit_counts_what_was_spent_before(start: Start) -> None:
    async with start(limits=LimitSettings(session=1.0, hard=2.0)) as heart:
        await costing(heart, "one", 0.9)
        second = await heart.ask("HOLD two")
        process = await heart.process(second)
        spend(process, 1.2)
        outcome = await heart.settled(second)
        assert isinstance(outcome, Failed)
        assert "$2.10 of $1.00 are spent in this thread" in outcome.reason
        assert "somebody has to allow it first" in outcome.reason


async def test_each_limit_is_warned_of_once(start: Start) -> None:
    async with start(limits=LimitSettings(session=10.0, warning=50.0)) as heart:
        first = await costing(heart, "one", 4.9)
        second = await heart.ask("HOLD two")
        process = await heart.process(second)
        spend(process, 0.0)
        spend(process, 0.2)
        await until(lambda: remarks(heart, second))
        spend(process, 0.3)
        end(process, second, 0.3)
        await heart.settled(second)
        assert remarks(heart, first) == []
        assert remarks(heart, second) == ["$5.10 of $10.00 are spent in this thread ($4.90 left)."]
        third = await heart.ask("three")
        await heart.settled(third)
        assert remarks(heart, third) == []


async def test_a_warning_is_told_again_after_a_restart_in_its_place(start: Start) -> None:
    limits = LimitSettings(session=1.0, hard=9.0)
    async with start(limits=limits) as heart:
        submitted = await heart.ask("HOLD on")
        process = await heart.process(submitted)
        spend(process, 0.85)
        await until(lambda: remarks(heart, submitted))
        await heart.sessions.drain(0)
    async with start(limits=limits) as heart:
        heart.sessions.ring(submitted.session.id)
        await until(lambda: remarks(heart, submitted))
        end(process, submitted, 0.85)
        assert await heart.settled(submitted) == Done()
        assert len(remarks(heart, submitted)) == 1
        assert heart.kinds(submitted.turn.id).count("Spent") == 1


async def test_a_process_that_cannot_tell_does_not_hinder(start: Start) -> None:
    async with start(limits=LimitSettings(turn=1.0)) as heart:
        submitted = await heart.ask("HOLD on")
        process = await heart.process(submitted)
        process.replies["get_usage"] = TimeoutError()  # type: ignore[assignment]
        process.say(Spent(Usage(1, 1)))
        unpriced = {"session": {"model_usage": {"own": {"costUSD": 99.0, "costBasis": "unknown"}}}}
        process.replies["get_usage"] = unpriced
        process.say(Spent(Usage(1, 1)))
        end(process, submitted, 0.2)
        assert await heart.settled(submitted) == Done()


async def test_a_process_that_cannot_tell_at_first_charges_nobody_for_what_was_before(
    start: Start, host: ScriptedHost
) -> None:
    host.on_start = lambda process: process.replies.update(get_usage=TimeoutError())
    async with start(limits=LimitSettings(turn=1.0, hard=2.0)) as heart:
        submitted = await heart.ask("HOLD on")
        process = await heart.process(submitted)
        await until(lambda: process.asked.count(("get_usage", {})) == 2)
        spend(process, 50.0)  # of the conversation before
        await until(lambda: process.asked.count(("get_usage", {})) == 3)
        spend(process, 50.9)
        await until(lambda: remarks(heart, submitted))
        assert remarks(heart, submitted) == ["$0.90 of $1.00 are spent for this answer ($0.10 left)."]
        end(process, submitted, 0.9)
        assert await heart.settled(submitted) == Done()


async def test_a_limit_that_was_raised_in_another_thread_frees_those_that_wait(start: Start) -> None:
    async with start(limits=LimitSettings(day=1.0)) as heart:
        await costing(heart, "one", 1.5)
        here = await heart.ask("here", thread="1700000000.000200")
        there = await heart.ask("there", thread="1700000000.000300")
        ask, other = await asked(heart, here), await asked(heart, there)
        await heart.sessions.decide(ask.id, Decision("allow"), "UBOSS")
        assert await heart.settled(here) == Done()
        heart.sessions.ring(there.session.id)
        assert await heart.settled(there) == Done()
        closed = await heart.sessions.ask(other.id)
        assert closed is not None
        assert closed.state is AskState.WITHDRAWN


async def test_a_preferred_mode_never_asks_less_than_the_settings(start: Start) -> None:
    async with start(policy=Policy(mode="ask")) as heart:
        options = heart.sessions.options
        await options.set("user", "U1", "mode", "auto", "U1")
        await options.set("user", "U2", "mode", "plan", "U2")
        await options.set("user", "U2", "model", "haiku", "U2")
        first = await heart.ask("HOLD one")
        second = await heart.ask("HOLD two", thread="1700000000.000200", user_id="U2")
        third = await heart.ask("HOLD three", thread="1700000000.000300", user_id="U2", mode="auto", model="opus")
        found = [(one.session.model, one.session.mode) for one in (first, second, third)]
        assert found == [(None, None), ("haiku", "plan"), ("opus", "auto")]


async def test_taking_a_question_about_money_back_leaves_claudes_own_open(start: Start) -> None:
    async with start(limits=LimitSettings(session=1.0, hard=9.0)) as heart:
        submitted = await heart.ask("HOLD on")
        process = await heart.process(submitted)
        process.ask("Bash", {"command": "touch x"})
        own = await asked(heart, submitted)
        spend(process, 1.5)
        await until(lambda: remarks(heart, submitted))
        process.exit(1)
        ask = await until(lambda: [one for one in asks(heart, submitted) if one.kind is AskKind.BUDGET])
        granted = await heart.sessions.budgets.reached(submitted.session, submitted.turn)
        await heart.sessions.budgets.grant(granted, own)  # in another thread, say
        heart.sessions.ring(submitted.session.id)
        again = await heart.process(submitted)
        closed, still = await heart.sessions.ask(ask[0].id), await heart.sessions.ask(own.id)
        assert closed is not None
        assert still is not None
        assert (closed.state, still.state) == (AskState.WITHDRAWN, AskState.OPEN)
        (told,) = again.contexts[-1][-1:]
        assert "Bash" in told
        assert "budget" not in told
        assert "more" not in told
        end(again, submitted, 0.1)
        await heart.settled(submitted)


@pytest.mark.parametrize("how", ["withdrawn", "deleted", "dropped"])
async def test_the_transaction_that_ends_a_waiting_turn_closes_its_question(start: Start, how: str) -> None:
    async with start(limits=LimitSettings(session=1.0)) as heart:
        await costing(heart, "one", 2.0)
        second = await heart.ask("two")
        ask = await asked(heart, second)
        await heart.sessions.drain(0)  # so nobody else closes it
        store = heart.sessions.store
        if how == "withdrawn":
            assert await store.edits.withdraw(second.turn.id, "U1", store.clock())
        elif how == "deleted":
            deleted = Edited(None, "1799999999.000000")
            assert await store.edits.amend("T1", "C1", second.turn.source_id, deleted, by="U1", now=store.clock())
        else:
            assert await store.interrupt_queued(second.session.id, "U1", sparing=None)
        closed = await heart.sessions.ask(ask.id)
        assert closed is not None
        assert closed.state is AskState.WITHDRAWN


# ---- what the gateway counted ------------------------------------------------------------------------------------


async def test_the_gateway_is_told_what_a_turn_may_still_cost(start: Start, host: ScriptedHost) -> None:
    async with start(limits=LimitSettings(session=2.0, turn=9.0, hard=1.5)) as heart:
        first = await costing(heart, "one", 0.5)
        second = await heart.ask("HOLD two")
        process = await heart.process(second)
        await until(lambda: host.allowed.get(first.session.worklet) == pytest.approx(2.5))
        spend(process, 0.0)
        spend(process, 1.0)
        await until(lambda: host.allowed[first.session.worklet] == pytest.approx(1.5))
        assert host.accounted[first.session.worklet] == (second.turn.id, pytest.approx(1.0))
        end(process, second, 1.0)
        await heart.settled(second)


async def test_without_a_limit_it_is_told_to_forget_one_that_was_removed(heart: Heart, host: ScriptedHost) -> None:
    first = await costing(heart, "one", 0.5)
    assert host.allowed == {first.session.worklet: None}


async def test_what_was_asked_past_claude_counts_for_limits(start: Start) -> None:
    async with start(limits=LimitSettings(session=2.0, hard=1.5)) as heart:
        first = await costing(heart, "one", 0.5)
        counted = {
            "id": "book:1", "worklet_id": first.session.id, "model": "opus", "input_tokens": 110, "output_tokens": 0,
            "cache_read_tokens": 0, "cache_write_tokens": 0, "hour_tokens": 0, "dollars": 2.2,
        }  # fmt: skip
        await ModelUsage(heart.db, heart.sessions.store.clock).note([counted])
        second = await heart.ask("HOLD two")
        assert "$2.20 of $2.00" in (await asked(heart, second)).input["text"]
