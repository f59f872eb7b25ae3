"""The gateway between a client as the CLI is one and an upstream that shows what it received."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from waiting import until

from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential, outgoing
from worklets.identity import Identity
from worklets.sockets import short_path

KEY = "sk-ant-the-real-key"
OAUTH = "sk-ant-oat01-the-real-token"
WITH_KEY = Credential(api_key=KEY)


@dataclass
class Upstream:
    """Records every request; answers with `answer` where a test sets one."""

    url: str = ""
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.seen.append((request.method, str(request.rel_url), headers, await request.read()))
        return await self.answer(request) if self.answer else web.json_response({"ok": True})


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    async with TestServer(app) as server:
        upstream.url = str(server.make_url("/")).rstrip("/")
        yield upstream


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path.joinpath(*["deep" * 10] * 4, "run")
    path.mkdir(parents=True)
    return path


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load(tmp_path)


gateways: list[ModelGateway] = []
Open = Callable[..., Awaitable[aiohttp.ClientSession]]


@pytest.fixture
async def serve(run_dir: Path, identity: Identity, upstream: Upstream) -> AsyncIterator[Open]:
    """Opens a gateway for the worklet "w" and gives a client that comes through its socket."""
    closers = []
    gateways.clear()

    async def serve(credential: Credential | None = WITH_KEY, url: str = "") -> aiohttp.ClientSession:
        gateway = ModelGateway(url or upstream.url, credential, identity)
        await gateway.open("w", run_dir)
        entered = short_path(run_dir, "gateway.sock")
        session = aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(entered.__enter__()), auto_decompress=False,
            headers={"x-api-key": identity.token("gateway", "w")},
        )  # fmt: skip
        gateways.append(gateway)
        closers.append((session, entered, gateway))
        return session

    yield serve
    for session, entered, gateway in closers:
        await session.close()
        entered.__exit__(None, None, None)
        await gateway.aclose()


async def test_the_token_is_swapped_for_the_key_and_the_rest_goes_through(serve: Open, upstream: Upstream) -> None:
    client = await serve()
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "a,b",
        "User-Agent": "claude-cli/2",
        "Cookie": "a=b",
    }
    async with client.post("/v1/messages?beta=true", json={"model": "m"}, headers=headers) as answer:
        assert (answer.status, await answer.json()) == (200, {"ok": True})
    method, url, sent, body = upstream.seen[0]
    assert (method, url, json.loads(body)) == ("POST", "/v1/messages?beta=true", {"model": "m"})
    assert sent["x-api-key"] == KEY
    assert "authorization" not in sent
    assert "cookie" not in sent
    assert (sent["anthropic-beta"], sent["user-agent"]) == ("a,b", "claude-cli/2")
    assert sent["host"] in upstream.url


async def test_an_oauth_token_goes_as_a_bearer_with_its_beta(
    serve: Open, upstream: Upstream, identity: Identity
) -> None:
    client = await serve(Credential(oauth_token=OAUTH))
    async with client.post("/v1/messages", json={}, headers={"anthropic-beta": "x-1"}):
        pass
    sent = upstream.seen[0][2]
    assert sent["authorization"] == f"Bearer {OAUTH}"
    assert sent["anthropic-beta"] == "x-1,oauth-2025-04-20"
    assert "x-api-key" not in sent
    assert identity.token("gateway", "w") not in str(upstream.seen)


def test_betas_are_merged_without_doubling() -> None:
    headers = outgoing({"Anthropic-Beta": "oauth-2025-04-20, b"}, Credential(oauth_token=OAUTH))
    assert headers["Anthropic-Beta"] == "oauth-2025-04-20,b"
    assert outgoing({}, Credential(oauth_token=OAUTH))["anthropic-beta"] == "oauth-2025-04-20"


def test_headers_named_by_connection_are_dropped() -> None:
    headers = {"Connection": "keep-alive, X-Private", "X-Private": "1", "Transfer-Encoding": "chunked", "X-Public": "2"}
    assert outgoing(headers, Credential(api_key=KEY)) == {"X-Public": "2", "x-api-key": KEY}


async def test_a_bearer_token_is_taken_too(serve: Open, upstream: Upstream, identity: Identity) -> None:
    client = await serve()
    del client.headers["x-api-key"]
    async with client.get(
        "/v1/models", headers={"Authorization": f"Bearer {identity.token('gateway', 'w')}"}
    ) as answer:
        assert answer.status == 200
    assert upstream.seen[0][2]["x-api-key"] == KEY


async def test_another_worklets_token_is_refused(serve: Open, upstream: Upstream, identity: Identity) -> None:
    client = await serve()
    for token in (identity.token("gateway", "other"), identity.token("relay", "w"), "", "ü"):
        async with client.post("/v1/messages", headers={"x-api-key": token}) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["type"] == "authentication_error"
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages/batches"), ("GET", "/v1/organizations/api_keys"), ("POST", "/v1/files"),
        ("DELETE", "/v1/models/x"), ("GET", "/v1/messages"), ("POST", "/v1/messages/../files"),
        ("POST", "/v1/messages%2f..%2ffiles"), ("POST", "//v1/messages"),
        ("GET", "/v1/models/../files"), ("GET", "/v1/models/%2e%2e/files"), ("GET", "/v1/models/.."), ("GET", "/"),
    ],
)  # fmt: skip
async def test_nothing_but_the_messages_api_is_served(serve: Open, upstream: Upstream, method: str, path: str) -> None:
    from yarl import URL

    client = await serve()
    async with client.request(method, URL(f"http://localhost{path}", encoded=True)) as answer:
        assert answer.status == 404
        assert (await answer.json())["type"] == "error"
    assert upstream.seen == []


async def test_models_and_token_counts_are_served(serve: Open, upstream: Upstream) -> None:
    client = await serve()
    for method, path in (("GET", "/v1/models/claude-x-4.5"), ("POST", "/v1/messages/count_tokens")):
        async with client.request(method, path) as answer:
            assert answer.status == 200
    assert [(m, u) for m, u, _, _ in upstream.seen] == [
        ("GET", "/v1/models/claude-x-4.5"),
        ("POST", "/v1/messages/count_tokens"),
    ]


async def test_an_answer_streams_chunk_by_chunk(serve: Open, upstream: Upstream) -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "request-id": "req_1"})
        await response.prepare(request)
        await response.write(b"event: a\n\n")
        await go_on.wait()
        await response.write(b"event: b\n\n")
        return response

    upstream.answer = answer
    client = await serve()
    async with client.post("/v1/messages", json={}) as response:
        assert await response.content.readany() == b"event: a\n\n"
        go_on.set()
        assert await response.content.read() == b"event: b\n\n"
        assert (response.headers["request-id"], response.content_type) == ("req_1", "text/event-stream")


async def test_a_compressed_answer_is_not_touched(serve: Open, upstream: Upstream) -> None:
    packed = gzip.compress(b'{"a": 1}')

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=packed, headers=headers)

    upstream.answer = answer
    client = await serve()
    async with client.post("/v1/messages", json={}, headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert int(response.headers["Content-Length"]) == len(packed)
        assert await response.read() == packed


async def test_errors_keep_status_headers_and_body(serve: Open, upstream: Upstream) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        headers = {
            "retry-after": "7",
            "anthropic-ratelimit-requests-remaining": "0",
            "Set-Cookie": "a=b",
            "x-echo": KEY,
        }
        body = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
        return web.json_response(body, status=429, headers=headers)

    upstream.answer = answer
    client = await serve()
    async with client.post("/v1/messages", json={}) as response:
        assert response.status == 429
        assert response.headers["retry-after"] == "7"
        assert response.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert (await response.json())["error"]["message"] == "slow down"
        assert "Set-Cookie" not in response.headers
        assert KEY not in str(response.headers)


async def test_a_stream_cut_upstream_is_cut_here_too(serve: Open, upstream: Upstream) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    upstream.answer = answer
    client = await serve()
    with pytest.raises(aiohttp.ClientError):
        async with client.post("/v1/messages", json={}) as response:
            await response.read()


async def test_a_client_that_leaves_ends_the_request_upstream(serve: Open, upstream: Upstream) -> None:
    left, arrived = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        arrived.set()
        try:
            while True:
                await response.write(b".")
                await asyncio.sleep(0.01)
        finally:
            left.set()

    upstream.answer = answer
    client = await serve()
    response = await client.post("/v1/messages", json={})
    await arrived.wait()
    response.close()
    await asyncio.wait_for(left.wait(), 60)


async def test_an_upstream_that_is_away_is_a_502_in_the_apis_shape(serve: Open) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        client = await serve(url=url)
        async with client.post("/v1/messages", json={}) as response:
            assert response.status == 502
            body = await response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "api_error")
    assert url in body["error"]["message"]
    assert "ANTHROPIC_BASE_URL" in body["error"]["message"]
    assert KEY not in str(body)


async def test_without_a_credential_it_says_so(serve: Open, upstream: Upstream) -> None:
    client = await serve(None)
    async with client.post("/v1/messages", json={}) as response:
        assert response.status == 401
        message = (await response.json())["error"]["message"]
    assert message.startswith("No Claude credential is configured.")
    assert "ANTHROPIC_API_KEY" in message
    assert upstream.seen == []


async def test_a_big_request_streams_and_is_counted(serve: Open, upstream: Upstream) -> None:
    client = await serve()
    body = b"x" * (8 << 20)
    async with client.post("/v1/messages", data=io.BytesIO(body)) as response:
        answer = await response.read()
    assert upstream.seen[0][3] == body
    assert int(upstream.seen[0][2]["content-length"]) == len(body)
    traffic = gateways[0].traffic("w")
    assert (traffic.requests, traffic.sent, traffic.received) == (1, len(body), len(answer))
    assert gateways[0].traffic("nobody").requests == 0


async def test_it_opens_over_a_dead_socket_and_closes_for_good(
    run_dir: Path, identity: Identity, upstream: Upstream
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        import os

        handle = os.open(run_dir, os.O_DIRECTORY)
        dead.bind(f"/proc/self/fd/{handle}/gateway.sock")
        os.close(handle)
    gateway = ModelGateway(upstream.url, Credential(api_key=KEY), identity)
    await gateway.open("w", run_dir)
    await gateway.open("w", run_dir)
    assert _connects(run_dir)
    await gateway.close("w")
    await gateway.close("w")
    await until(lambda: not _connects(run_dir))
    await gateway.aclose()


def _connects(run_dir: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe, short_path(run_dir, "gateway.sock") as path:
            probe.connect(path)
    except OSError:
        return False
    return True


async def test_the_credential_is_never_logged_or_shown(
    serve: Open, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = await serve(url=f"http://127.0.0.1:{free.getsockname()[1]}")
        async with client.post("/v1/messages", json={}):
            pass
    out = capsys.readouterr()
    assert "model unreachable" in out.out + out.err
    assert KEY not in out.out + out.err
    assert KEY not in repr(Credential(api_key=KEY))
