"""Limits of the machine that end a turn."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from heart import Heart, Start
from waiting import until

from sessions.asks import Ask, AskId, AskKind, AskState, Decision
from sessions.atwork import DEEPEST, MOST, Calls
from sessions.events import AskOpened, Preparing
from sessions.tables import turns
from sessions.transcript import Entry
from sessions.turnclock import TurnClock, worked
from sessions.types import Done, Failed, SessionId, SessionState, Submitted, TurnId
from sessions.worktimes import WorkTimes
from worklets.events import DiskFull, Remark, ToolFinished, ToolStarted

GIB = 1 << 30
ASK = Ask(
    AskId("a"),
    SessionId("s"),
    TurnId("t"),
    AskKind.PERMISSION,
    "Bash",
    "u",
    {},
    (),
    AskState.OPEN,
    datetime.now(UTC),
    None,
)


async def test_a_full_disk_ends_the_turn_and_says_what_to_do(heart: Heart) -> None:
    submitted = await heart.ask("HOLD")
    process = await heart.process(submitted)
    process.say(Remark("8.5 GiB of 10 GiB are used in this thread's workspace. At 10 GiB I have to stop."))
    process.say(DiskFull(11 * GIB, 10 * GIB))
    process.exit(-15)
    outcome = await heart.settled(submitted)
    assert isinstance(outcome, Failed)
    assert "disk is full (11 GiB of 10 GiB). Write again and have Claude delete" in outcome.reason
    assert "FLOW_WORKLET_DISK" in outcome.reason
    assert Preparing("resuming") not in heart.events(submitted.turn.id), "another process would fill it further"
    await heart.in_state(submitted, SessionState.ASLEEP)
    assert await heart.settled(await heart.ask("again")) == Done()


async def test_a_disk_that_could_not_be_measured_is_not_called_full(heart: Heart) -> None:
    submitted = await heart.ask("HOLD")
    process = await heart.process(submitted)
    process.say(DiskFull(12 * GIB, 10 * GIB, measured=False))
    process.exit(-15)
    outcome = await heart.settled(submitted)
    assert isinstance(outcome, Failed)
    assert "left no room to measure its disk, which may have come to 12 GiB of 10 GiB. Write again" in outcome.reason


async def test_a_disk_that_was_filled_while_nobody_asked_ends_the_worklet(heart: Heart) -> None:
    submitted = await heart.ask("hello")
    assert await heart.settled(submitted) == Done()
    process = heart.host.processes[submitted.session.worklet]
    process.say(DiskFull(11 * GIB, 10 * GIB))
    process.exit(-15)
    await heart.in_state(submitted, SessionState.ASLEEP)
    await until(lambda: submitted.session.worklet in heart.host.closed)
    assert await heart.settled(await heart.ask("again")) == Done()


async def test_a_turn_that_works_for_too_long_is_ended(start: Start) -> None:
    async with start(turn_timeout=timedelta(seconds=3)) as heart:
        outcome = await heart.settled(await heart.ask("HOLD"))
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("This took longer than 3.0s, so I had to stop here. Write again to go on;")

        async def again() -> bool:
            """On a busy machine even a short turn may take too long."""
            return await heart.settled(await heart.ask("again")) == Done()

        await until(again, what="a turn in time: the next one has its own")


async def test_what_was_worked_counts_over_restarts_and_the_time_between_does_not(start: Start) -> None:
    limit = timedelta(hours=1)
    async with start(turn_timeout=limit) as heart:
        submitted = await heart.ask("HOLD")
        await heart.process(submitted)
        await heart.sessions.drain(0)
        times = WorkTimes(heart.db)
        assert (await times.of(submitted.session.id, submitted.turn.id)).turn > 0, "kept when Flow goes away"
        long_ago = heart.sessions.store.clock() - timedelta(days=2)
        async with heart.db.transaction() as connection:
            changed = sa.update(turns).where(turns.c.id == submitted.turn.id).values(started_at=long_ago)
            await connection.execute(changed)
    async with start(turn_timeout=limit) as later:
        await later.reaper.recover()
        await later.process(submitted)
        # Which it works on still, though it began two days ago. It has its hour now:
        await later.sessions.drain(0)
        await WorkTimes(later.db).keep(submitted.session.id, submitted.turn.id, 3600.0)
    async with start(turn_timeout=limit) as last:
        await last.reaper.recover()
        outcome = await last.settled(submitted.turn.id)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("This took longer than 1h, so I had to stop here")


async def test_the_time_of_people_does_not_count(start: Start) -> None:
    async with start(turn_timeout=timedelta(hours=1)) as heart:
        submitted = await heart.ask("HOLD")
        process = await heart.process(submitted)
        process.ask("Bash", {"command": "make"})
        await until(lambda: [e for e in heart.events(submitted.turn.id) if isinstance(e, AskOpened)])
        await heart.sessions.drain(0)
        # It has had its time, but people are asked: it is not they who took too long.
        await WorkTimes(heart.db).keep(submitted.session.id, submitted.turn.id, 3601.0)
    async with start(turn_timeout=timedelta(hours=1)) as later:
        (asked,) = await later.sessions.store.asks.of_turn(submitted.turn.id)
        await later.reaper.recover()
        clock = await until(lambda: _clock(later, submitted))
        await until(lambda: clock._is_read, what="the first look")
        assert clock.exceeded is None
        assert later.outcomes(submitted.turn.id) == []
        await later.sessions.decide(asked.ask.id, Decision("allow"), "U1")
        outcome = await later.settled(submitted.turn.id)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("This took longer than 1h")


async def test_a_limit_of_time_is_not_lost_when_the_time_cannot_be_looked_at(start: Start) -> None:
    async with start(turn_timeout=timedelta(seconds=0.2)) as heart:
        await _run(heart, "alter table worked rename to elsewhere")
        submitted = await heart.ask("HOLD")
        await heart.process(submitted)
        clock = await until(lambda: _clock(heart, submitted))
        await until(lambda: clock._failures >= 2, what="two looks that failed")
        assert heart.outcomes(submitted.turn.id) == []
        await _run(heart, "alter table elsewhere rename to worked")
        outcome = await heart.settled(submitted)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("This took longer than 0.2s")


async def _run(heart: Heart, statement: str) -> None:
    async with heart.db.transaction() as connection:
        await connection.exec_driver_sql(statement)


async def test_short_turns_are_counted_too(start: Start) -> None:
    async with start(session_work=timedelta(hours=8)) as heart:
        submitted = await heart.ask("HOLD")
        process = await heart.process(submitted)
        clock = await until(lambda: _clock(heart, submitted))
        await until(lambda: time.monotonic() - clock._ticked > 0.3, what="some work after the last look")
        process.end()
        assert await heart.settled(submitted) == Done()
        assert (await WorkTimes(heart.db).of(submitted.session.id, TurnId("another"))).others > 0.3


async def test_a_thread_that_has_worked_for_as_long_as_it_may_is_told(start: Start) -> None:
    async with start(session_work=timedelta(hours=8)) as heart:
        submitted = await heart.ask("HOLD")
        process = await heart.process(submitted)
        process.end()
        assert await heart.settled(submitted) == Done()
        await WorkTimes(heart.db).keep(submitted.session.id, submitted.turn.id, 8 * 3600.0)
        second = await heart.ask("and now")
        outcome = await heart.settled(second)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("I have worked in this thread for 8h, which is all that a thread may have.")
        assert "FLOW_SESSION_WORK" in outcome.reason
        assert second.turn.id not in process.volume, "it was not begun"
        assert await heart.settled(await heart.ask("hello", thread="1700000099.000100")) == Done(), "others go on"


async def test_a_turn_is_ended_when_its_thread_has_no_time_left(start: Start) -> None:
    async with start(session_work=timedelta(hours=8)) as heart:
        first = await heart.ask("hello")
        assert await heart.settled(first) == Done()
        await WorkTimes(heart.db).keep(first.session.id, first.turn.id, 8 * 3600.0 - 0.3)
        outcome = await heart.settled(await heart.ask("HOLD"))
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("I have worked in this thread for 8h")


def _clock(heart: Heart, submitted: Submitted) -> TurnClock | None:
    """Of the run of that turn."""
    live = heart.sessions._tasks.get(submitted.session.id)
    return live._run._clock if live is not None and live._run is not None else None


def at(second: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def ask(asked: int, decided: int | None, tool_id: str = "u", kind: AskKind = AskKind.PERMISSION) -> Ask:
    state = AskState.OPEN if decided is None else AskState.ALLOWED
    when = None if decided is None else at(decided)
    return replace(
        ASK, id=AskId(f"{asked}"), state=state, asked_at=at(asked), decided_at=when, tool_id=tool_id, kind=kind
    )


def test_asks_that_overlap_are_counted_once() -> None:
    def seconds(since: int, *asks: Ask) -> float:
        return worked(at(since), at(100), asks, Calls()).total_seconds()

    assert seconds(0) == 100
    assert seconds(0, ask(10, 20), ask(15, 30), ask(12, 13)) == 80
    assert seconds(50, ask(10, 60), ask(90, None)) == 30
    assert seconds(0, ask(0, None), ask(20, 40)) == 0


def calls(*told: tuple[int, str, ToolStarted | ToolFinished]) -> Calls:
    made = Calls()
    entries = (Entry(n, TurnId("t"), event, at(second), epoch) for n, (second, epoch, event) in enumerate(told, 1))
    made.note(entries, at(0))
    return made


def began(second: int, tool_id: str, name: str = "Bash", parent: str | None = None) -> tuple[int, str, ToolStarted]:
    return second, "e", ToolStarted(tool_id, name, {}, parent)


def ended(second: int, tool_id: str) -> tuple[int, str, ToolFinished]:
    return second, "e", ToolFinished(tool_id, True)


ASKS = [ask(10, 60, "x")]  # half of the time
ALONE = (began(5, "x"), ended(70, "x"))
TWO_AGENTS = (began(1, "A", "Task"), began(1, "B", "Agent"), began(5, "x", parent="A"))


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        pytest.param(ALONE, 50, id="nothing else works"),
        pytest.param((began(2, "y"), *ALONE), 100, id="another command runs on"),
        pytest.param((began(2, "y"), began(5, "x"), ended(30, "y")), 70, id="another command runs for a while"),
        pytest.param((began(1, "A", "Task"), began(5, "x", parent="A")), 50, id="a sub-agent waits for what it asked"),
        pytest.param(TWO_AGENTS, 100, id="another sub-agent thinks"),
        pytest.param((*TWO_AGENTS, ended(40, "B")), 80, id="until it has ended"),
        pytest.param(
            (began(1, "A", "Task"), began(5, "x", parent="A"), began(5, "y", parent="A"), ended(20, "y")), 60,
            id="its sub-agent's other command",
        ),
        pytest.param(
            (began(1, "A", "Task"), began(2, "B", "Task", "A"), began(5, "x", parent="B")), 50,
            id="a sub-agent of a sub-agent",
        ),
        pytest.param(
            (began(1, "A", "Task"), ended(2, "A"), began(5, "x", parent="A")), 100,
            id="a sub-agent in the background: Claude itself goes on",
        ),
        pytest.param(
            (began(2, "y"), (8, "another", ToolStarted("z", "Read")), began(9, "x"), (9, "e", ToolFinished("z", True))),
            50, id="what a lost process had begun",
        ),
        pytest.param(((4, "remarks-t", ToolStarted("y", "Bash")), *ALONE), 50, id="Flow's own remarks are no calls"),
        pytest.param((began(1, "A", "Task", "A"), began(5, "x", parent="A")), 50, id="one that is its own parent"),
    ],
)  # fmt: skip
def test_the_clock_runs_while_anything_works(told: tuple[Any, ...], seconds: float) -> None:
    assert worked(at(0), at(100), ASKS, calls(*told)).total_seconds() == seconds


def test_while_money_is_asked_for_nothing_works() -> None:
    assert worked(at(0), at(100), [ask(10, 60, "b", AskKind.BUDGET)], calls(began(1, "y"))).total_seconds() == 50


def chain(depth: int) -> Calls:
    """Sub-agents, each started by the one before; the innermost has called `x`."""
    agents = (began(1, f"a{n}", "Task", f"a{n - 1}" if n else None) for n in range(depth))
    return calls(*agents, began(5, "x", parent=f"a{depth - 1}"))


def test_whoever_says_that_it_nests_deeper_than_anybody_works() -> None:
    assert worked(at(0), at(100), ASKS, chain(DEEPEST)).total_seconds() == 50
    assert worked(at(0), at(100), ASKS, chain(DEEPEST + 1)).total_seconds() == 100
    assert worked(at(0), at(100), ASKS, chain(MOST // 2)).total_seconds() == 100


def test_a_turn_that_says_it_calls_more_than_anybody_works() -> None:
    made = chain(MOST)
    assert worked(at(0), at(100), ASKS, made).total_seconds() == 100
    made.note([Entry(9_999, TurnId("t"), ToolFinished("x", True), at(50), "e")], at(0))
    assert made.cursor == 9_999
    assert worked(at(0), at(100), [*ASKS, ask(10, 60, "b", AskKind.BUDGET)], made).total_seconds() == 50


def test_calls_that_have_ended_are_not_looked_through_for_ever() -> None:
    earlier = (one for n in range(3 * MOST) for one in (began(1, f"c{n}"), ended(2, f"c{n}")))
    made = Calls()
    told = [*earlier, began(2, "A", "Task"), ended(3, "A"), began(5, "x", parent="A")]
    made.note([Entry(n, TurnId("t"), event, at(s), epoch) for n, (s, epoch, event) in enumerate(told, 1)], at(4))
    assert worked(at(5), at(100), ASKS, made).total_seconds() == 95, "A is in the background, and is known still"
    made.note([Entry(99_999, TurnId("t"), ToolStarted("y", "Bash", {}), at(6), "new process")], at(4))
    assert worked(at(5), at(100), [ask(10, 60, "y")], made).total_seconds() == 45


async def test_a_turn_whose_sub_agent_asks_is_ended_by_what_the_others_work(start: Start) -> None:
    async with start(turn_timeout=timedelta(seconds=1)) as heart:
        submitted = await heart.ask("HOLD")
        process = await heart.process(submitted)
        process.say(ToolStarted("y", "Bash", {"command": "make"}))
        process.ask("Bash", {"command": "make test"})
        outcome = await heart.settled(submitted, 30)
        assert isinstance(outcome, Failed)
        assert outcome.reason.startswith("This took longer than 1.0s")
