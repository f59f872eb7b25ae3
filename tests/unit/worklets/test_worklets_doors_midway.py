"""Doors that are opened, closed and given up at the same moment: none is left that nobody closes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from listening import unix_listeners
from waiting import until

from worklets.egress import EgressPolicy
from worklets.egressdial import Dialer
from worklets.egressdoors import Egress
from worklets.egressproxy import EgressDoor, Tally
from worklets.gateclient import Way
from worklets.gatelink import Links
from worklets.gateway import ModelGateway
from worklets.gatewaydoor import Door, Traffic
from worklets.identity import Identity
from worklets.kvdoor import StoreDoor
from worklets.sidecardoor import SidecarDoor, _Sidecar
from worklets.sockets import short_path

Listen = Callable[[Path], Awaitable[None]]
W = "5f0c3d0e-0000-4000-8000-000000000001"
OPEN = {"mode": "open", "hosts": [], "deny": [], "deny_networks": [], "ask": [], "ask_wait": 1.0, "ports": [443]}


async def well(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="well")


def door(directory: Path) -> Awaitable[None]:
    return Door("w", directory, well, Traffic()).listen()


def proxy(directory: Path) -> Awaitable[None]:
    return EgressDoor("w", directory, EgressPolicy, Dialer(), Tally()).listen()


def sidecar(directory: Path) -> Awaitable[None]:
    caller: Any = SimpleNamespace(name="w", tell=None)
    return _Sidecar(caller, "own", {"sidecar": str(directory), "command": [], "env": {}}, 1, 1).listen()


@pytest.mark.parametrize("listen", [door, proxy, sidecar])
async def test_one_that_is_given_up_while_it_opens_leaves_nothing(listen: Listen, tmp_path: Path) -> None:
    before = unix_listeners()
    opening = asyncio.ensure_future(listen(tmp_path))
    await asyncio.sleep(0)
    assert unix_listeners() - before, "it listens, and is about to say so"
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not unix_listeners() - before
    loop = asyncio.get_running_loop()
    ends = socket.socketpair()  # one of them has the number that the door's had
    for reading, writing in (ends, ends[::-1]):
        reading.setblocking(False)
        waiting = asyncio.create_task(loop.sock_recv(reading, 1))
        await asyncio.sleep(0)
        writing.send(b"x")
        async with asyncio.timeout(10):
            assert await waiting == b"x"
    for end in ends:
        end.close()


async def test_a_door_that_is_closed_while_it_opens_is_closed(tmp_path: Path) -> None:
    before = unix_listeners()
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path))
    opening = asyncio.create_task(gateway.open("w", tmp_path))
    await asyncio.sleep(0)
    await gateway.close("w")
    await opening
    assert not gateway.doors()
    assert not unix_listeners() - before
    await gateway.aclose()


async def test_a_door_that_is_opened_twice_at_once_is_one(tmp_path: Path) -> None:
    before = unix_listeners()
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path))
    await asyncio.gather(*(gateway.open("w", tmp_path, None, {"thing": number}) for number in range(2)))
    assert gateway.grants() == {"w": {"thing": 1}}
    await gateway.regrant("w", "thing", 2, 1)
    assert gateway.grants() == {"w": {"thing": 2}}
    await gateway.aclose()
    assert not unix_listeners() - before


async def test_no_token_is_kept_for_a_door_that_is_given_up_while_it_is_written(tmp_path: Path) -> None:
    store = StoreDoor(tmp_path)
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path), store)
    opening = asyncio.create_task(gateway.open("w", tmp_path, W))
    await asyncio.sleep(0)
    assert store.tokens._kept
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not store.tokens._kept
    assert not gateway.doors()
    await gateway.aclose()


async def test_a_door_whose_end_is_cut_off_while_its_token_goes_is_closed(tmp_path: Path) -> None:
    before = unix_listeners()
    store = StoreDoor(tmp_path)
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path), store)
    await gateway.open("w", tmp_path, W)
    async with store.tokens._one_at_a_time:  # another's is being written
        closing = asyncio.create_task(gateway.close("w"))
        await asyncio.sleep(0)
        assert not gateway.doors()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert not unix_listeners() - before
    await gateway.aclose()


async def test_a_door_that_is_made_anew_leads_no_further_than_before(tmp_path: Path) -> None:
    egress = Egress()
    await egress.configure(OPEN)
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path), None, egress)
    bound = {"egress": {"within": [["example.org"]]}}
    await gateway.open("w", tmp_path, W, bound)
    (tmp_path / "gateway.sock").unlink()  # which the agent may do
    await gateway.open("w", tmp_path)  # as a bot that has just begun says it of doors that it finds
    assert (gateway.grants(), gateway.worklets()) == ({"w": bound}, {"w": W})
    assert egress._policies["w"].refusal("elsewhere.example", 443)
    (tmp_path / "gateway.sock").unlink()
    await gateway.regrant("w", "thing", 1, None)
    assert (gateway.grants(), gateway.worklets()) == ({"w": {**bound, "thing": 1}}, {"w": W})
    assert egress._policies["w"].refusal("elsewhere.example", 443)
    await gateway.aclose()


async def test_a_sidecars_way_out_ends_with_its_grant(tmp_path: Path) -> None:
    before = unix_listeners()
    egress = Egress()
    await egress.configure(OPEN)
    gateway = ModelGateway("http://model.invalid", None, Identity.load(tmp_path), None, egress)
    beside = tmp_path / "beside"
    beside.mkdir()
    tracker = {"command": ["x"], "env": {}, "hosts": ["tracker.example"], "sidecar": str(beside)}
    await gateway.open("w", tmp_path, None, {"mcp": {"tracker": tracker}})
    assert len(unix_listeners() - before) == 3, "its door, its proxy, the sidecar's"
    await gateway.open("w", tmp_path, None, {"mcp": {"tracker": {**tracker, "hosts": []}}})
    assert len(unix_listeners() - before) == 2
    await gateway.close("w")
    assert not unix_listeners() - before
    await gateway.aclose()


async def test_what_a_request_begins_while_its_door_closes_ends_with_it(tmp_path: Path) -> None:
    asked, go, ended = asyncio.Event(), asyncio.Event(), list[str]()

    async def end() -> None:
        ended.append("it")

    async def begin(_: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await go.wait()
        made.at_end("thing", end)
        return web.Response(text="well")

    made = Door("w", tmp_path, begin, Traffic())
    await made.listen()
    with short_path(tmp_path, "gateway.sock") as path:
        _, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asked.wait()
    closing = asyncio.create_task(made.close())
    await asyncio.sleep(0)
    go.set()
    await closing
    assert ended == ["it"]
    writer.close()
    await writer.wait_closed()


async def test_a_sidecar_whose_exchange_is_cut_off_is_ended_with_the_next_request(tmp_path: Path) -> None:
    before = unix_listeners()
    ends: dict[str, Callable[[], Awaitable[None]]] = {}
    caller: Any = SimpleNamespace(name="w", tell=None, at_end=ends.__setitem__)
    asked, go, ended = asyncio.Event(), asyncio.Event(), list[str]()

    async def end() -> None:
        asked.set()
        await go.wait()
        ended.append("it")

    sidecars = SidecarDoor()
    target = {"sidecar": str(tmp_path), "command": [], "env": {}}
    first = await sidecars._sidecar(caller, "own", target)
    session: Any = SimpleNamespace(close=end)
    first._sessions["one"] = session
    exchange = asyncio.create_task(sidecars._sidecar(caller, "own", {**target, "env": {"A": "b"}}))
    await asked.wait()
    exchange.cancel()  # whoever asked has left
    with pytest.raises(asyncio.CancelledError):
        await exchange
    go.set()
    assert await sidecars._sidecar(caller, "own", target) is not first, "also where the first one's target is back"
    assert ended == ["it"]
    for last in ends.values():
        await last()
    assert not unix_listeners() - before


@pytest.mark.parametrize("turns", range(6))
async def test_a_door_that_finishes_can_be_cut_off_at_any_moment(turns: int, tmp_path: Path) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def begin(_: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await never.wait()
        raise AssertionError

    made = Door("w", tmp_path, begin, Traffic())
    await made.listen()
    with short_path(tmp_path, "gateway.sock") as path:
        _, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asked.wait()
    finishing = asyncio.create_task(made.finish())
    for _ in range(3):
        await asyncio.sleep(0)
    made._left.set()  # another connection has gone
    for _ in range(turns):
        await asyncio.sleep(0)
    finishing.cancel()
    done, _ = await asyncio.wait({finishing}, timeout=10)
    assert done
    await made.close()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_remote_worklet_that_goes_while_it_is_looked_for_leaves_nothing(turns: int, tmp_path: Path) -> None:
    before = unix_listeners()
    links = Links(Way(tmp_path))
    serving = asyncio.create_task(links.serve("w", tmp_path, starting=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    await links.drop("w")
    await serving
    assert not links.stands("w")
    assert not unix_listeners() - before
    await links.aclose()


async def test_a_remote_worklet_that_goes_when_another_flow_has_is_not_taken_over(tmp_path: Path) -> None:
    before = unix_listeners()
    one, other = Links(Way(tmp_path)), Links(Way(tmp_path))
    await one.serve("w", tmp_path)
    await other.serve("w", tmp_path)
    (relying,) = other._relied.values()
    async with other._one_at_a_time:  # it looks for another worklet's
        dropping = asyncio.create_task(other.drop("w"))
        await asyncio.sleep(0)
        await one.aclose()
        await until(lambda: len(other._one_at_a_time._waiters or ()) == 2, what="it is about to listen itself")
    await dropping
    await asyncio.wait({relying})
    assert not other.stands("w")
    assert not unix_listeners() - before
    await other.aclose()


async def test_two_who_look_for_a_remote_worklet_at_once_listen_once(tmp_path: Path) -> None:
    before = unix_listeners()
    links = Links(Way(tmp_path))
    await asyncio.gather(*(links.serve("w", tmp_path) for _ in range(3)))
    assert len(unix_listeners() - before) == 2
    assert links.stands("w")
    assert not links._relied, "on itself, that is"
    await links.aclose()
    assert not unix_listeners() - before
