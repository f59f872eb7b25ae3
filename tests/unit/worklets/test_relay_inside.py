"""The way from Flow to servers inside a worklet, with the relay's half as a process of its own."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from waiting import until

from worklets.errors import WorkletError
from worklets.inside import NotRunning, PortClosed, connector, dial, start

RELAY = Path(__file__).parents[3] / "worklets" / "relay"
PROGRAM = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import inside
closed = frozenset(map(int, filter(None, sys.argv[2].split(","))))
asyncio.run(inside.serve(closed, {**os.environ, "MINE": "yes"}, sys.argv[3], Path(sys.argv[4])))
"""
Serve = Callable[..., Awaitable[Path]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts the relay's half in a run directory; its log is `log/started.log` there."""
    running: list[asyncio.subprocess.Process] = []

    async def serve(closed: str = "") -> Path:
        (tmp_path / "work").mkdir()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(RELAY), closed, str(tmp_path / "work"),
            str(tmp_path / "log" / "started.log"),            cwd=tmp_path,
        )  # fmt: skip
        running.append(process)
        await until(lambda: (tmp_path / "inside.sock").exists())

        async def answers() -> bool:
            try:
                await dial(tmp_path, 1)
            except PortClosed:
                return True
            except NotRunning:
                return False
            return True

        await until(answers)
        return tmp_path

    yield serve
    for process in running:
        process.kill()
        await process.wait()


async def hello(request: web.Request) -> web.StreamResponse:
    if request.path == "/ws":
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(f"echo {message.data}")
        return ws
    return web.Response(text=f"{request.method} {request.path} {len(await request.read())}")


def app() -> web.Application:
    made = web.Application(client_max_size=64 << 20)
    made.router.add_route("*", "/{path:.*}", hello)
    return made


async def test_a_client_reaches_the_port_whatever_the_address_says(serve: Serve) -> None:
    run_dir = await serve()
    async with (
        TestServer(app()) as server,
        aiohttp.ClientSession(connector=connector(run_dir, server.port or 0)) as http,
    ):
        async with http.post("http://anywhere/a", data=io.BytesIO(b"x" * 5_000_000)) as answer:
            assert await answer.text() == "POST /a 5000000"
        async with http.ws_connect("ws://anywhere/ws") as ws:
            await ws.send_str("you")
            assert await ws.receive_str() == "echo you"


async def test_ports_that_cannot_be_reached(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as own:
        run_dir = await serve(str(own.getsockname()[1]))
        port = listener.getsockname()[1]
        (await dial(run_dir, port)).close()
        with pytest.raises(PortClosed, match="cannot be reached"):
            await dial(run_dir, own.getsockname()[1])
        listener.close()
        with pytest.raises(PortClosed, match="nothing listens"):
            await dial(run_dir, port)
    for port in (0, -1, 65536, True, "80", None):
        with pytest.raises(PortClosed, match="cannot be reached"):
            await dial(run_dir, port)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [b"x" * 100_000, b"[" * 1_020 + b"\n"], ids=["too long", "too deep"])
async def test_what_is_no_worklet(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(NotRunning):
        await dial(tmp_path, 80)
    (tmp_path / "inside.sock").symlink_to("/run/elsewhere.sock")
    with pytest.raises(NotRunning):
        await dial(tmp_path, 80)
    (tmp_path / "inside.sock").unlink()

    async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(lie, tmp_path / "inside.sock"):
        with pytest.raises(NotRunning):
            await dial(tmp_path, 80)


async def test_a_command_is_started_and_goes_on_by_itself(serve: Serve) -> None:
    run_dir = await serve()
    command = "echo $MINE $WHOSE in $PWD; echo oops >&2; exec sleep 600 & echo $! > pid"
    await start(run_dir, command, env={"WHOSE": "theirs"})
    log = run_dir / "log" / "started.log"
    await until(lambda: log.exists() and "oops" in log.read_text() and (run_dir / "work" / "pid").exists())
    assert f"yes theirs in {run_dir}/work" in log.read_text()
    pid = int(await until(lambda: (run_dir / "work" / "pid").read_text()))
    assert "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    os.kill(pid, 9)
    for command in ("", "  ", "a\0b"):
        with pytest.raises(WorkletError, match="no command"):
            await start(run_dir, command)
    with pytest.raises(WorkletError, match="no environment"):
        await start(run_dir, "true", env={"WHOSE": "a\0b"})


async def test_a_log_that_the_worklet_replaced_is_not_followed(serve: Serve, tmp_path: Path) -> None:
    run_dir = await serve()
    (run_dir / "log").mkdir()
    (run_dir / "log" / "started.log").symlink_to(tmp_path / "precious")
    with pytest.raises(WorkletError, match="cannot be written"):
        await start(run_dir, "echo hello")
    assert not (tmp_path / "precious").exists()
