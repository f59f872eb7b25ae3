"""What people attach, fetched: whom the token is shown to, and what is not taken for the file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from slack_sdk.web.async_client import AsyncWebClient

from bot.fileobjects import attached, named
from bot.files import Downloads
from sessions.filerules import FileRefused
from sessions.types import Attached

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that answers every request so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def downloads(base: str) -> Downloads:
    return Downloads(AsyncWebClient(token="xoxb-secret", base_url=f"{base}api/"), pauses=(0.01, 0.01))


async def fetch(handler: Handler, tmp_path: Path, mimetype: str = "text/plain", limit: int = 100) -> bytes:
    async with serving(handler) as base:
        await downloads(base).fetch(Attached("F1", "a", mimetype, 5, f"{base}a"), tmp_path / "a", limit)
    return (tmp_path / "a").read_bytes()


async def test_the_token_goes_to_slack_alone(tmp_path: Path) -> None:
    seen: list[str] = []

    async def other(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(text="hello")

    async with AsyncExitStack() as stack:
        slack = await stack.enter_async_context(serving(other))
        elsewhere = await stack.enter_async_context(serving(other))
        lookalikes = (elsewhere, "http://files.slack.com/", "https://slack.com.evil.example/", "https://evilslack.com/")
        for address in lookalikes:
            with pytest.raises(FileRefused, match="outside of Slack"):
                await downloads(slack).fetch(Attached("F1", "a", url=f"{address}a"), tmp_path / "a", 100)
    assert seen == []


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:9/")

    with pytest.raises(FileRefused, match="does not let me read"):
        await fetch(elsewhere, tmp_path)


async def test_the_file_comes_with_the_token(tmp_path: Path) -> None:
    async def give(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer xoxb-secret"
        return web.Response(text="hello")

    assert await fetch(give, tmp_path) == b"hello"


async def test_a_sign_in_page_of_any_length(tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<title>Sign in</title>", content_type="text/html")

    for mimetype in ("text/plain", "text/html"):
        with pytest.raises(FileRefused, match="files:read"):
            await fetch(page, tmp_path, mimetype)


async def test_an_html_file_is_a_file(tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<p>a ", content_type="text/html")

    assert await fetch(page, tmp_path, "text/html") == b"<p>a "


async def test_more_than_slack_said(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(bytes(1000))
        return response

    with pytest.raises(FileRefused, match="larger than 100 B"):
        await fetch(endless, tmp_path)


async def test_a_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    tries = 0

    async def breaks(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        response = web.StreamResponse(headers={"Content-Length": "5"})
        await response.prepare(request)
        await response.write(b"hel" if tries < 3 else b"hello")
        if tries < 3 and request.transport is not None:
            request.transport.close()
        return response

    assert await fetch(breaks, tmp_path) == b"hello"
    assert tries == 3


async def test_what_never_comes_is_given_up(tmp_path: Path) -> None:
    async def down(_: web.Request) -> web.Response:
        return web.Response(status=503)

    with pytest.raises(FileRefused, match="send it again"):
        await fetch(down, tmp_path)


def test_file_objects() -> None:
    objects = [
        {"id": "F1", "name": "a", "url_private": "https://files.slack.com/a", "size": "x"},
        {"id": "F2", "mode": "tombstone"},
        {"name": "no id"},
        {"id": "F3", "title": "b", "is_external": True, "url_private": "https://docs.example/b"},
    ]
    assert attached(objects) == (Attached("F1", "a", url="https://files.slack.com/a"), Attached("F3", "b"))
    assert named(objects) == "a, no id, b"
    assert named([]) == ""
