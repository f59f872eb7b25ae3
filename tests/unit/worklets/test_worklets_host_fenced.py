"""A relay from before the sealed refusals hangs up on an owner of before: no reason to end what another owns by now."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from relay_process import forged_relay

from worklets.agent import Agent
from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.relay.proof import Sealed


class Lost(Exception):
    """The session is another's."""


async def lost() -> None:
    raise Lost


async def refuse(ws: Sealed) -> None:
    await ws.recv()
    await ws.close(4003, "fence is too low")


async def opened(host: WorkletHost, **other: Any) -> Agent:
    return await host.open(
        "w", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, env={},
        repository=None, branch=None, on_step=lambda _: None, **other,
    )  # fmt: skip


async def test_only_the_owner_ends_a_worklet_that_does_not_answer(tmp_path: Path) -> None:
    share_dir, claude = tmp_path / "data", tmp_path / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = ModelGateway("http://localhost:1", None, identity, None)
    host = WorkletHost(runtime, gateway, identity, share_dir)
    looked = list[str]()

    async def owned() -> None:
        looked.append((await host.running())["w"].id)

    try:
        await (await opened(host, fence=2, still_owned=lost)).close()
        await (await opened(host, fence=2, still_owned=lost)).close()  # it answers: nobody asks
        found = (await host.running())["w"]
        relay = found.run_dir / "relay.sock"
        relay.unlink()
        async with forged_relay(relay, refuse, identity.token("relay", "w")):
            with pytest.raises(Lost):
                await opened(host, fence=1, still_owned=lost)
            assert (await host.running())["w"].id == found.id
        relay.unlink(missing_ok=True)
        await (await opened(host, fence=3, still_owned=owned)).close()
        assert looked == [found.id]
        assert (await host.running())["w"].id != found.id
    finally:
        await host.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()
