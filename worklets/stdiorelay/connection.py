"""One client's connection to the relay: what it reads, what it acknowledges, what it writes."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from worklets.stdiorelay.output import Output
from worklets.stdiorelay.protocol import (
    INPUT_WINDOW,
    MAX_FRAME,
    NOT_UNDERSTOOD,
    OCCUPIED,
    OTHER_EPOCH,
    WINDOW,
    text,
    unpack_input,
)
from worklets.stdiorelay.readers import Readers
from worklets.stdiorelay.supervisor import Supervisor

_HELLO_SECONDS = 10.0
_AWAY = 10.0  # seconds for which the only client's place is kept while it is away


@dataclass(frozen=True, slots=True)
class Hello:
    client: str
    epoch: str | None
    seq: int | str  # a number, "start" or "now"
    ack: int | None


async def greeted(ws: ServerConnection) -> Hello | None:
    """The client's first frame; None when the connection was closed because it is none."""
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            frame = json.loads(await ws.recv())
        hello = Hello(str(frame["client"]), frame.get("epoch"), frame.get("seq", "start"), frame.get("ack"))
        if frame["type"] != "hello" or not 0 < len(hello.client) <= 200:
            raise ValueError(frame)
        if not (hello.seq in ("start", "now") or _is_number(hello.seq)) or not (
            hello.ack is None or _is_number(hello.ack)
        ):
            raise ValueError(frame)
    except (ValueError, KeyError, TypeError, AttributeError, TimeoutError):
        await ws.close(NOT_UNDERSTOOD, "the first frame is hello {client, epoch, seq}")
    except ConnectionClosed:
        pass
    else:
        return hello
    return None


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


class Connection:
    def __init__(
        self,
        ws: ServerConnection,
        hello: Hello,
        output: Output,
        readers: Readers,
        supervisor: Supervisor,
        write: asyncio.Lock,
        *,
        single: bool,
    ) -> None:
        """`write` is held while a line is written to the process."""
        self._ws, self._hello, self._client = ws, hello, hello.client
        self._output, self._readers, self._supervisor, self._write = output, readers, supervisor, write
        self._single = single
        self._news = asyncio.Event()  # something to send, or leave to send it
        self._under_way: deque[tuple[int, int]] = deque()  # (last number, bytes) of frames not acknowledged
        self._under_way_bytes = 0
        self._inputs: deque[tuple[int, bytes]] = deque()
        self._input_bytes = 0
        self._input_news = asyncio.Event()

    async def admitted(self) -> bool:
        """False when the connection was closed because it may not go on."""
        if self._hello.epoch not in (None, self._output.epoch):
            await self._ws.close(OTHER_EPOCH, "the relay was started anew")
            return False
        if self._single and self._readers.other(self._client, _AWAY):
            await self._ws.close(OCCUPIED, "another client has the relay")
            return False
        return True

    def supersede(self) -> None:
        """The client has connected again: nobody is at the other end of this connection any more."""
        self._inputs.clear()  # they come again on the new one
        self._ws.transport.abort()

    async def run(self) -> None:
        """Returns, or raises ConnectionClosed or OSError, when the connection is over."""
        if self._single:
            self._readers.forget_others(self._client)
        position = self._position()
        ack = self._hello.ack
        self._readers.arrive(self._client, position if ack is None else min(ack, position))
        await self._ws.send(self._welcome(position))
        self._output.subscribe(self._news)
        tasks = [
            asyncio.create_task(self._receive()),
            asyncio.create_task(self._send(position)),
            asyncio.create_task(self._apply()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._output.unsubscribe(self._news)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _position(self) -> int:
        match self._hello.seq:
            case "start":
                return self._output.first - 1
            case "now":
                return self._output.last
            case number:
                return min(int(number), self._output.last)

    def _welcome(self, position: int) -> str:
        return text(
            "welcome",
            epoch=self._output.epoch,
            first=self._output.first,
            last=self._output.last,
            seq=position,
            applied=self._readers.applied(self._client),
            process=self._supervisor.state,
        )

    # Out

    async def _send(self, position: int) -> None:
        """A reader that is slow, or does not acknowledge, is not waited for: it reads from the journal later."""
        while True:
            self._news.clear()
            full = self._under_way_bytes >= WINDOW
            following = None if full else self._output.after(position)
            if following is None:
                await self._news.wait()
                continue
            frame, position = following
            self._under_way.append((position, len(frame)))
            self._under_way_bytes += len(frame)
            await self._ws.send(frame)

    def _acknowledge(self, number: int) -> None:
        while self._under_way and self._under_way[0][0] <= number:
            self._under_way_bytes -= self._under_way.popleft()[1]
        self._news.set()
        self._readers.ack(self._client, min(number, self._output.last))
        self._output.release()

    # In

    async def _receive(self) -> None:
        async for message in self._ws:
            try:
                if isinstance(message, bytes):
                    self._take_input(*unpack_input(message))
                elif not self._take_frame(json.loads(message)):
                    return
            except (ValueError, KeyError, TypeError, AttributeError):
                await self._ws.close(NOT_UNDERSTOOD, "a frame is not understood")

    def _take_frame(self, frame: dict[str, Any]) -> bool:
        """False after a goodbye."""
        match frame["type"]:
            case "ack":
                self._acknowledge(int(frame["seq"]))
            case "bye":
                self._readers.forget(self._client)
                return False
            case _:
                raise ValueError(frame)
        return True

    def _take_input(self, number: int, line: bytes) -> None:
        if self._input_bytes > INPUT_WINDOW + MAX_FRAME:
            raise ValueError("more input than may be under way")
        self._inputs.append((number, line))
        self._input_bytes += len(line)
        self._input_news.set()

    async def _apply(self) -> None:
        """Apart from reading: a process that does not take its input must not keep acknowledgements from us."""
        while True:
            self._input_news.clear()
            if not self._inputs:
                await self._input_news.wait()
                continue
            number = self._inputs[0][0]
            while self._inputs:
                number, line = self._inputs.popleft()
                self._input_bytes -= len(line)
                if not await self._apply_once(number, line):
                    await self._ws.close(NOT_UNDERSTOOD, f"input {number} has no predecessor")
                    return
            await self._ws.send(text("inack", id=number))

    async def _apply_once(self, number: int, line: bytes) -> bool:
        async with self._write:
            applied = self._readers.applied(self._client)
            if number > applied + 1:
                return False
            if number == applied + 1:
                process = await self._supervisor.write(line)
                self._readers.apply(self._client, number)
                await process.drain()
            return True
