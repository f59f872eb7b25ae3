"""Sessions with a server in a sidecar that end while it starts: no process with a secret outlives them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from worklets import sockets
from worklets.sidecardoor import _SESSIONS, SOCKET, SidecarDoor, _posted, _Session, _Sidecar
from worklets.sidecarprocess import Away

ASK = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def caller(ends: list[Callable[[], Awaitable[None]]]) -> Any:
    return SimpleNamespace(name="w", tell=lambda *_, **__: None, at_end=lambda _key, end: ends.append(end))


def target(directory: Path) -> dict[str, Any]:
    return {"sidecar": str(directory), "command": ["x"], "env": {"T": "a secret"}}


@asynccontextmanager
async def sidecar(directory: Path) -> AsyncIterator[_Sidecar]:
    made = _Sidecar(caller([]), "own", target(directory), 30, 30)
    await made.listen()
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        await made.close()


class Server:
    """One process of it, to which the gateway speaks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def connect(self) -> None:
        with sockets.short_path(self._directory, SOCKET) as path:
            self._reader, self._writer = await asyncio.open_unix_connection(path)

    async def ordered(self) -> None:
        await self._reader.readexactly(int(await self._reader.readexactly(8)))

    async def heard(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self._reader.readline())
        return message

    async def answer(self) -> dict[str, Any]:
        """A request, which was answered."""
        while "id" not in (message := await self.heard()):
            pass
        self._writer.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode() + b"\n")
        return message

    async def end(self) -> None:
        """When the gateway hangs up."""
        await self._reader.read()
        self._writer.close()


async def begun(one: _Sidecar, id_: str) -> _Session:
    session = await one.session(id_, {})
    assert session is not None
    return session


@pytest.mark.parametrize("whole", [False, True])
async def test_a_session_that_ends_while_its_process_is_greeted_ends_that(tmp_path: Path, whole: bool) -> None:
    async with sidecar(tmp_path) as one:
        session, server = await begun(one, "a"), Server(tmp_path)
        await server.connect()
        asking = asyncio.create_task(session.ask(ASK, None))
        await server.ordered()
        assert (await server.heard())["method"] == "initialize"
        await (one.close() if whole else one.forget("a"))
        await server.end()
        with pytest.raises(Away, match="has ended"):
            await asking
        with pytest.raises(Away, match="has ended"):
            await session.ask(ASK, None)


async def test_one_that_nobody_waits_for_any_more_ends_with_its_session(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as one:
        session, server = await begun(one, "a"), Server(tmp_path)
        await server.connect()
        asking = asyncio.create_task(session.ask(ASK, None))
        await server.ordered()
        assert (await server.answer())["method"] == "initialize"
        assert (await server.answer())["method"] == "tools/list"
        assert await asking == {"jsonrpc": "2.0", "id": 1, "result": {}}
        await one.forget("a")
        await server.end()


async def test_a_closed_sidecar_starts_nothing(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as one:
        await one.close()
        with pytest.raises(Away, match="Try again"):
            await (await begun(one, "late")).ask(ASK, None)


async def test_two_requests_with_one_lost_session_make_one(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as one:
        session, server = await begun(one, "old"), Server(tmp_path)
        await server.connect()
        asking = asyncio.create_task(session.ask(ASK, None))
        await server.ordered()
        await server.answer()
        await server.answer()
        await asking
        for name in ("b", "c", "d"):
            await begun(one, name)
        first, second = await asyncio.gather(begun(one, "lost"), begun(one, "lost"))  # each makes room first
        assert first is second
        await server.end()


async def test_two_first_requests_make_one_sidecar(tmp_path: Path) -> None:
    ends: list[Callable[[], Awaitable[None]]] = []
    door, its = SidecarDoor(), caller(ends)
    request: Any = SimpleNamespace(method="DELETE", headers={})
    body: Any = None
    for number in (1, 2):
        changed = {**target(tmp_path), "env": {"T": f"another secret {number}"}}
        both = (door.answer(request, body, its, "own", changed) for _ in range(2))
        assert [response.status for response in await asyncio.gather(*both)] == [204, 204]
        await door._sidecars["w", "own"].session("a", {})  # to be closed by the next one's making
    assert len(ends) == 2  # one for each target
    for end in ends:
        await end()


async def answered(server: Server) -> None:
    """Greeted, and asked once."""
    await server.ordered()
    assert (await server.answer())["method"] == "initialize"
    assert (await server.answer())["method"] == "tools/list"


async def test_a_session_is_not_ended_as_idle_in_the_moment_of_its_use(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as one:
        session, server = await begun(one, "a"), Server(tmp_path)
        await server.connect()
        asking = asyncio.create_task(session.ask(ASK, None))
        await answered(server)
        await asking
        for name in ("b", "c", "d"):
            await begun(one, name)
        request = make_mocked_request("POST", "/", {"Mcp-Session-Id": "a"})
        hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).encode()
        using = asyncio.create_task(_posted(request, one, "a", json.dumps(ASK).encode()))
        others = [
            asyncio.create_task(_posted(make_mocked_request("POST", "/"), one, "", hello)) for _ in range(_SESSIONS)
        ]
        assert (await server.answer())["method"] == "tools/list"
        await using
        written: Any = request._payload_writer.write
        assert b'"result": {}' in written.call_args_list[-1].args[0]
        for other in others:
            other.cancel()
        await asyncio.wait(others)
        await one.forget("a")
        await server.end()


@pytest.mark.parametrize("turns", range(6))
async def test_a_session_that_ends_when_its_process_calls_waits_for_nobody(tmp_path: Path, turns: int) -> None:
    """Whichever of the two is first, by a few turns of the event loop."""
    async with sidecar(tmp_path) as one:
        asking = asyncio.create_task((await begun(one, "a")).ask(ASK, None))
        for _ in range(5):
            await asyncio.sleep(0)  # it waits for a connection
        ours, theirs = socket.socketpair()
        with theirs:
            await one._connected(*await asyncio.open_connection(sock=ours))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await one.forget("a")
            with pytest.raises(Away, match="has ended"):
                await asking


async def test_a_sidecar_that_could_not_listen_is_tried_again(tmp_path: Path) -> None:
    ends: list[Callable[[], Awaitable[None]]] = []
    door, its, directory = SidecarDoor(), caller(ends), tmp_path / "own"
    request: Any = SimpleNamespace(method="DELETE", headers={})
    body: Any = None
    assert (await door.answer(request, body, its, "own", target(directory))).status == 502
    assert (await door.answer(request, body, its, "own", target(directory))).status == 502
    directory.mkdir()
    assert (await door.answer(request, body, its, "own", target(directory))).status == 204
    assert (directory / SOCKET).is_socket()
    for end in ends:
        await end()
