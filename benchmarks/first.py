"""From `/flow` to the first message that a reader sees, and to the prompt's arrival at the model, in a new worklet.

The floor of the latter is the same CLI on the same prompt without Flow: under Docker a bare `docker run` of the
worklet image (the host's network, which is quicker to set up than a bridge; no limits, no volume), locally a bare
child process. Flow and floor take turns in one run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks.harness import Row, milliseconds, ratio, say
from benchmarks.program import World, running
from simulator.model_request import is_side_request
from worklets.claude import TOOLS, claude_env
from worklets.local import bundled_claude

_PATIENCE = 300.0  # seconds for one step: a machine that others keep busy takes long, and that is told too
IMAGE = os.environ.get("FLOW_IMAGE", "flow-worklet:latest")
_FLAGS = (
    "--output-format=stream-json", "--verbose", "--include-partial-messages", "--dangerously-skip-permissions",
    f"--tools={TOOLS}", "--setting-sources=", "--strict-mcp-config",
)  # fmt: skip


@dataclass(slots=True)
class Times:
    """Seconds, one for each round."""

    first: list[float] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    reply: list[float] = field(default_factory=list)  # of a second prompt, to the worklet that is awake
    floor: list[float] = field(default_factory=list)


async def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for runtime in ("docker", "local"):
        if runtime == "docker" and not has_image():
            say(f"no Docker engine with {IMAGE}: left out")
            continue
        rows += _rows(runtime, await _rounds(runtime, 3 if quick else 11))
    return rows


def has_image() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode == 0


def _rows(runtime: str, times: Times) -> list[Row]:
    alone, prompt, first = median(times.floor), median(times.prompt), median(times.first)
    bare = "docker run" if runtime == "docker" else "child process"
    return [
        Row(f"/flow → first message ({runtime})", milliseconds(first), f"worst {milliseconds(max(times.first))}",
            "< 300 ms"),
        Row(f"/flow → prompt at the model, cold ({runtime})", f"{milliseconds(prompt)} = {ratio(prompt, alone)} floor",
            f"bare {bare}: {milliseconds(alone)}", "≤ 1.2× floor"),
        Row(f"reply → prompt at the model, awake ({runtime})", milliseconds(median(times.reply))),
    ]  # fmt: skip


async def _rounds(runtime: str, rounds: int) -> Times:
    times = Times()
    async with running(runtime, FLOW_MAX_SESSIONS=str(rounds + 2), FLOW_IMAGE=IMAGE) as world:
        await flow(world, Times(), "warm-up")
        await floor(world, runtime, "bare warm-up")
        for number in range(rounds):
            say(f"{runtime}: round {number + 1} of {rounds}")
            await flow(world, times, f"round {number}")
            await asyncio.sleep(0.5)
            times.floor.append(await floor(world, runtime, f"bare {number}"))
            await asyncio.sleep(0.5)
    return times


async def flow(world: World, times: Times, name: str) -> None:
    slack, seen = world.slack, len(world.slack.messages("general"))
    began = time.monotonic()
    asking = asyncio.create_task(slack.command("maya", "general", "/flow", f"SAY {name}"))
    await slack.wait_for(lambda: len(slack.messages("general")) > seen, _PATIENCE)
    times.first.append(time.monotonic() - began)
    await asking
    times.prompt.append(await arrival(world, f"SAY {name}") - began)
    root = str(slack.messages("general")[-1]["ts"])
    await _answered(world, root, 1)
    began = time.monotonic()
    await slack.post("maya", "general", f"SAY again {name}", thread_ts=root)
    times.reply.append(await arrival(world, f"SAY again {name}") - began)
    await _answered(world, root, 2)


async def _answered(world: World, root: str, times: int) -> None:
    def answers() -> int:
        return sum("tokens in" in world.slack.visible_text(each) for each in world.slack.messages("general", root))

    await world.slack.wait_for(lambda: answers() >= times, _PATIENCE)


async def arrival(world: World, prompt: str, seconds: float = _PATIENCE) -> float:
    """When the request that carries the prompt came in; `time.monotonic()`."""
    async with asyncio.timeout(seconds):
        while True:
            for request in reversed(world.model.requests):
                if request.prompt == prompt and not is_side_request(request.body):
                    return request.at
            await asyncio.sleep(0.02)


async def floor(world: World, runtime: str, name: str) -> float:
    """The CLI once, on its own."""
    env = {**claude_env("sk-ant-benchmark"), "ANTHROPIC_BASE_URL": world.model.url}
    start: Callable[[str, dict[str, str], str], list[str]] = _docker if runtime == "docker" else _local
    with tempfile.TemporaryDirectory(prefix="flow-bench-") as home:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *start(f"SAY {name}", env, home), env={"PATH": os.environ["PATH"], "HOME": home, **env}, cwd=home,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"the bare CLI failed: {errors.decode(errors='replace')}")
    return await arrival(world, f"SAY {name}") - began


def _docker(prompt: str, env: dict[str, str], _home: str) -> list[str]:
    given = [part for name in env for part in ("-e", name)]
    return ["docker", "run", "--rm", "--network=host", *given, IMAGE, "claude", "-p", *_FLAGS, prompt]


def _local(prompt: str, _env: dict[str, str], _home: str) -> list[str]:
    return [str(bundled_claude()), "-p", *_FLAGS, prompt]
