"""The budget of bytes: in order, exact, and whole again after whoever gave up."""

from __future__ import annotations

import asyncio

import pytest

from kvstore.gateway.memory import Memory, Room


async def test_who_asks_for_more_than_is_free_waits_in_order() -> None:
    memory = Memory(10)
    first, large, small = Room(memory), Room(memory), Room(memory)
    await first.take(6)
    order: list[str] = []

    async def take(room: Room, size: int, name: str) -> None:
        await room.take(size)
        order.append(name)

    tasks = [asyncio.create_task(take(large, 10, "large")), asyncio.create_task(take(small, 1, "small"))]
    await asyncio.sleep(0)
    first.keep(3)
    await asyncio.sleep(0)
    assert order == [], "nobody overtakes"
    first.keep(0)
    await tasks[0]
    assert order == ["large"]
    large.keep(4)
    await tasks[1]
    assert order == ["large", "small"]


async def test_who_gives_up_holds_nobody_up_and_keeps_nothing() -> None:
    worklets, process = Memory(10), Memory(10)
    first, second, third = Room(process), Room(worklets, process), Room(worklets, process)
    await first.take(10)
    waiting = asyncio.create_task(second.take(10))  # has its worklet's share, and waits for the process's
    behind = asyncio.create_task(third.take(10))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second.keep(0)
    first.keep(0)
    async with asyncio.timeout(10):
        await behind
    third.keep(0)
    turns = [asyncio.create_task(Room(process).take(10)) for _ in range(2)]
    await asyncio.sleep(0)
    process.give(0)
    turns[1].cancel()
    await turns[0]
    process.give(10)
    async with asyncio.timeout(10):
        await Room(process).take(10)


async def test_more_than_all_is_all() -> None:
    memory = Memory(10)
    room = Room(memory)
    await room.take(64)
    room.keep(0)
    await memory.take(10)
