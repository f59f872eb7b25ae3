"""MCP servers outside, as the real CLI in a worklet uses them: by the gateway, which alone knows their secrets."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from images import worklet_image
from mcpvendor import Vendor, vendor
from test_cli import KEY, Conversation, only, texts

from bot.profiles import Composed
from simulator.model import ScriptedModel
from worklets.agent import Agent
from worklets.containerprofile import Allowed, ContainerProfiles
from worklets.docker import DockerRuntime
from worklets.egress import EgressPolicy
from worklets.events import Asked, ToolFinished, TurnEnded
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.gatewaysubjects import routes
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.permissions import Permissions, narrowed
from worklets.profile import Origin
from worklets.runtime import Runtime
from worklets.secretsfile import FileStore
from worklets.secretskeys import Keys

NAME = "w-1"
SECRET = "ghp_theVendorsToken0123456789abcdefghij"
ORIGIN = Origin("0a8a4d2e-0000-4000-8000-000000000001", "U1", "C1", "https://git.example.org/shop.git")
CONFIG = """\
tools:
  allowed: [Read, Bash]
mcpServers: [github, linear]
resources: {memory: 512m, cpu: 64}
"""


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def outside(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[WorkletHost, Vendor]]:
    """A host of worklets whose repository asks for two vendors' servers; the administrator has a token for one."""
    identity = Identity.load(tmp_path)
    runtime: Runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    if request.param == "docker":
        await runtime.close()
        image = await worklet_image()
        runtime = DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=1 << 30, cpus=2)
    secrets = FileStore(tmp_path, Keys((), tmp_path / "key", None))
    allowed = Allowed(1 << 30, 2.0, None, EgressPolicy())
    container = ContainerProfiles(tmp_path, allowed, lambda: secrets)
    checkout = tmp_path / "checkout" / ".claude"
    checkout.mkdir(parents=True)
    (checkout / "container.yaml").write_text(CONFIG)
    await container.learn(NAME, ORIGIN, checkout.parent)
    async with ScriptedModel(api_key=KEY) as model, vendor(f"Bearer {SECRET}") as found:
        await secrets.put("mcp/github", {"token": SECRET, "url": found.url})
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity, routes=routes())
        host = WorkletHost(runtime, gateway, identity, tmp_path, profiles=Composed([container.part]))
        try:
            yield host, found
        finally:
            await host.destroy(NAME)
            await gateway.aclose()
            await runtime.close()
            await secrets.aclose()


async def follow(agent: Agent, permissions: Permissions) -> None:
    """As a session has its process follow its rules."""
    await agent.request("apply_flag_settings", settings=permissions.settings())
    await agent.request("set_permission_mode", mode=permissions.cli_mode)


async def test_a_tool_of_a_vendor_whose_token_never_comes_inside(outside: tuple[WorkletHost, Vendor]) -> None:
    host, found = outside
    talk = Conversation()
    agent: Agent = await talk.open(host, origin=ORIGIN)
    calls = 'TOOL mcp__github__add {"a": 19, "b": 23}\nTOOL mcp__github__count {"to": 3}\nWRITE x y\nSAY ok'
    events = await talk.turn(agent, calls)
    added, counted, written = [event.output for event in events if isinstance(event, ToolFinished)]
    assert (added, counted) == ('{"result":42}', '{"result":"counted to 3"}')
    assert "Write is disabled" in written  # the file names Read and Bash only
    assert texts(events) == ["ok"]
    assert not [event for event in events if isinstance(event, Asked)]  # a server that the file names is allowed
    assert {headers["authorization"] for headers in found.seen} == {f"Bearer {SECRET}"}
    assert not any("x-api-key" in headers for headers in found.seen)
    assert agent.profile.notes == (
        ".claude/container.yaml: resources.cpu asks for 64; a worklet has 2.",
        ".claude/container.yaml: The MCP server linear is left out: there is no secret mcp/linear; an "
        "administrator stores it with `flow secrets set mcp/linear token`.",
    )
    assert agent.profile.memory == 512 << 20

    # What the agent's shell can see of its own, of the CLI beside it and of the run directory.
    look = "cat /proc/$PPID/environ /proc/$PPID/cmdline"
    output = only(await talk.turn(agent, f"BASH {look}"), ToolFinished).output
    assert "/flow/mcp/github" in output
    assert "FLOW_GATEWAY_TOKEN" in output
    assert SECRET not in output
    await agent.close()
    await host.close(NAME)

    # The administrator has what is critical asked for, or all of it: whatever the repository's file allows.
    agent = await talk.open(host, origin=ORIGIN)
    profile = agent.profile
    for permissions, done in ((Permissions("auto", ask_risk="critical"), [True, False]), (Permissions("ask"), [False])):
        await follow(agent, narrowed(Permissions("auto"), profile.allowed, profile.mcp_servers))
        await follow(agent, narrowed(permissions, profile.allowed, profile.mcp_servers))
        before = len(talk.events)
        calls = ["BASH touch fine", 'TOOL mcp__github__add {"a": 1, "b": 1}'][-len(done) :]
        await agent.send(str(uuid.uuid4()), "\n".join([*calls, "SAY never mind"]))
        await asyncio.wait_for(talk.read(agent, lambda event: isinstance(event, Asked | TurnEnded)), 60)
        asked = only(talk.events[before:], Asked)
        assert asked.tool == "mcp__github__add"
        await agent.deny(asked.request_id, "no")
        await asyncio.wait_for(talk.read(agent, lambda event: isinstance(event, TurnEnded)), 60)
        assert [event.ok for event in talk.events[before:] if isinstance(event, ToolFinished)] == done
    await agent.close()
