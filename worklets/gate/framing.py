"""A byte stream in frames: over TLS one side cannot say that it has ended while the other goes on.

A frame is four bytes of length, big-endian, and so many bytes; the one of length 0 is the stream's end. A connection
that ends without it was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

CHUNK = 1 << 16
_LONGEST = 1 << 20  # bytes of a frame that is taken
_SILENT_SECONDS = 30  # after which a peer that acknowledges nothing counts as gone

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Broken(Exception):
    """The other side has gone, or does not speak our language."""


async def carry(plain: Stream, framed: Stream, first: bytes = b"") -> None:
    """Until both directions have ended, or one side breaks; both are closed then. `first` was read of `plain`."""
    try:
        if first:
            framed[1].write(len(first).to_bytes(4, "big") + first)
        async with asyncio.TaskGroup() as both:
            both.create_task(_wrap(plain[0], framed[1]))
            both.create_task(_unwrap(framed[0], plain[1]))
    except* (OSError, Broken):
        pass  # one side broke the connection: closing both tells the other
    finally:
        close(plain[1])
        close(framed[1])


async def _wrap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(len(data).to_bytes(4, "big") + data)
        await writer.drain()
    writer.write(bytes(4))
    await writer.drain()


async def _unwrap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size := int.from_bytes(await exactly(reader, 4), "big"):
        if size > _LONGEST:
            raise Broken("a frame is too long")
        writer.write(await exactly(reader, size))
        await writer.drain()
    writer.write_eof()


async def exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    """So many bytes. Raises Broken."""
    try:
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise Broken("the connection was cut off") from error


async def line(reader: asyncio.StreamReader) -> dict[str, Any]:
    """A line of JSON, an object. Raises Broken, also at the connection's end."""
    try:
        read = await reader.readuntil(b"\n")
        said = json.loads(read)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, RecursionError) as error:
        raise Broken("what came is no line of the gate's") from error
    if not isinstance(said, dict):
        raise Broken("what came is no line of the gate's")
    return said


def say(writer: asyncio.StreamWriter, **fields: Any) -> None:
    writer.write(json.dumps(fields).encode() + b"\n")


def close(writer: asyncio.StreamWriter) -> None:
    """Without waiting for a peer that may be gone. What was written and drained before is on its way."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def keep_alive(made: socket.socket) -> None:
    """A peer that is gone without a word is noticed in half a minute."""
    with contextlib.suppress(OSError):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_SECONDS * 1000)
