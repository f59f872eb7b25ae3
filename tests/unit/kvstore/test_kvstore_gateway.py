"""The gateway over HTTP, in front of a real store: refusals, doors, the rate, and waiting for changes."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from waiting import until

from kvstore.gateway.app import MAX_BODY_BYTES, PATH, KVGateway
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import FUNCTIONS
from kvstore.gateway.rate import Rate
from kvstore.gateway.sqlite import SqliteStore
from kvstore.gateway.watch import MOST_WATCHERS
from web.app import Server, build

ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
OWNER, STRANGER = "00000000-0000-4000-8000-0000000000aa", "00000000-0000-4000-8000-0000000000bb"
CALLERS = {
    "one": Caller("worklet", ONE, None, 1000.0),
    "two": Caller("worklet", TWO, None, 1000.0),
    "owner": Caller("authenticated", None, OWNER, 1000.0),
    "stranger": Caller("authenticated", None, STRANGER, 1000.0),
}


class Names:
    """Takes the names of CALLERS for tokens."""

    def verify(self, token: str, now: float | None = None) -> Caller:
        if token not in CALLERS:
            raise Refusal(401, "PGRST301", "No.")
        return CALLERS[token]


class World:
    """Its time stands still as far as the rate goes: what was used up stays so, however long a busy machine takes."""

    def __init__(self, store: SqliteStore, rate: float = 1e6, only: str | None = None, cancels: bool = True) -> None:
        self.store, self.gateway, self._only = store, KVGateway(store, Names(), rate=rate), only
        self.gateway._rate = Rate(rate, clock=lambda: 1000.0)
        self._cancels = cancels

    async def __aenter__(self) -> World:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.reading += 1
            try:
                return await self.gateway.handle(request, self._only)
            finally:
                self.reading -= 1

        self.reading = 0
        self._runner = web.ServerRunner(web.Server(handle, handler_cancellation=self._cancels))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self.gateway.close()
        await self._runner.cleanup()

    async def post(
        self, function: str, body: Any = None, token: str | None = "one", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        async with self.http.post(self.url + PATH + function, data=io.BytesIO(data), headers=sent) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json(), response.headers

    async def call(self, function: str, token: str = "one", **arguments: Any) -> Any:
        status, answer, _ = await self.post(function, arguments, token)
        assert status == 200, answer
        return answer

    async def refused(self, function: str, body: Any = None, token: str | None = "one") -> tuple[int, str, str | None]:
        status, answer, _ = await self.post(function, body, token)
        assert answer.keys() == {"code", "message", "details", "hint"}
        assert answer["details"] is None
        assert answer["message"].endswith(".")
        return status, answer["code"], answer["hint"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "kv" / "kv.sqlite", max_keys=1000, max_bytes=10_000_000)
    for worklet_id in (ONE, TWO):
        await store.register(worklet_id, OWNER, "")
    yield store
    await store.close()


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    async with World(store) as world:
        yield world


def key(name: str) -> dict[str, str]:
    return {"p_namespace": "default", "p_key": name}


async def test_a_worklet_keeps_and_finds_what_it_sets(world: World) -> None:
    assert await world.call("kv_set", **key("a"), p_value='{"x": [1, 2.50, "é"]}') == {"version": 1}
    entry = await world.call("kv_get", **key("a"))
    assert entry["value"] == {"x": [1, 2.5, "é"]}
    assert await world.call("kv_get", **key("b")) is None
    assert await world.call("kv_has", **key("b")) is False


async def test_who_may_not_is_refused(world: World) -> None:
    await world.call("kv_set", **key("a"), p_value="1")
    named = {**key("a"), "p_worklet_id": ONE}
    forbidden = (403, "42501", "KV_FORBIDDEN")
    assert await world.refused("kv_get", key("a"), None) == (401, "PGRST302", None)
    assert await world.refused("kv_get", key("a"), "forged") == (401, "PGRST301", None)
    assert await world.refused("kv_get", named, "two") == forbidden
    assert await world.refused("kv_set", {**named, "p_value": "2"}, "two") == forbidden
    assert await world.refused("kv_clear", {"p_namespace": None, "p_worklet_id": ONE}, "two") == forbidden
    assert await world.refused("kv_get", named, "stranger") == forbidden
    assert await world.refused("kv_get", key("a"), "owner") == forbidden  # of which worklet?
    assert await world.refused("kv_watch", {"p_cursor": "0", "p_wait": 5, "p_worklet_id": ONE}, "two") == forbidden
    assert await world.refused("kv_get", {**key("a"), "p_worklet_id": OWNER}, "owner") == forbidden  # there is none
    assert (await world.call("kv_get", "owner", **named))["value"] == 1
    assert (await world.call("kv_get", p_worklet_id=ONE.upper(), **key("a")))["value"] == 1


async def test_a_revoked_token_is_void_and_a_later_one_is_not(world: World) -> None:
    await world.store.revoke(ONE, 1000.0)
    assert await world.call("kv_get", **key("a")) is None
    await world.store.revoke(ONE, 1000.5)
    assert await world.refused("kv_get", key("a")) == (403, "42501", "KV_REVOKED")
    assert await world.refused("kv_set", {**key("a"), "p_value": "1"}) == (403, "42501", "KV_REVOKED")
    assert await world.call("kv_get", "two", **key("a")) is None
    assert await world.call("kv_get", "owner", p_worklet_id=ONE, **key("a")) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b'"a"', b"{}", b'{"p_namespace": 1, "p_key": "a"}', b"[" * 100_000,
        b'{"p_namespace": "a", "p_key": "b", "p_other": 1}', b'{"p_namespace": "a", "p_key": null}',
    ],
    ids=str,
)  # fmt: skip
async def test_a_body_that_is_none_is_refused(world: World, body: bytes) -> None:
    assert await world.refused("kv_get", body) == (400, "22023", "KV_INVALID")


async def test_unknown_functions_and_methods_are_refused(world: World) -> None:
    assert await world.refused("kv_drop") == (404, "PGRST202", None)
    assert await world.refused("kv_get/x") == (404, "PGRST202", None)
    async with world.http.get(f"{world.url}{PATH}kv_get", headers={"Authorization": "Bearer one"}) as response:
        assert response.status == 405
        assert (await response.json())["code"] == "PGRST101"


async def test_what_is_too_large_is_refused_and_the_connection_goes_on(world: World) -> None:
    value = json.dumps("x" * 1_048_575)
    assert await world.refused("kv_set", {**key("a"), "p_value": value}) == (413, "54000", "KV_TOO_LARGE")
    await world.call("kv_set", **key("a"), p_value=json.dumps("x" * 1_048_574))
    assert await world.refused("kv_set", b" " * (MAX_BODY_BYTES + 1)) == (413, "54000", "KV_TOO_LARGE")

    async def without_length() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1_048_576

    headers = {"Authorization": "Bearer one"}
    async with world.http.post(f"{world.url}{PATH}kv_set", data=without_length(), headers=headers) as response:
        assert response.status == 413
    assert len((await world.call("kv_get", **key("a")))["value"]) == 1_048_574


async def test_a_door_lets_its_own_worklet_in_and_nobody_else(store: SqliteStore) -> None:
    async with World(store, only=ONE) as world:
        assert await world.call("kv_has", **key("a")) is False
        for token in ("two", "owner"):
            named = {**key("a"), "p_worklet_id": ONE}
            assert await world.refused("kv_has", named, token) == (403, "42501", "KV_FORBIDDEN")


async def test_a_busy_worklet_is_slowed_down_and_another_is_not(store: SqliteStore) -> None:
    async with World(store, rate=0.5) as world:  # and one at once
        await world.call("kv_has", **key("a"))
        status, body, headers = await world.post("kv_has", key("a"))
        assert (status, body["code"], body["hint"]) == (429, "KV429", "KV_RATE")
        assert 0 < float(headers["Retry-After"]) <= 2
        await world.call("kv_has", "two", **key("a"))


async def test_many_entries_count_for_more(store: SqliteStore) -> None:
    async with World(store, rate=6.5) as world:
        entries = json.dumps({str(n): n for n in range(1000)})
        await world.call("kv_mset", p_namespace="default", p_entries=entries)  # 1 + 2 to parse it + 10 of 13
        status, _, _ = await world.post("kv_has", key("a"))
        assert status == 429


async def test_what_is_costly_to_parse_counts_for_more(store: SqliteStore) -> None:
    dense = {**key("k"), "p_value": "[" + ",".join(["[]"] * 100_000) + "]"}
    async with World(store, rate=300) as world:
        answers = await asyncio.gather(*(world.post("kv_set", dense) for _ in range(4)))  # before the rate allows more
        assert {status for status, _, _ in answers} == {200, 429}
        assert all(0 < float(headers["Retry-After"]) <= 2 for status, _, headers in answers if status == 429)
        await world.call("kv_stats", "two")
    grown = {**key("k"), "p_value": "[" + ",".join(["1e300"] * 1900) + "]"}
    async with World(store, rate=18) as world:
        assert (await world.post("kv_set", grown))[0] == 200
        assert (await world.post("kv_get", key("k")))[0] == 429, "half a megabyte was made of it"


async def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(world: World) -> None:
    body = b'{"p_namespace":"d","p_key":[' + b",".join([b"[]"] * 1_000_000)  # its end is missing
    assert await world.refused("kv_get", body) == (413, "54000", "KV_TOO_LARGE")


async def test_a_body_that_does_not_end_is_not_waited_for(store: SqliteStore) -> None:
    async with World(store) as world:
        world.gateway = KVGateway(store, Names(), rate=1e6, body_seconds=0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
        writer.write(b"POST /rest/v1/rpc/kv_stats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n{")
        async with asyncio.timeout(30):
            assert b" 400 " in await reader.readline()
        writer.close()


async def test_a_fault_is_told_without_a_word_of_what_was_sent(world: World, caplog: Any) -> None:
    class Broken:
        kind = "sqlite"

        async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
            raise ValueError(arguments["p_key"])

    world.gateway.backend = Broken()  # type: ignore[assignment]
    status, body, _ = await world.post("kv_get", key("secret-key"))
    assert (status, body["code"]) == (500, "XX000")
    assert "secret-key" not in json.dumps(body) + caplog.text


# Waiting for changes


async def now(world: World) -> str:
    return str((await world.call("kv_watch"))["cursor"])


async def test_a_watcher_is_told_at_once_of_what_is_written_here(world: World) -> None:
    cursor = await now(world)
    watching = asyncio.create_task(world.call("kv_watch", p_cursor=cursor, p_prefix="a", p_wait=20))
    await until(lambda: world.gateway.watched)
    await world.call("kv_set", **key("b"), p_value="1")  # not its prefix
    await world.call("kv_set", "two", **key("a"), p_value="1")  # not its worklet
    await world.call("kv_set", **key("a"), p_value="2")
    answer = await asyncio.wait_for(watching, 10)
    assert [(c["key"], c["value"], c["deleted"]) for c in answer["changes"]] == [("a", 2, False)]
    assert answer["reset"] is False
    await until(lambda: not world.gateway.watched)


async def test_a_watcher_hears_of_what_another_process_writes(world: World, tmp_path: Path) -> None:
    cursor = await now(world)
    watching = [asyncio.create_task(world.call("kv_watch", p_cursor=cursor, p_wait=20)) for _ in range(3)]
    await until(lambda: world.gateway.watched == 1)
    other = SqliteStore(tmp_path / "kv" / "kv.sqlite", max_keys=1, max_bytes=1)
    async with World(other) as beside:
        await beside.call("kv_set", **key("a"), p_value="2")
    await other.close()
    for answer in await asyncio.wait_for(asyncio.gather(*watching), 10):
        assert [c["key"] for c in answer["changes"]] == ["a"]


async def test_a_fault_of_one_look_is_not_the_last_look(world: World, tmp_path: Path) -> None:
    class Faulty:
        left = 1

        async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
            if arguments.get("p_cursor", "") is None and self.left:
                self.left -= 1
                raise RuntimeError
            return await world.store.call(caller, function, arguments)

    cursor, world.gateway.backend = await now(world), Faulty()  # type: ignore[assignment]
    watching = asyncio.create_task(world.call("kv_watch", p_cursor=cursor, p_wait=20))
    await until(lambda: not world.gateway.backend.left)  # type: ignore[attr-defined]
    other = SqliteStore(tmp_path / "kv" / "kv.sqlite", max_keys=1, max_bytes=1)
    async with World(other) as beside:
        await beside.call("kv_set", **key("a"), p_value="2")
    await other.close()
    answer = await asyncio.wait_for(watching, 10)
    assert [c["key"] for c in answer["changes"]] == ["a"]


async def test_waiting_ends_without_a_change_and_the_cursor_goes_on(world: World) -> None:
    cursor = await now(world)
    await world.call("kv_set", **key("b"), p_value="1")
    begin = time.monotonic()
    answer = await world.call("kv_watch", p_cursor=cursor, p_prefix="a", p_wait=0.5)
    assert time.monotonic() - begin >= 0.4
    assert answer == {"changes": [], "cursor": await now(world), "reset": False}


async def test_who_reads_everything_does_not_wait_for_pages_of_deletions(world: World) -> None:
    for _ in range(3):
        await world.call("kv_mset", p_namespace="default", p_entries=json.dumps(dict.fromkeys(map(str, range(10)), 1)))
        await world.call("kv_clear", p_namespace="default")
    await world.call("kv_set", p_namespace="default", p_key="here", p_value="1")
    answer = await world.call("kv_watch", p_cursor="0", p_limit=1)
    assert [change["key"] for change in answer["changes"]] == ["here"]


async def test_nobody_waits_at_a_worklet_that_is_not_theirs(world: World) -> None:
    places: list[int] = []

    class Looking:
        async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
            places.append(world.gateway.watched)
            return await world.store.call(caller, function, arguments)

    world.gateway.backend = Looking()  # type: ignore[assignment]
    body = {"p_worklet_id": TWO, "p_cursor": "1", "p_wait": 25}
    assert (await world.refused("kv_watch", body))[0] == 403
    assert places == [0], "refused before a place was taken"


async def test_a_watcher_that_leaves_is_forgotten(world: World) -> None:
    cursor = await now(world)
    watching = asyncio.create_task(world.call("kv_watch", p_cursor=cursor, p_wait=20))
    await until(lambda: world.gateway.watched)
    watching.cancel()
    await until(lambda: not world.gateway.watched)


async def test_a_worklet_can_only_wait_so_often_at_once(world: World) -> None:
    cursor = await now(world)
    body = {"p_cursor": cursor, "p_wait": 20}
    waiting = [asyncio.create_task(world.post("kv_watch", body)) for _ in range(MOST_WATCHERS + 1)]
    (done, *_), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert done.result()[0] == 429
    await world.call("kv_set", **key("a"), p_value="1")
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_a_watcher_whose_token_is_revoked_is_refused_while_it_waits(world: World) -> None:
    cursor = await now(world)
    watching = asyncio.create_task(world.post("kv_watch", {"p_cursor": cursor, "p_wait": 20}))
    await until(lambda: world.gateway.watched)
    await world.store.revoke(ONE, 2000.0)
    status, body, _ = await asyncio.wait_for(watching, 10)
    assert (status, body["hint"]) == (403, "KV_REVOKED")


# In Flow's HTTP server


async def test_flows_server_serves_the_store_and_ends_at_once_while_somebody_waits(store: SqliteStore) -> None:
    gateway = KVGateway(store, Names(), rate=1e6)
    server = Server(build({}, gateway), "127.0.0.1", 0)
    await server.start()
    headers = {"Authorization": "Bearer owner"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def call(function: str, **arguments: Any) -> tuple[int, Any]:
            body = io.BytesIO(json.dumps({"p_worklet_id": ONE, **arguments}).encode())
            async with http.post(server.url + PATH + function, data=body) as response:
                return response.status, await response.json()

        entries = json.dumps(dict.fromkeys("ab", "x" * 700000))  # aiohttp's applications take 1 MiB by themselves
        assert await call("kv_mset", p_namespace="default", p_entries=entries) == (200, 2)
        assert (await call("kv_drop"))[1]["code"] == "PGRST202"
        async with http.get(f"{server.url}/nowhere") as response:
            assert (await response.json())["code"] == "NOT_FOUND"
        waiting = asyncio.create_task(call("kv_watch", p_cursor="2", p_wait=25))
        await until(lambda: gateway.watched)
        waiting.cancel()
        await until(lambda: not gateway.watched)
        waiting = asyncio.create_task(call("kv_watch", p_cursor="2", p_wait=25))
        await until(lambda: gateway.watched)
        begin = time.monotonic()
        await server.stop()
        assert time.monotonic() - begin < 15
        assert (await waiting)[1]["changes"] == []


async def test_every_function_takes_a_worklets_id_last() -> None:
    assert len(FUNCTIONS) == 14
    assert all(f.arguments[-1].name == "p_worklet_id" for f in FUNCTIONS.values())
    assert {f.name for f in FUNCTIONS.values() if f.mutates} == {
        "kv_set", "kv_mset", "kv_delete", "kv_clear", "kv_increment", "kv_append", "kv_transaction",
    }  # fmt: skip


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_leaves_within_its_request_is_nobodys_fault(
    store: SqliteStore, cancels: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with World(store, cancels=cancels) as world:
        await leave_in_the_middle(world)
        assert await world.call("kv_has", **key("a")) is False
    assert "failed" not in capsys.readouterr().out


async def leave_in_the_middle(world: World) -> None:
    port = int(world.url.rpartition(":")[2])
    heads = [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
    for head in heads:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /rest/v1/rpc/kv_get HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n" + head)
        await writer.drain()
        await until(lambda: world.reading)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not world.reading)
