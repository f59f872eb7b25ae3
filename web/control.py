"""The administrator's door to a running Flow: a Unix socket in the share directory, for its owner only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import aiohttp
from aiohttp import web

from config.errors import FlowError
from sessions.types import SessionId
from web.workletroutes import WorkletRoutes
from worklets import sockets

CONTROL_SOCKET = "control.sock"
_LAST_SECONDS = 2.0  # for what is answered while Flow ends

Stop: TypeAlias = Callable[[SessionId], Awaitable[None]]


class Control:
    """Listens from `start` to `aclose`. `stop` ends a session; its FlowErrors are answered as sentences.

    `worklets` tells of those that run.

    Of several replicas on one share directory the newest answers; when it ends, none does until one starts.
    Of a session that another replica holds, `stop` ends the turns through the table; its worklet goes on there.
    """

    def __init__(self, share_dir: Path, stop: Stop, worklets: WorkletRoutes | None = None) -> None:
        self._share_dir, self._stop = share_dir, stop
        self._place: tuple[int, int] | None = None
        app = web.Application()
        app.add_routes([web.post("/sessions/{id}/stop", self._handle_stop)])
        if worklets is not None:
            worklets.add_to(app)
        # Whoever reads slowly, or not at all, does not hold up Flow's end.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_SECONDS)

    async def start(self) -> None:
        """Replaces the socket that stands there, a leftover or another replica's."""
        await self._runner.setup()
        made = sockets.listen(self._share_dir, CONTROL_SOCKET, mode=0o600)
        self._place = sockets.place(self._share_dir, CONTROL_SOCKET)
        await web.SockSite(self._runner, made).start()

    async def aclose(self) -> None:
        """A socket that a newer replica has put in the place of ours stays."""
        # Before ours is closed: until then nothing else can have its inode.
        await asyncio.to_thread(self._unlink)
        await self._runner.cleanup()

    def _unlink(self) -> None:
        if self._place is not None and sockets.place(self._share_dir, CONTROL_SOCKET) == self._place:
            with contextlib.suppress(FileNotFoundError):
                (self._share_dir / CONTROL_SOCKET).unlink()

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
