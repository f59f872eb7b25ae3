"""A gate that refuses for a while what Flow asks of it: its machine's disk was full, say."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from waiting import until

from worklets import gateaddress, rundir
from worklets.gate.framing import Broken, exactly, line, say
from worklets.gate.gate import context
from worklets.gatebeyond import Beyond


@dataclass
class Refusing:
    """Speaks as a gate does. `refused`: how often it says no yet, by what it is asked to do."""

    share_dir: Path
    refused: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while asked := await line(reader):
                await exactly(reader, asked.get("size", 0))
                what = asked["do"]
                if self.refused.get(what, 0) > 0:
                    self.refused[what] -= 1
                    say(writer, error="No space left on device")
                elif what != "park":
                    self.done.append(what)
                    say(writer, ok=True)
        except (Broken, OSError):
            writer.close()


@pytest.fixture
async def refusing(tmp_path: Path) -> AsyncIterator[Refusing]:
    made = Refusing(tmp_path / "data")
    certificate, key = gateaddress.make_identity("gate")
    tls = context(certificate + key, gateaddress.own_certificate(made.share_dir))
    listening = socket.create_server(("127.0.0.1", 0))
    address = gateaddress.GateAddress("127.0.0.1", listening.getsockname()[1], certificate, "none", "v1")
    gateaddress.remember(made.share_dir, address)
    server = await asyncio.start_server(made.talk, sock=listening, ssl=tls)
    yield made
    server.close()


@pytest.mark.parametrize("what", ["put", "open"])
async def test_a_door_is_asked_for_until_it_was_opened(refusing: Refusing, what: str) -> None:
    here = rundir.prepare(refusing.share_dir, "w1", None)
    rundir.hand_over(here, rundir.KV_TOKEN, "one")
    refusing.refused[what] = 3
    beyond = Beyond(refusing.share_dir)
    with capture_logs() as logs:
        beyond.open("w1", here)
        await until(lambda: refusing.done.count("open") == 1, what="the door at the gate")
        await beyond.aclose()
    assert refusing.done == ["put", "open"]
    assert [one["log_level"] for one in logs if "refuses" in one["event"]] == ["warning"]
