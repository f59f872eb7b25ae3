"""Hosts that a worklet wants, asked for in the thread: the real CLI, curl in a real container, a host on loopback."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from modelrequests import in_conversation
from waiting import until
from world import ROOT, World


@asynccontextmanager
async def outside(world: World, **environment: str) -> AsyncIterator[int]:
    """The port of a host outside, which every name leads to, and a gateway that reaches it.

    `environment`: of the gateway, beside the program's.
    """

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"hello from {request.host.partition(':')[0]}\n")

    app = web.Application()
    app.router.add_get("/", hello)
    program = [sys.executable, str(Path(__file__).with_name("loopgateway.py")), str(world.share_dir)]
    async with TestServer(app) as server:
        world.share_dir.mkdir(exist_ok=True)
        gateway = await asyncio.create_subprocess_exec(
            *program, "worklets.gatewayprocess", env={**world.program.env, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await until((world.share_dir / "gateway" / "control.sock").exists, timeout=60)
            yield server.port or 0
        finally:
            gateway.kill()
            await gateway.wait()


def questions(world: World, root: str, host: str) -> list[dict[str, Any]]:
    """The messages that ask for it, open or answered."""
    shown = world.slack.messages("general", thread_ts=root)
    return [m for m in shown if f"Claude wants to reach* `{host}`" in world.slack.visible_text(m)]


def listing(world: World) -> list[dict[str, Any]]:
    return [m for m in world.slack.ephemerals("maya") if "may reach outside in this thread" in str(m)]


def buttons(message: dict[str, Any], label: str) -> list[str]:
    """The action ids of the buttons with that label."""
    rows = [block["elements"] for block in message["blocks"] if block["type"] == "actions"]
    return [one["action_id"] for row in rows for one in row if one["text"]["text"] == label]


def told(world: World) -> str:
    """All that the model was told last; what the CLI asks it beside the conversation does not count."""
    return str(in_conversation(world.model)[-1].body["messages"])


@pytest.mark.docker
@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
async def test_people_decide_in_the_thread_what_a_worklet_reaches(world: World) -> None:
    async with outside(world) as port:
        world.program.env |= {
            "FLOW_EGRESS": "allow-list", "FLOW_EGRESS_ASK": "*.askable.test", "FLOW_EGRESS_PORTS": f"80,443,{port}",
        }  # fmt: skip
        await world.program.start()
        a, b, never = (f"{name}:{port}" for name in ("a.askable.test", "b.askable.test", "never.test"))

        # One question for both connections; it survives a kill, and others may not answer it.
        fetch = f"BASH curl -sS http://{a}/ & curl -sS http://{a}/ & wait; curl -sS -o /dev/null http://{never}/"
        root = await world.slack.post("maya", "general", f"@Flow {fetch}\nSAY First done.")
        await world.see(root, "Always here")
        (asked,) = questions(world, root, a)
        await world.program.end(signal.SIGKILL)
        await world.program.start()
        await world.slack.click("jonas", asked, "ask_reach_session")
        refused = "Only people who asked Claude something in this thread"
        await world.slack.wait_for(lambda: [m for m in world.slack.ephemerals("jonas") if refused in m["text"]])
        await world.slack.click("maya", asked, "ask_reach_session")
        await world.settled(root, "First done.")
        assert told(world).count("hello from a.askable.test") == 2
        await world.see(root, f"Flow blocked a host: {never}.")
        shown = "\n".join(world.thread(root))
        assert "@maya lets this session reach" in shown
        assert shown.count(f"Flow blocked a host: {never}.") == 1

        # Granted for the session: not asked again. A no: told to the program, and not asked again either.
        fetch = f"BASH curl -sS http://{a}/; curl -sS http://{b}/; curl -sS http://{b}/"
        await world.slack.post("maya", "general", f"{fetch}\nSAY Second done.", thread_ts=root)
        await world.see(root, "Claude wants to reach* `b.askable.test")
        await world.slack.click("maya", questions(world, root, b)[0], "ask_deny")
        await world.settled(root, "Second done.")
        assert told(world).count("people in the thread have refused it") == 2
        assert told(world).count("hello from a.askable.test") == 3
        assert len(questions(world, root, a)) == 1

        # Listed and taken back: then it is asked for anew, and what is allowed once is over with the answer.
        await world.slack.post("maya", "general", "@Flow egress", thread_ts=root)
        listed = (await world.slack.wait_for(lambda: listing(world)))[-1]
        assert f"`{a}`: allowed by" in str(listed)
        assert f"`{b}`: refused by" in str(listed)
        revoke = buttons(listed, "Revoke")
        assert len(revoke) == 1
        await world.slack.click("maya", listed, revoke[0])
        await world.slack.wait_for(lambda: f"`{a}`: allowed by" not in str(listing(world)[-1]))
        fetch = f"BASH curl -sS http://{a}/; curl -sS http://{a}/"
        await world.slack.post("maya", "general", f"{fetch}\nSAY Third done.", thread_ts=root)
        await world.slack.wait_for(lambda: len(questions(world, root, a)) == 2)
        await world.slack.click("maya", questions(world, root, a)[1], "ask_reach_once")
        await world.settled(root, "Third done.")
        assert told(world).count("hello from a.askable.test") == 5
        await world.slack.post("maya", "general", f"{fetch}\nSAY Fourth done.", thread_ts=root)
        await world.slack.wait_for(lambda: len(questions(world, root, a)) == 3)
        await world.slack.click("maya", questions(world, root, a)[2], "ask_deny")
        await world.settled(root, "Fourth done.")
        assert told(world).count("hello from a.askable.test") == 5


@pytest.mark.parametrize("runtime", ["local"], indirect=True)
async def test_nothing_is_granted_in_a_channel_where_nobody_was_asked(world: World) -> None:
    world.program.env |= {"FLOW_EGRESS": "allow-list", "FLOW_EGRESS_ASK": "*"}
    await world.program.start()
    await world.slack.command("maya", "general", "/flow", "egress")
    told = "Nobody has decided in this channel what my containers may reach outside"
    await world.slack.wait_for(lambda: [m for m in world.slack.ephemerals("maya") if told in m["text"]])
    await world.program.end()
    await world.program.start(FLOW_EGRESS="none", FLOW_EGRESS_ASK="")
    await world.slack.command("maya", "general", "/flow", "egress")
    told = "This Flow asks nobody for hosts"
    await world.slack.wait_for(lambda: [m for m in world.slack.ephemerals("maya") if told in m["text"]])
