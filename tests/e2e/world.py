"""The whole program, as a process of its own, between the Slack simulator and the scripted model.

Each story runs twice: with worklets in Docker, and with worklets as plain processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import schema
from dockerlists import listed
from forked import ForkedProcess, fork
from images import IMAGE, worklet_image
from waiting import until

from simulator.model import ScriptedModel
from simulator.slack import SlackSimulator

ROOT = Path(__file__).parents[2]
API_KEY = "sk-ant-real-secret-never-in-a-container"


@dataclass
class Program:
    """`flow serve` as a child process; `output` is all that it printed and logged.

    It is forked from a process that has imported it (`forked`); commands, and serves that are to fail, are executed.
    """

    env: dict[str, str]
    cwd: Path
    process: asyncio.subprocess.Process | ForkedProcess | None = None
    output: list[str] = field(default_factory=list)
    url: str = ""
    _reading: asyncio.Task[None] | None = None

    async def start(self, **changes: str) -> None:
        """Starts it and waits until it says that it is ready."""
        await self.spawn(**changes)
        seen = len(self.output)
        await until(lambda: self._ready(seen), timeout=120, what="flow serve to be ready:\n" + "".join(self.output))

    async def spawn(self, **changes: str) -> None:
        self.url = ""
        self.process = await fork(["-m", "bot", "serve"], {**self.env, **changes}, self.cwd)
        self._reading = asyncio.create_task(self._read(self.process))

    async def _read(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        assert process.stdout
        async for line in process.stdout:
            self.output.append(line.decode())

    def _ready(self, seen: int) -> bool:
        assert self.process
        if self.process.returncode is not None:
            raise AssertionError(f"flow serve ended with {self.process.returncode}:\n" + "".join(self.output))
        match = re.search(r"Flow is ready: (http://\S+)/health", "".join(self.output[seen:]))
        self.url = match[1] if match else ""
        return bool(match)

    async def end(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Sends the signal and waits for the end; the exit code."""
        assert self.process
        if self.process.returncode is None:
            self.process.send_signal(sig)
        async with asyncio.timeout(timeout):
            code = await self.process.wait()
        assert self._reading
        await self._reading
        return code

    async def health(self) -> tuple[int, dict[str, Any]]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/health") as response:
            return response.status, await response.json()

    async def flow(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs a `flow` command to its end."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "bot", *args],
            env=self.env, cwd=self.cwd, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@dataclass
class World:
    """Slack, the model, and the program between them."""

    slack: SlackSimulator
    model: ScriptedModel
    program: Program
    runtime: str
    share_dir: Path

    def thread(self, root_ts: str, channel: str = "general", user: str = "maya") -> list[str]:
        """What a reader sees of a thread, message by message, the root first."""
        return [self.slack.visible_text(m) for m in self.slack.messages(channel, thread_ts=root_ts, user=user)]

    async def see(
        self, root_ts: str, text: str, channel: str = "general", user: str = "maya", timeout: float = 90
    ) -> str:
        """Waits until a message of the thread below the root shows `text`; the whole message."""
        try:
            return await self.slack.wait_for(
                lambda: next((x for x in self.thread(root_ts, channel, user)[1:] if text in x), ""), timeout
            )
        except TimeoutError:
            thread = "\n---\n".join(self.thread(root_ts, channel, user))
            log = "".join(self.program.output[-60:])
            raise AssertionError(f"{text!r} is not in the thread:\n{thread}\n\nlog:\n{log}") from None

    async def settled(self, root_ts: str, text: str, timeout: float = 90, **where: Any) -> str:
        """Like `see`, but of the finished message, with its footer."""
        await self.see(root_ts, text, timeout=timeout, **where)
        return await self.slack.wait_for(
            lambda: next((x for x in self.thread(root_ts, **where)[1:] if text in x and FOOTER.search(x)), ""), 60
        )

    async def root(self, contains: str, channel: str = "general", user: str = "maya") -> str:
        """The ts of the bot's root message that names what was asked."""
        found = await self.slack.wait_for(
            lambda: [m for m in self.slack.messages(channel, user=user) if contains in self.slack.visible_text(m)]
        )
        return str(found[-1]["ts"])


#: How a finished message ends: duration, tokens, cost.
FOOTER = re.compile(r"\d (s|min|h)\b.* tokens in")


def environment(slack: SlackSimulator, model: ScriptedModel, home: Path, runtime: str) -> dict[str, str]:
    """All that the program needs to run between the two, with its share directory at `home/data`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "SLACK_APP_TOKEN": slack.app_token,
        "SLACK_BOT_TOKEN": slack.bot_token,
        "SLACK_API_URL": slack.api_url,
        "SLACK_BOT_DEBUG": "true",
        "ANTHROPIC_API_KEY": API_KEY,
        "ANTHROPIC_BASE_URL": model.url,
        "FLOW_SHARE_DIR": str(home / "data"),
        "FLOW_HTTP_PORT": "0",
        "FLOW_RUNTIME": runtime,
        "FLOW_IMAGE": IMAGE,
        "FLOW_GRACE": "1s",
    }


@contextlib.asynccontextmanager
async def open_world(runtime: str, home: Path) -> AsyncIterator[World]:
    """With a program that is yet to be started; whatever it left running is removed at the end."""
    if runtime == "docker":
        await worklet_image()
    async with (
        SlackSimulator(manifest=ROOT / "manifest.yml", retry_delays=(0, 2, 4, 8)) as slack,
        ScriptedModel(api_key=API_KEY) as model,
    ):
        share_dir = home / "data"
        await schema.migrated(f"sqlite://{share_dir / 'db.sqlite'}")  # a first start's migration takes a second
        env = {
            **environment(slack, model, home, runtime),
            "FLOW_LOCAL_REPOSITORIES": "true",
            "FLOW_POOL_SIZE": "0",
        }
        program = Program(env, home)
        world = World(slack, model, program, runtime, share_dir)
        try:
            yield world
        finally:
            if program.process and program.process.returncode is None:
                await program.end(signal.SIGKILL)
            await remove_worklets(world)


async def remove_worklets(world: World) -> None:
    """Whatever the story left running, and its volumes; the gateway's process too, which outlives the program."""
    from worklets.gatewaycontrol import holder

    await end_worklets(world)
    if pid := holder(world.share_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def end_worklets(world: World) -> None:
    """Those of `remove_worklets`, while the gateway's process goes on."""
    if not (world.share_dir / "instance.json").exists():
        return
    instance = json.loads((world.share_dir / "instance.json").read_text())["instance"]
    if world.runtime == "docker":
        label = f"label=flow.instance={instance}"
        for kind, remove in (("ps -aq", "rm -f"), ("volume ls -q", "volume rm -f")):
            if names := listed(*kind.split(), "--filter", label):
                subprocess.run(["docker", *remove.split(), *names], capture_output=True, timeout=120)
        return
    from worklets.identity import Identity
    from worklets.local import LocalRuntime

    local = LocalRuntime(share_dir=world.share_dir, identity=Identity.load(world.share_dir))
    for worklet in await local.list():
        await local.remove(worklet.name, grace=1)
    await local.close()


def containers(world: World) -> list[str]:
    """Names of this instance's running containers (or worklet processes)."""
    instance = json.loads((world.share_dir / "instance.json").read_text())["instance"]
    if world.runtime == "docker":
        return listed("ps", "-q", "--filter", f"label=flow.instance={instance}")
    return [p.parent.name for p in world.share_dir.glob("worklets/*/run/relay.sock")]
