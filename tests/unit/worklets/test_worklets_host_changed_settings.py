"""Settings that change while a worklet runs or sleeps: what its profile cannot be told any more."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from worklets import spare
from worklets.agent import Agent
from worklets.errors import CloneFailed
from worklets.gateway import ModelGateway
from worklets.git import Git
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.mirrors import Mirrors
from worklets.profile import AsTheSettingsSay, Origin, Profile
from worklets.startup import NoScript, Startup


class Changing(AsTheSettingsSay):
    """`error`: why there is no profile. `scripts`: whether the startup script is there."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.scripts = True

    async def of(self, name: str, origin: Origin) -> Profile:
        if self.error is not None:
            raise self.error
        if origin.startup_script is None:
            return Profile()
        if not self.scripts:
            raise NoScript("There is no startup script setup.")
        return replace(Profile(), startup=Startup("setup", "true", 60.0))


@pytest.fixture
def profiles() -> Changing:
    return Changing()


@pytest.fixture
async def host(tmp_path: Path, profiles: Changing) -> AsyncIterator[WorkletHost]:
    share_dir, claude = tmp_path / "data", tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = ModelGateway("http://localhost:1", None, identity, None)
    mirrors = Mirrors(share_dir, identity, Git(os.environ, local=True))
    made = WorkletHost(runtime, gateway, identity, share_dir, mirrors=mirrors, profiles=profiles)
    try:
        yield made
    finally:
        await made.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()


async def opened(host: WorkletHost, *, script: str | None = None, has_history: bool = False) -> Agent:
    return await host.open(
        "w", claude_session_id=str(uuid.uuid4()), has_history=has_history, position=None, fence=1, env={},
        repository=None, branch=None, origin=Origin("1", "U1", "C1", startup_script=script), on_step=lambda _: None,
    )  # fmt: skip


async def test_a_claude_at_work_goes_on_where_its_profile_cannot_be_told(host: WorkletHost, profiles: Changing) -> None:
    await (await opened(host)).close()
    before = (await host.running())["w"].id
    profiles.error = CloneFailed("There is no repository named app.")
    with pytest.raises(CloneFailed):
        await opened(host)
    assert (await host.running())["w"].id == before
    profiles.error = None
    await (await opened(host)).close()
    assert (await host.running())["w"].id == before


async def test_a_startup_script_that_has_run_may_go(host: WorkletHost, profiles: Changing) -> None:
    profiles.scripts = False
    with pytest.raises(NoScript):
        await opened(host, script="setup")
    profiles.scripts = True
    await (await opened(host, script="setup")).close()
    profiles.scripts = False
    await (await opened(host, script="setup")).close()
    await host.close("w", grace=0)
    agent = await opened(host, script="setup", has_history=True)
    assert not agent.new_volume
    await agent.close()


async def test_what_is_wrong_with_a_profile_is_told_as_itself_and_nothing_is_ended_for_it(
    host: WorkletHost, profiles: Changing, tmp_path: Path
) -> None:
    await (await opened(host)).close()
    before = (await host.running())["w"].id
    wrong = CloneFailed("There is no repository named app.")
    assert await host.rest("w", 1)
    profiles.error = wrong
    with pytest.raises(CloneFailed) as resting:  # Claude's process has ended, its worklet stays
        await opened(host, has_history=True)
    await asyncio.to_thread(spare.mark, tmp_path / "data", "w")
    with pytest.raises(CloneFailed) as ready:  # one of the pool, which is to become a session's
        await opened(host)
    assert resting.value is ready.value is wrong
    assert (await host.running())["w"].id == before, "another start would have failed in the same way"
