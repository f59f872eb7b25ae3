"""All of it in one thread: a template, a repository's container.yaml, a secret out of Vault, a question, a preview.

What is outside the worklet is real and on loopback: OpenBao, a Git host with a login, a vendor's MCP server behind TLS
and the company's proxy, a web host that people are asked about.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate
from githost import TOKEN, USER, git_host
from images import IMAGE
from leaks import Leaks
from mcpvendor import vendor
from modelrequests import in_conversation
from openbao import OpenBao, open_bao
from playwright.async_api import expect
from test_e2e_container import store
from test_e2e_egress import outside, questions, told
from test_e2e_previews import a_link, asleep, browser
from test_e2e_secrets import _named
from world import API_KEY, World, containers

pytestmark = [
    pytest.mark.docker,
    pytest.mark.chromium,
    pytest.mark.timeout(480),
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of another user"),
]

TRACKER = f"real-tracker-{secrets.token_hex(16)}"
CONFIG = """\
name: shop
mcpServers:
  tracker:
    url: {url}
    headers:
      Authorization: Bearer ${{TRACKER_TOKEN}}
resources: {{memory: 1t, timeout: 20m}}
security:
  allowedDomains: ["*.askable.test:{port}"]
"""
SERVER = "python3 -m http.server 3000 --bind 127.0.0.1 --directory site"
WORK = f"""\
WORDS 20 30
HOLD middle
SAY And on it goes.
TOOL mcp__tracker__add {{"a": 40, "b": 2}}
BASH curl -sS -o site/greeting http://a.askable.test:PORT/ && cat site/greeting; curl -sS http://b.other.test:PORT/
BASH (nohup {SERVER} > /tmp/server.log 2>&1 &) ; until curl -s localhost:3000 > /dev/null; do sleep 0.1; done
TOOL mcp__flow__open_preview {{"port": 3000, "title": "The shop", "command": "{SERVER}"}}
SAY The shop is open."""


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[OpenBao]:
    with open_bao(tmp_path / "bao") as server:
        yield server


@contextlib.asynccontextmanager
async def company_proxy(port: int) -> AsyncIterator[str]:
    """The machine's way out, for HTTPS_PROXY: whatever name is asked for, it leads to this port of loopback."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                target.write(piece)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"CONNECT tracker.test:")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, far_writer))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def surroundings(world: World, bao: OpenBao, tmp_path: Path) -> AsyncIterator[int]:
    """All that is outside, and the program's settings for it; the port of the web host that people are asked about."""
    certificate = make_certificate(tmp_path, None, "tracker.test")
    world.program.env |= {
        "FLOW_SECRETS": "vault", "VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.token("flow"),
        "FLOW_PREVIEW_URL": "http://*.localhost:0", "FLOW_KV": "sqlite",
    }  # fmt: skip
    async with (
        vendor(f"Bearer {TRACKER}", name="tracker.test", tls=certificate) as tracker,
        company_proxy(tracker.port) as way_out,
        outside(world, HTTPS_PROXY=way_out, SSL_CERT_FILE=str(certificate[0])) as port,
        git_host(tmp_path / "host") as host,
    ):
        files = {
            ".claude/container.yaml": CONFIG.format(url=tracker.url, port=port),
            "site/index.html": "<h1>Shop</h1>",
        }
        host.make("acme/shop.git", files=files)
        world.program.env |= {
            "FLOW_REPOSITORIES": f"shop={host.url.replace('://', f'://{USER}:{TOKEN}@')}/acme/shop.git",
            "FLOW_EGRESS": "allow-list", "FLOW_EGRESS_ASK": "*", "FLOW_EGRESS_PORTS": f"80,443,{port}",
        }  # fmt: skip
        await store(world, "TRACKER_TOKEN", TRACKER, "mcp/tracker")
        await store(world, "hosts", "tracker.test", "mcp/tracker")
        yield port
        assert {headers["authorization"] for headers in tracker.seen} == {f"Bearer {TRACKER}"}


async def started_from_a_template(world: World, text: str) -> str:
    """Maya chooses the template in the modal that starts a session; the ts of the thread's first message."""
    template = {"name": "shop", "description": "the shop", "public": True, "config": {"repository": "shop"}}
    (world.program.cwd / "shop.json").write_text(json.dumps(template))
    imported = await world.program.flow("templates", "import", "shop.json")
    assert imported.returncode == 0, imported.stderr
    assert (await world.slack.command("maya", "general", "/flow", "new")).ok

    def choice() -> list[dict[str, Any]]:  # on a busy machine an empty modal comes first
        blocks = [block for view in world.slack.views("maya") for block in view["blocks"]]
        return [block["element"] for block in blocks if block.get("element", {}).get("action_id") == "template"]

    ((option,),) = (one["options"] for one in await world.slack.wait_for(choice))
    assert (await world.slack.submit("maya", {"text": text, "template": option["value"]})).ok
    return await world.root("WORDS 20 30")


def showing(world: World, root: str, text: str) -> list[dict[str, Any]]:
    shown = world.slack.messages("general", thread_ts=root)[1:]
    return [message for message in shown if text in world.slack.visible_text(message)]


@pytest.mark.parametrize("runtime", ["docker"])
async def test_a_prototype_from_its_template_to_a_preview_that_wakes(
    world: World, bao: OpenBao, tmp_path: Path
) -> None:
    async with surroundings(world, bao, tmp_path) as port:
        await world.program.start()
        root = await started_from_a_template(world, WORK.replace("PORT", str(port)))
        await world.see(root, "word10 ", timeout=90)
        thread = "\n".join(world.thread(root))
        assert "Started from the template shop" in thread.replace("`", "")
        assert "resources.memory asks for 1 TiB; a worklet has 2 GiB." in thread
        await world.model.held("middle")
        (growing,) = showing(world, root, "word10 ")

        # Killed in the middle: the same message goes on, and the question in the thread is answered by a press.
        await world.program.end(signal.SIGKILL)
        world.model.release("middle")
        await world.program.start()
        host = f"a.askable.test:{port}"
        await world.see(root, "Claude wants to reach* `a.askable.test", timeout=90)
        assert (await world.slack.click("maya", questions(world, root, host)[0], "ask_reach_session")).ok
        await world.settled(root, "The shop is open.", timeout=90)
        (grown,) = showing(world, root, "word10 ")
        assert grown["ts"] == growing["ts"], "\n---\n".join(world.thread(root))
        assert world.slack.visible_text(grown).count("word10 ") == 1
        assert "And on it goes." in "\n".join(world.thread(root))
        assert "hello from a.askable.test" in told(world)
        assert '{"result":42}' in told(world)
        assert "Flow blocked b.other.test" in told(world)  # the repository's own file leaves it out
        assert not questions(world, root, f"b.other.test:{port}")
        why = "Why: this worklet's template or its repository's container.yaml does not name it (allowedDomains)."
        await world.see(root, f"Flow blocked a host: b.other.test:{port}. {why}")

        # Seen in a browser, put to sleep, woken by the visit.
        link = await a_link(world, root)
        async with browser() as page:
            await page.goto(link)
            await expect(page.locator("h1")).to_have_text("Shop")
            await asleep(world)
            await page.reload()
            await expect(page.locator("h1")).to_have_text("Shop")
        after = 'BASH cat site/greeting\nTOOL mcp__tracker__add {"a": 1, "b": 6}\nSAY Awake again.'
        await world.slack.post("maya", "general", after, thread_ts=root)
        await world.settled(root, "Awake again.", timeout=90)
        assert '{"result":7}' in told(world)
        assert "And on it goes." in told(world)  # what was said before the kill and the sleep
        assert "your process was lost" not in told(world)
        await nothing_leaked(world, bao)


async def nothing_leaked(world: World, bao: OpenBao) -> None:
    """No secret is in the container, nor in what Flow showed and logged."""
    (container,) = containers(world)
    env = world.program.env
    kept = {
        "MCP server's secret": TRACKER,
        "Git host's token": TOKEN,
        "Anthropic key": API_KEY,
        "Slack app token": env["SLACK_APP_TOKEN"],
        "Slack bot token": env["SLACK_BOT_TOKEN"],
        "Flow's Vault token": env["VAULT_TOKEN"],
        "Vault's root token": bao.root,
    }
    run_dir = world.share_dir / "worklets" / _named(container) / "run"
    looked_for = {**kept, "what Claude fetched": "hello from a.askable.test"}
    found = await asyncio.to_thread(Leaks(container, IMAGE, run_dir, looked_for).found)
    assert {name for names in found.values() for name in names} == {"what Claude fetched"}
    assert "what Claude fetched" in found["files"]
    shown = "".join(world.program.output) + str(in_conversation(world.model)[-1].body)
    assert [name for name, value in kept.items() if value in shown] == []
