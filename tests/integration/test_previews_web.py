"""Previews over HTTP: a browser's requests, Flow's server, the relay's half, a server behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schema
from aiohttp import web
from aiohttp.test_utils import TestServer
from ports import free_port
from unit.worklets.test_relay_inside import PROGRAM, RELAY
from waiting import until

from sessions.db import open_database
from sessions.previews import Links, Preview, Previews
from sessions.store import Store
from sessions.types import Prompt, SessionId, ThreadId
from web.app import build
from web.previews import PreviewHosts
from worklets.errors import WorkletError
from worklets.identity import Identity


class Inner:
    """The server in the worklet. `seen` are the headers of its requests."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.headers)
        match request.path:
            case "/ws":
                ws = web.WebSocketResponse(protocols=("vite-hmr",))
                await ws.prepare(request)
                async for message in ws:
                    await ws.send_bytes(message.data.encode() * 2)
                return ws
            case "/slow":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"first ")
                await self.released.wait()
                await response.write(b"last")
                return response
            case "/away":
                raise web.HTTPFound(f"http://localhost:{request.url.port}/there?x=1")
            case "/cookie":
                response = web.Response(text="set")
                response.headers.add("Set-Cookie", "theirs=1; Domain = example.org; Path=/")
                response.headers.add("Set-Cookie", "flow-preview=stolen; Path=/")
                response.headers["Strict-Transport-Security"] = "max-age=9"
                return response
            case "/open":
                return web.Response(headers={"Access-Control-Allow-Origin": "*"})
            case "/cors":
                return web.Response(headers={"Access-Control-Allow-Origin": request.headers.get("Origin", "")})
        return web.Response(text=f"{request.method} {request.path_qs} {len(await request.read())}")


@dataclass
class Stage:
    """`previews` by name; `woken` are the sessions that were asked for."""

    base: str
    host: str
    http: aiohttp.ClientSession
    links: Links
    previews: Previews
    inner: Inner
    run_dir: Path
    one: Preview
    hosts: PreviewHosts
    woken: list[str] = field(default_factory=list)
    visited: list[str] = field(default_factory=list)
    wake: Callable[[], Awaitable[None]] | None = None

    def at(self, preview: Preview) -> str:
        return f"{preview.id}.{self.host}"

    async def get(self, path: str, preview: Preview | None = None, cookie: str = "", **headers: str) -> Any:
        """Status, text and headers. Cookies and redirects are the test's own."""
        async with self.http.request(
            headers.pop("method", "GET"), self.base + path, allow_redirects=False,
            headers={"Host": self.at(preview or self.one), **({"Cookie": cookie} if cookie else {}), **headers},
        ) as answer:  # fmt: skip
            return answer.status, await answer.text(), answer.headers

    async def enter(self, preview: Preview, user: str = "U1") -> str:
        """The cookie that somebody gets for a link."""
        link = self.links.link(preview, user)
        status, _, headers = await self.get(link[len(self.links.address(preview)) :], preview)
        assert status == 303
        return str(headers["Set-Cookie"]).partition(";")[0]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    database = open_database(dsn)
    links = Links(Identity.load(tmp_path), "", time.time)
    previews, inner, run_dir = Previews(database, lambda: datetime.now(UTC)), Inner(), tmp_path / "run"
    run_dir.mkdir()
    made: list[Stage] = []

    async def where(_session_id: SessionId) -> Path:
        return run_dir

    async def wake(session_id: SessionId) -> None:
        made[0].woken.append(session_id)
        if made[0].wake is not None:
            await made[0].wake()

    async def visited(session_id: SessionId) -> None:
        made[0].visited.append(session_id)

    hosts = PreviewHosts(previews, links, where, wake, visited, expires=3600)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", inner.handle)
    try:
        async with (
            TestServer(build({}, None, hosts)) as server,
            TestServer(app) as behind,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        ):
            host = f"preview.test:{server.port}"
            links.url = f"http://*.{host}"
            session = await a_session(Store(database), "1700000000.000100")
            assert behind.port is not None
            one = await previews.announce(session, behind.port, title="One", path="/", command=None)
            made.append(Stage(str(server.make_url("")), host, http, links, previews, inner, run_dir, one, hosts))
            yield made[0]
            inner.released.set()
    finally:
        await hosts.aclose()
        await database.close()


async def a_session(store: Store, ts: str) -> SessionId:
    stored = await store.submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "go"))
    assert stored is not None
    return stored.submitted.session.id


@pytest.fixture
async def worklet(stage: Stage) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Starts the relay's half."""
    running: list[asyncio.subprocess.Process] = []

    async def begin() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(RELAY), "", str(stage.run_dir), str(stage.run_dir / "log"),
            cwd=stage.run_dir,
        )  # fmt: skip
        running.append(process)

    yield begin
    for process in running:
        process.kill()
        await process.wait()


@pytest.fixture
async def cookie(stage: Stage, worklet: Callable[[], Awaitable[None]]) -> str:
    """Of somebody who has opened the preview, which runs."""
    await worklet()
    cookie = await stage.enter(stage.one)

    async def serves() -> bool:
        return bool((await stage.get("/", cookie=cookie))[0] == 200)

    await until(serves)
    stage.inner.seen.clear()
    return cookie


async def test_nobody_gets_in_without_a_link_of_their_own(stage: Stage) -> None:
    other = await stage.previews.announce(
        await a_session(Store(stage.previews._db), "1700000001.000100"), 1, title="", path="/", command=None
    )
    stranger = await stage.enter(other)
    for cookie in ("", "flow-preview=U1.99999999999." + "0" * 64, stranger):
        status, text, headers = await stage.get("/", cookie=cookie)
        assert (status, "Open preview" in text) == (403, True)
        assert headers["Cache-Control"] == "no-store"
    link = stage.links.link(other, "U1")
    token = link.partition("?")[2]
    assert (await stage.get(f"/?{token}"))[0] == 403
    assert (await stage.get("/", stage.one, Host=f"{'f' * 16}.{stage.host}"))[0] == 404
    assert stage.inner.seen == []
    assert stage.woken == []


async def test_flows_own_routes_and_previews_do_not_meet(stage: Stage, cookie: str) -> None:
    assert (await stage.get("/health", cookie=cookie))[1] == "GET /health 0"
    assert (await stage.get("/health", Host="127.0.0.1"))[2]["Content-Type"].startswith("application/json")
    for host in (stage.host, f"{stage.one.id}.evil.test"):
        assert (await stage.get("/nothing", Host=host))[0] == 404
    bare = stage.host.partition(":")[0]
    for name in (f"foo.{bare}", f"foo.{stage.host}", f"FOO.{bare}.", f"foo.{bare}.:80", f"x{stage.one.id}.{stage.host}",
                 f"a.{stage.at(stage.one)}", f"{stage.one.id}.{bare}:1"):  # fmt: skip
        status, text, _ = await stage.get("/health", cookie=cookie, Host=name)
        assert (status, "preview is closed" in text) == (404, True), name


async def test_a_link_becomes_a_cookie_and_leaves_the_address(stage: Stage) -> None:
    link = stage.links.link(Preview(**{**_fields(stage.one), "path": "/a?b=1"}), "U1")
    status, _, headers = await stage.get(link[len(stage.links.address(stage.one)) :])
    assert (status, headers["Location"]) == (303, "/a?b=1")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Lax" in headers["Set-Cookie"]
    stage.links.url = stage.links.url.replace("http:", "https:")
    link = stage.links.link(stage.one, "U1")
    _, _, headers = await stage.get(link[len(stage.links.address(stage.one)) :])
    assert headers["Set-Cookie"].startswith("__Host-")
    assert "Secure" in headers["Set-Cookie"]


def _fields(preview: Preview) -> dict[str, Any]:
    return {name: getattr(preview, name) for name in Preview.__dataclass_fields__}


async def test_requests_go_through_as_from_a_browser_beside_the_server(stage: Stage, cookie: str) -> None:
    own = stage.links.address(stage.one)
    status, text, headers = await stage.get(
        "/a%2Fb?c=%20", cookie=f"a=1; {cookie}; b=2", Origin=own, Referer=f"{own}/x", **{"X-Forwarded-For": "1.2.3.4"}
    )
    assert (status, text) == (200, "GET /a%2Fb?c=%20 0") or (status, text) == (200, "GET /a/b?c=%20 0")
    assert headers["X-Robots-Tag"] == "noindex"
    (seen,) = stage.inner.seen
    inside = f"http://localhost:{stage.one.port}"
    assert (seen["Host"], seen["Origin"], seen["Referer"]) == (inside[7:], inside, f"{inside}/x")
    assert seen["Cookie"] == "a=1; b=2"
    assert (seen["X-Forwarded-Host"], seen["X-Forwarded-Proto"]) == (stage.at(stage.one), "http")
    assert "X-Forwarded-For" not in seen


async def test_answers_come_back_as_from_the_previews_host(stage: Stage, cookie: str) -> None:
    assert (await stage.get("/away", cookie=cookie))[2]["Location"] == "/there?x=1"
    _, _, headers = await stage.get("/cookie", cookie=cookie)
    assert headers.getall("Set-Cookie") == ["theirs=1; Path=/"]
    assert "Strict-Transport-Security" not in headers


async def test_large_bodies_and_streams(stage: Stage, cookie: str) -> None:
    async with stage.http.post(
        stage.base + "/up", data=b"x" * 900_000, headers={"Host": stage.at(stage.one), "Cookie": cookie}
    ) as answer:
        assert await answer.text() == "POST /up 900000"
    async with stage.http.get(stage.base + "/slow", headers={"Host": stage.at(stage.one), "Cookie": cookie}) as answer:
        assert await answer.content.readexactly(6) == b"first "
        stage.inner.released.set()
        assert await answer.content.read() == b"last"


async def test_websockets(stage: Stage, cookie: str) -> None:
    headers = {"Host": stage.at(stage.one), "Cookie": cookie, "Origin": stage.links.address(stage.one)}
    async with stage.http.ws_connect(stage.base + "/ws", headers=headers, protocols=("vite-hmr",)) as ws:
        assert ws.protocol == "vite-hmr"
        await ws.send_str("ab")
        assert await ws.receive_bytes() == b"abab"
    (seen,) = stage.inner.seen
    assert seen["Origin"] == f"http://localhost:{stage.one.port}"


async def test_pages_of_other_sites_get_nothing(stage: Stage, cookie: str) -> None:
    """Other previews are the same site to a browser, which sends the cookie along."""
    store = Store(stage.previews._db)
    stranger = await stage.previews.announce(
        await a_session(store, "1700000001.000100"), 5, title="", path="/", command=None
    )
    sibling = await stage.previews.announce(stage.one.session_id, 5, title="", path="/", command=None)
    for origin in ("https://evil.example", "null", stage.links.address(stranger), f"http://{stage.host}"):
        assert (await stage.get("/", cookie=cookie, method="POST", Origin=origin))[0] == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await stage.http.ws_connect(
                stage.base + "/ws", headers={"Host": stage.at(stage.one), "Cookie": cookie, "Origin": origin}
            )
    for site in ("same-site", "cross-site"):
        for mode, dest in (("no-cors", "script"), ("navigate", "iframe"), ("navigate", "object")):
            fetch = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            assert (await stage.get("/", cookie=cookie, **fetch))[0] == 403
        link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert (await stage.get("/", cookie=cookie, **link))[0] == 200
    stage.inner.seen.clear()
    status, _, headers = await stage.get("/cors", cookie=cookie, Origin=stage.links.address(sibling))
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, stage.links.address(sibling))
    assert stage.inner.seen[0]["Origin"] == "http://localhost:5"


async def test_a_visit_wakes_the_container_once(stage: Stage, worklet: Callable[[], Awaitable[None]]) -> None:
    cookie, woken = await stage.enter(stage.one), asyncio.Event()

    async def wake() -> None:
        await woken.wait()
        await worklet()

    stage.wake = wake
    for status, text, headers in await asyncio.gather(*(stage.get("/", cookie=cookie) for _ in range(5))):
        assert (status, headers["Retry-After"]) == (503, "2")
        assert "waking up" in text
        assert 'http-equiv="refresh"' in text
    assert stage.woken == [stage.one.session_id]
    woken.set()

    async def serves() -> bool:
        return bool((await stage.get("/", cookie=cookie))[0] == 200)

    await until(serves)
    assert stage.visited == [stage.one.session_id]


async def test_why_it_could_not_be_woken_is_said_once_and_then_tried_again(stage: Stage) -> None:
    cookie = await stage.enter(stage.one)

    async def wake() -> None:
        raise WorkletError("All places are taken.", suggestion="Try <later>.")

    stage.wake = wake
    assert (await stage.get("/", cookie=cookie))[0] == 503

    async def told() -> str | None:
        status, text, _ = await stage.get("/", cookie=cookie)
        return str(text) if status == 502 else None

    text = await until(told)
    assert "All places are taken. Try &lt;later&gt;." in text
    assert (await stage.get("/", cookie=cookie))[0] == 503


async def test_a_server_that_is_gone_is_started_anew(stage: Stage, cookie: str) -> None:
    port, pid = free_port(), stage.run_dir / "pid"
    command = f"echo $$ > {pid}; exec {sys.executable} -m http.server --bind 127.0.0.1 {port}"
    server = await stage.previews.announce(stage.one.session_id, port, title="", path="/", command=command)
    own = await stage.enter(server)
    status, text, _ = await stage.get("/", server, cookie=own)
    assert (status, "is starting" in text) == (503, True)

    async def serves() -> bool:
        return bool((await stage.get("/", server, cookie=own))[0] == 200)

    try:
        await until(serves, timeout=60)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_without_its_command_people_are_told_whom_to_ask(stage: Stage, cookie: str) -> None:
    port = free_port()
    gone = await stage.previews.announce(stage.one.session_id, port, title="", path="/", command=None)
    own = await stage.enter(gone)
    status, text, _ = await stage.get("/", gone, cookie=own)
    assert (status, f"Nothing listens at port {port}" in text) == (502, True)
    await stage.previews.close(gone.id)

    async def closed() -> bool:
        return bool((await stage.get("/", gone, cookie=own))[0] == 404)

    await until(closed)
