"""Carries connections from the worklet's loopback port to the gateway's Unix socket.

Flow may restart while Claude works: a connection then waits here until the gateway listens again. Names
of sockets are relative to the working directory, since a Unix socket's path is limited to 107 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
import time

PATIENCE = 600.0  # seconds; the CLI itself asks again after its own timeout
_CHUNK = 1 << 16


async def forward(listener: socket.socket, target: str, patience: float = PATIENCE) -> None:
    """Serves until cancelled."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    async with asyncio.TaskGroup() as connections:
        while True:
            client, _ = await loop.sock_accept(listener)
            connections.create_task(_carry(client, target, patience))


async def _carry(client: socket.socket, target: str, patience: float) -> None:
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client:
        gateway = await _connect(client, target, patience)
        if gateway is None:
            return
        with gateway:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(client, gateway))
                    both.create_task(_pump(gateway, client))
            except* OSError:
                pass  # one side broke the connection: closing both tells the other


async def _connect(client: socket.socket, target: str, patience: float) -> socket.socket | None:
    """The gateway's side; None if the client left or patience ran out."""
    loop = asyncio.get_running_loop()
    end = time.monotonic() + patience
    pause = 0.05
    while True:
        gateway = socket.socket(socket.AF_UNIX)
        gateway.setblocking(False)
        try:
            await loop.sock_connect(gateway, target)
        except OSError as error:
            gateway.close()
            if time.monotonic() > end:
                with contextlib.suppress(OSError):  # the log's disk may be full
                    print(f"the gateway did not answer for {patience:.0f} s: {error}", file=sys.stderr, flush=True)  # noqa: T201
                return None
        except BaseException:
            gateway.close()
            raise
        else:
            return gateway
        if _has_left(client):
            return None
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)


def _has_left(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)
