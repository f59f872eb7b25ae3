"""Previews over HTTP: what may wake and start, what ends what is open, and what previews of one thread may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from ports import free_port
from test_previews_web import Stage, cookie, stage, worklet
from waiting import until

from sessions.errors import SessionNotFound, StoreUnavailable
from sessions.previews import PARAMETER

__all__ = ["cookie", "stage", "worklet"]  # fixtures
FETCH = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}
Begin = Callable[[], Awaitable[None]]


async def test_a_page_that_is_left_open_wakes_nothing_and_starts_nothing(stage: Stage, worklet: Begin) -> None:
    mine = await stage.enter(stage.one)
    status, text, _ = await stage.get("/data", cookie=mine, **FETCH)
    assert (status, "sleeps" in text) == (503, True)
    own = {"Upgrade": "websocket", "Connection": "Upgrade"}  # a site without TLS: browsers tell no mode
    assert (await stage.get("/ws", cookie=mine, **own))[0] == 503
    assert stage.woken == []
    await worklet()
    started = stage.run_dir / "started"
    server = await stage.previews.announce(
        stage.one.session_id, free_port(), title="", path="/", command=f"touch {started}"
    )
    mine = await stage.enter(server)

    async def listens() -> bool:
        return "Nothing listens" in (await stage.get("/", server, cookie=mine, **FETCH))[1]

    await until(listens)
    assert not started.exists()
    assert (await stage.get("/", server, cookie=mine, **NAVIGATION))[0] == 503
    await until(started.exists)


async def test_a_command_is_started_once_in_a_container(stage: Stage, cookie: str) -> None:
    runs = stage.run_dir / "runs"
    server = await stage.previews.announce(
        stage.one.session_id, free_port(), title="", path="/", command=f"echo x >> {runs}; false"
    )
    mine = await stage.enter(server)
    assert (await stage.get("/", server, cookie=mine))[0] == 503
    await until(runs.exists)
    stage.hosts._servers._waking.pop(server.id).cancel()  # as after a minute without an answer
    status, text, _ = await stage.get("/", server, cookie=mine)
    assert (status, "not started twice" in text) == (502, True)
    assert runs.read_text() == "x\n"


async def test_what_is_open_ends_with_the_preview(stage: Stage, cookie: str) -> None:
    headers = {"Host": stage.at(stage.one), "Cookie": cookie}
    async with (
        stage.http.ws_connect(stage.base + "/ws", headers=headers) as ws,
        stage.http.get(stage.base + "/slow", headers=headers) as answer,
    ):
        assert await answer.content.readexactly(6) == b"first "
        await ws.send_str("ab")
        assert await ws.receive_bytes() == b"abab"
        await stage.previews.close(stage.one.id)
        ended = await ws.receive(timeout=60)
        assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(answer.content.read(), 60)
    await until(lambda: not stage.hosts._open)
    assert (await stage.get("/", cookie=cookie))[0] == 404


async def test_what_is_open_ends_with_its_cookie(stage: Stage, cookie: str) -> None:
    short = f"{cookie.partition('=')[0]}={stage.links.sign('cookie', stage.one.id, 'U1', 5)}"
    async with stage.http.get(stage.base + "/slow", headers={"Host": stage.at(stage.one), "Cookie": short}) as answer:
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(answer.content.read(), 60)
    assert (await stage.get("/", cookie=cookie))[0] == 200


async def test_a_container_that_runs_but_takes_no_connections_is_told(stage: Stage) -> None:
    stage.hosts._servers._reached = 0.5
    mine = await stage.enter(stage.one)

    async def told() -> bool:
        status, text, _ = await stage.get("/", cookie=mine)
        return status == 502 and "takes Flow&#x27;s connections" in text

    await until(told)
    assert stage.woken


async def test_a_woken_container_may_take_its_time_to_listen(stage: Stage, worklet: Begin) -> None:
    mine, tasks = await stage.enter(stage.one), list[asyncio.Task[None]]()

    async def wake() -> None:
        tasks.append(asyncio.create_task(later()))

    async def later() -> None:
        await asyncio.wait({asyncio.create_task(stage.inner.released.wait())}, timeout=1)
        await worklet()

    stage.wake = wake

    async def serves() -> bool:
        status, text, _ = await stage.get("/", cookie=mine)
        assert status in (200, 503), text
        return bool(status == 200)

    await until(serves)
    assert stage.woken == [stage.one.session_id]


async def test_previews_of_a_thread_may_ask_each_other_with_json(stage: Stage, cookie: str) -> None:
    sibling = await stage.previews.announce(stage.one.session_id, 5, title="", path="/", command=None)
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    origin = stage.links.address(sibling)
    status, _, headers = await stage.get("/api", method="OPTIONS", Origin=origin, **asked)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, origin)
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert headers["Access-Control-Allow-Methods"] == "PUT"
    assert headers["Access-Control-Allow-Headers"] == "content-type"
    assert stage.inner.seen == []
    _, _, headers = await stage.get("/open", cookie=cookie, Origin=origin)
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Access-Control-Allow-Credentials"] == "true"
    for stranger in ("https://evil.example", f"https://{sibling.id}.{stage.host}", "null"):
        status, _, headers = await stage.get("/api", method="OPTIONS", Origin=stranger, **asked)
        assert (status, "Access-Control-Allow-Origin" in headers) == (403, False)


async def test_what_flow_cannot_look_up_is_a_page(stage: Stage, cookie: str) -> None:
    async def away(_session_id: object) -> Path:
        raise StoreUnavailable("The database is away.")

    async def gone(_session_id: object) -> Path:
        raise SessionNotFound("nobody")

    stage.hosts._run_dir = away
    status, text, headers = await stage.get("/", cookie=cookie)
    assert (status, "cannot look this preview up" in text, headers["Content-Type"][:9]) == (503, True, "text/html")
    stage.hosts._run_dir = gone
    assert (await stage.get("/", cookie=cookie))[0] == 404


@pytest.mark.parametrize("path", ["//evil.example/x", "///evil.example/x", "/\\evil.example/x"])
async def test_a_link_leads_to_no_other_host(stage: Stage, path: str) -> None:
    token = stage.links.sign("link", stage.one.id, "U1", 60)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stage.base.rpartition(":")[2].strip("/")))
    writer.write(f"GET {path}?{PARAMETER}={token} HTTP/1.1\r\nHost: {stage.at(stage.one)}\r\n\r\n".encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
    writer.close()
    (location,) = [line for line in head.splitlines() if line.startswith("Location:")]
    assert location == "Location: /evil.example/x"


async def test_what_is_kept_for_a_preview_goes_when_nobody_asks(stage: Stage, cookie: str) -> None:
    assert stage.hosts._passage._clients
    await stage.hosts._forget(stage.one.id)
    hosts = stage.hosts
    assert [hosts._passage._clients, hosts._servers._there, hosts._servers._failed, hosts._used] == [{}] * 4
    assert (await stage.get("/", cookie=cookie))[0] == 200
    hosts._used[stage.one.id] -= 3_600
    await until(lambda: not hosts._passage._clients)
