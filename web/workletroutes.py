"""What a running Flow knows of its worklets, over the administrator's socket; and the commands' end of that."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web

from config.errors import FlowError
from worklets import sockets

Row: TypeAlias = dict[str, Any]

_SHORTEST, _LONGEST = 1.0, 3600.0  # seconds between two lines of a stream
_ANSWER_SECONDS = 30.0
_WRITE_SECONDS = 30.0  # for which a reader may pause


class WorkletRoutes:
    """`rows(fresh)` tells of each worklet, `stderr(session id)` what its agent said last; None: nobody is connected."""

    def __init__(
        self, rows: Callable[[bool], Awaitable[list[Row]]], stderr: Callable[[str], Awaitable[str | None]]
    ) -> None:
        self._rows, self._stderr = rows, stderr
        self._over = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/worklets", self._handle_rows),
                web.get("/worklets/stream", self._handle_stream),
                web.get("/worklets/{session}/stderr", self._handle_stderr),
            ]
        )

        async def end(_: web.Application) -> None:
            self._over.set()

        app.on_shutdown.append(end)

    async def _handle_rows(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._rows("fresh" in request.query))
        except FlowError as e:
            return _refusal(e)

    async def _handle_stream(self, request: web.Request) -> web.StreamResponse:
        """A line of JSON with all rows now, and each `every` seconds. Ends when Flow does."""
        every = _seconds(request.query.get("every", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        while not self._over.is_set():
            try:
                line = json.dumps(await self._rows(True))
            except FlowError as e:
                line = json.dumps({"error": e.sentence()})
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write(f"{line}\n".encode())
            except (ConnectionError, TimeoutError):  # whoever read has left, or reads no more
                break
            try:
                async with asyncio.timeout(every):
                    await self._over.wait()
            except TimeoutError:
                pass
        return response

    async def _handle_stderr(self, request: web.Request) -> web.Response:
        return web.json_response({"stderr": await self._stderr(request.match_info["session"])})


async def ask_rows(socket: Path, *, fresh: bool) -> list[Row] | None:
    """What the Flow that listens there knows. None: none does. Raises FlowError."""
    found: list[Row] | None = await _ask(socket, "/worklets?fresh" if fresh else "/worklets")
    return found


async def ask_stderr(socket: Path, session_id: str) -> str | None:
    """What the session's agent said last on its stderr; None: nobody is connected to it, or no Flow runs."""
    found = await _ask(socket, f"/worklets/{session_id}/stderr")
    stderr: str | None = found["stderr"] if found is not None else None
    return stderr


async def stream_rows(socket: Path, every: float) -> AsyncIterator[list[Row]]:
    """Now, and each `every` seconds until that Flow ends; nothing where none runs. Raises FlowError."""
    async with _connected(socket, None) as http:
        if http is None:
            return
        try:
            async with http.get("http://flow/worklets/stream", params={"every": str(every)}) as response:
                if response.status != 200:
                    raise _unlike(f"HTTP {response.status}")
                while line := await response.content.readuntil(b"\n"):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        raise FlowError(str(found.get("error")))
                    yield found
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return
        except (aiohttp.ClientError, ValueError) as error:
            raise _unlike(str(error)) from error


async def _ask(socket: Path, path: str) -> Any:
    async with _connected(socket, _ANSWER_SECONDS) as http:
        if http is None:
            return None
        try:
            async with http.get(f"http://flow{path}") as response:
                body = await response.json()
        except TimeoutError as error:
            raise FlowError(
                "The Flow that runs does not answer.", suggestion="Look at `GET /health` and its log."
            ) from error
        except aiohttp.ClientConnectionError:
            return None
        except (aiohttp.ClientError, ValueError) as error:
            raise _unlike(str(error)) from error
        if response.status != 200:
            if not isinstance(body, dict) or "error" not in body:
                raise _unlike(f"HTTP {response.status}")
            raise FlowError(str(body["error"]), suggestion=body.get("details", {}).get("suggestion"))
        return body


@asynccontextmanager
async def _connected(socket: Path, seconds: float | None) -> AsyncIterator[aiohttp.ClientSession | None]:
    """None: nobody listens there."""
    try:
        with sockets.short_path(socket.parent, socket.name) as path:
            connector = aiohttp.UnixConnector(path=str(path))
            timeout = aiohttp.ClientTimeout(seconds)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 24) as http:
                yield http
    except FileNotFoundError:
        yield None


def _unlike(what: str) -> FlowError:
    """Another version's, or one that failed."""
    return FlowError(
        f"The Flow that runs answers something else than what was asked ({what[:200]}).",
        suggestion="Run the same version as it, or look at its log.",
    )


def _refusal(error: FlowError) -> web.Response:
    body = {"error": str(error), "details": {"suggestion": error.suggestion}}
    return web.json_response(body, status=409)


def _seconds(text: str) -> float:
    try:
        given = float(text)
    except ValueError:
        return 2.0
    return min(_LONGEST, max(_SHORTEST, given)) if math.isfinite(given) else 2.0
