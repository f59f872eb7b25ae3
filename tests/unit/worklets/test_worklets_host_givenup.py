"""A start that is given up goes on, and whoever ends the worklet waits for it, however often he is called off."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Worklet, WorkletSpec


class SlowRuntime(LocalRuntime):
    """`begun` when a worklet is about to be made, which waits for `go_on`; `done` is what was done, in order."""

    def __init__(self, share_dir: Path, identity: Identity, claude: Path) -> None:
        super().__init__(share_dir=share_dir, identity=identity, claude=claude)
        self.begun, self.go_on, self.done = asyncio.Event(), asyncio.Event(), list[str]()

    async def start(self, spec: WorkletSpec) -> Worklet:
        self.begun.set()
        await self.go_on.wait()
        try:
            return await super().start(spec)
        finally:
            self.done.append("made")

    async def remove(self, name: str, grace: float = 5.0) -> str | None:
        self.done.append("removed")
        return await super().remove(name, grace)


async def test_a_second_one_who_ends_it_waits_for_its_start_too(tmp_path: Path) -> None:
    share_dir, claude = tmp_path / "data", tmp_path / "claude"
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = SlowRuntime(share_dir, identity, claude)
    gateway = ModelGateway("http://localhost:1", None, identity, None)
    host = WorkletHost(runtime, gateway, identity, share_dir)
    try:
        opening = asyncio.create_task(
            host.open(
                "w", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
                repository=None, branch=None, on_step=lambda _: None,
            )
        )  # fmt: skip
        await runtime.begun.wait()
        await _given_up(opening)
        await _given_up(asyncio.create_task(host.close("w", grace=0)))
        ending = asyncio.create_task(host.close("w", grace=0))
        await asyncio.wait([ending], timeout=0.5)  # it is still being made
        runtime.go_on.set()
        await ending
        assert runtime.done == ["made", "removed"]
        assert await host.running() == {}
    finally:
        runtime.go_on.set()
        await host.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()


async def _given_up(task: asyncio.Task[object]) -> None:
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
