"""The gateway as programs call it: aiohttp over TCP or a Unix socket, and the client that worklets use."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.kvfloors import PAGE, VALUE, batch, key, row
from benchmarks.kvload import BlockingCall, Call
from kvstore.aio import create_async_worklet_kv_store
from kvstore.client import create_worklet_kv_store

COUNTER = "counter"
ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A worklet and a token of it."""

    worklet_id: str
    token: str


@asynccontextmanager
async def over_http(tenants: Sequence[Tenant], *, url: str = "", path: str = "") -> AsyncIterator[dict[str, Call]]:
    """Client `n` is worklet `n`, but increment and list are all on worklet 0. One connection for each client."""
    connector: aiohttp.BaseConnector = (
        aiohttp.UnixConnector(path, limit=len(tenants)) if path else aiohttp.TCPConnector(limit=len(tenants))
    )
    headers = [{"Authorization": f"Bearer {tenant.token}", "Content-Type": "application/json"} for tenant in tenants]
    msets = [json.dumps({"p_namespace": "default", "p_entries": batch(half)}).encode() for half in (0, 1)]
    async with aiohttp.ClientSession(connector=connector, base_url=url or "http://localhost") as session:

        async def post(number: int, function: str, body: bytes) -> None:
            async with session.post(f"/rest/v1/rpc/{function}", data=body, headers=headers[number]) as answer:
                said = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{function}: {answer.status} {said[:300]!r}")

        def calling(number: int, function: str, **arguments: object) -> Awaitable[None]:
            return post(number, function, json.dumps(arguments).encode())

        yield {
            "get": lambda n, turn: calling(n, "kv_get", p_namespace="default", p_key=key(turn)),
            "set": lambda n, turn: calling(n, "kv_set", p_namespace="default", p_key=key(turn), p_value=VALUE),
            "mset": lambda n, turn: post(n, "kv_mset", msets[turn % 2]),
            "list": lambda _n, turn: calling(0, "kv_list", p_namespace=ROWS, p_cursor=row(turn % 800), p_limit=PAGE),
            "increment": lambda _n, _turn: calling(0, "kv_increment", p_namespace="default", p_key=COUNTER),
        }


@contextlib.contextmanager
def client(tenant: Tenant, url: str) -> Iterator[dict[str, BlockingCall]]:
    """The blocking client of worklets."""
    value, entries = json.loads(VALUE), [json.loads(batch(half)) for half in (0, 1)]
    store = create_worklet_kv_store(tenant.worklet_id, url=url, token=tenant.token, timeout=60.0)
    try:
        yield {
            "get": lambda _n, turn: store.get(key(turn)),
            "set": lambda _n, turn: store.set(key(turn), value),
            "mset": lambda _n, turn: store.mset(entries[turn % 2]),
            "list": lambda _n, turn: store.list(namespace=ROWS, cursor=row(turn % 800), limit=PAGE),
            "increment": lambda _n, _turn: store.increment(COUNTER),
        }
    finally:
        store.close()


@asynccontextmanager
async def async_clients(tenants: Sequence[Tenant], url: str) -> AsyncIterator[dict[str, Call]]:
    """The asynchronous client, one for each worklet."""
    value, entries = json.loads(VALUE), [json.loads(batch(half)) for half in (0, 1)]
    stores, of_first = (
        [
            create_async_worklet_kv_store(tenant.worklet_id, url=url, token=tenant.token, timeout=60.0)
            for tenant in chosen
        ]
        for chosen in (tenants, [tenants[0]] * len(tenants))
    )
    try:
        yield {
            "get": lambda n, turn: stores[n].get(key(turn)),
            "set": lambda n, turn: stores[n].set(key(turn), value),
            "mset": lambda n, turn: stores[n].mset(entries[turn % 2]),
            "list": lambda n, turn: of_first[n].list(namespace=ROWS, cursor=row(turn % 800), limit=PAGE),
            "increment": lambda n, _turn: of_first[n].increment(COUNTER),
        }
    finally:
        await asyncio.gather(*(store.aclose() for store in (*stores, *of_first)))
