"""A sidecar: runs MCP servers on stdio for a worklet, in a container beside it.

    python -I sidecar.py <directory> [--egress] [--sealed]

In the directory, which it can only read, the gateway listens at `mcp.sock`. A connection waits there until the gateway
says what to run: eight digits, the length of a JSON object that follows, {"command", "env"}. Then the connection itself
is the server's stdin and stdout. The last line there is {"flow": "ended", "code", "said"}, or {"flow": "failed",
"why"}; when the gateway hangs up, the server is ended. So a secret is in no file and in no configuration, only in the
environment of the process that is to have it.

`--egress`: there is a proxy to the outside, `proxy.sock`. `--sealed`: nothing runs without the filter of system calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

MCP, PROXY = "mcp.sock", "proxy.sock"
_HEAD = 8  # digits
_LONGEST = 1 << 20  # bytes of what to run
_WAIT = 30.0  # seconds that the rest of an order may take
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_SAID = 2000  # bytes of stderr's end
_SLOWEST = 1.0  # seconds between two tries to reach the gateway
_HOME = "/work/home"


async def serve(env: dict[str, str]) -> None:
    """Until cancelled."""
    pause = 0.05
    async with asyncio.TaskGroup() as running:
        while True:
            connection = await _connected()
            if connection is None:
                await asyncio.sleep(pause)
                pause = min(_SLOWEST, pause * 2)
                continue
            order = await _order(connection)
            if order is None:
                connection.close()
                await asyncio.sleep(pause)
                pause = min(_SLOWEST, pause * 2)
                continue
            pause = 0.05
            running.create_task(_run(connection, order, env))


async def _connected() -> socket.socket | None:
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, MCP)
    except OSError:
        made.close()
        return None
    return made


async def _order(connection: socket.socket) -> dict[str, Any] | None:
    """None: the gateway has gone, or speaks something else."""
    try:
        head = await _exactly(connection, _HEAD)
        length = int(head)
        if not 0 < length <= _LONGEST:
            return None
        async with asyncio.timeout(_WAIT):
            order = json.loads(await _exactly(connection, length))
    except (OSError, EOFError, ValueError, TimeoutError):
        return None
    return order if isinstance(order, dict) else None


async def _exactly(connection: socket.socket, size: int) -> bytes:
    """No byte more is taken: what follows is the server's. Raises EOFError, OSError."""
    read = bytearray()
    while len(read) < size:
        piece = await asyncio.get_running_loop().sock_recv(connection, size - len(read))
        if not piece:
            raise EOFError
        read += piece
    return bytes(read)


async def _run(connection: socket.socket, order: dict[str, Any], env: dict[str, str]) -> None:
    """One server, from its begin to its end."""
    with connection, contextlib.suppress(OSError, TimeoutError), _LastWords() as words:
        command = [str(word) for word in order["command"]]
        connection.setblocking(True)  # programs expect that of their stdin
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=words.entry,
                env={**env, **order["env"]},
                cwd=env["HOME"],
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            await _say(connection, {"flow": "failed", "why": f"{command[0]}: {reason}"})
            return
        try:
            await _until_either_leaves(connection, process)
        finally:
            await asyncio.shield(_end(process))
        await _say(connection, {"flow": "ended", "code": process.returncode, "said": words.said()})


class _LastWords:
    """The end of what a server writes to its stderr, `entry`. Others that it started may hold that open for ever."""

    def __init__(self) -> None:
        self._said = b""

    def __enter__(self) -> _LastWords:
        self._exit, self.entry = os.pipe()
        os.set_blocking(self._exit, False)
        asyncio.get_running_loop().add_reader(self._exit, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._exit)
        os.close(self._exit)
        os.close(self.entry)

    def _read(self) -> bool:
        """Whether there was something."""
        try:
            piece = os.read(self._exit, 1 << 16)
        except BlockingIOError:
            return False
        self._said = (self._said + piece)[-_SAID:]
        return bool(piece)

    def said(self) -> str:
        for _ in range(64):  # as much as a pipe holds, and no more of whoever goes on writing
            if not self._read():
                break
        return self._said.decode(errors="replace")


async def _say(connection: socket.socket, told: dict[str, Any]) -> None:
    """On a line of its own, whatever was written there before; and the last one, whoever else holds the connection.

    What the gateway still writes is read until it hangs up: an error there would hide the line from it.
    """
    line = b"\n" + json.dumps(told).encode() + b"\n"
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    async with asyncio.timeout(_GRACE):
        await loop.sock_sendall(connection, line)
        connection.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(connection, 1 << 16):
            pass


async def _until_either_leaves(connection: socket.socket, process: asyncio.subprocess.Process) -> None:
    """Looks at the connection without reading: what comes is the server's."""
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    with select.epoll() as poll:
        poll.register(connection, select.EPOLLRDHUP)
        loop.add_reader(poll.fileno(), left.set)
        waits = {asyncio.create_task(left.wait()), asyncio.create_task(process.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(poll.fileno())
            for wait in waits:
                wait.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """With all of its session."""
    _signal(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE):
            await process.wait()
    except TimeoutError:
        pass
    _signal(process.pid, signal.SIGKILL)  # what it left behind too
    await process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _forwarder() -> tuple[socket.socket, dict[str, str]]:
    """A port on loopback for the proxy, and what programs go by."""
    from relay import _proxied  # type: ignore[import-not-found]

    listener = socket.create_server(("127.0.0.1", 0))
    return listener, _proxied(listener.getsockname()[1])


async def _main(home: Path, egress: bool) -> None:
    env = {**os.environ, "HOME": str(home)}
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = []
    if egress:
        from forward import AWAY, forward  # type: ignore[import-not-found]

        listener, proxied = _forwarder()
        env |= proxied
        tasks.append(asyncio.create_task(forward(listener, PROXY, AWAY)))
    tasks.append(asyncio.create_task(serve(env)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, stopping):
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def main() -> None:
    os.chdir(sys.argv[1])  # sockets are named from here: their paths may be long
    sys.path.insert(0, str(Path(__file__).parent))
    from relay import hide

    hide()  # orders hold secrets
    if "--sealed" in sys.argv[2:]:
        from seccomp import NoFilter, restrict  # type: ignore[import-not-found]

        try:
            restrict()
        except NoFilter as why:
            sys.exit(f"no server runs without the filter of system calls: {why}")
    home = Path(os.environ.get("HOME", _HOME))
    home.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(home, "--egress" in sys.argv[2:]))


if __name__ == "__main__":
    main()
