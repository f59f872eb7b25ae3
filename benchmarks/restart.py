"""The program is killed in mid-answer and started again: until it is ready, and until the same message goes on.

Time counts from the start of the new process. The floor takes turns with it: a process that imports the same libraries
and asks Slack who it is.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.first import IMAGE, has_image
from benchmarks.harness import Row, milliseconds, ratio, say
from benchmarks.program import ROOT, World, running

_WORDS, _MS = 400, 20  # an answer of 8 seconds


@dataclass(slots=True)
class Times:
    """Seconds since the start of the process, one for each round."""

    ready: list[float] = field(default_factory=list)
    edited: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


async def measure(quick: bool) -> list[Row]:
    rows = []
    for runtime in ("docker", "local"):
        if runtime == "docker" and not has_image():
            say(f"no Docker engine with {IMAGE}: left out")
            continue
        times, rounds = Times(), 3 if quick else 9
        async with running(runtime, FLOW_IMAGE=IMAGE) as world:
            for number in range(rounds):
                say(f"restart ({runtime}): round {number + 1} of {rounds}")
                await _round(world, times)
                times.bare.append(await _bare(world))
        rows += _rows(runtime, times)
    return rows


def _rows(runtime: str, times: Times) -> list[Row]:
    bare, edited = median(times.bare), median(times.edited)
    return [
        Row(f"killed in mid-answer → ready again ({runtime})", milliseconds(median(times.ready)),
            f"imports and auth.test: {milliseconds(bare)}"),
        Row(f"the same → first edit of the continued message ({runtime})",
            f"{milliseconds(edited)} = {ratio(edited, bare)}", f"worst {milliseconds(max(times.edited))}"),
    ]  # fmt: skip


async def _round(world: World, times: Times) -> None:
    slack = world.slack
    root = await slack.post("maya", "general", f"{slack.mention()} WORDS {_WORDS} {_MS}")
    message = await slack.wait_for(lambda: _showing(world, root, "word20 "), 30)
    await world.end(signal.SIGKILL)
    seen, began = len(slack.calls), time.time()
    await world.start()
    times.ready.append(world.ready_after)
    await slack.wait_for(lambda: _edits(world, seen, message["ts"]), 30)
    times.edited.append(_edits(world, seen, message["ts"])[0] - began)
    whole = await slack.wait_for(lambda: _showing(world, root, "tokens in"), 60)
    text = slack.visible_text(whole)
    if whole["ts"] != message["ts"] or text.count("word1 ") != 1 or f"word{_WORDS}" not in text:
        raise RuntimeError(f"the answer was not continued in its message:\n{text}")


def _showing(world: World, root: str, text: str) -> dict[str, Any] | None:
    """The answer, once it shows the text."""
    replies = world.slack.messages("general", root)[1:]
    return next((message for message in replies if text in world.slack.visible_text(message)), None)


def _edits(world: World, since: int, ts: str) -> list[float]:
    """When the message was edited; `time.time()`."""
    calls = world.slack.calls[since:]
    return [c.time for c in calls if c.method == "chat.update" and c.args.get("ts") == ts and c.response.get("ok")]


async def _bare(world: World) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare", world.slack.api_url, world.slack.bot_token, cwd=ROOT,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    line = await process.stdout.readline()
    seconds = time.perf_counter() - began
    if await process.wait() != 0 or not line:
        raise RuntimeError("the bare process could not ask Slack who it is")
    return seconds
