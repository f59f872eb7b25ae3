"""Has what the gateway counted written down while Flow runs: see sessions/modelusage.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sessions.modelusage import Bookkeeper, ModelUsage
from worklets.gatewayclient import GatewayClient


@asynccontextmanager
async def bookkeeping(gateway: GatewayClient, usage: ModelUsage) -> AsyncIterator[None]:
    """Starts no process: it listens for one that there is."""
    keeper = Bookkeeper(usage, gateway.usage)
    for kind in ("connected", "usage"):
        gateway.on(kind, lambda _fields: keeper.ring())
    running = asyncio.create_task(keeper.run(), name="bookkeeping")
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
