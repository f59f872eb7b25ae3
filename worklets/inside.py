"""Flow's side of the way to servers that run in a worklet: see worklets/relay/inside.py."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets import sockets
from worklets.errors import WorkletError

if TYPE_CHECKING:
    import aiohttp

SOCKET = "inside.sock"
_ANSWER_SECONDS = 15.0
_LONGEST = 1_024  # bytes of an answer


class NotRunning(WorkletError):
    """The worklet does not run."""


class PortClosed(WorkletError):
    """Nothing listens at that port of the worklet."""


async def dial(run_dir: Path, port: int) -> socket.socket:
    """A connection to that port of the worklet's loopback, not blocking. Raises NotRunning, PortClosed."""
    return await _ask(run_dir, {"port": port})


async def start(run_dir: Path, command: str, cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
    """Starts a shell command in the worklet, detached, in its workspace or `cwd`. Raises NotRunning, WorkletError.

    `env`: beside what the worklet was started with, which may have been before it was anybody's.
    """
    asked = {"start": command} | ({"cwd": cwd} if cwd else {}) | ({"env": dict(env)} if env else {})
    try:
        made = await _ask(run_dir, asked)
    except PortClosed as error:
        raise WorkletError(f"The command could not be started in the worklet: {error}") from error
    made.close()


async def _ask(run_dir: Path, asked: dict[str, Any]) -> socket.socket:
    loop = asyncio.get_running_loop()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            with sockets.short_path(run_dir, SOCKET) as path:
                await loop.sock_connect(made, path)
            await loop.sock_sendall(made, json.dumps(asked).encode() + b"\n")
            answer = await _line(made)
        if "ok" not in answer:
            raise PortClosed(f"{str(answer.get('error'))[:300]}.")
    except (OSError, TimeoutError, ValueError, RecursionError) as error:
        made.close()
        raise NotRunning from error
    except BaseException:
        made.close()
        raise
    return made


async def _line(made: socket.socket) -> dict[str, Any]:
    """Byte by byte: what follows the line belongs to the connection. Raises ValueError for what is no answer."""
    loop, line = asyncio.get_running_loop(), b""
    while not line.endswith(b"\n"):
        byte = await loop.sock_recv(made, 1)
        if not byte or len(line) > _LONGEST:
            raise ValueError("no answer")
        line += byte
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("no answer")
    return answer


def connector(run_dir: Path, port: int) -> aiohttp.BaseConnector:
    """For a client session whose every request goes to that port, whatever its address says.

    Its requests raise aiohttp.ClientConnectorError where `dial` would raise.
    """
    from worklets.insideconnector import InsideConnector

    return InsideConnector(run_dir, port)
