"""A server in a sidecar that writes without end: the gateway's loop and memory are not its own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from worklets import sockets
from worklets.sidecardoor import SOCKET, _Sidecar
from worklets.sidecarprocess import Away, Heard, Pace, Process

LAST = b'{"flow": "ended", "code": 0, "said": ""}\n'


@asynccontextmanager
async def process(pace: Pace | None = None) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
    """What is fed to the reader is what its server writes."""
    ours, its = socket.socketpair()
    with its:
        _, writer = await asyncio.open_connection(sock=ours)
        reader = asyncio.StreamReader()
        order: dict[str, Any] = {"command": [], "env": {}}
        made = Process("own", reader, writer, order, lambda _: None, pace or Pace(), [])
        try:
            yield made, reader
        finally:
            await made.close()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_others_run_between_two_lines() -> None:
    async with process() as (one, reader):
        reader.feed_data(b"{}\n" * 1000 + LAST)
        await turns(200)
        assert not one.over
        await until(lambda: one.over, timeout=30)
        assert "ended (exit status 0)" in one.why


async def test_lines_have_a_pace() -> None:
    async with process(Pace(rate=1, burst=100_000)) as (one, reader):
        reader.feed_data(b"\n" * 100 + LAST)
        await turns(2000)
        assert not one.over
    async with process(Pace(rate=1, burst=100_000)) as (one, reader):
        reader.feed_data(b"\n" * 10 + LAST)
        await until(lambda: one.over, timeout=30)


async def test_what_nobody_takes_is_kept_up_to_a_size() -> None:
    async with process() as (one, reader):
        heard = Heard(1_000_000)
        asking = asyncio.create_task(one.ask({"id": 1, "method": "x"}, heard))
        await turns(5)
        said = {"method": "n", "params": "x" * 100_000}
        reader.feed_data((json.dumps(said).encode() + b"\r\n") * 30 + b'{"id": 1, "result": {}}\n')
        assert await asking == {"id": 1, "result": {}}
        for _ in range(9):
            assert json.loads(await heard.get()) == said
        getting = asyncio.create_task(heard.get())
        await turns(5)
        assert not getting.done()
        heard.put(b"{}")  # there is room again
        assert await getting == b"{}"


@pytest.mark.parametrize("values", ["[],", '"",', '{"a":1},', "0,"])
async def test_a_line_of_very_many_values_is_not_taken(values: str) -> None:
    async with process() as (one, reader):
        asking = asyncio.create_task(one.ask({"id": 1, "method": "x"}, None))
        await turns(5)
        reader.feed_data(b'{"id": 1, "result": [' + values.encode() * 200_000 + b"0]}\n")
        with pytest.raises(Away, match="said more in one line than Flow takes"):
            await asking


async def test_a_long_text_is_taken_whatever_it_says() -> None:
    texts = [
        json.dumps([["a", {"b": 1}]] * 50_000),
        "\\" * 300_000,
        '\\"' * 100_000 + "," * 300_000,
        "[],\r\n" * 50_000,
    ]
    async with process() as (one, reader):
        for text in texts:
            asking = asyncio.create_task(one.ask({"id": 1, "method": "x"}, None))
            await turns(5)
            reader.feed_data(json.dumps({"id": 1, "result": {"text": text}}).encode() + b"\n")
            assert (await asking)["result"]["text"] == text


async def test_a_connection_that_was_told_nothing_is_hardly_read(tmp_path: Path) -> None:
    caller: Any = SimpleNamespace(name="w", tell=lambda *_, **__: None)
    sidecar = _Sidecar(caller, "own", {"sidecar": str(tmp_path), "command": [], "env": {}}, 60, 60)
    await sidecar.listen()
    try:
        with socket.socket(socket.AF_UNIX) as made, sockets.short_path(tmp_path, SOCKET) as path:
            made.connect(path)
            made.setblocking(False)
            sent = refused = 0
            while refused < 200 and sent < 32 << 20:
                try:
                    sent += made.send(b"{}\n" * 20_000)
                    refused = 0
                except BlockingIOError:
                    refused += 1
                await asyncio.sleep(0)
            assert sent < 4 << 20
    finally:
        await sidecar.close()
