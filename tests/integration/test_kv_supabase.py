"""The store on Supabase: our client straight at its API, and through Flow's gateway with SupabaseBackend.

The API is @supabase/lite's, over a real PostgreSQL with our migrations. What it does otherwise than PostgREST is in
test_kv_supabase_gaps.py.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
import supabaselite
from contracts import kvcases
from kvsupabase import Store, earlier, worklet
from supabaselite import SupabaseLite

from kvstore.errors import KVPermissionError
from kvstore.gateway.callers import Caller
from kvstore.gateway.functions import validated
from kvstore.gateway.supabase import SupabaseAdmin, SupabaseBackend
from kvstore.gateway.tokens import SharedSecret

pytest_plugins = ["kvsupabasefixtures"]
pytestmark = [pytest.mark.node, pytest.mark.postgres, pytest.mark.timeout(600)]

#: What @supabase/lite does otherwise than PostgREST: the shared cases that fail by it.
FAILING = {
    "append cannot grow a value over the limit, and leaves it as it was": "errors of class 54 are answered with SUP",
    "whole numbers of any length are kept by Python": "results pass through JavaScript's numbers",
}


async def test_the_shared_cases(request: pytest.FixtureRequest, lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    """Half of them this way, half that way: all of them run on PostgreSQL elsewhere too."""
    cases = kvcases.CASES["by the gateway" in request.node.name :: 2]
    at_once, failed = asyncio.Semaphore(8), {}

    async def run(case: dict[str, Any], mine: str) -> None:
        async with at_once, lite_store(mine) as client:
            try:
                await kvcases.take(case, client)
            except AssertionError as error:
                failed[case["name"]] = str(error)[:300]

    ids = [await worklet(lite_admin) for _ in cases]
    await asyncio.gather(*map(run, cases, ids))
    assert {name: why for name, why in failed.items() if name not in FAILING} == {}
    assert failed.keys() == FAILING.keys() & {case["name"] for case in cases}


async def test_tokens_say_who_may_do_what(lite: SupabaseLite, lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    secret, owner = SharedSecret(lite.jwt_secret), str(uuid.uuid4())
    mine, other = await worklet(lite_admin, owner), await worklet(lite_admin)
    async with lite_store(mine) as client:
        await client.set("k", 1)
    tokens = {
        "of another worklet": secret.mint_worklet(other, earlier()),
        "of a person who owns others": secret.mint_person(str(uuid.uuid4()), earlier()),
        "of a worklet that is not there": secret.mint_worklet(str(uuid.uuid4()), earlier()),
        "expired": secret.mint_worklet(mine, time.time() - 2000),
        "of another secret": SharedSecret("another secret, which nobody trusts").mint_worklet(mine, earlier()),
    }
    for what, token in tokens.items():
        async with lite_store(mine, token=token) as client:
            for forbidden in (client.get("k"), client.set("k", 2), client.clear_all(), client.get_stats()):
                assert await refused(forbidden), f"a token {what} was taken"
    async with lite_store(mine, token=secret.mint_person(owner, earlier())) as client:
        assert await client.get("k") == 1


async def refused(call: Awaitable[Any]) -> bool:
    try:
        await call
    except KVPermissionError:
        return True
    return False


async def test_a_revoked_token_is_refused_and_a_later_one_is_not(
    lite: SupabaseLite, lite_admin: SupabaseAdmin, lite_store: Store
) -> None:
    secret, mine, now = SharedSecret(lite.jwt_secret), await worklet(lite_admin), time.time()
    async with lite_store(mine, token=secret.mint_worklet(mine, now - 20)) as client:
        await client.set("k", 1)
        await lite_admin.revoke(mine, now - 10)
        with pytest.raises(KVPermissionError) as caught:
            await client.get("k")
        assert caught.value.hint == "KV_REVOKED"
    async with lite_store(mine) as client:
        assert await client.get("k") == 1


async def test_a_watch_tells_what_another_client_writes(lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    mine = await worklet(lite_admin)
    async with lite_store(mine) as client, lite_store(mine) as other:
        watching = client.watch("a", cursor="0")
        await other.mset({"a1": 1, "b": 2})
        async with asyncio.timeout(60):
            first = await anext(watching)
            await other.delete("a1")
            second = await anext(watching)
        await watching.aclose()
    assert (first.key, first.value, second.key, second.deleted) == ("a1", 1, "a1", True)


async def test_writers_at_once_lose_nothing(lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    mine = await worklet(lite_admin)
    async with lite_store(mine) as client:
        await asyncio.gather(*(client.increment("n") for _ in range(40)), *(client.append("l", n) for n in range(20)))
        opposite = [dict.fromkeys(keys, n) for n, keys in enumerate([list("abcdef"), list("fedcba")] * 5)]
        await asyncio.gather(*(client.mset(values) for values in opposite))
        assert await client.get("n") == 40
        assert sorted(await client.get("l")) == list(range(20))
        assert len(set((await client.mget(list("abcdef"))).values())) == 1


# Tables, which the API shows too


async def test_the_tables_show_a_token_its_own_rows_and_let_it_write_no_others(
    lite: SupabaseLite, lite_admin: SupabaseAdmin
) -> None:
    secret, mine, other = SharedSecret(lite.jwt_secret), await worklet(lite_admin), await worklet(lite_admin)
    backend = SupabaseBackend(lite.url, lite.publishable_key, secret)
    for name in (mine, other):
        arguments = validated("kv_set", {"p_namespace": "n", "p_key": "k", "p_value": f'"of {name}"'})
        await backend.call(Caller.of_worklet(name), "kv_set", arguments)
    await backend.close()
    token = secret.mint_worklet(mine, earlier())

    def ask(method: str, path: str, body: Any = None, bearer: str | None = token) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return supabaselite.ask(
            method, f"{lite.url}/rest/v1/{path}", body, apikey=lite.publishable_key, Prefer="return=representation",
            **headers,
        )  # fmt: skip

    for path in (
        "worklet_kv_store?select=worklet_id,value",
        "worklet_kv_store?select=worklet_id,value&or=(key.eq.k,worklet_id.neq." + mine + ")",
        "worklet_kv_store?select=worklet_id,value&order=version.desc&limit=1000",
        "worklet_kv_store?select=worklet_id,value&key=like.*",
    ):
        assert ask("GET", path) == (200, [{"worklet_id": mine, "value": f"of {mine}"}]), path
    theirs = f"worklet_kv_store?worklet_id=eq.{other}"
    assert ask("GET", f"{theirs}&select=value") == (200, [])
    for method, path, body in (
        ("GET", "worklets?select=id,worklet_kv_store(value)", None),
        ("PATCH", f"{theirs}&select=value", {"value": "mine now"}),
        ("DELETE", f"{theirs}&select=value", None),
        ("POST", "worklet_kv_store?select=value", {"worklet_id": other, "namespace": "n", "key": "new", "value": 1}),
        ("POST", "worklet_kv_store?select=value&on_conflict=worklet_id,namespace,key",
         {"worklet_id": other, "namespace": "n", "key": "k", "value": 1}),
    ):  # fmt: skip
        status, told = ask(method, path, body)
        assert other not in json.dumps(told), (method, path)
        assert status >= 400 or told in ([], [{"id": mine, "worklet_kv_store": [{"value": f"of {mine}"}]}]), told
    for nobody in (None, secret.mint_person(str(uuid.uuid4()), earlier())):
        status, told = ask("GET", "worklet_kv_store?select=value", bearer=nobody)
        assert status >= 400 or told == []
    status, told = supabaselite.ask("GET", f"{lite.url}/rest/v1/{theirs}&select=key,value", apikey=lite.secret_key)
    assert told == [{"key": "k", "value": f"of {other}"}], "nothing was changed across the line"
