"""Containers that a runtime is not to take for its worklets, and limits that the engine would take for none."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from images import worklet_image

from worklets.docker import DockerRuntime
from worklets.identity import Identity
from worklets.runtime import WorkletSpec

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    identity = Identity.load(tmp_path)
    made = DockerRuntime(share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=1 << 29, cpus=1)
    yield made
    await made.remove("w", grace=0)
    await made.remove_volume("w")
    await made.close()


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_a_share_of_a_processor_too_small_to_count_is_a_limit_all_the_same(runtime: DockerRuntime) -> None:
    spec = WorkletSpec("w", ("sleep", "1000"), secrets.token_hex(16), cpus=1e-10)
    made = await runtime.start(spec)
    assert json.loads(docker("inspect", made.id))[0]["HostConfig"]["NanoCpus"] == 10_000_000


async def test_a_container_that_has_our_label_by_its_image_alone_is_none_of_ours(runtime: DockerRuntime) -> None:
    instance = await instance_of(runtime)
    docker(
        "create", "--name", f"stray_{instance}", "--label", f"flow.instance={instance}", await worklet_image(), "true"
    )
    docker(
        "create", "--name", f"stray.{instance}", "--label", f"flow.instance={instance}", await worklet_image(), "true"
    )
    try:
        assert [one.name for one in await runtime.list()] == ["w"]
        assert await runtime.sweep(-60.0) == []
    finally:
        docker("rm", f"stray_{instance}", f"stray.{instance}")


async def instance_of(runtime: DockerRuntime) -> str:
    made = await runtime.start(WorkletSpec("w", ("sleep", "1000"), secrets.token_hex(16)))
    return str(json.loads(docker("inspect", made.id))[0]["Config"]["Labels"]["flow.instance"])
