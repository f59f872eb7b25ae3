"""Refusals that say that nothing was begun: clients may repeat what they never repeat else."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import KV_NOT_BEGUN, Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.postgres import PostgresBackend
from worklets.kvdoor import StoreDoor


async def test_a_postgresql_that_gives_no_connection() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = PostgresBackend(f"postgresql://u@127.0.0.1:{taken.getsockname()[1]}/kv", timeout=5)
        increment = validated("kv_increment", {"p_namespace": "n", "p_key": "k"})
        with pytest.raises(Refusal) as refused:
            await backend.call(Caller.of_worklet(str(uuid.uuid4())), "kv_increment", increment)
        await backend.close()
    assert (refused.value.status, refused.value.code, refused.value.hint) == (503, "PGRST000", KV_NOT_BEGUN)


async def test_a_door_whose_store_is_not_known_yet(tmp_path: Path) -> None:
    app = web.Application()
    app.add_routes(StoreDoor(tmp_path).routes())
    async with TestClient(TestServer(app)) as client:
        answer = await client.post("/rest/v1/rpc/kv_increment", json={})
        assert (answer.status, (await answer.json())["hint"]) == (503, KV_NOT_BEGUN)
