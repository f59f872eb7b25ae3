"""The bytes of one connection through a worklet's proxy, carried both ways until it is over.

They are carried as they come: nothing is collected. Of a plain request its body goes out and not a byte of what may
follow it; of a tunnel everything does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from worklets.egressdial import Connection
from worklets.egresshttp import BadRequest, BadResponse, Request, chunk_size, parse_response

_CHUNK = 1 << 16
_LINGER_SECONDS = 2.0
_INTERIM = 20  # answers with a status below 200 that may come before the real one


@dataclass(slots=True, eq=False)
class Way:
    """One connection on its way, to `host` once that is known."""

    task: asyncio.Task[None] = field(init=False)
    host: str = ""
    port: int = 0
    address: str = ""  # that was dialled
    sent: int = 0
    received: int = 0
    asking: bool = False  # it has said what it wants
    allowed: bool = False
    answered: bool = False  # the worklet has got the begin of an answer


class Carrier:
    """Carries the bytes of one connection.

    `count` is told how many bytes have passed, and whether outwards. `half_closed`: seconds that one side may be silent
    when the other has ended.
    """

    def __init__(self, way: Way, count: Callable[[int, bool], None], half_closed: float) -> None:
        self._way, self._count, self._half_closed = way, count, half_closed

    async def carry(self, request: Request, inside: Connection, outside: Connection) -> None:
        """Until it is over. Raises BadRequest, OSError."""
        if request.tunnels:
            inside[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._way.answered = True
            out, back = self._pump(inside[0], outside[1], True), self._pump(outside[0], inside[1], False)
        else:
            outside[1].write(request.head())
            out, back = self._send_body(request, inside[0], outside[1]), self._respond(outside, inside)
        sending, receiving = asyncio.create_task(out), asyncio.create_task(back)
        try:
            await self._until_over(sending, receiving, inside[0] if not request.tunnels else None)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
        if request.tunnels:
            await asyncio.gather(*(_settle(end[1], self._half_closed) for end in (inside, outside)))
        else:
            await linger(inside)
            await _settle(inside[1], self._half_closed)

    async def _until_over(
        self,
        sending: asyncio.Task[None],
        receiving: asyncio.Task[None],
        asker: asyncio.StreamReader | None,
    ) -> None:
        """Until both directions have ended; a request, which has an `asker`, is over with its response.

        Raises what broke a direction. A connection of which one side has ended, and the other says nothing for long,
        counts as ended: the worklet's side looks the same whether it only listens or has gone.
        """
        running: set[asyncio.Task[None]] = {sending, receiving}
        while receiving in running or (asker is None and running):
            before = self._way.sent + self._way.received
            done, running = await asyncio.wait(running, timeout=self._half_closed, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # A host may answer before it has read all, and read no more.
                if not (task is sending and asker is not None and isinstance(task.exception(), OSError)):
                    await task
            half = len(running) == 1 if asker is None else asker.at_eof() or asker.exception() is not None
            if not done and half and self._way.sent + self._way.received == before:
                return

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, outwards: bool, most: int = -1
    ) -> None:
        """To the source's end, which the sink is told of; or `most` bytes. Raises OSError."""
        while most and (data := await source.read(_CHUNK if most < 0 else min(_CHUNK, most))):
            most -= len(data) if most > 0 else 0
            sink.write(data)
            self._count(len(data), outwards)
            await sink.drain()
        if most > 0:
            raise BadRequest("The request's body ended too soon.")
        if most < 0:
            sink.write_eof()

    async def _send_body(self, request: Request, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """The request's body and not a byte of what may follow it."""
        if not request.framing.chunked:
            await self._pump(source, sink, True, most=request.framing.length)
            return
        while size := chunk_size(await _line(source)):
            sink.write(b"%x\r\n" % size)
            await self._pump(source, sink, True, most=size)
            if await _line(source):
                raise BadRequest("A chunk of the request's body has another length than it says.")
            sink.write(b"\r\n")
        sink.write(b"0\r\n\r\n")  # what may come as trailers is left out
        await sink.drain()

    async def _respond(self, outside: Connection, inside: Connection) -> None:
        for _ in range(_INTERIM):
            try:
                status, head = parse_response(await outside[0].readuntil(b"\r\n\r\n"))
            except (BadResponse, asyncio.LimitOverrunError, asyncio.IncompleteReadError, OSError) as e:
                raise BadRequest(f"{self._way.host}:{self._way.port} did not answer as a web server does.", 502) from e
            inside[1].write(head)
            self._way.answered = True
            await inside[1].drain()
            if status >= 200:
                break
        else:
            raise BadRequest(f"{self._way.host}:{self._way.port} does not come to its answer.", 502)
        await self._pump(outside[0], inside[1], False)


async def _line(source: asyncio.StreamReader) -> bytes:
    try:
        return (await source.readuntil(b"\r\n"))[:-2]
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError) as e:
        raise BadRequest("The request's body ended too soon.") from e


async def linger(inside: Connection) -> None:
    """Reads what still comes in, for a while: unread, it would break the connection before the answer is read."""
    reader, writer = inside
    with suppress(OSError):
        async with asyncio.timeout(_LINGER_SECONDS):
            writer.write_eof()
            await writer.drain()
            while await reader.read(_CHUNK):
                pass


async def _settle(writer: asyncio.StreamWriter, seconds: float) -> None:
    """Sends what is still to be sent, and closes."""
    writer.close()
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            await writer.wait_closed()
