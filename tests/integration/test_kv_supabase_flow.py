"""Flow's own dealings with a Supabase project: worklets' rows, settings, doctor, and the way from inside a worklet."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import asyncpg
import pytest
from kvsupabase import Store, worklet
from supabaselite import SupabaseLite
from waiting import until

from bot.doctor import find
from config.settings import load
from config.slices.kv import KVSettings
from kvstore.aio import AsyncWorkletKVStore
from kvstore.errors import KVPermissionError
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal
from kvstore.gateway.functions import validated
from kvstore.gateway.opening import open_admin
from kvstore.gateway.supabase import SupabaseAdmin, SupabaseBackend
from kvstore.gateway.tokens import SharedSecret
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import control_dir, holder
from worklets.identity import Identity
from worklets.kvregistry import Registry
from worklets.local import LocalRuntime
from worklets.runtime import WorkletSpec

pytest_plugins = ["kvsupabasefixtures"]
pytestmark = [pytest.mark.node, pytest.mark.postgres, pytest.mark.timeout(600)]


async def test_the_administrator_registers_sweeps_and_removes(lite_admin: SupabaseAdmin, lite_store: Store) -> None:
    mine, owner = str(uuid.uuid4()), str(uuid.uuid4())
    await lite_admin.register(mine, owner, "first", max_keys=5, max_bytes=1000)
    async with lite_store(mine) as client:
        await client.set("old", 1, ttl=0.05)
        await client.set("new", 1)
        await until(lambda: _gone(client, "old"))
        assert await lite_admin.sweep() >= 1
        await lite_admin.register(mine, owner, "second", max_keys=7, max_bytes=None)
        stats = await client.get_stats()
        assert (stats.keys, stats.max_keys, stats.max_bytes) == (1, 7, 1000)
        assert {"id": mine, "owner_id": owner, "name": "second"} in await lite_admin.worklets()
        await lite_admin.remove(mine)
        await lite_admin.remove(mine)
        await lite_admin.revoke(mine, time.time())
        with pytest.raises(KVPermissionError):
            await client.get("new")
    assert mine not in [found["id"] for found in await lite_admin.worklets()]


async def _gone(client: AsyncWorkletKVStore, key: str) -> bool:
    return not await client.has(key)


async def test_flow_itself_acts_for_a_worklet_without_a_token_of_its(
    lite: SupabaseLite, lite_admin: SupabaseAdmin
) -> None:
    """Its own are seconds old at most, and still do after the worklet's were revoked."""
    mine = await worklet(lite_admin)
    backend = SupabaseBackend(lite.url, lite.publishable_key, SharedSecret(lite.jwt_secret))
    try:
        await backend.check()
        arguments = validated("kv_set", {"p_namespace": "n", "p_key": "k", "p_value": "[1]"})
        assert json.loads(await backend.call(Caller.of_worklet(mine), "kv_set", arguments))["version"] > 0
    finally:
        await backend.close()


async def test_a_key_or_a_secret_that_is_wrong_is_told(lite: SupabaseLite) -> None:
    good = SharedSecret(lite.jwt_secret)
    for backend, said in (
        (SupabaseBackend(lite.url, "sb_publishable_wrong", good), "SUPABASE_ANON_KEY"),
        (SupabaseBackend(lite.url, lite.publishable_key, SharedSecret("x" * 40)), "public key"),
        (SupabaseBackend(f"{lite.url}/elsewhere", lite.publishable_key, good), "SUPABASE_URL"),
    ):
        with pytest.raises(Refusal, match=said):
            await backend.check()
        await backend.close()
    for key in (lite.publishable_key, "sb_secret_wrong"):
        admin = SupabaseAdmin(lite.url, key)
        with pytest.raises(Refusal, match="SUPABASE_SERVICE_ROLE_KEY"):
            await admin.worklets()
        await admin.close()


# By Flow's settings


def environment(lite: SupabaseLite) -> dict[str, str]:
    """As the documents name them."""
    return {
        "REACT_APP_SUPABASE_URL": lite.url, "REACT_APP_SUPABASE_ANON_KEY": lite.publishable_key,
        "SUPABASE_SERVICE_ROLE_KEY": lite.secret_key, "FLOW_KV_JWT_SECRET": lite.jwt_secret,
    }  # fmt: skip


async def test_flow_doctor_is_content_with_the_project_and_says_what_is_wrong(
    lite: SupabaseLite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    for name, value in environment(lite).items():
        monkeypatch.setenv(name, value)
    assert (await find("key-value store", load())).text == "Supabase, answers and knows our tokens"
    monkeypatch.delenv("SUPABASE_SERVICE_ROLE_KEY")
    assert (await find("key-value store", load())).state == "warn"
    monkeypatch.delenv("FLOW_KV_JWT_SECRET")  # now it is Flow's own key, which nobody registered
    found = await find("key-value store", load())
    assert found.state == "fail"
    assert "flow kv jwks" in found.text + found.advice
    monkeypatch.setenv("REACT_APP_SUPABASE_ANON_KEY", "sb_publishable_of_another_project")
    found = await find("key-value store", load())
    assert found.state == "fail"
    assert "SUPABASE_ANON_KEY" in found.text + found.advice


async def test_a_program_in_a_worklet_keeps_its_data_in_the_project(lite: SupabaseLite, tmp_path: Path) -> None:
    """From its loopback by the door of Flow's gateway process, which never sees the secret key."""
    settings = KVSettings.model_validate({
        "supabase_url": lite.url, "supabase_key": lite.publishable_key, "service_role_key": lite.secret_key,
        "jwt_secret": lite.jwt_secret,
    })  # fmt: skip
    identity, mine = Identity.load(tmp_path), str(uuid.uuid4())
    client = GatewayClient(tmp_path, identity, "http://127.0.0.1:9", None, store=settings, environ=dict(os.environ))
    registry = Registry(lambda: open_admin(settings, tmp_path), max_keys=100, max_bytes=10_000, patience=60)
    runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    try:
        await registry.begin(mine, "U1", "a prototype")
        assert registry.trouble == ""
        say = "from kvstore import *; s = create_worklet_kv_store(); print(s.increment('n'), s.get_stats().max_keys)"
        wait = "while [ ! -s $FLOW_KV_TOKEN_FILE ]; do sleep 0.05; done;"
        command = ("sh", "-c", f'{wait} {sys.executable} -c "{say}" > out 2>&1; mv out said; sleep 600')
        worklet = await runtime.start(
            WorkletSpec("w", command, identity.token("relay", "w"), {"FLOW_WORKLET_ID": mine, "PATH": "/usr/bin:/bin"})
        )
        await client.open("w", worklet.run_dir, mine)
        said = tmp_path / "worklets" / "w" / "work" / "workspace" / "said"
        await until(said.exists, 120)
        assert said.read_text().split() == ["1", "100"]
        pid = holder(tmp_path)
        assert pid is not None
        assert lite.secret_key not in Path(f"/proc/{pid}/environ").read_text()
        assert lite.secret_key not in Path(f"/proc/{pid}/cmdline").read_text()
        log = (control_dir(tmp_path) / "log").read_text()
        assert not [secret for secret in (lite.secret_key, lite.jwt_secret, "Bearer") if secret in log]
        assert await rows(lite, mine) == [("n", "1")]
        await registry.remove(mine)
        assert await rows(lite, mine) == []
    finally:
        await runtime.remove("w", grace=0)
        await runtime.close()
        await registry.aclose()
        await client.aclose()
        if pid := holder(tmp_path):
            os.kill(pid, signal.SIGKILL)
            await until(lambda: holder(tmp_path) is None)


async def rows(lite: SupabaseLite, worklet_id: str) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(lite.dsn)
    try:
        found = await connection.fetch("select key, value from worklet_kv_store where worklet_id = $1", worklet_id)
        return [(row["key"], row["value"]) for row in found]
    finally:
        await connection.close()
