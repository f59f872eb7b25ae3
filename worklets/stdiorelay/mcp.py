"""An MCP server behind a relay, for `mcp.ClientSession`. Needs the `mcp` package; nothing else here does."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage

from worklets.stdiorelay.client import RelayClient, State
from worklets.stdiorelay.connect import refuse
from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.protocol import Exited, Line

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_FLUSH_SECONDS = 0.5


@asynccontextmanager
async def relay_client(
    url: str,
    token: str,
    *,
    tls: ssl.SSLContext | None = None,
    on_state: Callable[[State], None] | None = None,
    connect_timeout: float = 30.0,
    fail_fast: bool = False,
) -> AsyncIterator[TransportStreams]:
    """The two streams that `mcp.ClientSession` takes. Raises RelayGone when the relay cannot be reached at first.

    Later the connection may come and go: a request under way gets its answer after the reconnect. `fail_fast`
    answers requests that are made meanwhile with an error at once. When the process ends the streams end.
    """

    async def read() -> None:
        async with read_writer:
            with suppress(RelayGone, anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for event in client.events():
                    if isinstance(event, Exited) and client.current(event):
                        return
                    if isinstance(event, Line) and event.data.strip():
                        await read_writer.send(_parse(event.data))

    async def write() -> None:
        async with write_reader:
            with suppress(RelayGone):
                async for message in write_reader:
                    line = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
                    refusal = refuse(line, client) if fail_fast and client.state.name != "connected" else None
                    if refusal is None:
                        await client.send(line)
                    else:
                        await read_writer.send(_parse(refusal))

    async with RelayClient(url, token, start="now", tls=tls, on_state=on_state) as client:
        await client.connected(connect_timeout)
        read_writer, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_stream, write_reader = anyio.create_memory_object_stream[SessionMessage](0)
        async with read_writer, read_stream, write_stream, write_reader, anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(write)
            try:
                yield read_stream, write_stream
                with suppress(RelayGone), anyio.move_on_after(_FLUSH_SECONDS):
                    await client.drain()
            finally:
                tasks.cancel_scope.cancel()


def _parse(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error
