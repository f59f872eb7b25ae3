"""What tests of the store on @supabase/lite share; their fixtures are in kvsupabasefixtures.py."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from supabaselite import SupabaseLite

from kvstore.aio import AsyncWorkletKVStore
from kvstore.gateway.app import KVGateway
from kvstore.gateway.supabase import SupabaseAdmin, SupabaseBackend
from kvstore.gateway.tokens import SharedSecret, SigningKey, Verifier

UNLIMITED = 1e9
PATIENCE = 60.0  # seconds: the machine may be busy with other tests
Store = Callable[..., AsyncWorkletKVStore]


def earlier() -> float:
    """@supabase/lite takes a token of the running second for one from the future."""
    return time.time() - 2


async def worklet(admin: SupabaseAdmin, owner_id: str | None = None, **quota: int) -> str:
    """A new one's id."""
    name = str(uuid.uuid4())
    wanted: dict[str, int | None] = {"max_keys": None, "max_bytes": None, **quota}
    await admin.register(name, owner_id or str(uuid.uuid4()), "a worklet", **wanted)  # type: ignore[arg-type]
    return name


@asynccontextmanager
async def gateway(lite: SupabaseLite, key: Path) -> AsyncIterator[str]:
    """Its URL."""
    backend = SupabaseBackend(lite.url, lite.publishable_key, SharedSecret(lite.jwt_secret), timeout=PATIENCE)
    await backend.open()
    served = KVGateway(backend, Verifier(SigningKey.load(key), lite.jwt_secret), rate=UNLIMITED)
    app = web.Application()
    app.add_routes(served.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await served.close()
        await runner.cleanup()
        await backend.close()
