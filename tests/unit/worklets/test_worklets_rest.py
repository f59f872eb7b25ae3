"""A process that is put to rest and its successor, in one relay."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from relay_process import TOKEN, forged_relay, order, running_relay

from worklets.agent import Agent, read_tail
from worklets.errors import AgentGone
from worklets.events import Position
from worklets.link import OtherEpoch, Refused, RelayLink
from worklets.relay.proof import Sealed
from worklets.rest import rest, wake


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    async with running_relay(tmp_path) as process:
        link = await connect(tmp_path, fence=1)
        await link.put("hello", order("say {}"))
        await link.close()
        yield process


async def connect(root: Path, position: Position | None = None, fence: int = 1) -> RelayLink:
    link = RelayLink(root / "run", TOKEN, position, fence, notice=lambda _: None, rng=random.Random(1))
    await link.open(30)
    return link


async def first_line(link: RelayLink) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(30):
        async for number, content in link.lines():
            assert isinstance(content, bytes)
            return number, json.loads(content)
    raise AssertionError("the link has ended")


def child(root: Path) -> list[str]:
    return [sys.executable, "-I", str(root / "child.py")]


async def test_the_relay_stays_and_starts_another_process(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    before = await connect(tmp_path)
    await rest(run_dir, TOKEN, 2)
    await rest(run_dir, TOKEN, 2)  # again, by whoever does not know
    await before.close()
    resting = await Agent.attach(run_dir, TOKEN, None, 2)
    assert (resting.exited, resting.resting) == (True, True)
    await resting.close()
    # What it said, and how it ended, is where a dead worklet's words are looked for.
    assert read_tail(run_dir, None).exited is not None
    await wake(run_dir, TOKEN, 2, child(tmp_path), {"GREETING": "again", "MORE": "yes"})
    after = await connect(tmp_path, fence=2)
    assert after.epoch != resting.epoch
    assert not after.resting
    await after.put("env", order("env"))
    number, line = await first_line(after)
    assert number == 1
    assert (line["env"]["GREETING"], line["env"]["MORE"]) == ("again", "yes")
    await after.close()
    with pytest.raises(OtherEpoch):
        await connect(tmp_path, Position(resting.epoch, 1), fence=2)
    assert relay.returncode is None


async def test_a_process_that_does_not_end_is_killed(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    link = await connect(tmp_path)
    await link.put("stubborn", order("stubborn"))
    assert (await first_line(link))[1] == {}
    await link.close()
    await rest(tmp_path / "run", TOKEN, 1)
    await wake(tmp_path / "run", TOKEN, 1, child(tmp_path), {})
    assert relay.returncode is None


async def test_who_is_not_the_owner_can_do_neither(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    link = await connect(tmp_path, fence=5)
    with pytest.raises(Refused):
        await rest(tmp_path / "run", TOKEN, 4)
    with pytest.raises(AgentGone):
        await rest(tmp_path / "run", "wrong", 6)
    await link.put("still", order("say {}"))
    await link.close()
    assert relay.returncode is None


async def test_nothing_is_started_beside_a_process_that_runs(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    with pytest.raises(AgentGone):
        await wake(tmp_path / "run", TOKEN, 1, child(tmp_path), {})
    link = await connect(tmp_path, fence=1)
    await link.put("still", order("say {}"))
    await link.close()
    assert relay.returncode is None


async def test_a_relay_that_rests_ends_when_it_is_told_to(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    await rest(tmp_path / "run", TOKEN, 1)
    relay.terminate()
    async with asyncio.timeout(30):
        await relay.wait()
    with pytest.raises(AgentGone):
        await wake(tmp_path / "run", TOKEN, 1, child(tmp_path), {})


async def test_a_process_that_ends_by_itself_still_ends_the_relay(
    relay: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    await rest(tmp_path / "run", TOKEN, 1)
    await wake(tmp_path / "run", TOKEN, 1, child(tmp_path), {})
    link = await connect(tmp_path)
    await link.put("exit", order("exit 3"))
    async with asyncio.timeout(30):
        async for number, _ in link.lines():
            link.ack(number)
        await relay.wait()
    await link.close()


async def test_prompts_wait_for_what_has_to_be_done_first(relay: asyncio.subprocess.Process, tmp_path: Path) -> None:
    run_dir, done = tmp_path / "run", asyncio.Event()

    async def work() -> None:
        await done.wait()

    async def fail() -> None:
        raise AgentGone("It does not answer.")

    agent = await Agent.attach(run_dir, TOKEN, None, 1)
    agent.hold_prompts(work())
    sending = asyncio.create_task(agent.send("1", "hello"))
    await asyncio.wait([sending], timeout=0.1)
    assert not sending.done()
    done.set()
    async with asyncio.timeout(30):
        await sending
    agent.hold_prompts(fail())
    with pytest.raises(AgentGone, match="does not answer"):
        await agent.send("2", "hello")
    done.clear()
    agent.hold_prompts(work())
    sending = asyncio.create_task(agent.send("3", "hello"))
    await asyncio.sleep(0)
    await agent.close()
    with pytest.raises(AgentGone, match="let go"):
        await sending
    assert relay.returncode is None


async def test_a_relay_that_does_not_read_the_whole_start_is_let_go_of(tmp_path: Path) -> None:
    stands, over = asyncio.Event(), asyncio.Event()

    async def talk(ws: Sealed) -> None:
        await ws.recv()
        ws.ws.transport.pause_reading()
        stands.set()
        await over.wait()
        ws.abort()

    async with forged_relay(tmp_path / "relay.sock", talk):
        waking = asyncio.create_task(wake(tmp_path, TOKEN, 1, ["claude"], {"MUCH": "x" * 900_000}))
        await stands.wait()
        waking.cancel()
        done, _ = await asyncio.wait([waking], timeout=10)  # less than all of it may take
        over.set()
    assert done
    assert waking.cancelled()
