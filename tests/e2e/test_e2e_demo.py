"""`flow demo` as a new user has it: the printed page, a slash command typed into it, the answer that grows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright, expect
from world import ROOT

from worklets.gatewaycontrol import holder

pytestmark = pytest.mark.chromium

#: What a real Flow of the same directory may have: none of it is for the demo.
REAL = """
FLOW_DSN=postgresql://nobody@127.0.0.1:9/none
FLOW_KV_DSN=postgresql://nobody@127.0.0.1:9/none
SUPABASE_URL=http://127.0.0.1:9
SUPABASE_ANON_KEY=sb_publishable_x
FLOW_USERS=U999
FLOW_CHANNELS=C999
FLOW_ANSWERERS=approvers
FLOW_APPROVERS=U999
"""
SLOW = 90_000  # milliseconds that a browser or Flow may take for one step on a busy machine
SCREENSHOTS = ROOT / "build/screenshots"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.mark.parametrize("runtime", ["local", pytest.param("docker", marks=pytest.mark.docker)])
async def test_a_new_user_types_into_the_demo_and_sees_the_answer_grow(runtime: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(REAL)
    async with _demo(runtime, tmp_path) as url, _browser() as page:
        await page.goto(url)
        await page.get_by_test_id("composer").fill("/flow SAY hello from the scripted model")
        await page.get_by_test_id("send").click()
        thread = page.get_by_test_id("thread")
        await expect(thread).to_contain_text("tokens in")
        await expect(thread.get_by_test_id("message").last).to_contain_text("hello from the scripted model")
        await page.get_by_test_id("thread-composer").fill("WORDS 200 20\nHOLD end\nSAY the end")
        await page.get_by_test_id("thread-send").click()
        last = thread.get_by_test_id("message").last
        await expect(last).to_contain_text("word5 ")
        assert "the end" not in await last.inner_text()
        await expect(last).to_contain_text("word190 ")  # the very end may look like the beginning of a secret
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=SCREENSHOTS / f"demo-{runtime}.png")
        # From another thread, which the page opens, and back.
        await page.get_by_test_id("composer").fill("/flow RELEASE end")
        await page.get_by_test_id("send").click()
        await expect(thread).to_contain_text("Done.")
        await page.get_by_test_id("messages").get_by_test_id("open-thread").first.click()
        await expect(thread.get_by_test_id("message").last).to_contain_text("the end")
        # README's commands beside it: the session that answered, and its store.
        listed = await _flow(tmp_path, "sessions", "list")
        assert len(listed.splitlines()) == 3
        session = listed.splitlines()[1].split()[0]
        assert "backend      sqlite" in await _flow(tmp_path, "kv", "stats", "--worklet", session)


async def test_a_second_demo_in_the_same_place_leaves_the_first_alone(tmp_path: Path) -> None:
    async with _demo("local", tmp_path):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", "demo", cwd=tmp_path, env=_env("local", tmp_path), stderr=subprocess.PIPE
        )
        _, said = await second.communicate()
        assert second.returncode == 1
        assert "Another Flow is running" in said.decode()
        assert (tmp_path / "data/demo/db.sqlite").exists()


async def test_a_demo_after_one_that_was_killed_knows_nothing_of_it(tmp_path: Path) -> None:
    share_dir, said = tmp_path / "data/demo", [""]
    async with _demo("local", tmp_path, end=signal.SIGKILL) as url, _browser() as page:
        await page.goto(url)
        await page.get_by_test_id("composer").fill("/flow SAY here I am\nHOLD on")
        await page.get_by_test_id("send").click()
        await expect(page.get_by_test_id("thread")).to_contain_text("here I")
        left = holder(share_dir)
    assert left
    async with _demo("local", tmp_path, told=said) as url, _browser() as page:
        await page.goto(url)
        await page.get_by_test_id("composer").fill("/flow SAY all anew")
        await page.get_by_test_id("send").click()
        await expect(page.get_by_test_id("thread")).to_contain_text("tokens in")
        assert holder(share_dir) not in (None, left)
    warnings = [line for line in said[0].splitlines() if re.search(r"\[(warning|error) ", line)]
    assert [line for line in warnings if "the local runtime isolates nothing" not in line] == []


async def _well(url: str) -> None:
    """Returns when /health says that all parts work; an engine that others keep busy may take its time."""
    async with asyncio.timeout(SLOW / 1000), aiohttp.ClientSession() as http:
        while True:
            async with http.get(url) as response:
                if response.status == 200:
                    return
                print(await response.text())
            await asyncio.sleep(1)


async def _flow(cwd: Path, *words: str) -> str:
    """stdout of `flow …` beside the demo."""
    beside = {"FLOW_SHARE_DIR": "data/demo", "FLOW_DSN": "sqlite://data/demo/db.sqlite", "FLOW_KV": "sqlite"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", *words, cwd=cwd, env=_env("local", cwd) | beside, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


def _env(runtime: str, cwd: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": str(ROOT), "FLOW_RUNTIME": runtime}


@asynccontextmanager
async def _demo(
    runtime: str, cwd: Path, end: signal.Signals = signal.SIGINT, told: list[str] | None = None
) -> AsyncIterator[str]:
    """Its page's address. `end` is how it is ended; what it printed goes into `told`."""
    env = _env(runtime, cwd)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "demo", cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout
    said = ""
    async with asyncio.timeout(110):
        while not (found := re.search(r"Open\s+(http://\S+)", said)):
            line = (await process.stdout.readline()).decode()
            assert line, f"the demo ended:\n{said}"
            said += line
        while "Ctrl-C" not in said:
            said += (await process.stdout.readline()).decode()
    assert "Key-value store: SQLite in data/demo." in said
    http = re.search(r"HTTP, health, key-value store: (http://127\.0\.0\.1:\d+/)", said)
    assert http is not None
    rest = asyncio.create_task(process.stdout.read())
    try:
        try:
            await _well(f"{http[1]}health")
            yield found[1]
        finally:
            process.send_signal(end)
            async with asyncio.timeout(60):
                await asyncio.gather(process.wait(), rest)
    except Exception as error:
        error.add_note(f"The demo said:\n{said}{rest.result().decode() if rest.done() else '…'}")
        raise
    said += rest.result().decode()
    if told is not None:
        told[:] = [said]
    assert "Traceback" not in said
    assert process.returncode == (0 if end == signal.SIGINT else -end)


@asynccontextmanager
async def _browser() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET, timeout=SLOW)
        expect.set_options(timeout=SLOW)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(SLOW)
            yield page
        finally:
            await browser.close()
