"""A running @supabase/lite with our migrations, one a process; Flow's administrator; clients of two ways.

A test module takes them with `pytest_plugins = ["kvsupabasefixtures"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import supabaselite
from kvpostgres import made_source
from kvsupabase import PATIENCE, Store, earlier, gateway
from postgres import postgres_server as postgres_server  # a fixture
from supabaselite import SupabaseLite

from kvstore.aio import AsyncWorkletKVStore, create_async_worklet_kv_store
from kvstore.gateway.supabase import SupabaseAdmin
from kvstore.gateway.tokens import SharedSecret


@pytest.fixture(scope="session")
def lite(postgres_server: str) -> Iterator[SupabaseLite]:
    with made_source(postgres_server) as source:
        asyncio.run(_add_functions(source.admin_place))
        with supabaselite.running(source.admin_place) as running:
            yield running


async def _add_functions(dsn: str) -> None:
    """For the gaps."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("""
            create function public.gap_kind(p jsonb) returns text language sql as 'select jsonb_typeof(p)';
            create function public.gap_fail(p_state text) returns text language plpgsql as $$
              begin raise exception 'no' using errcode = p_state, hint = 'KV_HINT'; end $$""")
    finally:
        await connection.close()


@pytest.fixture
async def lite_admin(lite: SupabaseLite) -> AsyncIterator[SupabaseAdmin]:
    admin = SupabaseAdmin(lite.url, lite.secret_key, timeout=PATIENCE)
    try:
        yield admin
    finally:
        await admin.close()


@pytest.fixture(params=["straight", "by the gateway"])
async def lite_store(request: pytest.FixtureRequest, lite: SupabaseLite, tmp_path: Path) -> AsyncIterator[Store]:
    """Makes clients of a worklet."""
    secret = SharedSecret(lite.jwt_secret)

    def of(worklet_id: str, url: str, **options: Any) -> AsyncWorkletKVStore:
        token = options.pop("token", None) or secret.mint_worklet(worklet_id, earlier())
        return create_async_worklet_kv_store(
            worklet_id, url=url, token=token, api_key=lite.publishable_key, timeout=PATIENCE, **options
        )

    if request.param == "straight":
        yield lambda worklet_id, **options: of(worklet_id, lite.url, **options)
    else:
        async with gateway(lite, tmp_path / "key.pem") as url:
            yield lambda worklet_id, **options: of(worklet_id, url, **options)
