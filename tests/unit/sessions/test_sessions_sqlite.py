"""SQLite's queue of writers: what Slack waits for goes first, and a cancelled writer holds up nobody."""

from __future__ import annotations

import asyncio

from sessions.sqlite import Writers


async def _line(writers: Writers, order: list[str], names: str) -> dict[str, asyncio.Task[None]]:
    """Lets writers queue behind each other; the names in upper case are fast."""

    async def write(name: str) -> None:
        async with writers.turn(fast=name.isupper()):
            order.append(name)
            await asyncio.sleep(0)

    tasks = {}
    for name in names:
        tasks[name] = asyncio.create_task(write(name))
        await asyncio.sleep(0)
    return tasks


async def test_the_fast_go_before_the_others_and_each_kind_keeps_its_order() -> None:
    writers, order = Writers(), list[str]()
    async with writers.turn():
        tasks = await _line(writers, order, "abXcY")
        assert order == []
    await asyncio.gather(*tasks.values())
    assert order == ["X", "Y", "a", "b", "c"]


async def test_one_at_a_time() -> None:
    writers, inside, most = Writers(), 0, 0

    async def write() -> None:
        nonlocal inside, most
        async with writers.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(write() for _ in range(5)))
    assert most == 1


async def test_a_cancelled_writer_is_passed_over() -> None:
    writers, order = Writers(), list[str]()
    async with writers.turn():
        tasks = await _line(writers, order, "ab")
        tasks["a"].cancel()
        await asyncio.wait([tasks["a"]])
    await tasks["b"]
    assert order == ["b"]


async def test_a_writer_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    writers, order = Writers(), list[str]()
    async with writers.turn():
        tasks = await _line(writers, order, "ab")
    tasks["a"].cancel()  # it has been called, and has not run yet
    await asyncio.wait([tasks["a"]])
    await asyncio.wait_for(tasks["b"], 30)
    assert order == ["b"]


async def test_a_failure_inside_ends_the_turn() -> None:
    writers, order = Writers(), list[str]()
    try:
        async with writers.turn():
            raise RuntimeError
    except RuntimeError:
        await asyncio.wait_for((await _line(writers, order, "a"))["a"], 30)
    assert order == ["a"]
