"""Carries connections from the worklet's loopback ports to the gateway's Unix sockets.

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
from collections.abc import Callable

PATIENCE = 600.0  # seconds; the CLI itself asks again after its own timeout
AWAY = 30.0  # the same where programs should rather hear that nobody is there
_CHUNK = 1 << 16
_MOST = 1000  # connections at a time, of two open files each; the next ones wait to be taken
_PAUSE = 0.2  # seconds, when no file can be opened


class Traffic:
    """Bytes that the forwarders have carried: a worklet has no other way out."""

    def __init__(self) -> None:
        self.sent = self.received = 0

    def count_sent(self, size: int) -> None:
        self.sent += size

    def count_received(self, size: int) -> None:
        self.received += size


async def forward(
    listener: socket.socket, target: str, patience: float = PATIENCE, traffic: Traffic | None = None
) -> None:
    """Serves until cancelled."""
    traffic = traffic or Traffic()
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    places = asyncio.Semaphore(_MOST)
    async with asyncio.TaskGroup() as connections:
        while True:
            await places.acquire()
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # whoever called has left, or no file can be opened now
                places.release()
                await asyncio.sleep(_PAUSE)
                continue
            carrying = connections.create_task(_carry(client, target, patience, traffic))
            carrying.add_done_callback(lambda _: places.release())


async def _carry(client: socket.socket, target: str, patience: float, traffic: Traffic) -> None:
    client.setblocking(False)
    with client:
        with contextlib.suppress(OSError):  # it has left again
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gateway = await _connect(client, target, patience)
        if gateway is None:
            return
        with gateway:
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pump(client, gateway, traffic.count_sent))
                    both.create_task(_pump(gateway, client, traffic.count_received))
            except* OSError:
                pass  # one side broke the connection: closing both tells the other


async def _connect(client: socket.socket, target: str, patience: float) -> socket.socket | None:
    """The gateway's side; None if the client left or patience ran out."""
    loop = asyncio.get_running_loop()
    end = time.monotonic() + patience
    pause = 0.05
    while True:
        gateway: socket.socket | None = None
        try:
            gateway = socket.socket(socket.AF_UNIX)
            gateway.setblocking(False)
            await loop.sock_connect(gateway, target)
            if _has_left(client):  # what it asked for, and gave up, must not be done now
                gateway.close()
                return None
        except OSError as error:
            if gateway is not None:
                gateway.close()
            if time.monotonic() > end:
                with contextlib.suppress(OSError):  # the log's disk may be full
                    print(f"the gateway did not answer for {patience:.0f} s: {error}", file=sys.stderr, flush=True)  # noqa: T201
                return None
        except BaseException:
            if gateway is not None:
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


async def _pump(source: socket.socket, sink: socket.socket, count: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
        count(len(data))
    sink.shutdown(socket.SHUT_WR)
