"""An answer that is streamed on to somebody who goes away, and one that the server cuts off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import ClientPayloadError, ClientSession, web

from worklets.answerstream import stream_on


@asynccontextmanager
async def serving(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(handler))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def streamed(pieces: AsyncIterator[bytes], *, stays: bool) -> Exception | None:
    """What `stream_on` returns of an answer of these pieces, of 4,096 bytes if they end, to who stays or goes."""
    result = asyncio.get_running_loop().create_future()

    async def server(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "4096"} if stays else {})
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def between(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        async with session.get(f"http://127.0.0.1:{upstream}/") as answer:
            result.set_result(await stream_on(request, response, answer))
        return response

    async with ClientSession() as session, serving(server) as upstream, serving(between) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: between\r\n\r\n")
        await reader.readuntil(b"piece")
        if not stays:
            writer.close()
        async with asyncio.timeout(60):
            told: Exception | None = await result
        writer.close()
    return told


async def test_who_goes_away_has_cut_nothing() -> None:
    async def without_end() -> AsyncIterator[bytes]:
        while True:
            yield b"piece"
            await asyncio.sleep(0)

    assert await streamed(without_end(), stays=False) is None


async def test_a_server_that_ends_in_the_middle_has_cut_it() -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"piece"

    assert isinstance(await streamed(one(), stays=True), ClientPayloadError)
