"""The administrator's socket with readers that read no more, and with a Flow that answers otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from config.errors import FlowError
from sessions.types import SessionId
from web.control import CONTROL_SOCKET, Control
from web.workletroutes import WorkletRoutes, ask_rows, stream_rows
from worklets import sockets

ROWS = [{"worklet": f"w-{number}", "name": "x" * 1_000} for number in range(5_000)]


async def _stop(_: SessionId) -> None: ...


async def test_a_reader_that_pauses_does_not_hold_up_the_end(tmp_path: Path) -> None:
    told = asyncio.Event()

    async def rows(_: bool) -> list[dict[str, Any]]:
        told.set()
        return ROWS

    async def stderr(_: str) -> None: ...

    control = Control(tmp_path, _stop, WorkletRoutes(rows, stderr))
    await control.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / CONTROL_SOCKET)
    writer.write(b"GET /worklets/stream HTTP/1.1\r\nHost: flow\r\n\r\n")
    await reader.readline()
    await asyncio.wait_for(told.wait(), 30)
    async with asyncio.timeout(40):  # it was two minutes
        await control.aclose()
    writer.close()


@asynccontextmanager
async def answering(
    directory: Path, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> AsyncIterator[Path]:
    app = web.Application()
    app.router.add_get("/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, sockets.listen(directory, CONTROL_SOCKET, mode=0o600)).start()
    try:
        yield directory / CONTROL_SOCKET
    finally:
        await runner.cleanup()


async def _page(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>", content_type="text/html")


async def _no_json(_: web.Request) -> web.StreamResponse:
    return web.Response(text="{", content_type="application/json")


async def _failed(_: web.Request) -> web.StreamResponse:
    return web.json_response([], status=500)


@pytest.mark.parametrize("handler", [_page, _no_json, _failed])
async def test_what_is_not_understood_is_a_sentence(
    tmp_path: Path, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    async with answering(tmp_path, handler) as socket:
        with pytest.raises(FlowError, match="answers something else"):
            await ask_rows(socket, fresh=True)


async def test_a_stream_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    async def torn(_: web.Request) -> web.StreamResponse:
        return web.Response(text="{\n")

    async def trouble(_: web.Request) -> web.StreamResponse:
        return web.Response(text=json.dumps({"error": "It is away."}) + "\n")

    for handler, words in ((_failed, "HTTP 500"), (torn, "answers something else"), (trouble, "It is away")):
        async with answering(tmp_path, handler) as socket:
            with pytest.raises(FlowError, match=words):
                await anext(stream_rows(socket, 1.0))
