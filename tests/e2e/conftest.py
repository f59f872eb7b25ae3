"""Each story runs twice: with worklets in Docker, and with worklets as plain processes.

Stories in which the runtime makes no difference (marked `one_runtime`) run once: with Docker where an engine is.
The contract suite, and the stories in which worklets die and sleep, hold the two runtimes to one behaviour.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from world import World, open_world


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "runtime" not in metafunc.fixturenames or "runtime" in named:
        return
    docker = pytest.param("docker", marks=pytest.mark.docker)
    if metafunc.definition.get_closest_marker("one_runtime"):
        metafunc.parametrize("runtime", [docker if has_docker() else "local"], indirect=True)
    else:
        metafunc.parametrize("runtime", ["local", docker], indirect=True)


@functools.cache
def has_docker() -> bool:
    """Whether an engine answers."""
    if not shutil.which("docker"):
        return False
    return (
        subprocess.run(["docker", "version", "-f", "{{.Server.Version}}"], capture_output=True, timeout=60).returncode
        == 0
    )


@pytest.fixture(scope="module")
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(runtime: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(runtime, tmp_path) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_world(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """For a module whose stories need nothing but a Flow that runs."""
    async with open_world(runtime, tmp_path_factory.mktemp("shared")) as world:
        await world.program.start(FLOW_MAX_SESSIONS="40")
        yield world
