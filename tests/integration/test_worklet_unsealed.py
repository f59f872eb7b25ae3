"""A container in which the filter of system calls cannot be set: Claude is not started, and people are told why."""

from __future__ import annotations

import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from images import worklet_image

from worklets.docker import DockerRuntime
from worklets.dockerconfig import ContainerConfig
from worklets.errors import WorkletStartFailed
from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity


class Unsealed(ContainerConfig):
    """As on an engine that does not hold to no-new-privileges."""

    def of(self, *given: Any, **named: Any) -> dict[str, Any]:
        config = super().of(*given, **named)
        config["HostConfig"]["SecurityOpt"] = []
        return config


@pytest.mark.docker
async def test_it_is_a_failed_start_with_its_reason(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path)
    runtime = DockerRuntime(
        share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=256 << 20, cpus=1
    )
    runtime.config = Unsealed(**{one.name: getattr(runtime.config, one.name) for one in fields(Unsealed) if one.init})
    gateway = ModelGateway("http://localhost:1", None, identity)
    host = WorkletHost(runtime, gateway, identity, tmp_path)
    try:
        with pytest.raises(WorkletStartFailed) as failed:
            await host.open(
                "unsealed", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
                repository=None, branch=None, on_step=lambda _: None,
            )  # fmt: skip
        assert (
            "The worklet ended as soon as it had started: the filter of system calls cannot be set (no-new-privileges "
            "is off). An administrator finds more with `flow doctor`." in failed.value.sentence()
        )
        found = await runtime.weaknesses()
        assert found == ["no worklet starts: the filter of system calls cannot be set (no-new-privileges is off)"]
    finally:
        await host.close("unsealed", grace=0)
        for name in await runtime.volumes():
            await runtime.remove_volume(name)
        await gateway.aclose()
        await runtime.close()
