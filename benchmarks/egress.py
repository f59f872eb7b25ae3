"""The worklets' forward proxy, beside the same host without it: first byte and throughput, in turns."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

from benchmarks.harness import Row, milliseconds, percentile, ratio, say
from config.slices.egress import EgressSettings
from worklets.egress import told
from worklets.egressdial import Connection, Dialer
from worklets.egressdoors import Egress
from worklets.egressproxy import SOCKET

_BLOCK = bytes(1 << 16)


async def measure(quick: bool) -> list[Row]:
    runs, asked, size = (2, 50, 32 << 20) if quick else (5, 400, 256 << 20)
    first: dict[bool, list[float]] = {True: [], False: []}
    speed: dict[bool, list[float]] = {True: [], False: []}
    async with _peer() as port, _proxy(port) as socket:
        for number in range(runs):
            say(f"egress: run {number + 1} of {runs}")
            for proxied in (False, True):
                for _ in range(asked):
                    first[proxied].append(await _first_byte(port, socket if proxied else None))
                speed[proxied].append(size / await _download(port, socket if proxied else None, size))
    near, far = median(first[False]), median(first[True])
    bare, through = median(speed[False]), median(speed[True])
    return [
        Row(
            "egress proxy, connection and first byte",
            f"{milliseconds(far)} = {ratio(far, near)} direct",
            f"direct: {milliseconds(near)}; p95 {milliseconds(percentile(first[True], 95))}",
        ),
        Row(
            "egress proxy, one transfer",
            f"{through / 1e6:,.0f} MB/s = {ratio(through, bare)} direct",
            f"direct: {bare / 1e6:,.0f} MB/s",
        ),
    ]


@asynccontextmanager
async def _peer() -> AsyncIterator[int]:
    """The port of a host that sends as many bytes as it is asked for, in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield await asyncio.to_thread(here.recv)
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


def _serve(pipe: Pipe) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(await reader.readline())
        while left > 0:
            writer.write(_BLOCK[:left])
            left -= len(_BLOCK)
            await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@asynccontextmanager
async def _proxy(port: int) -> AsyncIterator[Path]:
    """The socket of a worklet's proxy, which takes loopback for the outside."""
    egress = Egress(Dialer(lambda _host: ["127.0.0.1"], lambda _address: True))
    await egress.configure(told(EgressSettings(mode="allow-list", hosts=(f"peer.test:{port}",))))
    with tempfile.TemporaryDirectory() as run_dir:
        await egress.open("w", Path(run_dir))
        try:
            yield Path(run_dir) / SOCKET
        finally:
            await egress.aclose()


async def _connect(port: int, proxy: Path | None) -> Connection:
    if proxy is None:
        return await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await asyncio.open_unix_connection(proxy)
    writer.write(f"CONNECT peer.test:{port} HTTP/1.1\r\n\r\n".encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the proxy refused: {answer.decode()}")
    return reader, writer


async def _first_byte(port: int, proxy: Path | None) -> float:
    """Seconds from the wish to the first byte."""
    began = time.perf_counter()
    reader, writer = await _connect(port, proxy)
    writer.write(b"1\n")
    await reader.readexactly(1)
    took = time.perf_counter() - began
    writer.close()
    await writer.wait_closed()
    return took


async def _download(port: int, proxy: Path | None, size: int) -> float:
    """Seconds for so many bytes."""
    reader, writer = await _connect(port, proxy)
    began = time.perf_counter()
    writer.write(b"%d\n" % size)
    left = size
    while left and (data := await reader.read(1 << 18)):
        left -= len(data)
    took = time.perf_counter() - began
    writer.close()
    await writer.wait_closed()
    if left:
        raise RuntimeError(f"{left} bytes did not arrive")
    return took
