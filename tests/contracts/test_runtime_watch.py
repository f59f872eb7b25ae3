"""What a runtime tells of its worklets: what they use, that they ended, what they logged. Containers and processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from images import worklet_image
from waiting import until

from worklets.agent import Agent
from worklets.docker import DockerRuntime
from worklets.engine import Engine
from worklets.enginestreams import EngineEvents
from worklets.errors import RuntimeUnavailable
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.monitor import Monitor, Reading
from worklets.news import News
from worklets.runtime import Runtime, Worklet, WorkletSpec

MEMORY = 256 << 20


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    share_dir = tmp_path / "data"
    identity = Identity.load(share_dir)
    made: Runtime = LocalRuntime(share_dir=share_dir, identity=identity)
    if request.param == "docker":
        image = await worklet_image()
        made = DockerRuntime(
            share_dir=share_dir, identity=identity, image=image, memory=MEMORY, cpus=1.5, pids=200, disk=1 << 30
        )
    yield made
    await made.remove("w", grace=0)
    await made.remove_volume("w")
    await made.close()


@asynccontextmanager
async def watched(runtime: Runtime) -> AsyncIterator[list[News]]:
    told: list[News] = []
    watching = asyncio.create_task(runtime.watch(told.append))
    try:
        yield told
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def start(runtime: Runtime, script: str) -> Worklet:
    return await runtime.start(WorkletSpec("w", ("bash", "-c", script), "token"))


#: Eats memory until it is ended; then, when the test says so, ends by itself.
EATS = """
until [ -e RUN/go ]; do sleep 0.05; done
python3 -c 'x = [bytearray(8 << 20) for _ in range(200)]'
echo $? > RUN/draft; mv RUN/draft RUN/eaten
until [ -e RUN/end ]; do sleep 0.05; done
echo last words >&2
exit 3
"""


async def test_a_worklet_is_heard_of_from_its_figures_to_its_end(runtime: Runtime) -> None:
    docker, monitor = runtime.kind == "docker", Monitor()
    async with watched(runtime) as told:
        worklet = await start(runtime, EATS.replace("RUN", inside(runtime)))
        agent = await Agent.attach(worklet.run_dir, "token", None, 1, gauge=monitor.gauge("w"), timeout=60)
        first = await reading(monitor)
        assert first.stats.memory > 1 << 20
        assert first.stats.pids >= 2
        assert first.stats.memory_limit == (MEMORY if docker else None)
        assert first.stats.pids_limit == (200 if docker else None)
        assert first.stats.disk_limit == (1 << 30 if docker else None)
        if docker:
            await until(lambda: disk_is_known(monitor), what="the watch over the disk")
            (worklet.run_dir / "go").touch()
            await until(lambda: News("oom", "w") in told, what="the news of memory")
            await until((worklet.run_dir / "eaten").exists)
            assert (worklet.run_dir / "eaten").read_text().strip() == "137"
            after = await reading(monitor)
            assert after.stats.oom_kills == 1
            assert after.stats.cpu > first.stats.cpu
            assert not [news for news in told if news.kind == "exit"], "it lives on"
        await agent.close()
        await end(worklet)
        ended = await until(lambda: [news for news in told if news.kind == "exit"], what="the news of its end")
        assert ended[0].worklet == "w"
        assert ended[0].code == (137 if docker else None)


def inside(runtime: Runtime) -> str:
    """The run directory, as the agent sees it."""
    return "/run/worklet" if runtime.kind == "docker" else '"$HOME/../../run"'


async def reading(monitor: Monitor) -> Reading:
    async def fresh() -> Reading | None:
        return (await monitor.fresh(20)).get("w")

    found: Reading = await until(fresh)
    return found


async def disk_is_known(monitor: Monitor) -> bool:
    return (await reading(monitor)).stats.disk is not None


async def end(worklet: Worklet) -> None:
    """As an administrator would, or the kernel."""
    if worklet.id.isdigit():
        os.kill(int(worklet.id), signal.SIGKILL)
    else:
        done = await asyncio.create_subprocess_exec("docker", "kill", worklet.id, stdout=subprocess.DEVNULL)
        assert await done.wait() == 0


async def test_a_log_is_followed_until_its_worklet_ends(runtime: Runtime) -> None:
    """What the relay logs: here, that it cannot read what the agent says."""
    odd = """until [ -e RUN/go ]; do sleep 0.05; done; echo '{"type": "control_'; exec sleep 1000"""
    worklet = await start(runtime, odd.replace("RUN", inside(runtime)))
    said: list[bytes] = []
    following = asyncio.create_task(runtime.follow("w", 10, said.append))
    (worklet.run_dir / "go").touch()
    await until(lambda: b"was not understood" in b"".join(said), what="a line of the log")
    assert not following.done()
    await end(worklet)
    await asyncio.wait_for(following, 60)
    assert (await runtime.logs("w", 10)).encode() == b"".join(said)
    await runtime.follow("nobody", 10, said.append)


@pytest.mark.docker
async def test_events_go_on_where_a_connection_ended(tmp_path: Path) -> None:
    """Each is told once, over connections of a second each."""
    image = await worklet_image()
    engine, label = Engine(), f"flow.instance=watch-{os.getpid()}"
    told: list[News] = []
    events = EngineEvents(engine, label, lambda name: name, window=1)
    watching = asyncio.create_task(events.run(told.append))
    try:
        await until(lambda: events._last, what="a connection: what was before nobody is told")
        for number in range(3):
            name = f"flow-watch-{os.getpid()}-{number}"
            done = await asyncio.create_subprocess_exec(
                "docker", "run", "--rm", "--network=none", "--label", label, "--name", name, "--entrypoint", "sh",
                image, "-c", f"exit {number}", stdout=subprocess.DEVNULL,
            )  # fmt: skip
            await done.wait()
            before = events._stream._wanted
            await until(lambda before=before: events._stream._wanted is not before, what="another connection")
        await until(lambda: len(told) >= 3)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await engine.close()
    assert [(news.kind, news.worklet[-1], news.code) for news in told] == [("exit", str(n), n) for n in range(3)]


async def test_an_engine_that_is_away_is_tried_again_and_all_is_to_be_looked_at(tmp_path: Path) -> None:
    engine = Engine(f"unix://{tmp_path}/nobody.sock")
    told: list[News] = []
    watching = asyncio.create_task(EngineEvents(engine, "a=b", lambda name: name).run(told.append))
    await until(lambda: told)
    assert told[0] == News("missed")
    assert engine.failures["stream"] >= 1
    watching.cancel()
    await asyncio.wait([watching])
    with pytest.raises(RuntimeUnavailable):
        await engine.call("query", lambda client: client.version())
    await engine.close()


@pytest.mark.docker
async def test_helpers_of_a_killed_flow_go_and_worklets_stay(tmp_path: Path) -> None:
    """Made as that Flow would have: with its label, under a worklet's name and a dot."""
    identity = Identity.load(tmp_path)
    image = await worklet_image()
    runtime = DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=MEMORY, cpus=1)
    label = f"flow.instance={identity.instance}"
    names = [f"flow-{identity.instance}-{end}" for end in ("w.put", "w.empty", "w")]
    try:
        for name in names:
            done = await asyncio.create_subprocess_exec(
                "docker", "create", "--network=none", "--label", label, "--name", name, image, "true",
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            assert await done.wait() == 0
        assert [worklet.name for worklet in await runtime.list()] == ["w"], "which no session has to know of"
        assert await runtime.sweep(3600) == []
        assert sorted(await runtime.sweep(-5)) == names[1::-1]
        assert [worklet.name for worklet in await runtime.list()] == ["w"]
        await runtime.remove("w", grace=0)
        assert await runtime.list() == []
    finally:
        await (await asyncio.create_subprocess_exec("docker", "rm", "-f", *names, stderr=subprocess.DEVNULL)).wait()
        await runtime.close()
