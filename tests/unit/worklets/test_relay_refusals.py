"""Why a relay lets go of an owner is a sealed frame; the code with which a connection is closed says nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from relay_between import Between
from relay_process import TOKEN, forged_relay, order, running_relay
from waiting import until
from websockets.exceptions import ConnectionClosed

from worklets.errors import AgentGone, WorkletStartFailed
from worklets.events import Position
from worklets.link import OtherEpoch, Refused, RelayLink
from worklets.relay.proof import Sealed
from worklets.relaydial import dial
from worklets.rest import rest

CODES = [4001, 4002, 4003]
SAID = '{"type": "here"}'


@pytest.fixture
async def between(tmp_path: Path) -> AsyncIterator[Between]:
    """Before a real relay. No close code of the relay's crosses it."""
    async with running_relay(tmp_path):
        socket = tmp_path / "run" / "relay.sock"
        await until(lambda: socket.exists() and socket.stat().st_mode & 0o7 == 6)
        made = Between(tmp_path / "run")
        async with made.serving:
            yield made


@pytest.fixture
async def attach(between: Between) -> AsyncIterator[Callable[..., Any]]:
    made: list[RelayLink] = []

    async def attached(fence: int = 1, position: Position | None = None) -> RelayLink:
        link = RelayLink(between.run_dir, TOKEN, position, fence, notice=lambda _: None, rng=random.Random(1))
        made.append(link)
        await link.open(30)
        return link

    yield attached
    for link in made:
        await link.close()


async def works(link: RelayLink, key: str) -> bool:
    async with asyncio.timeout(30):
        await link.put(key, order(f"say {SAID}"))
        async for _, content in link.lines():
            return content == SAID.encode()
    return False


async def ending(link: RelayLink) -> AgentGone:
    async with asyncio.timeout(30):
        with pytest.raises(AgentGone) as gone:
            async for _ in link.lines():
                pass
    return gone.value


@pytest.mark.parametrize("code", CODES)
async def test_a_forged_code_is_a_broken_connection(between: Between, attach: Any, code: int) -> None:
    link = await attach()
    for n in range(3):
        assert await works(link, f"{n}")
        await between.cut(code)
    assert await works(link, "last")


@pytest.mark.parametrize("code", CODES)
async def test_one_in_the_place_of_the_welcome_is_tried_again(between: Between, attach: Any, code: int) -> None:
    cut = list[asyncio.Task[None]]()

    def instead(heard: list[str | bytes]) -> list[str | bytes]:
        if len(cut) == 3:
            return heard[-1:]
        cut.append(asyncio.create_task(between.cut(code)))
        return []

    between.to_flow = instead
    assert await works(await attach(), "a")
    assert len(cut) == 3
    await asyncio.gather(*cut)


@pytest.mark.parametrize("code", CODES)
async def test_one_tells_who_puts_to_rest_nothing_either(between: Between, attach: Any, code: int) -> None:
    link = await attach()
    await link.close()
    cut = list[asyncio.Task[None]]()

    def instead(_heard: list[str | bytes]) -> list[str | bytes]:
        cut.append(asyncio.create_task(between.cut(code)))
        return []

    between.to_flow = instead
    with pytest.raises(AgentGone) as gone:
        await rest(between.run_dir, TOKEN, 2)
    assert not isinstance(gone.value, Refused)
    await asyncio.gather(*cut)


async def test_who_is_superseded_hears_it(between: Between, attach: Any) -> None:
    first = await attach(fence=1)
    for n in range(50):  # it is in the middle of saying something
        first.post(f"{n}", {"type": "x"})
    second = await attach(fence=1)
    assert isinstance(await ending(first), Refused)
    with pytest.raises(Refused):
        await first.signal("SIGTERM")
    await second.put("last", order("exit 0"))
    assert [number async for number, _ in second.lines()], "it stays the owner"


async def test_who_has_a_low_fence_hears_it(between: Between, attach: Any) -> None:
    owner = await attach(fence=5)
    with pytest.raises(Refused):
        await attach(fence=4)
    with pytest.raises(Refused):
        await rest(between.run_dir, TOKEN, 4)
    assert await works(owner, "a")


async def test_who_connects_again_with_a_low_fence_hears_it(between: Between, attach: Any) -> None:
    first = await attach(fence=1)
    later = list[list[str | bytes]]()  # what is heard on connections from now on

    def but_the_first(heard: list[str | bytes]) -> list[str | bytes]:
        if len(heard) == 1:
            later.append(heard)
        return heard[-1:] if any(heard is one for one in later) else []

    between.to_flow = but_the_first
    second = await attach(fence=2)
    assert isinstance(await ending(first), Refused)
    await until(lambda: 4003 in between.codes, what="its second connection to end")
    assert await works(second, "a")


async def test_who_knows_another_epoch_hears_it(between: Between, attach: Any) -> None:
    with pytest.raises(OtherEpoch):
        await attach(position=Position("another", 1))


async def test_a_flow_that_knows_no_such_frame_hears_the_codes(between: Between) -> None:
    hello = {"type": "hello", "seq": 0, "epoch": None, "fence": 2}
    first = await dial(between.run_dir, TOKEN)
    await first.send(json.dumps(hello))
    assert json.loads(await first.recv())["type"] == "welcome"
    second = await dial(between.run_dir, TOKEN)
    await second.send(json.dumps(hello))
    assert json.loads(await second.recv())["type"] == "welcome"
    async with asyncio.timeout(30):
        assert {json.loads(frame)["type"] async for frame in first} <= {"stat"}
    await until(lambda: between.codes == [4001])
    third = await dial(between.run_dir, TOKEN)
    await third.send(json.dumps({**hello, "fence": 1}))
    with pytest.raises(ConnectionClosed):
        await third.recv()
    await until(lambda: between.codes == [4001, 4003])
    await second.close()


async def test_a_relay_that_knows_no_such_frame_is_one_that_does_not_answer(tmp_path: Path) -> None:
    async def refuse(ws: Sealed) -> None:
        await ws.recv()
        await ws.close(4003, "fence is too low")

    link = RelayLink(tmp_path, TOKEN, None, 1, notice=lambda _: None)
    async with forged_relay(tmp_path / "relay.sock", refuse):
        with pytest.raises(WorkletStartFailed, match="did not answer"):
            await link.open(0.3)
        with pytest.raises(AgentGone) as gone:
            await rest(tmp_path, TOKEN, 1)
    assert not isinstance(gone.value, Refused)
