"""Many programs at once on the same keys, through two gateways of one store: nothing is lost, nothing deadlocks."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import supabaselite
from kvpostgres import made_source
from kvserving import UNLIMITED, Program, Source, serve, sqlite_source
from ports import free_port
from postgres import postgres_server  # noqa: F401 - fixture
from supabaselite import SupabaseLite

from kvstore.aio import AsyncWorkletKVStore, create_async_worklet_kv_store
from kvstore.errors import KVConflictError
from kvstore.gateway.supabase import SupabaseAdmin, SupabaseBackend
from kvstore.gateway.tokens import SharedSecret, SigningKey, Verifier

pytestmark = pytest.mark.timeout(300)
WRITERS = 64
_TURNS = 4
_POSTGRES, _NODE = pytest.mark.postgres, pytest.mark.node


@dataclass(frozen=True, slots=True)
class Place:
    """A store behind gateways: each program takes one of them. `turns`: how often each program does its work."""

    urls: list[str]
    register: Callable[[], Awaitable[str]]
    mint: Callable[[str], str]
    turns: int

    @asynccontextmanager
    async def clients(self, worklet: str, number: int) -> AsyncIterator[list[AsyncWorkletKVStore]]:
        token = self.mint(worklet)
        stores = [
            create_async_worklet_kv_store(worklet, url=self.urls[n % len(self.urls)], token=token, timeout=120.0)
            for n in range(number)
        ]
        try:
            yield stores
        finally:
            for store in stores:
                await store.aclose()


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgres", marks=_POSTGRES), pytest.param("supabase", marks=[_POSTGRES, _NODE])],
)
def source(request: pytest.FixtureRequest) -> Iterator[Source | SupabaseLite]:
    if request.param == "sqlite":
        with sqlite_source() as made:
            yield made
        return
    with made_source(request.getfixturevalue("postgres_server")) as made:
        if request.param == "postgres":
            yield made
        else:
            with supabaselite.running(made.admin_place) as lite:
                yield lite


@pytest.fixture
async def place(source: Source | SupabaseLite) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        if isinstance(source, SupabaseLite):
            yield await _supabase(stack, source)
            return
        programs = [Program(source), Program(source)]
        for program in programs:
            stack.push_async_callback(program.end)
        await asyncio.gather(*(program.start() for program in programs))
        yield Place([program.url for program in programs], source.register, source.signing_key.mint_worklet, _TURNS)


async def _supabase(stack: AsyncExitStack, lite: SupabaseLite) -> Place:
    mint = SharedSecret(lite.jwt_secret)
    backend = SupabaseBackend(lite.url, lite.publishable_key, mint)
    await backend.open()
    stack.push_async_callback(backend.close)
    port = free_port()
    home = stack.enter_context(tempfile.TemporaryDirectory())
    verifier = Verifier(SigningKey.load(Path(home) / "key.pem"), lite.jwt_secret)
    runner = await serve(backend, verifier, UNLIMITED, port=port)
    stack.push_async_callback(runner.cleanup)
    admin = SupabaseAdmin(lite.url, lite.secret_key)
    stack.push_async_callback(admin.close)

    async def register() -> str:
        worklet = str(uuid.uuid4())
        await admin.register(worklet, str(uuid.uuid4()), "a worklet", max_keys=None, max_bytes=None)
        return worklet

    # @supabase/lite takes a token of the running second for one from the future.
    return Place([f"http://127.0.0.1:{port}"], register, lambda one: mint.mint_worklet(one, now=time.time() - 2), 2)


async def test_sixty_four_writers_lose_nothing(place: Place) -> None:
    async with place.clients(await place.register(), WRITERS) as stores:

        async def write(number: int, store: AsyncWorkletKVStore) -> None:
            for turn in range(place.turns):
                await store.increment("sum", number)
                await store.increment("tenths", 0.1)
                await store.append("list", f"{number}:{turn}")
                await store.append("text", "x") if turn % 2 else await store.append("text", "y")

        await stores[0].set("list", [])
        await asyncio.gather(*(write(number, store) for number, store in enumerate(stores)))
        held = await stores[-1].mget(["sum", "tenths", "list", "text"])
    assert held["sum"] == place.turns * sum(range(WRITERS))
    assert held["tenths"] == place.turns * WRITERS / 10
    assert sorted(held["list"]) == sorted(f"{n}:{turn}" for n in range(WRITERS) for turn in range(place.turns))
    assert (held["text"].count("x"), held["text"].count("y")) == (
        WRITERS * (place.turns // 2), WRITERS * (place.turns - place.turns // 2)
    )  # fmt: skip


async def test_compare_and_set_and_checked_transactions_lose_nothing(place: Place) -> None:
    """Each adds one by reading and writing, again and again until nobody came between."""
    writers = 8
    async with place.clients(await place.register(), writers) as stores:
        await stores[0].mset({"swapped": 0, "checked": 0})

        async def swap(store: AsyncWorkletKVStore) -> None:
            while True:
                entry = await store.entry("swapped")
                assert entry is not None
                if await store.set("swapped", entry.value + 1, if_version=entry.version) is not None:
                    return

        async def check(store: AsyncWorkletKVStore) -> None:
            while True:
                entry = await store.entry("checked")
                assert entry is not None
                try:
                    await store.transaction().check("checked", entry.version).set("checked", entry.value + 1).commit()
                except KVConflictError:
                    continue
                return

        async def work(store: AsyncWorkletKVStore) -> None:
            for _ in range(min(place.turns, 3)):
                await swap(store)
                await check(store)

        await asyncio.gather(*(work(store) for store in stores))
        wanted = writers * min(place.turns, 3)
        assert await stores[0].mget(["swapped", "checked"]) == {"swapped": wanted, "checked": wanted}


async def test_bulk_writes_in_opposite_orders_do_not_deadlock(place: Place) -> None:
    """Raw requests, which nobody repeats: a single deadlock would show as an error."""
    worklets = [await place.register(), await place.register()]
    tokens = [place.mint(worklet) for worklet in worklets]
    keys = [f"k{number:03}" for number in range(60)]
    dice = random.Random(5)

    async def post(session: aiohttp.ClientSession, number: int, function: str, arguments: dict[str, Any]) -> Any:
        url = f"{place.urls[number % len(place.urls)]}/rest/v1/rpc/{function}"
        headers = {"Authorization": f"Bearer {tokens[number % 2]}"}
        async with session.post(url, json=arguments, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            return said

    async def write(session: aiohttp.ClientSession, number: int) -> None:
        order = keys if number % 4 < 2 else keys[::-1]
        for turn in range(2):
            stamp = f"{number}:{turn}"
            await post(session, number, "kv_mset", {
                "p_namespace": "n", "p_entries": json.dumps(dict.fromkeys(order, stamp)),
            })  # fmt: skip
            some = dice.sample(order, 20)
            await post(session, number, "kv_delete", {"p_namespace": "n", "p_keys": some})
            steps = [{"op": "set", "namespace": "n", "key": key, "value": stamp} for key in order]
            added = [{"op": "increment", "namespace": "sums", "key": key} for key in order[:20]]
            await post(session, number, "kv_transaction", {"p_operations": json.dumps(steps + added)})

    writers = 16
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=writers)) as session:
        async with asyncio.timeout(120):
            await asyncio.gather(*(write(session, number) for number in range(writers)))
    for worklet in worklets:
        async with place.clients(worklet, 1) as (store,):
            data = await store.export_data()
            assert len(set(data["n"].values())) == 1, "the last transaction wrote all of its keys"
            assert data["n"].keys() == set(keys)
            # Writers of each worklet go in both orders: of twenty keys at either end each is in half of them.
            ends = {key: (key in keys[:20]) + (key in keys[-20:]) for key in keys}
            assert data["sums"] == {key: writers // 4 * 2 * times for key, times in ends.items() if times}
