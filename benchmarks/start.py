"""Start-up: the command line, `flow serve` until it is ready (a new database, the schema made), and its memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from statistics import median

from benchmarks.first import has_image
from benchmarks.harness import Row, megabytes, milliseconds, ratio, say
from benchmarks.program import ROOT, running


async def measure(quick: bool) -> list[Row]:
    runs = 3 if quick else 9
    helps, bare, ready, memory = [], [], [], []
    runtime = "docker" if has_image() else "local"
    for number in range(runs):
        say(f"start: run {number + 1} of {runs}")
        bare.append(await _run("-c", "import asyncio, argparse"))
        helps.append(await _run("-m", "bot", "--help"))
        async with running(runtime) as world:
            ready.append(world.ready_after)
            memory.append(world.rss())
    return [
        Row("flow --help", milliseconds(median(helps)), f"bare Python: {milliseconds(median(bare))}"),
        Row(f"flow serve → ready ({runtime})", milliseconds(median(ready)),
            f"{ratio(median(ready), median(bare))} bare Python"),
        Row("flow serve, memory when ready", megabytes(median(memory)), "resident"),
    ]  # fmt: skip


async def _run(*args: str) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, *args, cwd=ROOT, stdout=subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"python {' '.join(args)} failed")
    return time.perf_counter() - began
