"""A vendor's MCP server on loopback: Streamable HTTP by the official SDK, behind a token."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass
class Vendor:
    """`authorization`: the header that it wants. `seen`: the headers of every request, by lower-case name."""

    authorization: str
    url: str = ""
    port: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)

    def guarded(self, app: ASGIApp) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.seen.append(headers)
                self.methods.append(scope["method"])
                if headers.get("authorization") != self.authorization:
                    refusal: list[Any] = [(b"www-authenticate", b'Bearer resource_metadata="http://nowhere.example"')]
                    await send({"type": "http.response.start", "status": 401, "headers": refusal})
                    await send({"type": "http.response.body", "body": b"{}"})
                    return
            await app(scope, receive, send)

        return serve


@asynccontextmanager
async def vendor(
    authorization: str, *, name: str = "127.0.0.1", tls: tuple[Path, Path] | None = None
) -> AsyncIterator[Vendor]:
    """Serves while the block runs; its tools are `add` and `count`, which tells of its progress on the way.

    `name`: what clients call it, wherever that leads; `tls`: certificate and key.
    """
    server = MCPServer("vendor")

    @server.tool()
    def add(a: int, b: int) -> int:
        """The sum."""
        return a + b

    @server.tool()
    async def count(to: int, context: Context) -> str:
        """Counts."""
        for number in range(1, to + 1):
            await context.report_progress(number, to)
        return f"counted to {to}"

    found = Vendor(authorization)
    certificate, key = tls or (None, None)
    config = uvicorn.Config(
        found.guarded(server.streamable_http_app(host=name)), log_config=None, lifespan="on", ws="none",
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found.port = listener.getsockname()[1]
        found.url = f"{'https' if tls else 'http'}://{name}:{found.port}/mcp"
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        try:
            while not running.started:
                await asyncio.sleep(0.01)
            yield found
        finally:
            running.should_exit = True
            await serving
