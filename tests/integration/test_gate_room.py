"""What the gate holds in memory: files that nobody hurries to read, and calls of many worklets."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc
from pathlib import Path

from waiting import until

from worklets import gateaddress
from worklets.gate.calls import Calls
from worklets.gate.framing import close, line, say
from worklets.gate.gate import Gate, context
from worklets.gate.places import Places
from worklets.gateclient import GateFiles, Way

FILE = 24 << 20


async def test_a_large_file_is_sent_piece_by_piece(tmp_path: Path) -> None:
    share_dir, root = tmp_path / "data", tmp_path / "root"
    certificate, key = gateaddress.make_identity("gate")
    tls = context(certificate + key, gateaddress.own_certificate(share_dir))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    address = gateaddress.GateAddress("127.0.0.1", listening.getsockname()[1], certificate, "none", "v1")
    gateaddress.remember(share_dir, address)
    way, gate = Way(share_dir), Gate(root, "v1")
    (root / "w1").mkdir()
    with (root / "w1" / "content").open("wb") as file:
        file.truncate(FILE)
    serving = asyncio.create_task(gate.serve(listening, tls))
    tracemalloc.start()
    try:
        streams = [await way.open() for _ in range(3)]
        for reader, writer in streams:
            say(writer, do="get", worklet="w1", path=["content"], limit=FILE)
            assert (await line(reader))["size"] == FILE
        async with asyncio.timeout(60):
            assert await streams[0][0].readexactly(FILE // 4) == bytes(FILE // 4)
        assert tracemalloc.get_traced_memory()[1] < FILE
    finally:
        tracemalloc.stop()
    for _, writer in streams:
        close(writer)
    found = await asyncio.to_thread(GateFiles(way).get, "w1", ["content"], 1000)
    assert found == bytes(1000), "no more than was asked for"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    listening.close()


async def test_some_worklets_that_call_without_end_leave_room_for_the_first_calls_of_each(tmp_path: Path) -> None:
    places = Places(tmp_path / "root")
    for name in ("greedy", "modest"):
        places.prepare(name, b"{}")
    calls = Calls(places, most_in_all=2)
    ours, theirs = [], []
    for _ in range(9):
        one, other = socket.socketpair()
        ours.append(await asyncio.open_connection(sock=one))
        theirs.append(await asyncio.open_connection(sock=other))
    parked = [asyncio.create_task(calls.park(stream)) for stream in theirs]
    taken: list[str] = []

    async def wait(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        taken.append(json.loads(await stream[0].readline())["worklet"])
        say(stream[1], ok=True)

    waiting = [asyncio.create_task(wait(stream)) for stream in ours]
    clients = []

    async def call(name: str, number: int) -> None:
        await calls.open(name)
        for _ in range(number):
            clients.append(await asyncio.open_unix_connection(tmp_path / "root" / name / "proxy.sock"))
            clients[-1][1].write(b"asked")

    await call("greedy", 8)
    await until(lambda: taken.count("greedy") == 6, what="four calls of its own and the two that all share")
    await call("modest", 1)
    await until(lambda: "modest" in taken, what="the other one's call")
    assert taken.count("greedy") == 6
    for task in [*waiting, *parked]:
        task.cancel()
    await calls.aclose()
    for stream in (*ours, *theirs, *clients):
        close(stream[1])
    await asyncio.gather(*waiting, *parked, return_exceptions=True)
