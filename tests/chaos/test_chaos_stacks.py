"""A program that hangs tells where: in which functions its tasks wait, through coroutines and context managers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from storm import TrappedProgram

_HANGS = """
import asyncio, contextlib, stacks

@contextlib.asynccontextmanager
async def lent_for_ever():
    await asyncio.Event().wait()
    yield

async def takes_it():
    async with lent_for_ever():
        pass

async def main():
    stacks.install()
    task = asyncio.create_task(takes_it(), name="the one that hangs")
    await asyncio.sleep(0)
    print("ready", flush=True)
    await task

asyncio.run(main())
"""


async def test_a_program_tells_what_its_tasks_wait_for(tmp_path: Path) -> None:
    program = TrappedProgram({"CHAOS_TRAP": str(tmp_path / "trap.json")}, tmp_path)
    assert await program.stacks() == ["the program is dead\n"]
    program.process = process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HANGS, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    reading = asyncio.create_task(_read(process.stdout, program.output))
    told = "".join(await program.stacks())
    program.pause()
    while not program.stands_still:
        await asyncio.sleep(0.01)
    assert await program.stacks() == ["the program stands still\n"]
    process.kill()
    await process.wait()
    await reading

    hanging = told.partition("task the one that hangs\n")[2].partition("\ntask ")[0]
    places = [line.split()[-1] for line in hanging.splitlines() if line.startswith("    ") and ":" in line]
    assert places[0] == "takes_it"
    assert places.index("takes_it") < places.index("lent_for_ever") < places.index("Event.wait")
    assert "awaits <Future pending" in hanging
    assert "(most recent call first):" in told, "threads too"
    assert program.output == [], "what it printed is not left among what it logged"


async def _read(stream: asyncio.StreamReader, into: list[str]) -> None:
    async for line in stream:
        into.append(line.decode())
