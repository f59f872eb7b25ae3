"""The way back: our own stdin and stdout over a relay, as if its command ran here."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from worklets.stdiorelay.client import RelayClient
from worklets.stdiorelay.errors import RelayGone, failure
from worklets.stdiorelay.protocol import Event, Exited, Gap, Line, TooLong

_CHUNK = 1 << 16


async def bridge(
    client: RelayClient, stdin: int, stdout: int, *, fail_fast: bool, linger: float, say: Callable[[str], None]
) -> int:
    """Carries lines both ways until the process or our input ends. The process's exit code, 0 after our input's end.

    `fail_fast` answers JSON-RPC requests that come while there is no connection with an error at once. `linger`:
    seconds for which output is still carried after our input's end. Raises RelayGone.
    """
    writer = Writer(stdout)
    reading = asyncio.create_task(_pump_out(client, writer, say))
    writing = asyncio.create_task(_pump_in(client, stdin, writer, fail_fast))
    try:
        done, _ = await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
        if reading not in done:
            writing.result()
            await asyncio.wait([reading], timeout=linger)
        return reading.result() if reading.done() else 0
    finally:
        for task in (reading, writing):
            task.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)


async def _pump_out(client: RelayClient, writer: Writer, say: Callable[[str], None]) -> int:
    while batch := await client.batch():
        lines = [event.data for event in batch if isinstance(event, Line)]
        if lines and not await writer.write(b"\n".join(lines) + b"\n"):
            return 0  # whoever read our stdout has gone
        for event in batch:
            _mention(event, say)
            if isinstance(event, Exited) and client.current(event):
                return shell_code(event.code)
    return shell_code(client.exited.code) if client.exited else 0


def _mention(event: Event, say: Callable[[str], None]) -> None:
    match event:
        case Gap():
            say(f"lines {event.first} to {event.last} were dropped before they could be read here")
        case TooLong():
            say(f"a line of {event.bytes} bytes was too long for the relay and was dropped")
        case Exited():
            said = f"; it said last: {event.stderr.strip()[-500:]}" if event.stderr.strip() else ""
            say(f"the process ended with {event.code}{said}")


async def _pump_in(client: RelayClient, stdin: int, writer: Writer, fail_fast: bool) -> None:
    with suppress(RelayGone):  # _pump_out tells
        async for line in read_lines(stdin):
            refusal = refuse(line, client) if fail_fast and client.state.name != "connected" else None
            if refusal is None:
                await client.send(line)
            else:
                await writer.write(refusal + b"\n")
        await client.drain()


def refuse(line: bytes, client: RelayClient) -> bytes | None:
    """The JSON-RPC error for a request that cannot be put now; None when `line` is no request."""
    try:
        message = json.loads(line)
        if not isinstance(message, dict) or "method" not in message or "id" not in message:
            return None
    except ValueError:
        return None
    state = client.state
    data = failure(state.reason, state.code or "CONNECTION_REFUSED")
    error = {"code": -32000, "message": state.reason, "data": data}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode()


def shell_code(code: int) -> int:
    """An exit code as a shell gives it: 128 and the signal's number for a signal."""
    return 128 - code if code < 0 else code


async def read_lines(fd: int) -> AsyncIterator[bytes]:
    """Lines of a pipe, file or terminal, read by a thread of its own, which reads ahead one chunk."""
    loop, chunks, taken = asyncio.get_running_loop(), asyncio.Queue[bytes](), threading.Semaphore(1)

    def read() -> None:
        chunk = b"-"
        while chunk:
            taken.acquire()
            try:
                chunk = os.read(fd, _CHUNK)
            except OSError:
                chunk = b""
            with suppress(RuntimeError):  # the loop is over
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    threading.Thread(target=read, daemon=True).start()  # a read cannot be cancelled
    buffer = bytearray()
    while chunk := await chunks.get():
        taken.release()
        buffer += chunk
        if b"\n" in chunk:
            *lines, rest = bytes(buffer).split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                yield line
    if buffer:
        yield bytes(buffer)


class Writer:
    """Writes to a file descriptor by a thread of its own: whoever reads it may be slow."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[bool]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def write(self, data: bytes) -> bool:
        """False when nobody reads any more."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(asyncio.get_running_loop(),), daemon=True)
            self._thread.start()
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._jobs.put((data, written))
        return await written

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            data, written = self._jobs.get()
            view, good = memoryview(data), True
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                good = False
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, written, good)


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
