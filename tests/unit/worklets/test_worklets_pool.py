"""What the pool keeps ready, with scripted rows and a scripted host; time is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from waiting import until

from config.slices.pool import parse_pool_size
from worklets.errors import RuntimeUnavailable, WorkletStartFailed
from worklets.pool import Member, Pool
from worklets.pooldemand import busiest_minute
from worklets.turns import Turns

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass
class Rows:
    """The table, in memory."""

    clock: Clock
    rows: dict[str, Member] = field(default_factory=dict)
    claims: list[datetime] = field(default_factory=list)
    pattern: str | None = None
    least_memory: int = 0
    on_start: Any = None
    removed_by_another: bool = False

    async def members(self) -> list[Member]:
        return list(self.rows.values())

    async def add(self, name: str, claude_session_id: str, pattern: str) -> None:
        assert claude_session_id
        self.rows[name] = Member(name, pattern, self.clock(), ready=False, leaving=False)

    async def ready(self, name: str) -> bool:
        if self.removed_by_another:
            del self.rows[name]
            return False
        self.rows[name] = replace(self.rows[name], ready=True)
        return True

    async def take_out(self, name: str) -> bool:
        if name not in self.rows:
            return False
        self.rows[name] = replace(self.rows[name], leaving=True)
        return True

    async def forget(self, name: str) -> None:
        assert self.rows.pop(name).leaving

    async def taken(self, within: timedelta) -> Sequence[datetime]:
        return [at for at in self.claims if at > self.clock() - within]

    def claim(self) -> str | None:
        """What a session does, in one transaction."""
        found = next((row.name for row in self.rows.values() if row.ready and row.pattern == self.pattern), None)
        if found is not None:
            del self.rows[found]
            self.claims.append(self.clock())
        self.on_start(found is not None)
        return found


@dataclass
class Host:
    """Where worklets run. `gate` is set unless a test holds starts up."""

    like: str = "a"
    least_memory: int = 1
    stuck: str = ""  # cannot be removed
    up: set[str] = field(default_factory=set)
    destroyed: list[str] = field(default_factory=list)
    awake: list[bool] = field(default_factory=list)
    fails: bool = False
    away: bool = False
    starting: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    listing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.listing.set()

    async def pattern(self) -> str:
        if self.away:
            raise RuntimeUnavailable("No Docker engine answers.")
        return self.like

    async def prepare(self, name: str, claude_session_id: str, *, awake: bool) -> None:
        assert claude_session_id
        self.awake.append(awake)
        self.starting += 1
        self.most = max(self.most, self.starting)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.fails:
                raise WorkletStartFailed("It did not start.")
            self.up.add(name)
        finally:
            self.starting -= 1

    async def destroy(self, name: str) -> None:
        if name == self.stuck:
            raise RuntimeUnavailable("The engine is busy with it.")
        self.up.discard(name)
        self.destroyed.append(name)

    async def running(self) -> dict[str, object]:
        await self.listing.wait()
        return dict.fromkeys(self.up)


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    host: Host = field(default_factory=Host)
    memory: int | None = 8 << 30
    pools: list[Pool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = Rows(self.clock)

    def pool(self, size: tuple[int, int], *, alone: bool = True) -> Pool:
        pool = Pool(self.rows, self.host, size, alone=alone, clock=self.clock, memory=lambda: self.memory, settle=0)
        self.pools.append(pool)
        return pool

    async def filled(self, pool: Pool) -> list[str]:
        """Looks until nothing is to be done; the names that stand ready."""
        while True:
            before = dict(self.rows.rows)
            await pool.tend()
            await asyncio.sleep(0)
            await until(lambda: not pool.state()["starting"] or not self.host.gate.is_set())
            if before == self.rows.rows:
                return [row.name for row in self.rows.rows.values() if row.ready]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for pool in world.pools:
        await pool.aclose()


async def test_it_is_filled_to_the_least_at_most_two_at_a_time(world: World) -> None:
    pool = world.pool((5, 9))
    assert len(await world.filled(pool)) == 5
    assert world.host.most == 2
    assert pool.state() == {
        "state": "ok", "ready": 5, "starting": 0, "claimed": 0, "wanted": 5, "handed_out": 0, "missed": 0,
    }  # fmt: skip


async def test_nothing_is_handed_out_before_it_is_known_what_fits(world: World) -> None:
    pool = world.pool((1, 1))
    assert world.rows.pattern is None
    await world.filled(pool)
    assert world.rows.pattern == "a"
    await pool.aclose()
    assert world.rows.pattern is None


async def test_what_is_taken_is_made_again_and_much_demand_makes_more(world: World) -> None:
    pool = world.pool((1, 4))
    await world.filled(pool)
    taken = [world.rows.claim() for _ in range(3)]
    assert taken[1:] == [None, None]
    assert (pool.handed_out, pool.missed) == (1, 2)
    await pool.tend()
    assert pool.state()["claimed"] == 1
    assert len(await world.filled(pool)) == 3
    world.clock.pass_by(minutes=9)
    assert len(await world.filled(pool)) == 3
    world.clock.pass_by(minutes=2)
    left = await world.filled(pool)
    assert len(left) == 1
    assert world.host.up == {*left, taken[0]}
    assert len(world.host.destroyed) == 2


async def test_demand_beyond_the_most_makes_no_more(world: World) -> None:
    pool = world.pool((0, 2))
    assert await world.filled(pool) == []
    for _ in range(7):
        world.rows.claim()
    assert len(await world.filled(pool)) == 2


async def test_stale_and_dead_ones_are_replaced(world: World) -> None:
    pool = world.pool((2, 2))
    first = await world.filled(pool)
    world.host.up.discard(first[0])
    second = await world.filled(pool)
    assert first[0] not in second
    assert first[1] in second
    world.host.like = "b"  # another image, say
    third = await world.filled(pool)
    assert not set(third) & set(second)
    assert world.host.up == set(third)
    assert set(world.host.destroyed) == {*first, *second}


async def test_what_a_killed_program_had_is_adopted_or_removed(world: World) -> None:
    before = world.pool((1, 1))
    [kept] = await world.filled(before)
    await before.aclose()
    await world.rows.add("phalf", "id", "a")  # its start was under way
    world.host.up.add("phalf")
    await world.rows.add("pgoing", "id", "a")  # its removal was
    await world.rows.take_out("pgoing")
    assert await world.filled(world.pool((1, 1))) == [kept]
    assert sorted(world.host.destroyed) == ["pgoing", "phalf"]
    assert set(world.rows.rows) == {kept}


async def test_what_another_replica_starts_is_left_to_it_for_some_minutes(world: World) -> None:
    await world.rows.add("theirs", "id", "a")
    pool = world.pool((1, 1), alone=False)
    await world.filled(pool)
    assert set(world.rows.rows) == {"theirs"}  # it counts as one that will be there
    world.clock.pass_by(minutes=6)
    [mine] = await world.filled(pool)
    assert world.host.destroyed == ["theirs"]
    assert mine != "theirs"


async def test_one_that_gets_ready_while_the_engine_is_asked_is_no_leftover(world: World) -> None:
    pool = world.pool((1, 1))
    world.host.gate.clear()
    await pool.tend()
    await until(lambda: world.host.starting)
    world.host.listing.clear()
    looking = asyncio.create_task(pool.tend())
    await asyncio.sleep(0)
    world.host.gate.set()
    await until(lambda: not pool.state()["starting"])
    world.host.listing.set()
    await looking
    [row] = world.rows.rows.values()
    assert (row.ready, row.leaving, world.host.destroyed) == (True, False, [])


async def test_one_that_cannot_be_removed_keeps_no_other_from_being_made(world: World) -> None:
    pool = world.pool((1, 1))
    [old] = await world.filled(pool)
    world.host.like, world.host.stuck = "b", old
    [new] = [name for name in await world.filled(pool) if name != old]
    assert "busy with it" in pool.state()["error"]
    world.host.stuck = ""
    assert await world.filled(pool) == [new]
    assert world.host.destroyed == [old]
    assert "error" not in pool.state()


async def test_replicas_of_two_versions_do_not_remove_each_others(world: World) -> None:
    theirs = world.pool((1, 1), alone=False)
    [other] = await world.filled(theirs)
    world.host.like = "b"
    mine = world.pool((1, 1), alone=False)
    assert len(await world.filled(mine)) == 2
    assert (mine.waiting, world.host.destroyed) == (1, [])
    world.clock.pass_by(minutes=11)  # nobody replaced it, so nobody wants it; mine is as old, and wanted here
    assert len(await world.filled(mine)) == 1
    assert world.host.destroyed == [other]


async def test_what_was_removed_while_it_started_leaves_nothing(world: World) -> None:
    world.rows.removed_by_another = True
    pool = world.pool((1, 1), alone=False)
    await pool.tend()
    await until(lambda: world.host.destroyed)
    assert not world.host.up


async def test_failures_are_tried_again_ever_later_and_looks_go_on(world: World) -> None:
    pool = world.pool((2, 2))
    [kept, _] = await world.filled(pool)
    world.host.up = {kept}
    world.host.fails, tried = True, len(world.host.awake)
    for _ in range(30):
        await world.filled(pool)
        world.clock.pass_by(seconds=10)
    assert 4 <= len(world.host.awake) - tried <= 6  # of thirty looks in five minutes
    world.host.like = "b"
    await world.filled(pool)
    assert world.rows.pattern == "b", "nobody is given what is out of date"
    assert kept in world.host.destroyed


async def test_switched_off_it_removes_what_is_left(world: World) -> None:
    await world.filled(world.pool((2, 2)))
    off = world.pool((0, 0))
    off.start()
    await until(lambda: not world.rows.rows)
    assert not world.host.up
    assert off.state()["state"] == "disabled"
    assert world.rows.pattern is None


async def test_a_failed_start_is_removed_told_and_tried_again(world: World) -> None:
    pool = world.pool((1, 1))
    world.host.fails = True
    await pool.tend()
    await until(lambda: pool.state().get("error"))
    assert "It did not start." in pool.state()["error"]
    world.host.fails = False
    assert await world.filled(pool) == []
    assert not world.rows.rows, "it is removed at once, and tried again later"
    world.clock.pass_by(seconds=11)
    [ready] = await world.filled(pool)
    assert set(world.rows.rows) == {ready}
    assert "error" not in pool.state()


async def test_an_engine_that_is_away_is_told_and_the_loop_goes_on(world: World) -> None:
    world.host.away = True
    pool = world.pool((1, 1))
    pool.start()
    await until(lambda: pool.state().get("error"))
    assert "No Docker engine answers." in pool.state()["error"]


async def test_without_memory_no_more_are_started(world: World) -> None:
    pool = world.pool((2, 2))
    world.memory = 512 << 20
    assert await world.filled(pool) == []
    assert "memory" in pool.state()["error"]
    assert not world.host.awake
    world.clock.pass_by(minutes=6)
    world.memory = 3 << 29  # for containers, not for Claude in them
    assert len(await world.filled(pool)) == 2
    assert world.host.awake == [False, False]
    world.host.up.clear()
    world.memory = None  # nobody knows
    assert len(await world.filled(pool)) == 2
    assert world.host.awake[2:] == [True, True]
    assert "error" not in pool.state()


async def test_a_claim_has_it_filled_at_once(world: World) -> None:
    pool = world.pool((1, 1))
    pool.start()
    await until(lambda: pool.waiting == 1)
    taken = world.rows.claim()
    await until(
        lambda: world.rows.rows and taken not in world.rows.rows and all(r.ready for r in world.rows.rows.values())
    )


def test_the_busiest_minute() -> None:
    seconds = [0, 50, 70, 75, 200, 205, 210, 600]
    assert busiest_minute([NOON + timedelta(seconds=each) for each in reversed(seconds)]) == 3
    assert busiest_minute([]) == 0


@pytest.mark.parametrize(
    ("text", "size"), [("0", (0, 0)), ("3", (3, 3)), ("1-4", (1, 4)), ("1, 4", (1, 4)), ((1, 4), (1, 4))]
)
def test_sizes(text: Any, size: tuple[int, int]) -> None:
    assert parse_pool_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "4-1", "many", "1-1000", "1-2-3"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="size of the pool"):
        parse_pool_size(text)


async def test_who_can_wait_comes_after_all_others() -> None:
    turns, order = Turns(1), list[str]()

    async def take(name: str, *, last: bool) -> None:
        async with turns.turn(last=last):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name, last in (("first", False), ("spare", True), ("second", False), ("spare 2", True), ("third", False)):
            group.create_task(take(name, last=last))
    assert order == ["first", "second", "third", "spare", "spare 2"]


async def test_who_gives_up_waiting_takes_no_place_along() -> None:
    turns = Turns(1)
    async with turns.turn():
        waiting = asyncio.create_task(turns.turn().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5), turns.turn():
        pass
    granted = asyncio.create_task(turns.turn().__aenter__())
    await asyncio.sleep(0)
    granted.cancel()  # in the moment in which it has its place, and does not know yet
    await asyncio.gather(granted, return_exceptions=True)
    async with asyncio.timeout(5), turns.turn():
        pass
