"""Who stands in the relay's place, or between Flow and the relay, learns no token and puts no word in."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from relay_between import Between
from relay_process import TOKEN, order, running_relay
from waiting import until
from websockets.asyncio.client import unix_connect
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from worklets.errors import AgentGone
from worklets.link import RelayLink
from worklets.relay.proof import NONCE, PROOF, Forged, Seal, Sealed, is_proven, new_nonce, seals
from worklets.relaydial import Answer, OtherVersion, Unproven, answers, dial
from worklets.rest import rest

HELLO = json.dumps({"type": "hello", "seq": 0, "epoch": None, "fence": 1 << 40})


@pytest.fixture
async def run_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """Of a real relay that listens."""
    async with running_relay(tmp_path):
        run = tmp_path / "run"
        await until(lambda: (run / "relay.sock").exists() and os.stat(run / "relay.sock").st_mode & 0o7 == 6)
        yield run


async def attached(run_dir: Path, fence: int = 1) -> RelayLink:
    link = RelayLink(run_dir, TOKEN, None, fence, notice=lambda _: None, rng=random.Random(1))
    await link.open(30)
    return link


async def said(link: RelayLink) -> list[Any]:
    """What it tells until it ends, and by what."""
    lines = list[Any]()
    try:
        async with asyncio.timeout(30):
            async for _, line in link.lines():
                assert isinstance(line, bytes)
                lines.append(json.loads(line)["type"])
    except AgentGone as gone:
        lines.append(type(gone))
    return lines


async def test_a_listener_in_the_relays_place_is_told_no_token_and_is_not_taken_for_the_relay(tmp_path: Path) -> None:
    heard = bytearray()
    answer = b"HTTP/1.1 200 OK\r\nRelay-Nonce: " + b"0" * 32 + b"\r\nRelay-Proof: " + b"0" * 64 + b"\r\n\r\n"

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(1 << 16))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(listen, tmp_path / "relay.sock"):
        for _ in range(3):
            assert await answers(tmp_path, TOKEN, 10) is Answer.SILENT
            with pytest.raises(AgentGone):
                await rest(tmp_path, TOKEN, 1)
    (tmp_path / "relay.sock").unlink()

    async def anything(ws: ServerConnection) -> None:
        async for frame in ws:
            heard.extend(frame if isinstance(frame, bytes) else frame.encode())

    def prove(_ws: ServerConnection, request: Request, response: Response) -> None:
        heard.extend(repr(request).encode())
        response.headers[NONCE], response.headers[PROOF] = request.headers[NONCE], "0" * 64

    async with unix_serve(anything, str(tmp_path / "relay.sock"), compression=None, process_response=prove):
        with pytest.raises(Unproven):
            await dial(tmp_path, TOKEN)
        with pytest.raises(Unproven, match="is not the relay"):
            await attached(tmp_path)
    assert TOKEN.encode() not in heard
    assert len(set(re.findall(rb"[0-9a-f]{32}", bytes(heard)))) >= 8, "no nonce comes twice"


async def test_a_relay_of_an_older_flow_is_not_given_the_token_either(tmp_path: Path) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(listen, tmp_path / "relay.sock"):
        with pytest.raises(OtherVersion, match="another version"):
            await attached(tmp_path)
        assert await answers(tmp_path, TOKEN, 10) is Answer.OLD
    assert heard
    assert TOKEN.encode() not in heard


async def test_who_is_inside_can_look_and_cannot_speak(run_dir: Path) -> None:
    """It is given proofs for the nonces that it chooses: they open nothing."""
    owner = await attached(run_dir, fence=5)
    path = str(run_dir / "relay.sock")
    for token, frames in (("guessed", [HELLO]), (TOKEN + "x", [HELLO, HELLO])):
        nonce = new_nonce()
        async with unix_connect(path, "ws://relay/", additional_headers={NONCE: nonce}, compression=None) as ws:
            assert ws.response is not None
            flows, _ = seals(token, nonce, ws.response.headers[NONCE])
            for frame in frames:
                await ws.send(flows.close(frame))
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4005
    for plain in (HELLO, HELLO.encode(), "", b""):
        async with unix_connect(path, "ws://relay/", additional_headers={NONCE: new_nonce()}, compression=None) as ws:
            await ws.send(plain)
            with pytest.raises(ConnectionClosed):
                await ws.recv()
    await owner.put("a", {"type": "x"})  # it still owns it
    async for _, line in owner.lines():
        assert isinstance(line, bytes)
        assert json.loads(line)["line"] == {"type": "x"}
        break
    await owner.close()


def _forging(frame: str | bytes) -> str | bytes:
    """With a word changed in it."""
    if isinstance(frame, bytes):
        return frame[:-1] + b"!"
    return frame.replace('"type"', '"kind"')


#: What one between does with what it hears; the first frame each way is the greeting.
TRICKS: dict[str, Callable[[list[str | bytes]], list[str | bytes]]] = {
    "says something of its own": lambda heard: [*heard[-1:], *([b"9\n{}"] if len(heard) == 2 else [])],
    "changes": lambda heard: heard[-1:] if len(heard) == 1 else [_forging(heard[-1])],
    "repeats": lambda heard: heard[-1:] * (1 if len(heard) == 1 else 2),
    "leaves out": lambda heard: [] if len(heard) == 2 else heard[-1:],
    "turns round": lambda heard: [] if len(heard) == 2 else heard[:0:-1] if len(heard) == 3 else heard[-1:],
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_who_is_between_can_cut_and_not_speak(run_dir: Path, trick: str) -> None:
    between = Between(run_dir)
    async with between.serving:
        link = await attached(run_dir)
        await link.put("a", order('say {"type": "one"}'))  # it works as long as all is passed on
        await link.close()
        between.to_flow = TRICKS[trick]
        link = await attached(run_dir, fence=2)
        for n in range(3):
            link.post(f"b{n}", order('say {"type": "two"}'))
        told = await said(link)
        await link.close()
        assert told[-1] is Unproven, "it is known for what it is"
        assert set(told[:-1]) <= {"one", "two"}
        assert told[:-1] == sorted(told[:-1]), "in order, nothing twice but what the relay said twice"


@pytest.mark.parametrize("trick", TRICKS)
async def test_who_is_between_tells_claude_nothing(run_dir: Path, trick: str) -> None:
    between = Between(run_dir)
    async with between.serving:
        between.to_relay = TRICKS[trick]
        ws = await dial(run_dir, TOKEN)
        await ws.send(HELLO)
        await ws.recv()
        with pytest.raises((ConnectionClosed, Forged)):
            await _tell_all(ws)
        await until(lambda: 4005 in between.codes)
        between.to_relay = lambda heard: heard[-1:]
        link = await attached(run_dir, fence=1 << 41)
        await link.put("end", order("exit 0"))
        numbers = [json.loads(line)["type"] async for _, line in link.lines() if isinstance(line, bytes)]
        await link.close()
    assert numbers in ([], ["n0"], ["n0", "n0"]), "what came before the trick, in order"


async def _tell_all(ws: Sealed) -> None:
    for n in range(100):
        line = {"type": "in", "id": f"c{n}", "line": order(f'say {{"type": "n{n}"}}')}
        await ws.send(json.dumps(line))
        await ws.send(json.dumps(line | {"id": f"again{n}"}))
        await ws.recv()


def test_seals_are_of_one_connection_and_direction() -> None:
    flows, relays, token = new_nonce(), new_nonce(), "t"
    out, back = seals(token, flows, relays)
    sealed = out.close("{}")
    for other in (back, *seals("u", flows, relays), *seals(token, relays, flows), *seals(token, new_nonce(), relays)):
        with pytest.raises(Forged):
            other.open(sealed)
    for kind in (sealed, sealed.encode() if isinstance(sealed, str) else sealed, "", b"", "é" * 40, sealed[:-1]):
        fresh = seals(token, flows, relays)[0]
        if kind == sealed:
            assert fresh.open(kind) == "{}"
        else:
            with pytest.raises(Forged):
                fresh.open(kind)
    assert not is_proven(token, flows, "x", "0" * 64)
    assert not is_proven(token, flows, relays, "é")
    assert Seal(b"k").close(b"a") != Seal(b"l").close(b"a")


async def test_a_relay_that_stands_still_is_known_in_time(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as process:
        run = tmp_path / "run"

        async def is_there() -> bool:
            return await answers(run, TOKEN, 30) is Answer.PROVEN

        await until(is_there)
        assert await answers(run, "another", 30) is Answer.SILENT
        process.send_signal(signal.SIGSTOP)
        assert await answers(run, TOKEN, 0.3) is Answer.SILENT
        process.send_signal(signal.SIGCONT)
        assert await answers(run, TOKEN, 30) is Answer.PROVEN
    assert await answers(run, TOKEN, 30) is Answer.SILENT, "nobody listens any more"
    assert await answers(tmp_path / "nowhere", TOKEN, 30) is Answer.SILENT
