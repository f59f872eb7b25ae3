"""`/flow/mcp/…` behind a worklet's door: what passes, what does not, and what a broken vendor does to it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcpvendor import vendor
from structlog.testing import capture_logs
from waiting import until

from worklets.gateway import ModelGateway
from worklets.gatewaysubjects import routes
from worklets.identity import Identity
from worklets.mcpdoor import McpDoor
from worklets.sockets import short_path

TOKEN = "Bearer the-vendors-token"


@asynccontextmanager
async def door(
    share_dir: Path, grant: dict[str, Any], mcp: McpDoor | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client behind a worklet's door, with its token."""
    identity = Identity.load(share_dir)
    served = {**routes(), "mcp": (mcp or McpDoor()).answer}
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes=served)
    try:
        await gateway.open("w", share_dir, None, {"mcp": grant})
        headers = {"Authorization": f"Bearer {identity.token('gateway', 'w')}"}
        with short_path(share_dir, "gateway.sock") as path:
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession("http://x", connector=connector, headers=headers) as http:
                yield http
    finally:
        await gateway.aclose()


@asynccontextmanager
async def upstream(handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp?team=1"
    finally:
        await runner.cleanup()


def to(url: str) -> dict[str, Any]:
    return {"thing": {"url": url, "headers": {"Authorization": TOKEN}}}


async def test_the_log_says_what_was_asked_for_and_nothing_of_the_secret(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.json_response({})

    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "drop\n\x1b[2J", "arguments": {"a": "s3"}},
    }
    answers = [b'{"id": 1, "result": 3}', b'[{"method": "ping"}, 1, {"method": "tools/call", "params": {"name": "x"}}]']
    twice = b'{"method": "ping", "method": "tools/call"}'
    long = b'{"method": "m", "x": "' + b"y" * 70_000 + b'"}'
    odd = [b"nonsense", b'{"method": 3}', b"[" * 50_000, long, twice]
    with capture_logs() as logs:
        async with upstream(handle) as url, door(tmp_path, to(url)) as http:
            for body in [json.dumps(call).encode(), b'{"method": "ping"}', *answers, *odd]:
                async with http.post("/flow/mcp/thing", data=io.BytesIO(body)) as answer:
                    assert answer.status == 200
            async with http.get("/flow/mcp/thing") as answer:
                assert answer.status == 200
    told = [entry for entry in logs if entry["event"] == "MCP request"]
    assert [entry["asked"] for entry in told] == [
        "tools/call drop··[2J", "ping", "an answer", "batch of 3: ping, unreadable, tools/call x",
        *["unreadable"] * len(odd), None,
    ]  # fmt: skip
    assert (told[0]["worklet"], told[0]["server"], told[0]["status"]) == ("w", "thing", 200)
    assert [entry["method"] for entry in told] == ["POST"] * 9 + ["GET"]
    assert told[7]["size"] == len(long)
    assert TOKEN not in repr(logs)
    assert "s3" not in repr(told)


async def test_who_hangs_up_is_in_the_log_too(tmp_path: Path) -> None:
    got = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        got.set()
        await asyncio.Event().wait()
        return web.Response()

    with capture_logs() as logs:
        async with upstream(handle) as url, door(tmp_path, to(url)) as http:
            asking = asyncio.create_task(http.post("/flow/mcp/thing", json={"method": "tools/call"}))
            await got.wait()
            asking.cancel()
            await until(lambda: any(entry["event"] == "MCP request" for entry in logs), 20, "the line in the log")
    (told,) = [entry for entry in logs if entry["event"] == "MCP request"]
    assert (told["asked"], told["status"]) == ("tools/call", None)


async def test_who_asks_too_often_is_refused_before_the_log_is_full(tmp_path: Path) -> None:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({})

    with capture_logs() as logs:
        async with upstream(handle) as url, door(tmp_path, to(url), McpDoor(pace=0)) as http:
            seen = []
            for _ in range(130):
                async with http.post("/flow/mcp/thing", json={"method": "ping"}) as answer:
                    seen.append(answer.status)
    assert seen == [200] * 120 + [429] * 10
    assert len([entry for entry in logs if entry["event"] == "MCP request"]) == 120
    assert len([entry for entry in logs if "too many" in entry["event"]]) == 1


async def test_a_vendor_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "silent" not in await request.text():
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return web.Response()

    async with (
        upstream(handle) as url,
        door(tmp_path, to(url), McpDoor(headers=0.2)) as http,
        http.post("/flow/mcp/thing", data=b"silent") as answer,
    ):
        assert answer.status == 502
        assert "TimeoutError" in await answer.text()
    async with upstream(handle) as url, door(tmp_path, to(url), McpDoor(idle=0.2)) as http:
        async with http.post("/flow/mcp/thing", data=b"x") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        async with http.get("/flow/mcp/thing") as stream:  # the server's own: it may say nothing for long
            assert await stream.content.readany() == b"data: 1\n\n"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.content.readany(), 0.6)


async def test_only_the_protocols_headers_pass_and_the_secret_is_added(tmp_path: Path) -> None:
    seen: list[web.BaseRequest] = []
    bodies: list[bytes] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        bodies.append(await request.read())
        headers = {"Mcp-Session-Id": "s1", "Set-Cookie": "a=b", "X-Other": TOKEN, "WWW-Authenticate": "Bearer"}
        return web.json_response({"got": True}, headers=headers)

    sent = {
        "Mcp-Session-Id": "s0",
        "Last-Event-ID": "7",
        "Cookie": "c=d",
        "X-Forwarded-For": "1.2.3.4",
        "Accept": "a/b",
    }
    async with upstream(handle) as url, door(tmp_path, to(url)) as http:
        for method in ("POST", "GET", "DELETE"):
            async with http.request(method, "/flow/mcp/thing", headers=sent, data=b"body") as answer:
                assert (answer.status, await answer.json()) == (200, {"got": True})
                assert answer.headers["Mcp-Session-Id"] == "s1"
                assert not {"Set-Cookie", "X-Other", "WWW-Authenticate"} & set(answer.headers)
        assert {request.headers["Authorization"] for request in seen} == {TOKEN}
        assert [request.method for request in seen] == ["POST", "GET", "DELETE"]
        assert bodies == [b"body"] * 3
        assert {request.path_qs for request in seen} == {"/mcp?team=1"}
        got = seen[0].headers
        assert (got["Mcp-Session-Id"], got["Last-Event-ID"], got["Accept"]) == ("s0", "7", "a/b")
        assert not {"Cookie", "X-Forwarded-For", "x-api-key"} & set(got)


async def test_nothing_but_what_was_granted(tmp_path: Path) -> None:
    async with door(tmp_path, to("http://127.0.0.1:9/")) as http:
        for path in (
            "/flow/mcp/other",
            "/flow/mcp/",
            "/flow/mcp",
            "/flow/mcp/thing/x",
            "/flow/mcp/thing%2f..",
            "/flow/mcp//",
        ):
            async with http.post(path) as answer:
                assert answer.status == 404, path
        async with http.put("/flow/mcp/thing") as answer:
            assert answer.status == 405
        async with http.post("/flow/mcp/thing", json={}) as answer:
            assert answer.status == 502
            assert "Flow cannot reach the MCP server thing" in await answer.text()
        async with http.post("/flow/mcp/thing", headers={"Authorization": "Bearer wrong"}) as answer:
            assert answer.status == 401


@pytest.mark.parametrize(("status", "said"), [(401, "refuses"), (403, "refuses"), (302, "another address")])
async def test_a_vendors_refusal_is_worded_for_whoever_can_mend_it(tmp_path: Path, status: int, said: str) -> None:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "http://169.254.169.254/", "WWW-Authenticate": "x"})

    async with upstream(handle) as url, door(tmp_path, to(url)) as http, http.post("/flow/mcp/thing") as answer:
        text = await answer.text()
        assert answer.status == 502
        assert said in json.loads(text)["error"]["message"]
        assert TOKEN not in text


async def test_streams_pass_at_once_and_end_with_either_side(tmp_path: Path) -> None:
    gone, go = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await go.wait()
        await response.write(b"data: 2\n\n")
        if request.method == "DELETE":
            request.transport.abort()  # type: ignore[union-attr]
        try:
            await asyncio.sleep(3600)
        finally:
            gone.set()
        return response

    async with upstream(handle) as url, door(tmp_path, to(url)) as http:
        async with http.get("/flow/mcp/thing") as answer:
            assert await answer.content.readany() == b"data: 1\n\n"
            go.set()
            assert await answer.content.readany() == b"data: 2\n\n"
            answer.close()  # the CLI leaves: nothing goes on outside
        await until(gone.is_set, 20, "the vendor to hear that nobody listens")
        async with http.delete("/flow/mcp/thing") as answer:
            with pytest.raises(aiohttp.ClientPayloadError):  # a cut stream looks cut
                await answer.read()


async def test_a_request_without_end_is_cut_off(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await request.content.read()
        return web.Response()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 20)

    async with upstream(handle) as url, door(tmp_path, to(url)) as http:
        try:
            async with http.post("/flow/mcp/thing", data=endless()) as answer:
                assert answer.status == 413
        except aiohttp.ClientConnectionError:
            pass  # the refusal overtook what was still being sent


async def test_the_official_client_through_the_door(tmp_path: Path) -> None:
    """Sessions, progress on the way, and the server's own stream."""
    identity = Identity.load(tmp_path)
    async with vendor(TOKEN) as found:
        gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes=routes())
        await gateway.open("w", tmp_path, None, {"mcp": to(found.url)})
        heard: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            heard.append(progress)

        with short_path(tmp_path, "gateway.sock") as path:
            headers = {"Authorization": f"Bearer {identity.token('gateway', 'w')}"}
            transport = httpx.AsyncHTTPTransport(uds=path)
            try:
                async with (
                    httpx.AsyncClient(transport=transport, headers=headers) as client,
                    streamable_http_client("http://x/flow/mcp/thing", http_client=client) as (read, write, *_),
                    ClientSession(read, write) as session,
                ):
                    await session.initialize()
                    assert [tool.name for tool in (await session.list_tools()).tools] == ["add", "count"]
                    result = await session.call_tool("count", {"to": 5}, progress_callback=note)
                    assert result.content[0].text == "counted to 5"
                    await until(lambda: heard == [1, 2, 3, 4, 5], 20, "the progress")
            finally:
                await gateway.aclose()
        assert {one["authorization"] for one in found.seen} == {TOKEN}
        assert "DELETE" in found.methods  # the client's end of the session
