"""A conversation whose worklet runs under gVisor, where the engine has it as `runsc`: see docs/isolation.md."""

from __future__ import annotations

import pytest
from world import World


@pytest.mark.timeout(400)
@pytest.mark.gvisor
@pytest.mark.parametrize("runtime", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
async def test_claude_works_there_as_well(world: World) -> None:
    await world.program.start(FLOW_WORKLET_RUNTIME="runsc", FLOW_POOL_SIZE="0")
    ts = await world.slack.post("maya", "general", "@Flow BASH dmesg | grep gVisor; echo made > file\nSAY done there")
    await world.settled(ts, "done there", timeout=200)
    await world.slack.post("maya", "general", "BASH cat file\nSAY and again", thread_ts=ts)
    await world.settled(ts, "and again", timeout=200)
