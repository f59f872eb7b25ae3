"""The short way out for an answer says what aiohttp's own says, and is not taken where that has more to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aiohttp import web

from kvstore.gateway.app import KVGateway
from kvstore.gateway.callers import Caller

_ID = "7d3f0a86-4a1c-4b32-9a0e-1f2f6f9d0c11"


class _Backend:
    kind = "echo"

    async def call(self, _caller: Caller, function: str, arguments: Any) -> str:
        return '"' + "x" * (100_000 if arguments.get("p_key") == "long" else 3) + '"' if function else ""


class _Verifier:
    def verify(self, token: str, _now: float | None = None) -> Caller:
        return Caller("worklet", _ID, None, 1.0, token)


@asynccontextmanager
async def _served(*, signals: bool = False, low: bool = False) -> AsyncIterator[int]:
    gateway = KVGateway(_Backend(), _Verifier(), rate=1e9)  # type: ignore[arg-type]
    runner: web.BaseRunner[Any]
    if low:
        runner = web.ServerRunner(web.Server(gateway.handle, access_log=None))
    else:
        app = web.Application()
        app.add_routes(gateway.routes())
        if signals:

            async def signed(_: web.Request, response: web.StreamResponse) -> None:
                response.headers["X-Signed"] = "yes"

            app.on_response_prepare.append(signed)
        runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await gateway.close()


async def _asked(
    port: int, key: str = "k", version: str = "1.1", headers: str = ""
) -> tuple[str, dict[str, str], bytes, bool]:
    """Status line, headers, body, and whether the connection was closed behind it."""
    body = b'{"p_namespace":"n","p_key":"%b"}' % key.encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"POST /rest/v1/rpc/kv_get HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer t\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        found = dict(line.split(": ", 1) for line in lines)
        text = await reader.readexactly(int(found["Content-Length"]))
        if found.get("Connection") != "close" and (version == "1.1" or found.get("Connection") == "keep-alive"):
            # It stays open: another request is answered.
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return status, found, text, not await reader.readline()
        return status, found, text, await reader.read() == b""
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("low", [False, True])
async def test_the_short_way_sends_the_same_headers(low: bool) -> None:
    async with _served(low=low) as port:
        short = await _asked(port)
        long = await _asked(port, "long")
    assert short[0] == long[0] == "HTTP/1.1 200 OK"
    assert short[1].keys() == long[1].keys() == {"Content-Type", "Content-Length", "Date", "Server"}
    for name in ("Content-Type", "Server"):
        assert short[1][name] == long[1][name]
    apart = parsedate_to_datetime(long[1]["Date"]) - parsedate_to_datetime(short[1]["Date"])
    assert 0 <= apart.total_seconds() < 60
    assert (short[2], len(long[2])) == (b'"xxx"', 100_002)
    assert not short[3]
    assert not long[3]


@pytest.mark.parametrize(
    ("version", "headers", "connection"),
    [("1.1", "Connection: close\r\n", "close"), ("1.0", "", None), ("1.0", "Connection: keep-alive\r\n", "keep-alive")],
)
async def test_what_happens_to_the_connection_is_said(version: str, headers: str, connection: str | None) -> None:
    async with _served(low=True) as port:
        _, found, text, closed = await _asked(port, version=version, headers=headers)
    assert found.get("Connection") == connection
    assert closed is (connection != "keep-alive")
    assert text == b'"xxx"'


async def test_an_application_may_add_headers() -> None:
    async with _served(signals=True) as port:
        _, found, _, _ = await _asked(port)
    assert found["X-Signed"] == "yes"
