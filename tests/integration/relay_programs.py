"""`flow relay` and `flow relay connect` as the processes that people start."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from waiting import until

ROOT = Path(__file__).parents[2]
FLOW = [sys.executable, "-m", "bot", "relay"]
TOKEN = "a-token-of-the-tests"
ENV = {**os.environ, "FLOW_RELAY_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}


class Program:
    """A process whose stderr is collected."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stderr = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(1 << 16):
            self.stderr += chunk.decode()

    async def finds(self, pattern: str) -> str:
        """The pattern's group in stderr, once it is there."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.stderr)
            assert match or self.process.returncode is None, f"it ended and said only: {self.stderr}"
            return match

        match = await until(found, what=pattern)
        return str(match[1])

    async def ends(self) -> int:
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self._reading
        return code


@asynccontextmanager
async def program(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> AsyncIterator[Program]:
    """Runs until the block is left; killed then if it still does."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *FLOW, *args, stdin=pipe, stdout=pipe, stderr=pipe, env=env or ENV, cwd=cwd, limit=1 << 24
    )
    started = Program(process)
    try:
        yield started
    finally:
        if process.returncode is None:
            process.terminate()
        await started.ends()


@asynccontextmanager
async def relay(*args: str) -> AsyncIterator[tuple[Program, str]]:
    """`flow relay --listen … ARGS`, and its URL."""
    async with program("--listen", "127.0.0.1:0", *args) as started:
        yield started, await started.finds(r"listens on (\S+)")
