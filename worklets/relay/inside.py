"""The way from Flow to servers that run in the worklet: one Unix socket, for any port on the worklet's own loopback.

A connection begins with one line of JSON and is answered with one:

    {"port": 3000}                       {"ok": true}, and from then on it is a connection to that port
    {"start": "npm run dev", "cwd": …,   {"ok": true}: the command was started, detached; its output goes to `log`
     "env": {…}}
    anything else                        {"error": "…"}, and the connection is closed

Nobody but Flow comes to this socket from outside. Who comes from inside gains nothing: it can do all this by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worklets.relay.aside import aside
else:
    from aside import aside

SOCKET = "inside.sock"
_MOST = 256  # connections at a time
_LONGEST = 16_384  # bytes of the first line
_FIRST_SECONDS = 10.0
_START_SECONDS = 10.0
_CHUNK = 1 << 16
_LOG_BYTES = 8 << 20  # a started command's output beyond it begins the file anew at the next start


async def serve(closed: frozenset[int], env: Mapping[str, str], cwd: str, log: Path) -> None:
    """Until cancelled. `closed`: ports that lead nowhere, Flow's own. Commands get `env` as it is then; they start in
    `cwd`."""
    inside = _Inside(closed, env, cwd, log)
    async with await asyncio.start_unix_server(inside.take, sock=_listening(), limit=_LONGEST) as server:
        await server.serve_forever()


def _listening() -> socket.socket:
    place = Path(SOCKET)
    place.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(SOCKET)
    place.chmod(0o666)  # Flow may run under another uid; the directory above keeps everybody else out
    return made


class _Inside:
    def __init__(self, closed: frozenset[int], env: Mapping[str, str], cwd: str, log: Path) -> None:
        self._closed, self._env, self._cwd, self._log = closed, env, cwd, log
        self._connections = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > _MOST:
                raise _Refused("too many connections are open")
            async with asyncio.timeout(_FIRST_SECONDS):
                asked = json.loads(await reader.readline())
            if not isinstance(asked, dict):
                raise _Refused("not understood")
            if "start" in asked:
                await self._start(asked)
                _say(writer, {"ok": True})
                await writer.drain()
            else:
                await self._join(asked.get("port"), reader, writer)
        except _Refused as refused:
            _say(writer, {"error": str(refused)})
        except (TimeoutError, ValueError):
            _say(writer, {"error": "not understood"})
        except OSError:
            pass  # one side broke the connection
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _join(self, port: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536 or port in self._closed:
            raise _Refused("this port cannot be reached")
        their_reader, their_writer = await _connect(port)
        try:
            _say(writer, {"ok": True})
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, their_writer))
                both.create_task(_pump(their_reader, writer))
        except* OSError:
            pass
        finally:
            their_writer.close()

    async def _start(self, asked: Mapping[str, Any]) -> None:
        command = asked["start"]
        if not isinstance(command, str) or not command.strip() or "\0" in command:
            raise _Refused("this is no command")
        more = asked.get("env", {})
        if not isinstance(more, dict) or not all("\0" not in f"{name}{value}" for name, value in more.items()):
            raise _Refused("this is no environment")
        env = {**self._env, **{str(name): str(value) for name, value in more.items()}}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self._log.lstat().st_size > _LOG_BYTES:
                self._log.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # of a pipe
        try:
            handle = os.open(self._log, flags, 0o600)
        except OSError as error:
            raise _Refused(f"{self._log} cannot be written: {error.strerror}") from error
        cwd = asked.get("cwd") if isinstance(asked.get("cwd"), str) else self._cwd

        def run() -> None:
            try:  # a shell that leaves at once: the command is nobody's child here, so nobody has to wait for it
                subprocess.run(
                    ["/bin/sh", "-c", '/bin/sh -c "$1" & ', "sh", command], cwd=cwd, env=env,
                    stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, start_new_session=True, check=False,
                    timeout=5,
                )  # fmt: skip
            finally:
                os.close(handle)

        try:
            await aside(run, _START_SECONDS)
        except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            raise _Refused(f"the command could not be started: {error}") from error


class _Refused(Exception):
    """Why not, for Flow."""


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for address in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(address, port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return reader, writer
    raise _Refused("nothing listens at this port")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _say(writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
