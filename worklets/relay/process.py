"""One process of the CLI: what it writes goes into its journal, its exit last, and each input line to it once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from worklets.relay.journal import Journal
    from worklets.relay.relay import Child

MAX_LINE = 60 << 20  # bytes; the app's WebSocket takes 64 MiB
_OVERLONG = b'{"type":"relay_line_too_long"}'
_KEPT_IDS = 10_000
_STDERR = 4_000
_POLL = 0.1  # seconds


class Process:
    """`open`, then `run`. `on_news` is told when the journal or the exit has something new."""

    def __init__(self, child: Child, journal: Journal) -> None:
        self.journal = journal
        self.on_news: Callable[[], None] = lambda: None
        self.exit: dict[str, Any] | None = None  # the frame that tells of it, once it is in the journal
        self.over = asyncio.Event()  # it is
        self.initialize_reply: Any = None
        self._child = child
        self._pending: dict[str, tuple[int, Any]] = {}  # requests of the CLI that nobody has answered, by id
        self._initialize_id: str | None = None
        self._applied: OrderedDict[str, None] = OrderedDict()
        self._input = asyncio.Lock()
        self._from_cli: asyncio.StreamReader | None = None
        self._to_cli: asyncio.StreamWriter | None = None
        self._stderr = b""
        self._acked = asyncio.Event()

    async def open(self) -> None:
        """Before `run`, and before the first connection."""
        self._from_cli, self._to_cli = await asyncio.open_connection(sock=self._child.stdio, limit=1 << 20)

    async def run(self) -> None:
        """Returns when the process has ended and its exit is in the journal."""
        code = await self._live(self._child.process) if self._child.process else 127
        record = {"code": code, "stderr": self._child.error or self.stderr}
        await self._append([json.dumps(record).encode()], b"x")
        self.exit = {"type": "exit", "seq": self.journal.last, **record}
        self.over.set()
        self.on_news()

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

    # What it writes

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
        last = await self._append(lines)
        if self.exit is not None:
            return
        for number, line in enumerate(lines, last - len(lines) + 1):
            if b'"control_' in line[:60]:
                self._note_control(line, number)
        self.on_news()

    async def tell(self, message: dict[str, Any]) -> None:
        """A line of the relay's own, among those of the process. None when that has ended: its exit stays the last."""
        if self.exit is None:
            await self._take([json.dumps(message).encode()])

    async def _append(self, lines: list[bytes], kind: bytes = b"o") -> int:
        """The last one's number. Waits while the disk is full: the process is held back rather than a line lost.

        What still waits when the process's exit was written is left out.
        """
        while lines and self.exit is None:
            try:
                return self.journal.append(lines, kind)
            except OSError as error:
                say(f"the journal cannot be written, trying again: {error}")
                await asyncio.sleep(1)
        return self.journal.last

    def _note_control(self, line: bytes, number: int) -> None:
        try:
            message = json.loads(line)
            if message["type"] == "control_request":
                self._pending[message["request_id"]] = (number, message)
            elif message["type"] == "control_cancel_request":
                self._pending.pop(message["request_id"], None)
            elif message["response"]["request_id"] == self._initialize_id and self.initialize_reply is None:
                self.initialize_reply = message["response"].get("response")
        except (ValueError, KeyError, TypeError):
            say("a control line was not understood")

    def pending(self, seq: int) -> list[Any]:
        """Its requests up to line `seq` that nobody has answered."""
        return [message for number, message in self._pending.values() if number <= seq]

    async def _read_stderr(self, process: subprocess.Popen[bytes]) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stderr)
        while chunk := await reader.read(1 << 14):
            self._stderr = (self._stderr + chunk)[-4 * _STDERR :]

    @property
    def stderr(self) -> str:
        """What it said there last."""
        return self._stderr.decode(errors="replace")[-_STDERR:]

    # What it is told

    async def apply(self, key: str, line: Any) -> dict[str, Any]:
        """Writes the line to it, once for each `key`; the frame that answers."""
        async with self._input:  # a line must not wait behind a later one
            if key in self._applied:
                return {"type": "inack", "id": key}
            if error := bad_input(line):
                return {"type": "inerror", "id": key, "error": error}
            if self.exit is not None or self._to_cli is None:
                return {"type": "inerror", "id": key, "error": "the process has ended"}
            data = json.dumps(line).encode()
            with contextlib.suppress(OSError):  # a record for people; the line itself matters more
                self.journal.note_input(key, data)
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

    @property
    def awaited(self) -> int | None:
        """The process that we collect when it has ended."""
        process = self._child.process
        return process.pid if process is not None and process.returncode is None else None

    def signal(self, number: int) -> None:
        """Signals the process and all of its group."""
        process = self._child.process
        if process is not None and self.exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    # The end

    def ack(self, seq: int) -> None:
        """The app has stored everything up to line `seq`."""
        self.journal.ack(seq)
        self._check_acked()

    async def acknowledged(self) -> None:
        """Returns when the app has stored the exit record."""
        self._check_acked()
        await self._acked.wait()

    def _check_acked(self) -> None:
        if self.exit is not None and self.journal.acked >= self.exit["seq"]:
            self._acked.set()


async def _ended(process: subprocess.Popen[bytes]) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:  # a kernel that does not have it, such as gVisor's older ones
        while process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        return process.wait()
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
