"""The gate against worklets that do as they like, strangers at its port, and a Flow that dies; all without Docker."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import until

from worklets import gateaddress, rundir, sockets
from worklets.gate.framing import Broken, carry, line, say
from worklets.gate.gate import Gate, context
from worklets.gate.places import Places, Unfit
from worklets.gatebeyond import PARKED, Beyond
from worklets.gateclient import GateAway, GateFiles, GateRefused, Nobody, Way
from worklets.gatelink import Links


@dataclass
class Running:
    """A gate at work: its worklets' directories, and how Flow reaches it."""

    root: Path
    share_dir: Path
    way: Way
    files: GateFiles
    task: asyncio.Task[None]
    port: int

    def place(self, worklet: str) -> Path:
        return self.root / worklet


async def begin(root: Path, share_dir: Path, port: int = 0) -> Running:
    certificate, key = gateaddress.make_identity("gate")
    tls = context(certificate + key, gateaddress.own_certificate(share_dir))
    listening = socket.create_server(("127.0.0.1", port))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    gateaddress.remember(share_dir, gateaddress.GateAddress("127.0.0.1", port, certificate, "none", "v1"))
    way = Way(share_dir)
    gate = Gate(root, "v1")

    async def serve() -> None:
        with listening:
            await gate.serve(listening, tls)

    return Running(root, share_dir, way, GateFiles(way), asyncio.create_task(serve()), port)


async def end(running: Running) -> None:
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Running]:
    made = await begin(tmp_path / "root", tmp_path / "data")
    yield made
    await end(made)


async def prepare(gate: Running, name: str) -> Path:
    """A worklet's directory there; returns the one here."""
    await asyncio.to_thread(gate.files.prepare, name, b'{"token": "t"}')
    return rundir.prepare(gate.share_dir, name, None)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"END")
    writer.close()


async def said(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        return await reader.read()


async def test_both_ways_with_each_direction_ending_by_itself(gate: Running) -> None:
    here = await prepare(gate, "w1")
    content = os.urandom(3 << 20)
    links, beyond = Links(gate.way), Beyond(gate.share_dir)
    relay = await asyncio.start_unix_server(echo, gate.place("w1") / "relay.sock")
    door = await asyncio.start_unix_server(echo, sock=sockets.listen(here, "gateway.sock"))
    async with relay, door:
        await links.serve("w1", here)
        beyond.open("w1", here)
        await until(lambda: (gate.place("w1") / "gateway.sock").exists(), what="the door at the gate")
        for path in (here / "relay.sock", gate.place("w1") / "gateway.sock"):
            reader, writer = await asyncio.open_unix_connection(path)
            reading = asyncio.create_task(said(reader))
            writer.write(content)
            writer.write_eof()
            assert await reading == content + b"END"
            writer.close()
        await beyond.aclose()
        await links.aclose()


async def test_a_call_that_comes_while_flow_is_away_is_answered_when_it_is_back(gate: Running) -> None:
    here = await prepare(gate, "w1")
    first = Beyond(gate.share_dir)
    first.open("w1", here)
    await until(lambda: (gate.place("w1") / "proxy.sock").exists(), what="the door at the gate")
    await first.aclose()
    reader, writer = await asyncio.open_unix_connection(gate.place("w1") / "gateway.sock")
    writer.write(b"asked")
    writer.write_eof()
    async with await asyncio.start_unix_server(echo, sock=sockets.listen(here, "gateway.sock")):
        second = Beyond(gate.share_dir)
        second.open("w1", here)
        assert await said(reader) == b"askedEND"
        await second.aclose()
    writer.close()


async def test_a_new_gate_on_the_same_port_is_found_by_its_new_certificate(gate: Running, tmp_path: Path) -> None:
    here = await prepare(gate, "w1")
    async with await asyncio.start_unix_server(echo, sock=sockets.listen(here, "gateway.sock")):
        beyond = Beyond(gate.share_dir)
        beyond.open("w1", here)
        await until(lambda: (gate.place("w1") / "gateway.sock").exists(), what="the door at the gate")
        await end(gate)
        (gate.place("w1") / "gateway.sock").unlink()
        successor = await begin(gate.root, gate.share_dir, gate.port)
        await until(lambda: (gate.place("w1") / "gateway.sock").exists(), what="the door at the new gate")
        reader, writer = await asyncio.open_unix_connection(gate.place("w1") / "gateway.sock")
        writer.write(b"?")
        writer.write_eof()
        assert await said(reader) == b"?END"
        writer.close()
        await beyond.aclose()
        await end(successor)


async def test_what_one_worklet_does_holds_up_no_other(gate: Running) -> None:
    """It opens more connections than it may, and reads nothing."""
    greedy, other = await prepare(gate, "greedy"), await prepare(gate, "other")

    stalled = list[asyncio.StreamWriter]()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stalled.append(writer)
        await reader.read()
        writer.close()
        stalled.remove(writer)

    stuck = await asyncio.start_unix_server(stall, sock=sockets.listen(greedy, "gateway.sock"))
    door = await asyncio.start_unix_server(echo, sock=sockets.listen(other, "gateway.sock"))
    beyond = Beyond(gate.share_dir)
    beyond.open("greedy", greedy)
    beyond.open("other", other)
    await until(lambda: (gate.place("other") / "gateway.sock").exists(), what="the doors")
    taken = []
    for _ in range(180):
        made = socket.socket(socket.AF_UNIX)
        made.setblocking(False)
        if made.connect_ex(str(gate.place("greedy") / "gateway.sock")) == 0:
            made.send(b"asked")
        taken.append(made)
    reader, writer = await asyncio.open_unix_connection(gate.place("other") / "gateway.sock")
    writer.write(b"?")
    writer.write_eof()
    assert await said(reader) == b"?END"
    for made in taken:
        made.close()
    writer.close()
    assert 0 < len(stalled) <= 128
    await beyond.aclose()
    await until(lambda: not stalled, what="all that was carried to end")
    stuck.close()
    door.close()


async def test_no_link_leads_to_a_neighbours_socket_or_file(gate: Running) -> None:
    await prepare(gate, "mine")
    await prepare(gate, "other")
    mine = gate.place("mine")
    async with await asyncio.start_unix_server(echo, gate.place("other") / "relay.sock"):
        (mine / "relay.sock").symlink_to("../other/relay.sock")
        with pytest.raises(GateRefused):
            await gate.way.dial("mine", "relay.sock")
        (mine / "outgoing").symlink_to("../other")
        for ask in (
            lambda: gate.files.get("mine", ["outgoing", "spec.json"], 100),
            lambda: gate.files.put("mine", ["outgoing", "reply.json"], b"{}"),
            lambda: gate.files.get("mine", ["..", "other", "spec.json"], 100),
            lambda: gate.files.get("../other", ["spec.json"], 100),
            lambda: gate.files.get("mine", ["/etc/passwd"], 100),
        ):
            with pytest.raises(GateRefused):
                await asyncio.to_thread(ask)
        os.mkfifo(mine / "pipe")
        with pytest.raises(GateRefused):
            await asyncio.to_thread(gate.files.get, "mine", ["pipe"], 100)
    assert not (gate.place("other") / "reply.json").exists()
    for name in ("gateway.sock", "../other/relay.sock", "spec.json"):
        with pytest.raises(GateRefused):
            await gate.way.dial("mine", name)


async def test_what_stands_in_the_way_of_flows_files_goes(gate: Running) -> None:
    await prepare(gate, "w1")
    place = gate.place("w1")
    (place / "kv.token").mkdir()
    (place / "kv.token" / "deep").mkdir()
    (place / "spec.json").unlink()
    (place / "spec.json").symlink_to("/etc/shadow")
    await asyncio.to_thread(gate.files.put, "w1", ["kv.token"], b"token")
    assert (place / "kv.token").read_bytes() == b"token"
    assert (place / "kv.token").stat().st_mode & 0o777 == 0o600
    (place / "journal" / "1.log").mkdir(parents=True)
    await asyncio.to_thread(gate.files.prepare, "w1", b"{}")
    assert (place / "spec.json").read_bytes() == b"{}"
    assert not (place / "spec.json").is_symlink()
    assert not (place / "journal").exists()
    assert len(list(place.glob(".gone-*"))) == 1, "what was put away before is deleted, the journal is next"
    deep = place
    for _ in range(300):
        deep = deep / ("d" * 10)
        deep.mkdir()
    deep.chmod(0)
    await asyncio.to_thread(gate.files.remove, "w1")
    assert not place.exists()


async def test_nobody_without_flows_certificate_gets_past_the_handshake(gate: Running, tmp_path: Path) -> None:
    address = gateaddress.known(gate.share_dir)
    assert address is not None
    stranger = tmp_path / "stranger"
    gateaddress.own_certificate(stranger)  # one that is as good as Flow's, and another
    for tls in (address.context(stranger), _anonymous()):
        with pytest.raises((ssl.SSLError, ConnectionError, Broken)):
            await knock(gate.port, tls)
    plain = await asyncio.open_connection("127.0.0.1", gate.port)
    plain[1].write(b'{"do": "ping"}\n')
    assert await said(plain[0]) in (b"", b"\x15\x03\x01\x00\x02\x02F")  # nothing, or a TLS alert
    plain[1].close()
    own = await gate.way.open()
    assert (await gate.way.ask(own, do="ping"))["version"] == "v1"
    own[1].close()


async def knock(port: int, tls: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        say(writer, do="ping")
        await line(reader)
    finally:
        writer.close()


def _anonymous() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


async def test_flow_believes_no_other_gate(gate: Running) -> None:
    address = gateaddress.known(gate.share_dir)
    assert address is not None
    other = gateaddress.make_identity("gate")[0]
    gateaddress.remember(
        gate.share_dir, gateaddress.GateAddress(address.host, address.port, other, address.container, address.version)
    )
    with pytest.raises(GateAway, match="certificate"):
        await gate.way.open()


async def test_a_broken_line_ends_its_connection_and_no_other(gate: Running) -> None:
    await prepare(gate, "w1")
    good = await gate.way.open()
    for sent in (
        b"{" * 70_000 + b"\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"do": "put", "worklet": "w1", "size": 99999999999}\n',
    ):
        reader, writer = await gate.way.open()
        writer.write(sent)
        assert await said(reader) == b""
        writer.close()
    for request in ({"do": "nothing", "worklet": "w1"}, {"do": "get", "worklet": "w1"}, {"do": "open", "worklet": 3}):
        with pytest.raises(GateRefused):
            await gate.way.ask(good, **request)
    assert (await gate.way.ask(good, do="ping"))["ok"]
    good[1].close()


async def test_a_connection_that_is_cut_ends_on_the_other_side(gate: Running) -> None:
    """Also with an RST, and is not taken for the end of what was being said."""
    here = await prepare(gate, "w1")
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"begun")
        await reader.read()
        over.set()
        writer.close()

    async with await asyncio.start_unix_server(talk, gate.place("w1") / "relay.sock"):
        reader, writer = await gate.way.dial("w1", "relay.sock")
        assert await reader.readexactly(9) == (5).to_bytes(4, "big") + b"begun"
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        async with asyncio.timeout(60):
            await over.wait()
    del here


async def test_a_socket_that_nobody_serves_there_is_gone_here_too(gate: Running) -> None:
    here = await prepare(gate, "w1")
    links = Links(gate.way)
    await links.serve("w1", here)
    reader, writer = await asyncio.open_unix_connection(here / "relay.sock")
    writer.write(b"GET / HTTP/1.1")
    assert await said(reader) == b""
    writer.close()
    await until(lambda: not (here / "relay.sock").exists(), what="the socket to be taken away")
    with pytest.raises(Nobody):
        await gate.way.dial("w1", "relay.sock")
    await links.serve("w1", here)
    assert (here / "relay.sock").exists()
    await links.aclose()


async def test_two_flows_serve_one_worklet_and_the_second_goes_on_when_the_first_has_gone(gate: Running) -> None:
    here = await prepare(gate, "w1")
    first, second = Links(gate.way), Links(gate.way)
    async with await asyncio.start_unix_server(echo, gate.place("w1") / "relay.sock"):
        await first.serve("w1", here)
        reader, writer = await asyncio.open_unix_connection(here / "relay.sock")
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        place = sockets.place(here, "relay.sock")
        await second.serve("w1", here)
        assert sockets.place(here, "relay.sock") == place, "it is left to the first"
        await first.serve("w1", here, starting=True)
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two", "what is carried goes on"
        await first.aclose()
        writer.close()
        await until(lambda: second.stands("w1"), what="the second to take over by itself")
        reader, writer = await asyncio.open_unix_connection(here / "relay.sock")
        writer.write(b"three")
        writer.write_eof()
        assert await said(reader) == b"threeEND"
        writer.close()
        await second.aclose()


async def test_flows_files_follow_their_doors(gate: Running) -> None:
    here = await prepare(gate, "w1")
    rundir.hand_over(here, rundir.KV_TOKEN, "one")
    beyond = Beyond(gate.share_dir)
    beyond.open("w1", here)
    place = gate.place("w1") / rundir.KV_TOKEN
    await until(lambda: place.exists() and place.read_text() == "one", what="the token there")
    rundir.hand_over(here, rundir.KV_TOKEN, "two")
    rundir.hand_over(here, "gitconfig", "[user]")
    await until(lambda: place.read_text() == "two", what="the next token there")
    await until(lambda: (gate.place("w1") / "gitconfig").exists(), what="who asks")
    rundir.clear(here / rundir.KV_TOKEN)
    await until(lambda: not place.exists(), what="the token to go")
    assert await beyond.is_alive("w1") is False
    assert await beyond.is_alive("another") is None
    beyond.close("w1")
    await until(lambda: not (gate.place("w1") / "gateway.sock").exists(), what="the door to close")
    await beyond.aclose()


async def test_without_a_gate_nothing_is_looked_for(tmp_path: Path) -> None:
    beyond = Beyond(tmp_path)
    beyond.open("w1", tmp_path)
    assert await beyond.is_alive("w1") is None
    await beyond.aclose()
    with pytest.raises(GateAway, match="No gate"):
        await Way(tmp_path).open()


def test_names_and_paths_are_checked_before_anything_is_touched(tmp_path: Path) -> None:
    places = Places(tmp_path / "root")
    for name in ("", "..", "a/b", "UPPER", "x" * 41, ".drafts"):
        with pytest.raises(Unfit):
            places.prepare(name, b"")
    places.prepare("w1", b"{}")
    for path in ([], ["a", "b", "c", "d"], ["a/b"], [".."], ["a\0b"], ["x" * 121]):
        with pytest.raises(Unfit):
            places.open("w1", path)


async def test_frames_that_are_too_long_end_the_stream() -> None:
    ours, theirs = socket.socketpair()
    plain, _other = socket.socketpair()
    framed = await asyncio.open_unix_connection(sock=ours)
    carrying = asyncio.create_task(carry(await asyncio.open_unix_connection(sock=plain), framed))
    theirs.sendall((1 << 30).to_bytes(4, "big"))
    async with asyncio.timeout(60):
        await carrying
    theirs.close()
    _other.close()
    assert PARKED > 1
