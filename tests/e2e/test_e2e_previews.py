"""A server that Claude starts in its container, opened in a real browser, before and after the container slept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright, expect
from waiting import until
from world import World

pytestmark = [pytest.mark.chromium]

SLOW = 90.0  # seconds that a browser or an engine may take for one step on a busy machine
SERVER = "python3 -m http.server 3000 --bind 127.0.0.1 --directory site"
ASKED = f"""@Flow show me
BASH mkdir -p site && echo '<title>Shop</title><h1>Welcome</h1><script src=a.js></script>' > site/index.html \
&& echo 'document.body.append("scripted")' > site/a.js && (nohup {SERVER} > /tmp/server.log 2>&1 &) ; \
until curl -s localhost:3000 > /dev/null; do sleep 0.1; done
TOOL mcp__flow__open_preview {{"port": 3000, "title": "The shop", "command": "{SERVER}"}}
SAY It is open."""


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            timeout=SLOW * 1000,
        )
        expect.set_options(timeout=SLOW * 1000)  # Flow's own page may come first, and be replaced
        try:
            page = await chromium.new_page()
            page.set_default_timeout(SLOW * 1000)
            yield page
        finally:
            await chromium.close()


@pytest.mark.docker
@pytest.mark.parametrize("runtime", ["docker"])
async def test_a_preview_in_a_browser_and_again_after_the_container_slept(world: World) -> None:
    await world.program.start(FLOW_PREVIEW_URL="http://*.localhost:0")
    root = await world.slack.post("maya", "#general", ASKED)
    await world.settled(root, "It is open.")
    link = await a_link(world, root)
    async with browser() as page:
        await page.goto(link)
        await expect(page.locator("h1")).to_have_text("Welcome")
        await expect(page.locator("body")).to_contain_text("scripted")
        assert "flow_preview" not in page.url
        stranger = await page.context.browser.new_context() if page.context.browser else None
        assert stranger is not None
        other = await stranger.new_page()
        await other.goto(page.url, timeout=SLOW * 1000)
        await expect(other.locator("h1")).to_contain_text("for the people of its thread")
        await asleep(world)
        await page.reload()
        await expect(page.locator("h1")).to_have_text("Welcome")
    assert (await world.program.health())[0] == 200
    async with aiohttp.ClientSession() as http, http.get(world.program.url + "/") as answer:
        assert answer.status == 404


async def a_link(world: World, root: str) -> str:
    """Maya's own."""

    def offer() -> dict[str, object] | None:
        shown = world.slack.messages("general", thread_ts=root)
        return next((message for message in shown if "Open preview" in str(message.get("blocks"))), None)

    def link() -> str | None:
        rows = [block for said in world.slack.ephemerals("maya") for block in said.get("blocks", [])]
        buttons = [one for row in rows if row["type"] == "actions" for one in row["elements"]]
        return next((str(one["url"]) for one in buttons if one["action_id"] == "preview_open_link"), None)

    assert (await world.slack.click("maya", await until(offer), "preview_open")).ok
    return str(await until(link))


async def asleep(world: World) -> None:
    await world.slack.command("maya", "#general", "/flow", "sessions")
    listed = await until(lambda: [m for m in world.slack.ephemerals("maya") if "Your sessions" in str(m)])
    assert (await world.slack.click("maya", listed[-1], "sleep")).ok
    await until(lambda: any("sleeps now" in str(m) for m in world.slack.ephemerals("maya")), SLOW)
    runs = list((world.share_dir / "worklets").glob("*/run"))
    await until(lambda: not any(Path(run / "inside.sock").exists() for run in runs), SLOW)
