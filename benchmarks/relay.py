"""Lines a second through `flow relay` to a RelayClient, beside the same process on a bare pipe, in turns."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

from benchmarks.harness import Row, ratio, say
from benchmarks.program import ROOT
from worklets.stdiorelay.client import RelayClient

TOKEN = "a-token-of-the-benchmark"
#: Waits for a line, then writes so many of such a size, each by a call of its own, as a process that flushes does.
PRODUCER = """
import os, sys
sys.stdin.readline()
line = b"x" * (int(sys.argv[2]) - 1) + b"\\n"
for _ in range(int(sys.argv[1])):
    os.write(1, line)
sys.stdin.readline()
"""
CALLER = """
import sys
for line in sys.stdin:
    sys.stdout.write(line.replace('"method"', '"result"'))
    sys.stdout.flush()
"""


async def measure(quick: bool) -> list[Row]:
    rows = []
    runs, lines = (3, 50_000) if quick else (9, 200_000)
    for size in (100, 1000):
        bare, relayed = [], []
        for number in range(runs):
            say(f"relay: {size} bytes, run {number + 1} of {runs}")
            bare.append(lines / await _bare(lines, size))
            relayed.append(lines / await _relayed(lines, size))
        value, floor = median(relayed), median(bare)
        rows.append(
            Row(
                f"relay, lines of {size} bytes",
                f"{value:,.0f} lines/s = {ratio(value, floor)} bare",
                f"bare pipe: {floor:,.0f} lines/s",
            )
        )
    return [*rows, await _calls(300 if quick else 2000)]


async def _bare(lines: int, size: int) -> float:
    """Seconds from the word to the last line."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-I", "-c", PRODUCER, str(lines), str(size))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    began, got = time.perf_counter(), 0
    process.stdin.write(b"go\n")
    async for line in process.stdout:
        got += bool(line)
        if got == lines:
            break
    took = time.perf_counter() - began
    process.stdin.close()
    await process.wait()
    return took


async def _relayed(lines: int, size: int) -> float:
    async with _relay(PRODUCER, str(lines), str(size)) as client:
        began, got = time.perf_counter(), 0
        await client.send("go")
        async for line in client.lines():
            got += bool(line)
            if got == lines:
                break
        return time.perf_counter() - began


async def _calls(number: int) -> Row:
    """One call after the other."""
    times = []
    async with _relay(CALLER) as client:
        for _ in range(number):
            began = time.perf_counter()
            answer = await client.call({"method": "echo"})
            times.append(time.perf_counter() - began)
            if answer.get("success") is False:
                raise RuntimeError(answer["error"])
    return Row("relay, one call there and back", f"{median(times) * 1000:.2f} ms", f"of {number}")


@asynccontextmanager
async def _relay(*program: str) -> AsyncIterator[RelayClient]:
    """One client of a `flow relay` in a process of its own, ended with the block."""
    command = [sys.executable, "-m", "bot", "relay", "--listen", "127.0.0.1:0", "--", sys.executable, "-I", "-c"]
    env = {**os.environ, "FLOW_RELAY_TOKEN": TOKEN}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, *program, stderr=pipe, env=env, cwd=ROOT)
    assert process.stderr is not None
    try:
        found = None
        while found is None:
            line = await process.stderr.readline()
            if not line:
                raise RuntimeError("flow relay did not start")
            found = re.search(r"listens on (\S+)", line.decode())
        async with RelayClient(found[1], TOKEN) as client:
            await client.connected()
            yield client
    finally:
        process.terminate()
        await process.communicate()
