"""What @supabase/lite 0.10 does otherwise than PostgREST.

A test that fails here has good news: drop it, and what is done for its sake elsewhere.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import supabaselite
from kvsupabase import Store, worklet
from supabaselite import SupabaseLite

from kvstore.errors import KVError, KVQuotaError
from kvstore.gateway.supabase import SupabaseAdmin
from kvstore.gateway.tokens import SharedSecret

pytest_plugins = ["kvsupabasefixtures"]
pytestmark = [pytest.mark.node, pytest.mark.postgres, pytest.mark.timeout(600)]


def test_a_token_of_this_second_is_from_the_future(lite: SupabaseLite) -> None:
    """PostgREST forgives 30 s. The backend waits a second for whoever has it."""
    url, tried = f"{lite.url}/rest/v1/rpc/kv_stats", 0
    while True:  # a clock that strikes in between makes it good
        began = time.time()
        token = SharedSecret(lite.jwt_secret).mint_worklet(str(uuid.uuid4()), began)
        status, told = supabaselite.post(url, {}, apikey=lite.publishable_key, Authorization=f"Bearer {token}")
        if int(time.time()) == int(began) or tried == 20:
            break
        tried += 1
    assert (status, told["code"]) == (401, "PGRST303")


def test_a_damaged_token_is_taken_for_none(lite: SupabaseLite) -> None:
    """PostgREST says PGRST301."""
    url = f"{lite.url}/rest/v1/rpc/kv_stats"
    status, told = supabaselite.post(url, {}, apikey=lite.publishable_key, Authorization="Bearer no-token")
    assert (status, told["code"]) == (401, "42501")


@pytest.mark.parametrize("state", ["54000", "23514", "40001", "40P01"])
def test_some_errors_lose_code_and_hint(lite: SupabaseLite, state: str) -> None:
    """PostgREST passes both on, so that quotas have a name and deadlocks are tried again."""
    url = f"{lite.url}/rest/v1/rpc/gap_fail"
    status, told = supabaselite.post(url, {"p_state": state}, apikey=lite.secret_key)
    assert (status, told["code"], told["hint"]) == (500, "SUP", None)


async def test_so_a_full_store_has_no_name(lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    async with lite_store(await worklet(lite_admin, max_keys=1)) as client:
        await client.set("a", 1)
        with pytest.raises(KVError) as caught:
            await client.set("b", 1)
        assert not isinstance(caught.value, KVQuotaError)
        assert await client.get("b") is None


@pytest.mark.parametrize("value", [{"a": 1}, [1], 1])
def test_arguments_of_json_arrive_as_strings(lite: SupabaseLite, value: Any) -> None:
    """Why the store's values travel as text."""
    url = f"{lite.url}/rest/v1/rpc/gap_kind"
    assert supabaselite.post(url, {"p": value}, apikey=lite.secret_key) == (200, "string")
