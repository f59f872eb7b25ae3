"""A private Redis that fsyncs each write (AOF always), and as much of its protocol as the figures need."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.program import ROOT

_READY_SECONDS = 20.0
#: Of one answer's line or value; a list of 100 small values stays far below.
_BUFFER = 1 << 22


def has_redis() -> bool:
    return shutil.which("redis-server") is not None


class RedisError(Exception):
    """Redis answered with an error: its text."""


class Connection:
    """One connection, one command at a time (RESP 2)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_BUFFER))

    async def do(self, *words: bytes) -> object:
        """The answer: bytes, int, None or a list of them. Raises RedisError."""
        parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)]
        self._writer.write(b"".join(parts))
        return await self._answer()

    async def _answer(self) -> object:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else (await self._reader.readexactly(length + 2))[:-2]
        if kind == b"*":
            return [await self._answer() for _ in range(int(rest))]
        return rest

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def redis() -> AsyncIterator[int]:
    """The port of a server of our own on loopback, with its data in a temporary directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    home = Path(tempfile.mkdtemp(prefix="flow-redis-"))
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(home), "--save", ""]
    process = await asyncio.create_subprocess_exec(
        "redis-server", *options, "--appendonly", "yes", "--appendfsync", "always", stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await _ready(port, process)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(home, ignore_errors=True)


async def _ready(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"redis-server ended with {process.returncode} before it answered")
            try:
                connection = await Connection.open(port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                await connection.do(b"PING")
                return await connection.close()


@asynccontextmanager
async def redis_over_http(port: int, path: str) -> AsyncIterator[None]:
    """`kvredishttp` in a process of its own, before the Redis at `port`, listening at the socket `path`."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "benchmarks.kvredishttp", str(port), path)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if (await process.stdout.readline()).strip() != b"ready":
            raise RuntimeError("the HTTP server before Redis did not start")
        yield
    finally:
        process.stdin.close()  # it ends when nobody holds its standard input
        await process.wait()
