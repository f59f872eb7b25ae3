"""How many worklets come up at the same time, with plain processes that speak when they are let."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from worklets import spare
from worklets.agent import Agent
from worklets.comingup import ComingUp
from worklets.errors import WorkletError
from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.monitor import Monitor

_NEVER = 3_600.0
_CLAUDE = """#!/bin/sh
until [ -e $HOME/../workspace/speak ]; do sleep 0.02; done
[ -s $HOME/../workspace/speak ] && exit 3
echo '{"type":"system","subtype":"status"}'
exec sleep 1000
"""


@asynccontextmanager
async def host(tmp_path: Path, coming_up: ComingUp, monitor: Monitor | None = None) -> AsyncIterator[WorkletHost]:
    share_dir, claude = tmp_path / "data", tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text(_CLAUDE)
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = ModelGateway("http://localhost:1", None, identity, None)
    made = WorkletHost(runtime, gateway, identity, share_dir, coming_up=coming_up, monitor=monitor)
    try:
        yield made
    finally:
        for name in ("one", "two", "three"):
            await made.close(name, grace=0)
        await gateway.aclose()
        await runtime.close()


async def opened(host: WorkletHost, name: str, **other: Any) -> Agent:
    wanted = {
        "claude_session_id": str(uuid.uuid4()), "has_history": False, "position": None, "fence": 1, "env": {},
        "repository": None, "branch": None, "on_step": lambda _: None,
    }  # fmt: skip
    return await host.open(name, **(wanted | other))


def speak(tmp_path: Path, name: str, text: str = "") -> None:
    (tmp_path / "data" / "worklets" / name / "work" / "workspace" / "speak").write_text(text)


@pytest.mark.parametrize("last_word", ["", "it ends instead"])
async def test_the_next_one_starts_when_the_one_before_it_is_heard(tmp_path: Path, last_word: str) -> None:
    async with host(tmp_path, ComingUp(1, _NEVER)) as made:
        first = await opened(made, "one")
        second = asyncio.create_task(opened(made, "two"))
        assert not (await asyncio.wait([second], timeout=0.5))[0]
        assert set(await made.running()) == {"one"}
        speak(tmp_path, "one", last_word)
        await (await second).close()  # which gives its place back too
        await (await opened(made, "three")).close()
        await first.close()


async def test_one_that_never_says_a_word_keeps_nobody_waiting_for_ever(tmp_path: Path) -> None:
    async with host(tmp_path, ComingUp(1, 0.1)) as made:
        first = await opened(made, "one")
        await (await opened(made, "two")).close()
        await first.close()


async def test_one_that_is_asked_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async with host(tmp_path, ComingUp(1, _NEVER)) as made, asyncio.timeout(60):
        visited = await opened(made, "one", prompted=False)
        await (await opened(made, "two")).close()
        await visited.close()
        assert await made.rest("one", 1)
        visited = await opened(made, "one", prompted=False)
        await (await opened(made, "three")).close()
        await visited.close()


async def test_the_wait_for_a_place_is_of_the_start_s_time(tmp_path: Path) -> None:
    now, coming_up = [0.0], ComingUp(1, _NEVER)
    monitor = Monitor(lambda: now[0])
    async with host(tmp_path, coming_up, monitor) as made:
        for kind in ("start", "wake", "rouse"):
            async with coming_up.place():
                opening = asyncio.create_task(opened(made, "one", has_history=kind == "wake"))
                await until(lambda: monitor.starting)
                now[0] += 20.0
            await (await opening).close()
            assert (monitor.starts[kind].total, monitor.starting) == (20.0, 0)
            if kind == "start":
                await made.close("one", grace=0)
            else:
                assert await made.rest("one", 1)


async def test_one_that_does_not_start_gives_its_place_back(tmp_path: Path) -> None:
    async with host(tmp_path, ComingUp(1, _NEVER)) as made:
        worklets = tmp_path / "data" / "worklets"
        worklets.mkdir(parents=True)
        (worklets / "one").write_text("in the way")
        with pytest.raises((OSError, WorkletError)):
            await opened(made, "one")
        (worklets / "one").unlink()
        await (await opened(made, "two")).close()


async def test_one_that_is_given_up_while_it_waits_takes_no_place() -> None:
    coming_up = ComingUp(1, _NEVER)

    async def start() -> None:
        async with coming_up.place():
            pass

    async with coming_up.place():
        given_up, waiting = asyncio.create_task(start()), asyncio.create_task(start())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert not waiting.done()
    await waiting
    assert given_up.cancelled()


@pytest.mark.parametrize("rests", [True, False])
async def test_one_of_the_pool_that_is_given_up_while_it_waits_is_of_the_pool_still(
    tmp_path: Path, rests: bool
) -> None:
    coming_up = ComingUp(1, _NEVER)
    async with host(tmp_path, coming_up) as made, asyncio.timeout(100):
        await (await opened(made, "one")).close()
        await (made.rest("one", 1) if rests else made.close("one", grace=0))
        spare.mark(tmp_path / "data", "one")
        async with coming_up.place():
            opening = asyncio.create_task(opened(made, "one"))
            await until(lambda: made.monitor.starting)
            opening.cancel()
            await asyncio.wait([opening])
        await made.close("one", grace=0)
        agent = await opened(made, "one")
        assert agent.new_volume
        assert not spare.is_marked(tmp_path / "data", "one")
        assert made.monitor.handouts["cold"] == 1
        await agent.close()


async def test_those_for_which_nobody_waits_come_last() -> None:
    coming_up, order = ComingUp(1, _NEVER), list[str]()

    async def start(name: str, *, last: bool) -> None:
        async with coming_up.place(last=last):
            order.append(name)

    async with coming_up.place():
        tasks = [asyncio.create_task(start("spare", last=True)), asyncio.create_task(start("somebody's", last=False))]
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["somebody's", "spare"]


async def test_no_place_is_lost_whenever_its_taker_is_called_off() -> None:
    """Also in the round of the loop in which the place is granted, or given back."""
    for rounds in range(8):
        coming_up = ComingUp(1, _NEVER)

        async def start(coming_up: ComingUp = coming_up) -> None:
            async with coming_up.place():
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(start()) for _ in range(3)]
        for _ in range(rounds):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        async with asyncio.timeout(30), coming_up.place():
            pass
