"""What goes wrong with one door, one order or one process of the gateway keeps nobody else waiting for ever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from worklets.errors import WorkletError
from worklets.gatewaychannel import Channel, GatewayHung, GatewayLost, GatewayRefused
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import PROGRAM, SOCKET, control_dir, holder, version
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.opendoors import OpenDoors
from worklets.profile import Profile
from worklets.runtime import Worklet
from worklets.sockets import listen

NONE = ("/bin/false",)
SECONDS = 60.0
WORKLET_ID = "5f0c3d0e-0000-4000-8000-000000000001"
Bot = Callable[..., GatewayClient]


@pytest.fixture
async def share_dir(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    if pid := holder(tmp_path):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: holder(tmp_path) is None)


@pytest.fixture
async def bot(share_dir: Path) -> AsyncIterator[Bot]:
    made: list[GatewayClient] = []

    def bot(command: tuple[str, ...] = (sys.executable, "-m", PROGRAM), **options: Any) -> GatewayClient:
        client = GatewayClient(
            share_dir, Identity.load(share_dir), "http://localhost:1", Credential(api_key="sk-ant-x"),
            environ=dict(os.environ), command=command, **options,
        )  # fmt: skip
        made.append(client)
        return client

    yield bot
    for client in made:
        await client.aclose()


def run_dir(share_dir: Path, name: str) -> Path:
    path = share_dir / "worklets" / name / "run"
    path.mkdir(parents=True, exist_ok=True)
    return path


_NO_GRANTS: Any = ["not", "grants"]


async def test_a_door_that_cannot_be_opened_is_its_own_trouble_without_a_process(bot: Bot, share_dir: Path) -> None:
    client = bot(NONE)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(ValueError, match="dictionary"):
            await client.open("bad", run_dir(share_dir, "bad"), None, _NO_GRANTS)
        await client.open("w", run_dir(share_dir, "w"))
    assert (run_dir(share_dir, "w") / "gateway.sock").is_socket()
    assert "bad" not in client.grants()


async def test_a_door_that_is_refused_is_not_asked_for_again_with_all_others(bot: Bot, share_dir: Path) -> None:
    client = bot()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(GatewayRefused):
            await client.open("bad", run_dir(share_dir, "bad"), None, _NO_GRANTS)
        await client.open("w", run_dir(share_dir, "w"))
        killed = holder(share_dir)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await until(lambda: holder(share_dir) not in (None, killed))
        await client.open("other", run_dir(share_dir, "other"))
        state = await client.state()
    assert state["pid"] == holder(share_dir), "a process, not the bot itself"
    assert set(client.grants()) == {"w", "other"}


async def test_a_door_stays_known_as_it_was_where_it_cannot_be_told_anew(bot: Bot, share_dir: Path) -> None:
    client, there = bot(), run_dir(share_dir, "w")
    async with asyncio.timeout(SECONDS):
        await client.open("w", there, WORKLET_ID, {"thing": 1})
        with pytest.raises(GatewayRefused):
            await client.open("w", there, None, _NO_GRANTS)
        assert client.grants() == {"w": {"thing": 1}}
        killed = holder(share_dir)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await until(lambda: holder(share_dir) not in (None, killed))
        await client.open("other", run_dir(share_dir, "other"))
        stranger = await Channel.open(control_dir(share_dir), SECONDS)
        try:
            told = await stranger.ask("doors")
        finally:
            await stranger.aclose()
    assert (told["worklets"], told["grants"]["w"]) == ({"w": WORKLET_ID}, {"thing": 1})


async def test_what_is_granted_later_in_vain_leaves_what_was_granted(bot: Bot, share_dir: Path) -> None:
    client, there = bot(NONE), run_dir(share_dir, "w")
    doors = OpenDoors(client, share_dir, None)
    await doors.open(Worklet("w", "id", there, running=True), WORKLET_ID, Profile(grants={"thing": 1}))
    there.rename(there.with_name("elsewhere"))
    with pytest.raises(WorkletError, match="cannot listen"):
        await doors.grant("w", "thing", 2)
    assert client.grants() == {"w": {"thing": 1}}


async def test_a_door_that_was_told_anew_while_the_gateway_was_lost_is_not_opened_as_before(
    bot: Bot, share_dir: Path
) -> None:
    client, there = bot(NONE), run_dir(share_dir, "w")
    await client.open("w", there, WORKLET_ID, {"thing": 1})
    await client.aclose()
    with pytest.raises(GatewayLost):
        await client.open("w", there, None, {})
    with pytest.raises(GatewayLost):
        await client.open("never", run_dir(share_dir, "never"))
    assert client.grants() == {"w": {}}


async def test_an_order_that_fails_breaks_no_connection(bot: Bot, share_dir: Path) -> None:
    client = bot()
    await client.open("w", run_dir(share_dir, "w"))
    stranger = await Channel.open(control_dir(share_dir), SECONDS)
    try:
        for _ in range(2):
            with pytest.raises(GatewayRefused, match="AttributeError"):
                await stranger.ask(
                    "hello", version=None, base_url=5, api_key=None, oauth_token=None, store=None, egress=None
                )
    finally:
        await stranger.aclose()


async def test_who_waits_for_a_gateway_that_cannot_be_is_told_and_the_next_one_has_it(
    bot: Bot, share_dir: Path
) -> None:
    client = bot(NONE)
    ten: Any = "ten"
    await client.limit("w", ten)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(GatewayLost, match="does not run"):
            await client.open("w", run_dir(share_dir, "w"))
        await client.limit("w", 10.0)
        await client.open("w", run_dir(share_dir, "w"))
    assert (run_dir(share_dir, "w") / "gateway.sock").is_socket()


async def test_who_waits_for_a_process_that_is_lost_at_once_waits_for_the_next(bot: Bot, share_dir: Path) -> None:
    client = bot()
    opening = asyncio.create_task(client.open("w", run_dir(share_dir, "w")))
    await asyncio.sleep(0)
    for _ in range(2):
        client._settled.set()  # one serves, and is lost before whoever waits has had a turn
        client._settled.clear()
        for _ in range(5):
            await asyncio.sleep(0)
    async with asyncio.timeout(SECONDS):
        await opening
    assert (run_dir(share_dir, "w") / "gateway.sock").is_socket()


async def test_where_no_gateway_can_be_had_no_door_is_left_to_close(bot: Bot, share_dir: Path) -> None:
    client = bot(NONE)
    ten: Any = "ten"
    await client.limit("other", ten)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(GatewayLost):
            await client.open("w", run_dir(share_dir, "w"))
        await client.close("w")
        await client.limit("other", 10.0)
        await client.open("other", run_dir(share_dir, "other"))
    assert set(client.grants()) == {"other"}


async def test_after_its_end_nobody_waits_for_it(bot: Bot, share_dir: Path) -> None:
    client = bot(NONE)
    client.start()
    await client.aclose()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(GatewayLost):
            await client.open("w", run_dir(share_dir, "w"))


async def test_a_connection_to_a_process_that_does_not_read_can_be_closed(share_dir: Path) -> None:
    directory = control_dir(share_dir)
    directory.mkdir()
    listening = listen(directory, SOCKET)
    try:
        channel = await Channel.open(directory, 0.1)
        with pytest.raises(GatewayHung):
            await channel.ask("open", name="x" * (4 << 20))
        async with asyncio.timeout(SECONDS):
            await channel.aclose()
    finally:
        listening.close()


FAILED = {"error": "it failed (ImportError)"}
HELLO = {"version": version(), "pid": 1, "doors": {}, "since": "then"}


class Answering:
    """In the place of a gateway's process: `say` has the answer to an order on the connection of that number."""

    def __init__(self, say: Callable[[int, str], dict[str, Any]]) -> None:
        self._say = say
        self.made = self.open = 0

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made, self.open, number = self.made + 1, self.open + 1, self.made + 1
        try:
            while line := await reader.readline():
                asked = json.loads(line)
                writer.write(json.dumps({"id": asked["id"], **self._say(number, asked["do"])}).encode() + b"\n")
        except ConnectionError:
            pass  # it was not closed politely
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def answering(share_dir: Path, say: Callable[[int, str], dict[str, Any]]) -> AsyncIterator[Answering]:
    directory = control_dir(share_dir)
    directory.mkdir()
    there = Answering(say)
    server = await asyncio.start_unix_server(there.converse, sock=listen(directory, SOCKET))
    yield there
    server.close()


def refused_greeting(_number: int, _do: str) -> dict[str, Any]:
    return FAILED


def refused_by_the_successor(number: int, do: str) -> dict[str, Any]:
    if number == 2:
        return FAILED
    return {**HELLO, "version": "another"} if do == "hello" else {}


def refused_later(_number: int, do: str) -> dict[str, Any]:
    return {"hello": HELLO, "doors": FAILED}.get(do, {})


@pytest.mark.parametrize("say", [refused_greeting, refused_by_the_successor, refused_later])
async def test_no_connection_is_left_open_to_a_process_that_does_not_do_as_told(
    bot: Bot, share_dir: Path, say: Callable[[int, str], dict[str, Any]]
) -> None:
    client, connected = bot(NONE, beat=0.01), []
    client.on("connected", connected.append)
    async with answering(share_dir, say) as there, asyncio.timeout(SECONDS):
        await client.open("w", run_dir(share_dir, "w"))
        await until(lambda: (run_dir(share_dir, "w") / "gateway.sock").is_socket())
        await until(lambda: not there.open)
        await client.open("another", run_dir(share_dir, "another"))
        state = await client.state()
    assert there.made == (2 if say is refused_by_the_successor else 1)
    assert (state["pid"], state["doors"]) == (os.getpid(), 2), "the gateway is the bot's own"
