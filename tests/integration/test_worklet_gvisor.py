"""Worklets under gVisor, where the engine has it as `runsc`: see docs/isolation.md for how it is added."""

from __future__ import annotations

from pathlib import Path

import pytest
from images import worklet_image
from waiting import until

from worklets.agent import Agent
from worklets.docker import DockerRuntime
from worklets.identity import Identity
from worklets.runtime import WorkletSpec


@pytest.mark.docker
@pytest.mark.gvisor
async def test_a_worklet_runs_and_its_limits_hold(tmp_path: Path) -> None:
    runtime = DockerRuntime(
        share_dir=tmp_path, identity=Identity.load(tmp_path), image=await worklet_image(), memory=1 << 30, cpus=1,
        disk=1 << 30, oci_runtime="runsc",
    )  # fmt: skip
    try:
        assert await runtime.weaknesses() == [], "the filter of system calls holds there too"
        script = "kill -STOP 1; kill -KILL 1; cd /run/worklet; dmesg > draft; mv draft told; exec sleep 1000"
        worklet = await runtime.start(WorkletSpec("inside", ("bash", "-c", script), "token"))
        agent = await Agent.attach(worklet.run_dir, "token", None, 1, worklet_id=worklet.id, timeout=60)
        told = worklet.run_dir / "told"
        await until(told.exists, timeout=60)
        assert "Starting gVisor" in told.read_text(), "another kernel than the machine's"
        await agent.close()
        await runtime.remove("inside", grace=5)
        assert [one.name for one in await runtime.list()] == []
    finally:
        for worklet in await runtime.list():
            await runtime.remove(worklet.name, grace=0)
        for name in await runtime.volumes():
            await runtime.remove_volume(name)
        await runtime.close()
