"""Between the CLI process and the app: its lines go through the journal to one owner, input comes back.

Frames on the WebSocket. Text frames are JSON objects; a binary frame is a run of output lines:
`<number of the first>\\n<line>\\n<line>…`, numbers being consecutive.

    app → relay   hello {seq, epoch, fence} · in {id, line} · ack {seq} · signal {name}
    relay → app   welcome {epoch, first, last, state, gap, pending, initialize} · (lines) ·
                  inack {id} · inerror {id, error} · exit {seq, code, stderr}

`in` is applied once for each id. `exit` has the last number and is kept until it is acknowledged. Close
codes: 4001 a newer owner took over, 4002 another epoch, 4003 the fence is too low, 4004 not understood.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

if TYPE_CHECKING:
    from worklets.relay.journal import Journal
    from worklets.relay.relay import Child

SUPERSEDED, OTHER_EPOCH, LOW_FENCE, NOT_UNDERSTOOD = 4001, 4002, 4003, 4004
MAX_LINE = 60 << 20  # bytes; the app's WebSocket takes 64 MiB
_OVERLONG = b'{"type":"relay_line_too_long"}'
_KEPT_IDS = 10_000
_STDERR = 4_000
_HELLO_SECONDS = 10


class _Link:
    """The owner's connection, and the number of the last line sent on it."""

    def __init__(self, ws: ServerConnection, seq: int) -> None:
        self.ws = ws
        self.seq = seq
        self.news = asyncio.Event()


class Bridge:
    def __init__(self, child: Child, journal: Journal, token: str) -> None:
        self._child, self._journal, self._token = child, journal, token
        self._owner: _Link | None = None
        self._fence = 0
        self._pending: dict[str, tuple[int, Any]] = {}  # requests of the CLI that nobody has answered, by id
        self._initialize_id: str | None = None
        self._initialize_reply: Any = None
        self._applied: OrderedDict[str, None] = OrderedDict()
        self._input = asyncio.Lock()
        self._from_cli: asyncio.StreamReader | None = None
        self._to_cli: asyncio.StreamWriter | None = None
        self._stderr = b""
        self._exit: dict[str, Any] | None = None
        self._acked = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    # The process

    async def open(self) -> None:
        """Before `run`, and before the first connection."""
        self._from_cli, self._to_cli = await asyncio.open_connection(sock=self._child.stdio, limit=1 << 20)

    async def run(self) -> None:
        """Returns when the process has ended and its exit is in the journal."""
        code = await self._live(self._child.process) if self._child.process else 127
        stderr = self._child.error or self._stderr.decode(errors="replace")[-_STDERR:]
        record = {"code": code, "stderr": stderr}
        await self._append([json.dumps(record).encode()], b"x")
        self._exit = {"type": "exit", "seq": self._journal.last, **record}
        self._wake()

    async def _live(self, process: subprocess.Popen[bytes]) -> int:
        assert self._from_cli is not None
        assert self._to_cli is not None
        reading = [
            asyncio.create_task(self._read_lines(self._from_cli)),
            asyncio.create_task(self._read_stderr(process)),
        ]
        reading[0].add_done_callback(self._end_if_unread)
        code = await _ended(process)
        # What it wrote before it ended is still to be read; a process it left behind may hold the stream open.
        _, late = await asyncio.wait(reading, timeout=2)
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*reading, return_exceptions=True):
            if isinstance(result, Exception):
                say(f"reading the process's output failed: {result!r}")
        self._to_cli.close()
        return code

    def _end_if_unread(self, reading: asyncio.Task[None]) -> None:
        """A process that nobody reads any more would wait for ever, and Flow with it."""
        if not reading.cancelled() and reading.exception() is not None:
            self.signal(signal.SIGKILL)

    async def _read_lines(self, reader: asyncio.StreamReader) -> None:
        buffer, overlong = bytearray(), False
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                buffer += chunk
                if b"\n" in chunk:
                    *lines, rest = bytes(buffer).split(b"\n")
                    if overlong:
                        lines[0], overlong = _OVERLONG, False
                    buffer = bytearray(rest)
                    await self._take([line for line in lines if line])
                elif len(buffer) > MAX_LINE:
                    buffer, overlong = bytearray(), True
        if buffer and not overlong:
            await self._take([bytes(buffer)])

    async def _take(self, lines: list[bytes]) -> None:
        first = self._journal.last + 1
        await self._append(lines)
        for number, line in enumerate(lines, first):
            if b'"control_' in line[:60]:
                self._note_control(line, number)
        self._wake()

    async def _append(self, lines: list[bytes], kind: bytes = b"o") -> None:
        """Waits while the disk is full: the process is held back rather than a line lost."""
        while lines:
            try:
                self._journal.append(lines, kind)
            except OSError as error:
                say(f"the journal cannot be written, trying again: {error}")
                await asyncio.sleep(1)
            else:
                return

    def _note_control(self, line: bytes, number: int) -> None:
        try:
            message = json.loads(line)
            if message["type"] == "control_request":
                self._pending[message["request_id"]] = (number, message)
            elif message["type"] == "control_cancel_request":
                self._pending.pop(message["request_id"], None)
            elif message["response"]["request_id"] == self._initialize_id and self._initialize_reply is None:
                self._initialize_reply = message["response"].get("response")
        except (ValueError, KeyError, TypeError):
            say("a control line was not understood")

    async def _read_stderr(self, process: subprocess.Popen[bytes]) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stderr)
        while chunk := await reader.read(1 << 14):
            self._stderr = (self._stderr + chunk)[-4 * _STDERR :]

    def signal(self, number: int) -> None:
        """Signals the process and all of its group."""
        process = self._child.process
        if process is not None and self._exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    # The app

    def refuse(self, _ws: ServerConnection, request: Request) -> Response | None:
        """401 without the token; 403 for anything that comes from a browser's page."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if "Origin" in request.headers:
            return _ws.respond(HTTPStatus.FORBIDDEN, "no browsers\n")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _ws.respond(HTTPStatus.UNAUTHORIZED, "the token is wrong\n")
        return None

    async def serve(self, ws: ServerConnection) -> None:
        """One connection, from its hello to its end. The newest with a sufficient fence is the owner."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = json.loads(await ws.recv())
            seq, epoch, fence = int(hello["seq"]), hello.get("epoch"), int(hello["fence"])
        except (ValueError, KeyError, TypeError, TimeoutError):
            await ws.close(NOT_UNDERSTOOD, "hello is not understood")
            return
        if fence < self._fence:
            await ws.close(LOW_FENCE, "fence is too low")
            return
        link = self._take_over(ws, seq, fence)
        try:
            await ws.send(json.dumps(self._welcome(seq)))
            if epoch not in (None, self._journal.epoch):
                await ws.close(OTHER_EPOCH, "another epoch")
                return
            await self._converse(link)
        except ConnectionClosed:
            pass  # the app went away; the process goes on
        finally:
            if self._owner is link:
                self._owner = None

    def _take_over(self, ws: ServerConnection, seq: int, fence: int) -> _Link:
        old, self._owner = self._owner, _Link(ws, max(seq, self._journal.first - 1))
        self._fence = fence
        if old is not None:
            task = asyncio.create_task(old.ws.close(SUPERSEDED, "superseded"))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._owner

    def _welcome(self, seq: int) -> dict[str, Any]:
        return {
            "type": "welcome",
            "epoch": self._journal.epoch,
            "first": self._journal.first,
            "last": self._journal.last,
            "state": "running" if self._exit is None else "exited",
            "gap": seq + 1 < self._journal.first,
            "pending": [message for number, message in self._pending.values() if number <= seq],
            "initialize": self._initialize_reply,
        }

    async def _converse(self, link: _Link) -> None:
        sending = asyncio.create_task(self._send(link))
        try:
            async for message in link.ws:
                if self._owner is not link:
                    return
                await self._receive(link, message)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                link.news.clear()
                last_line = self._journal.last if self._exit is None else self._journal.last - 1
                if link.seq < last_line:
                    lines = self._journal.read(link.seq + 1, max_lines=min(256, last_line - link.seq))
                    await link.ws.send(b"%d\n%s" % (link.seq + 1, b"\n".join(lines)))
                    link.seq += len(lines)
                elif self._exit is not None and link.seq < self._exit["seq"]:
                    await link.ws.send(json.dumps(self._exit))
                    link.seq = self._exit["seq"]
                else:
                    await link.news.wait()

    async def _receive(self, link: _Link, message: str | bytes) -> None:
        try:
            frame = json.loads(message)
            kind = frame["type"]
            if kind == "ack":
                self._journal.ack(int(frame["seq"]))
                self._check_acked()
            elif kind == "in":
                await link.ws.send(json.dumps(await self._apply(str(frame["id"]), frame["line"])))
            elif kind == "signal":
                self.signal(signal.Signals[frame["name"]])
            else:
                raise ValueError(kind)
        except (ValueError, KeyError, TypeError):
            await link.ws.close(NOT_UNDERSTOOD, "a frame is not understood")

    async def _apply(self, key: str, line: Any) -> dict[str, Any]:
        async with self._input:  # a line must not wait behind a later one
            if key in self._applied:
                return {"type": "inack", "id": key}
            if error := bad_input(line):
                return {"type": "inerror", "id": key, "error": error}
            if self._exit is not None or self._to_cli is None:
                return {"type": "inerror", "id": key, "error": "the process has ended"}
            data = json.dumps(line).encode()
            with contextlib.suppress(OSError):  # a record for people; the line itself matters more
                self._journal.note_input(key, data)
            self._applied[key] = None
            if len(self._applied) > _KEPT_IDS:
                self._applied.popitem(last=False)
            self._note_input(line)
            with contextlib.suppress(ConnectionError):  # it is ending: the exit record tells
                self._to_cli.write(data + b"\n")
                await self._to_cli.drain()
            return {"type": "inack", "id": key}

    def _note_input(self, line: dict[str, Any]) -> None:
        if line["type"] == "control_response":
            self._pending.pop(str((line.get("response") or {}).get("request_id")), None)
        elif self._initialize_id is None and (line.get("request") or {}).get("subtype") == "initialize":
            self._initialize_id = line.get("request_id")

    def _wake(self) -> None:
        if self._owner is not None:
            self._owner.news.set()

    # The end

    @property
    def owned(self) -> bool:
        return self._owner is not None

    async def acknowledged(self) -> None:
        """Returns when the app has stored the exit record."""
        self._check_acked()
        await self._acked.wait()

    def _check_acked(self) -> None:
        if self._exit is not None and self._journal.acked >= self._exit["seq"]:
            self._acked.set()


async def _ended(process: subprocess.Popen[bytes]) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    fd = os.pidfd_open(process.pid)
    loop.add_reader(fd, ended.set)
    await ended.wait()
    loop.remove_reader(fd)
    os.close(fd)
    return process.wait()  # returns at once


def bad_input(line: Any) -> str | None:
    """Why this must not be written to the CLI, which exits on a line that it cannot read."""
    if not isinstance(line, dict) or not isinstance(line.get("type"), str):
        return "an input line is a JSON object with a type"
    if line["type"] == "user":
        message = line.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | list):
            return "a user line has a message with content"
    return None


def say(text: str) -> None:
    """A line for the container's log, if that can be written: it may lie on the disk that is full."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201
