"""What is granted while a worklet's door closes does not open the door again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime


class Closing(ModelGateway):
    """While a door closes, something is granted at it."""

    host: WorkletHost
    opened: list[str]

    async def open(
        self, name: str, run_dir: Path, worklet_id: str | None = None, grants: Mapping[str, Any] | None = None
    ) -> None:
        self.opened.append(name)
        await super().open(name, run_dir, worklet_id, grants)

    async def close(self, name: str) -> None:
        await super().close(name)
        await self.host.grant(name, "egress", {"asks": False})


async def test_it_stays_closed(tmp_path: Path) -> None:
    share_dir, claude = tmp_path / "data", tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = Closing("http://localhost:1", None, identity, None)
    gateway.opened, gateway.host = [], (host := WorkletHost(runtime, gateway, identity, share_dir))
    try:
        agent = await host.open(
            "w", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
            repository=None, branch=None, on_step=lambda _: None,
        )  # fmt: skip
        await agent.close()
        await host.close("w", grace=0)
        assert (gateway.opened, gateway.doors()) == (["w"], {})
    finally:
        await host.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()
