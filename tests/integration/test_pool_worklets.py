"""Worklets of the pool with the real Claude CLI: what one becomes, what it cannot become, and its rest."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from images import worklet_image

from simulator.model import ScriptedModel
from worklets.agent import Agent
from worklets.docker import DockerRuntime
from worklets.events import AgentEvent, Position, Text, ToolFinished, TurnEnded
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.mcpservers import BUILT_IN
from worklets.permissions import Permissions
from worklets.profile import AsTheSettingsSay, Origin, Profile
from worklets.runtime import Runtime

KEY = "sk-real-key"
NAME = "p0123456789abcdef"
ORIGIN = Origin("5f0c3d0e-0000-4000-8000-000000000001", "U1", "C1")


class Told(AsTheSettingsSay):
    profile = Profile()

    async def of(self, name: str, origin: Origin) -> Profile:
        assert (name, origin) == (NAME, ORIGIN)
        return self.profile


class World:
    def __init__(self, runtime: Runtime, gateway: ModelGateway, identity: Identity, share_dir: Path) -> None:
        self.profiles, self.runtime = Told(), runtime
        self.host = WorkletHost(runtime, gateway, identity, share_dir, profiles=self.profiles)
        self.conversation = str(uuid.uuid4())
        self.steps: list[str] = []
        self.at: Position | None = None

    async def open(self, **changes: Any) -> Agent:
        wanted: dict[str, Any] = {
            "claude_session_id": self.conversation,
            "has_history": self.at is not None,
            "position": self.at,
            "fence": 1,
            "env": {"GIT_REPO": "none"},
            "repository": None,
            "branch": None,
            "worklet_id": ORIGIN.session_id,
            "origin": ORIGIN,
            "on_step": self.steps.append,
        }
        return await self.host.open(NAME, **(wanted | changes))

    async def turn(self, agent: Agent, text: str) -> list[AgentEvent]:
        await agent.send(str(uuid.uuid4()), text)
        said: list[AgentEvent] = []
        async with asyncio.timeout(60):
            async for self.at, events in agent.events():
                said += events
                await agent.ack(self.at)
                if any(isinstance(event, TurnEnded) for event in events):
                    return said
        raise AssertionError(said)

    @property
    def handouts(self) -> dict[str, int]:
        return dict(self.host.monitor.handouts)

    async def container(self) -> str | None:
        return await self.host.container_id(NAME)


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    identity = Identity.load(tmp_path)
    runtime: Runtime
    if request.param == "local":
        runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    else:
        image = await worklet_image()
        runtime = DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=1 << 30, cpus=2)
    async with ScriptedModel(api_key=KEY) as model:
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity)
        world = World(runtime, gateway, identity, tmp_path)
        try:
            yield world
        finally:
            await world.host.destroy(NAME)
            await gateway.aclose()
            await runtime.close()


def output(events: list[AgentEvent]) -> str:
    return " ".join(event.output for event in events if isinstance(event, ToolFinished))


async def test_it_becomes_a_sessions_own_rests_and_is_roused(world: World) -> None:
    await world.host.prepare(NAME, world.conversation)
    made = await world.container()
    agent = await world.open(permissions=Permissions("auto", deny=("Write",)))
    assert await world.container() == agent.worklet_id == made
    assert not world.steps, "nothing takes so long that people are told"
    said = await world.turn(agent, "BASH echo id=$FLOW_WORKLET_ID repo=$GIT_REPO; echo kept > note")
    assert output(said).strip() == f"id={ORIGIN.session_id} repo=none"
    refused = next(e for e in await world.turn(agent, "WRITE note other") if isinstance(e, ToolFinished))
    assert not refused.ok, "the session's rules hold"
    first = agent.epoch
    await agent.close()
    assert await world.host.rest(NAME, 1)
    again = await world.open(permissions=Permissions("auto"))
    assert (again.epoch != first, again.worklet_id) == (True, made)
    assert world.steps == ["waking"]
    assert output(await world.turn(again, "BASH cat note; echo $FLOW_WORKLET_ID")).split() == [
        "kept",
        ORIGIN.session_id,
    ]
    recalled = " ".join(e.text for e in await world.turn(again, "RECALL") if isinstance(e, Text))
    assert "echo id=" in recalled
    await again.close()


@pytest.mark.parametrize("awake", [True, False])
async def test_another_claude_is_started_in_it_where_the_first_is_no_use(world: World, awake: bool) -> None:
    await world.host.prepare(NAME, world.conversation, awake=awake)
    made = await world.container()
    world.profiles.profile = Profile(instructions="Answer in verse." if awake else "", env={"EXTRA": "1"})
    agent = await world.open()
    assert agent.worklet_id == made
    assert world.steps == ["starting"]
    assert (
        output(await world.turn(agent, "BASH echo $EXTRA$GIT_REPO$FLOW_WORKLET_ID")).strip()
        == f"1none{ORIGIN.session_id}"
    )
    await agent.close()


BROWSER: dict[str, Any] = {"eyes": {"command": "true", "args": list(BUILT_IN["playwright"].command[1:])}}


@pytest.mark.parametrize("wish", [{"base": "another:image"}, {"mcp_servers": BROWSER}])
async def test_what_it_cannot_become_is_started_anew_on_its_volume(world: World, wish: dict[str, Any]) -> None:
    await world.host.prepare(NAME, world.conversation)
    made = await world.container()
    world.profiles.profile = Profile(**wish, env={"EXTRA": "1"}, notes=("A note.",))
    agent = await world.open()
    assert agent.worklet_id != made
    assert world.steps == ["starting"]
    assert world.handouts == {"warm": 0, "cold": 1}
    assert agent.new_volume, "the thread is told what there is to say of a new worklet"
    assert output(await world.turn(agent, "BASH echo $EXTRA$GIT_REPO")).strip() == "1none"
    await agent.close()
    # It is the session's own from then on, whatever was stored of it: it is not told once more whose it is.
    attached = await world.open(position=None, has_history=False)
    assert attached.worklet_id == agent.worklet_id
    await attached.close()


async def test_its_limits_become_the_threads_while_it_runs(world: World) -> None:
    await world.host.prepare(NAME, world.conversation)
    made = await world.container()
    world.profiles.profile = Profile(memory=768 << 20, cpus=0.75, pids=150)
    agent = await world.open()
    assert (agent.worklet_id, world.steps) == (made, [])
    await agent.ready()
    assert world.handouts == {"warm": 1, "cold": 0}
    if world.runtime.kind == "docker":
        limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
        pids = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
        said = output(await world.turn(agent, f"BASH {limits}; {pids}; true")).split()
        assert said == [str(768 << 20), "150"], "it holds inside"
    await agent.close()
    await world.host.close(NAME, grace=0)
    again = await world.open()  # and in the container that follows, where there is one
    assert again.worklet_id != made
    await again.close()


async def test_one_that_died_is_started_anew_by_whoever_took_it(world: World) -> None:
    await world.host.prepare(NAME, world.conversation)
    await world.runtime.remove(NAME, grace=0)
    agent = await world.open()
    assert output(await world.turn(agent, "BASH echo $GIT_REPO")).strip() == "none"
    assert agent.new_volume
    await agent.close()


async def test_the_pattern_follows_what_worklets_are_started_with(world: World, tmp_path: Path) -> None:
    same = await world.host.pattern()
    assert await world.host.pattern() == same
    gateway = ModelGateway("http://127.0.0.1:9", Credential(api_key=KEY), Identity.load(tmp_path))
    other = WorkletHost(world.runtime, gateway, Identity.load(tmp_path), tmp_path, model="another")
    assert await other.pattern() != same
    await gateway.aclose()
    if isinstance(world.runtime, DockerRuntime):
        more = DockerRuntime(
            share_dir=tmp_path, identity=Identity.load(tmp_path), image=await worklet_image(), memory=2 << 30, cpus=2
        )
        try:
            assert await more.fingerprint() != await world.runtime.fingerprint()
        finally:
            await more.close()
