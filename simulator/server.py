"""The HTTP server: Web API, Socket Mode, files, response_urls, and the page."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from simulator.core import Core
from simulator.errors import SlackError
from simulator.pageserver import Page
from simulator.webapi.server import HANG, ApiServer

if TYPE_CHECKING:
    from simulator.slack import SlackSimulator

MAX_BODY = 64 * 1024 * 1024


def build_app(core: Core, slack: "SlackSimulator") -> web.Application:
    """All routes of the simulator."""
    doors = _Doors(core)
    app = web.Application(client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.route("*", "/api/{method}", ApiServer(core).handle),
            web.get("/link/", core.sockets.handle),
            web.post("/upload/{id}", doors.upload),
            web.get("/files-pri/{place}/{name}", doors.download),
            web.post("/response/{token}", doors.respond),
            *Page(slack).routes(),
        ]
    )
    return app


class _Doors:
    """The addresses that Slack hands out besides `/api/`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def upload(self, request: web.Request) -> web.Response:
        """The second step of an upload: raw bytes, or one file of a multipart form; the address itself is the right."""
        if (trouble := await self._trouble(request, "upload")) is not None:
            return trouble
        file = self._core.workspace.files.get(request.match_info["id"])
        if file is None or file.shared:
            return web.Response(status=404, text="unknown upload")
        content = await _content(request)
        if len(content) != file.length:
            return web.Response(status=400, text=f"expected {file.length} bytes, got {len(content)}")
        file.content = content
        return web.Response(text=f"OK - {len(content)}")

    async def download(self, request: web.Request) -> web.Response:
        """A private file; without a token that may read it Slack shows its login page, with status 200."""
        if (trouble := await self._trouble(request, "download")) is not None:
            return trouble
        file = self._core.workspace.files.get(request.match_info["place"].rpartition("-")[2])
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        readers = [app for app in self._core.workspace.apps.values() if app.bot_token == token]
        if not any(app.manifest.allows("files:read") for app in readers):
            return web.Response(text="<!DOCTYPE html><title>Sign in | Slack</title>", content_type="text/html")
        if file is None or file.content is None:
            return web.Response(status=404, text="file not found")
        return web.Response(body=file.content, content_type=file.mimetype)

    async def _trouble(self, request: web.Request, what: str) -> web.Response | None:
        """The fault ordered for "upload" or "download", which are no methods but meet the same trouble."""
        fault = self._core.faults.take(what)
        if fault is None:
            return None
        if fault.kind == "fail":
            headers = {"Retry-After": str(fault.retry_after)} if fault.status == 429 else {}
            return web.Response(status=fault.status, text=fault.error, headers=headers)
        if fault.kind == "hang":
            await asyncio.sleep(HANG)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def respond(self, request: web.Request) -> web.Response:
        try:
            payload: Any = json.loads(await request.text())
        except ValueError:
            return web.Response(status=400, text="invalid_payload")
        if not isinstance(payload, dict):
            return web.Response(status=400, text="invalid_payload")
        try:
            self._core.interactions.respond(request.match_info["token"], payload)
        except SlackError as error:
            status = 404 if error.error in ("expired_url", "used_url") else 400
            return web.json_response(error.body(), status=status)
        return web.Response(text="ok")


async def _content(request: web.Request) -> bytes:
    if request.content_type != "multipart/form-data":
        return await request.read()
    for value in (await request.post()).values():
        if isinstance(value, web.FileField):
            return await asyncio.to_thread(value.file.read)
    return b""
