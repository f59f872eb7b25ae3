"""Which ends of worklets are Flow's own: those that it makes of ones that run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from worklets.agent import Agent
from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[WorkletHost]:
    share_dir, claude = tmp_path / "data", tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = ModelGateway("http://localhost:1", None, identity, None)
    made = WorkletHost(runtime, gateway, identity, share_dir)
    try:
        yield made
    finally:
        await made.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()


async def opened(host: WorkletHost) -> Agent:
    return await host.open(
        "w", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
        repository=None, branch=None, on_step=lambda _: None,
    )  # fmt: skip


async def test_the_end_of_one_that_runs_is_expected(host: WorkletHost) -> None:
    await (await opened(host)).close()
    assert not host.monitor.was_expected("w")
    await host.close("w", grace=0)
    assert host.monitor.was_expected("w")


async def test_where_none_runs_the_next_end_is_news(host: WorkletHost) -> None:
    await host.close("w", grace=0)
    await (await opened(host)).close()
    assert not host.monitor.was_expected("w")


async def test_one_that_is_started_anew_ends_as_expected(host: WorkletHost) -> None:
    """It runs, and its relay cannot be reached."""
    await (await opened(host)).close()
    found = (await host.running())["w"]
    (found.run_dir / "relay.sock").unlink()
    await (await opened(host)).close()
    assert (await host.running())["w"].id != found.id
    assert host.monitor.was_expected("w")
