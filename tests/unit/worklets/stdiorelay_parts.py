"""A relay in this process around a small program, raw connections to it, and a program's orders."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from worklets.stdiorelay.protocol import Line, pack_input, unpack_lines
from worklets.stdiorelay.server import Options, StdioRelay

TOKEN = "a-token-of-the-tests"

#: Obeys orders, one a line; what is none is said back.
PROGRAM = r"""
import json, os, signal, sys, threading, time

def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

def count(n, size):
    for i in range(1, n + 1):
        say(f"{i:08d}" + "x" * size)

for raw in sys.stdin:
    word, *args = raw.rstrip("\n").split(" ") or [""]
    if word == "count":
        threading.Thread(target=count, args=[int(a) for a in args]).start()
    elif word == "raw":
        os.write(1, bytes.fromhex(args[0]))
    elif word == "exit":
        sys.stderr.write("last words\n")
        sys.stdout.flush()
        sys.exit(int(args[0]))
    elif word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("stubborn")
    elif word == "child":
        pid = os.fork()
        if not pid:
            time.sleep(600)
        say(str(pid))
    elif word == "env":
        say(json.dumps(dict(os.environ)))
    elif word == "deaf":
        say("deaf")
        time.sleep(600)
    elif word.startswith("{"):
        request = json.loads(raw)
        if request["method"] == "echo":
            say(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": request.get("params")}))
        elif request["method"] == "die":
            sys.exit(3)
        else:
            held = request
    elif word == "release":
        say(json.dumps({"jsonrpc": "2.0", "id": held["id"], "result": "late"}))
    else:
        say(raw.rstrip("\n"))
"""
COMMAND = [sys.executable, "-I", "-c", PROGRAM]


class Running:
    def __init__(self, relay: StdioRelay, url: str, said: list[str]) -> None:
        self.relay, self.url, self.said = relay, url, said
        self.task = asyncio.create_task(relay.run())


@asynccontextmanager
async def running(command: list[str] | None = None, **options: Any) -> AsyncIterator[Running]:
    """At the end the process is killed, and nobody is waited for."""
    said: list[str] = []
    settings = Options(**{"token": TOKEN, "linger": 0.2, "grace": 0.2, **options})
    relay = StdioRelay(command or COMMAND, dict(os.environ), settings, said.append)
    running = Running(relay, await relay.start(), said)
    try:
        yield running
    finally:
        relay.stop()
        await running.task


class Raw:
    """A client that does just what it is told."""

    def __init__(self, ws: ClientConnection, welcome: dict[str, Any]) -> None:
        self.ws, self.welcome = ws, welcome

    async def frame(self) -> Any:
        """The next: a JSON object, or a list of lines."""
        frame = await asyncio.wait_for(self.ws.recv(), 60)
        return unpack_lines(frame) if isinstance(frame, bytes) else json.loads(frame)

    async def lines(self, number: int) -> list[Line]:
        """So many lines; other frames are passed over."""
        got: list[Line] = []
        while len(got) < number:
            frame = await self.frame()
            got += frame if isinstance(frame, list) else []
        assert len(got) == number
        return got

    async def notice(self, kind: str) -> dict[str, Any]:
        """The next of that type; others are passed over."""
        while True:
            frame = await self.frame()
            if isinstance(frame, dict) and frame["type"] == kind:
                return frame

    async def put(self, number: int, line: str) -> None:
        await self.ws.send(pack_input(number, line.encode()))

    async def ack(self, seq: int) -> None:
        await self.ws.send(json.dumps({"type": "ack", "seq": seq}))


@asynccontextmanager
async def raw(url: str, client: str = "raw", seq: Any = "start", **hello: Any) -> AsyncIterator[Raw]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(url, additional_headers=headers, compression=None, max_size=64 << 20, close_timeout=1) as ws:
        await ws.send(json.dumps({"type": "hello", "client": client, "epoch": None, "seq": seq, **hello}))
        yield Raw(ws, json.loads(await asyncio.wait_for(ws.recv(), 60)))
