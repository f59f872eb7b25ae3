"""An HTTP server on loopback whose one function takes every request, whatever its path."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiohttp import web

Answer: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(answer: Answer, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[str]:
    """Its address, as host:port. `options`: of aiohttp's `web.Server`."""
    runner = web.ServerRunner(web.Server(answer, **options))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
