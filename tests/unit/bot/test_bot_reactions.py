"""Reactions on asking messages: the state of the turn, few calls, no leftovers. Time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schema
from slack_sdk.errors import SlackApiError
from waiting import until

from bot.reactions import ASKING, DONE, FAILED, RECEIVED, WAITING, WORKING, Reactions
from bot.store import ReactionStore
from bot.tasks import Tasks
from sessions.asks import Ask, AskId, AskKind, AskState
from sessions.db import Database, open_database
from sessions.events import AskClosed, AskOpened, Preparing, Queued, Released, Settled, Started, WaitingForPlace
from sessions.store import Store
from sessions.types import Cut, Done, Failed, Interrupted, Prompt, Session, ThreadId, Turn

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Slack:
    """The two methods, and what stands on each message because of them."""

    def __init__(self) -> None:
        self.shown: dict[str, list[str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.fails: list[Exception] = []

    def on(self, ts: str) -> list[str]:
        return self.shown.setdefault(ts, [])

    async def reactions_add(self, *, channel: str, timestamp: str, name: str) -> None:
        self._called(channel, "add", name)
        if name in self.on(timestamp):
            raise refused("already_reacted")
        self.on(timestamp).append(name)

    async def reactions_remove(self, *, channel: str, timestamp: str, name: str) -> None:
        self._called(channel, "remove", name)
        if name not in self.on(timestamp):
            raise refused("no_reaction")
        self.on(timestamp).remove(name)

    def _called(self, channel: str, method: str, name: str) -> None:
        assert channel == "C1"
        self.calls.append((method, name))
        if self.fails:
            raise self.fails.pop(0)


def refused(error: str) -> SlackApiError:
    return SlackApiError("refused", {"ok": False, "error": error})


class Clock:
    """Stands still until the test moves it on; then the reactions are made to look."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, db: Database) -> None:
        self.slack, self.clock, self.db = Slack(), Clock(), db
        self.tasks = Tasks("test")
        self.store = Store(db, lambda: NOW)
        self.reactions = self.start()

    def start(self, *, on: bool = True, age: float = 0.0) -> Reactions:
        """`age`: seconds since the turns of the test were stored."""
        now = lambda: NOW.timestamp() + age  # noqa: E731
        store = ReactionStore(self.db)
        return Reactions(self.slack, self.tasks, store, now, on=on, clock=self.clock)  # type: ignore[arg-type]

    async def asked(self, ts: str = "1.000000") -> tuple[Session, Turn]:
        stored = await self.store.submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "help"))
        assert stored is not None
        return stored.submitted.session, stored.submitted.turn

    async def later(self, seconds: float = 1.0, *, when: Callable[[], Any] = lambda: True) -> None:
        """Time goes by, and what was due is done."""
        self.clock.now += seconds
        self.reactions._ring()
        await until(lambda: self._look() and when())

    def _look(self) -> bool:
        self.reactions._ring()
        return True

    async def kept(self, turn: Turn) -> frozenset[str]:
        return await ReactionStore(self.db).of_turn(turn.id)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    db = open_database(dsn)
    made = World(db)
    async with made.tasks:
        yield made
    await db.close()


def an_ask(turn: Turn, state: AskState = AskState.OPEN) -> Ask:
    return Ask(
        AskId("a1"),
        turn.session_id,
        turn.id,
        AskKind.PERMISSION,
        "Bash",
        "t1",
        {},
        (),
        state,
        NOW,
        None,
        None,
        None,
        None,
    )


async def test_the_states_of_a_turn(world: World) -> None:
    session, turn = await world.asked()
    shown = world.slack.on("1.000000")
    steps: list[tuple[Any, str]] = [
        (Queued(0), RECEIVED),
        (WaitingForPlace(1), WAITING),
        (Preparing("starting"), RECEIVED),
        (Started(), WORKING),
        (AskOpened(an_ask(turn)), ASKING),
        (AskClosed(an_ask(turn, AskState.ALLOWED)), WORKING),
        (Settled(Done()), DONE),
    ]
    for event, name in steps:
        world.reactions.observe(session, turn, event)
        await world.later(10, when=lambda name=name: shown == [name])
    await until(lambda: not len(world.reactions))
    assert await world.kept(turn) == frozenset()


@pytest.mark.parametrize(
    ("outcome", "left"),
    [(Done(), [DONE]), (Failed("x"), [FAILED]), (Cut("x"), [FAILED]), (Interrupted("U1"), [])],
)
async def test_how_it_ended(world: World, outcome: Any, left: list[str]) -> None:
    session, turn = await world.asked()
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    world.reactions.observe(session, turn, Settled(outcome))
    await until(lambda: world.slack.on("1.000000") == left and not len(world.reactions))


async def test_what_passes_in_a_moment_costs_one_call(world: World) -> None:
    session, turn = await world.asked()
    for event in (Queued(1), Started(), Settled(Done())):
        world.reactions.observe(session, turn, event)
    await until(lambda: not len(world.reactions))
    assert world.slack.calls == [("add", DONE)]


async def test_under_load_only_what_is_final_is_shown(world: World) -> None:
    turns = [await world.asked(f"{n}.000000") for n in range(1, 41)]
    for session, turn in turns:
        world.reactions.observe(session, turn, Queued(0))
    await world.later(0.8, when=lambda: len(world.slack.calls) >= 5)
    for session, turn in turns:
        world.reactions.observe(session, turn, Started())
    for session, turn in turns:
        world.reactions.observe(session, turn, Settled(Done()))

    def minutes_later() -> bool:
        world.clock.now += 1.0
        world.reactions._ring()
        return not len(world.reactions)

    await until(minutes_later)
    assert all(world.slack.on(f"{n}.000000") == [DONE] for n in range(1, 41))
    removed = sum(method == "remove" for method, _ in world.slack.calls)
    assert removed <= 20


async def test_a_dead_process_leaves_nothing_behind(world: World) -> None:
    session, turn = await world.asked()
    world.reactions.observe(session, turn, Queued(1))
    await world.later(when=lambda: world.slack.on("1.000000") == [WAITING])
    assert await world.kept(turn) == {WAITING}
    world.reactions = world.start(age=60.0)  # the next process is told of the turn anew
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])


@pytest.mark.parametrize("now", [[ASKING], []])
async def test_what_an_earlier_process_noted_need_not_stand_there(world: World, now: list[str]) -> None:
    session, turn = await world.asked()
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    world.reactions.observe(session, turn, AskOpened(an_ask(turn)))
    await world.later(when=lambda: world.slack.on("1.000000") == [ASKING])
    assert await world.kept(turn) == {WORKING, ASKING}
    world.slack.on("1.000000")[:] = now
    world.reactions = world.start(age=60.0)  # and the question was answered before it had looked
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    world.reactions.observe(session, turn, Settled(Done()))
    await until(lambda: world.slack.on("1.000000") == [DONE] and not len(world.reactions))


async def test_what_slack_holds_back_says_nothing_of_what_stands_there_from_before(world: World) -> None:
    session, turn = await world.asked()
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    world.slack.calls.clear()
    world.slack.fails.append(refused("ratelimited"))
    world.reactions = world.start(age=60.0)
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.calls == [("add", WORKING)])
    world.reactions.observe(session, turn, Settled(Done()))
    await world.later(60, when=lambda: not len(world.reactions))
    assert world.slack.on("1.000000") == [DONE]


async def test_a_process_that_dies_before_the_last_reaction_leaves_it_to_the_next(world: World) -> None:
    session, turn = await world.asked()
    await ReactionStore(world.db).keep(turn.id, "C1", "1.000000", {WORKING, DONE})  # and it was killed
    world.slack.on("1.000000").append(WORKING)
    await settle(world, session, turn)
    world.tasks.start(world.reactions.keep_clean(), "clean")
    await until(lambda: world.slack.on("1.000000") == [DONE])


async def test_a_turn_that_nobody_tells_of_any_more_is_finished(world: World) -> None:
    session, turn = await world.asked()
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    await settle(world, session, turn)  # and Flow is killed before it can change the reaction
    world.reactions = world.start(age=60.0)
    world.tasks.start(world.reactions.keep_clean(), "clean")
    await until(lambda: world.slack.on("1.000000") == [DONE])
    await until(lambda: not len(world.reactions))
    assert await world.kept(turn) == frozenset()


async def settle(world: World, session: Session, turn: Turn) -> None:
    acquired = await world.store.leases.acquire(session.id, "me", 30)
    assert acquired is not None
    await world.store.begin(acquired[0], turn.id, "c")
    await world.store.settle(acquired[0], turn.id, Done(), state=session.state, container_id=None)
    await world.store.mark_delivered(turn.id)


async def test_switched_off_it_adds_nothing_and_takes_away_what_there_was(world: World) -> None:
    session, turn = await world.asked()
    for event in (Queued(0), Started()):
        world.reactions.observe(session, turn, event)
    await world.later(when=lambda: world.slack.on("1.000000") == [WORKING])
    await settle(world, session, turn)
    world.reactions = world.start(on=False, age=60.0)
    world.reactions.observe(session, turn, Queued(0))
    world.tasks.start(world.reactions.keep_clean(), "clean")
    await until(lambda: world.slack.on("1.000000") == [])


@pytest.mark.parametrize("error", [TimeoutError(), refused("internal_error"), refused("ratelimited")])
async def test_slacks_troubles_are_outlasted(world: World, error: Exception) -> None:
    session, turn = await world.asked()
    world.slack.fails.append(error)
    world.reactions.observe(session, turn, Queued(0))
    await world.later(when=lambda: world.slack.calls)
    await world.later(40, when=lambda: world.slack.on("1.000000") == [RECEIVED])


async def test_a_reaction_that_may_have_been_added_is_taken_away(world: World) -> None:
    session, turn = await world.asked()
    world.slack.fails.append(TimeoutError())
    world.reactions.observe(session, turn, Queued(0))
    await world.later(when=lambda: world.slack.calls == [("add", RECEIVED)])
    world.slack.on("1.000000").append(RECEIVED)  # it was, though nobody answered
    world.reactions.observe(session, turn, Started())
    await world.later(60, when=lambda: world.slack.on("1.000000") == [WORKING])


@pytest.mark.parametrize("error", ["message_not_found", "too_many_reactions", "missing_scope", "is_archived"])
async def test_what_slack_refuses_is_let_be(world: World, error: str) -> None:
    session, turn = await world.asked()
    world.slack.fails += [refused(error)] * 9
    world.reactions.observe(session, turn, Queued(0))
    await world.later(when=lambda: world.slack.calls)
    world.reactions.observe(session, turn, Settled(Done()))
    await until(lambda: not len(world.reactions))
    assert len(world.slack.calls) <= 3
    assert await world.kept(turn) == frozenset()


async def test_commands_have_no_message(world: World) -> None:
    session, turn = await world.asked()
    world.reactions.observe(session, replace(turn, source_id="cmd:1"), Queued(0))
    assert not len(world.reactions)
    world.reactions.observe(session, turn, Queued(0))
    world.reactions.observe(session, turn, Released())
    assert not len(world.reactions)
    await asyncio.sleep(0)
    assert not world.slack.calls
