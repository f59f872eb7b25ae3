"""The administrator's door to a running Flow: a Unix socket in the share directory, for its owner only."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import aiohttp
from aiohttp import web

from config.errors import FlowError
from sessions.types import SessionId
from worklets import sockets

CONTROL_SOCKET = "control.sock"

Stop: TypeAlias = Callable[[SessionId], Awaitable[None]]


class Control:
    """Listens from `start` to `aclose`. `stop` ends a session; its FlowErrors are answered as sentences."""

    def __init__(self, share_dir: Path, stop: Stop) -> None:
        self._share_dir, self._stop = share_dir, stop
        app = web.Application()
        app.add_routes([web.post("/sessions/{id}/stop", self._handle_stop)])
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Replaces a leftover socket: who starts holds the data directory's lock."""
        await self._runner.setup()
        await web.SockSite(self._runner, sockets.listen(self._share_dir, CONTROL_SOCKET, mode=0o600)).start()

    async def aclose(self) -> None:
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(os.unlink, self._share_dir / CONTROL_SOCKET)

    async def _handle_stop(self, request: web.Request) -> web.Response:
        try:
            await self._stop(SessionId(request.match_info["id"]))
        except FlowError as e:
            return web.json_response({"error": str(e), "details": {"suggestion": e.suggestion}}, status=409)
        return web.json_response({"stopped": True})


async def ask_to_stop(socket: Path, session_id: SessionId) -> bool:
    """Asks the Flow that listens there to stop the session. False: none does. Raises FlowError when it could not."""
    try:
        with sockets.short_path(socket.parent, socket.name) as path:
            connector = aiohttp.UnixConnector(path=str(path))
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as http,
                http.post(f"http://flow/sessions/{session_id}/stop") as response,
            ):
                body = await response.json()
                if response.status != 200:
                    raise FlowError(body["error"], suggestion=body["details"]["suggestion"])
                return True
    except (aiohttp.ClientConnectionError, FileNotFoundError):
        return False
