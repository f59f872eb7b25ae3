"""The store's doors with PostgreSQL behind them; a client in many threads while the gateway's process is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from waiting import until

from config.slices.kv import KVSettings
from kvstore.gateway.opening import SIGNING_KEY, open_admin
from kvstore.gateway.tokens import SigningKey
from migrations.kvupgrade import upgrade_kv
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import control_dir, holder
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.kvregistry import Registry
from worklets.local import LocalRuntime
from worklets.runtime import WorkletSpec

W = str(uuid.uuid4())

#: In a session no program runs before the model has answered, and with it the door and the token are there.
WAIT = "while [ ! -s $FLOW_KV_TOKEN_FILE ]; do sleep 0.05; done;"

#: Reads and writes as a prototype would, whose clients are known to it only by their environment.
THREADS = """
import json, sys, threading
from kvstore import create_worklet_kv_store, KVConnectionError
store = create_worklet_kv_store(timeout=30.0)
sure, unsure, faults = [0] * 24, [0] * 24, []
def work(n):
    try:
        for m in range(12):
            store.set(f"{n}/{m}", m)
            try:
                store.increment("hits"); sure[n] += 1
            except KVConnectionError as e:
                if not e.outcome_unknown: raise
                unsure[n] += 1
            assert store.get(f"{n}/{m}") == m
    except BaseException as e: faults.append(repr(e))
threads = [threading.Thread(target=work, args=(n,)) for n in range(24)]
[t.start() for t in threads]; [t.join() for t in threads]
keys = sum(1 for _ in store.scan())
print(json.dumps({"keys": keys, "hits": store.get("hits"), "sure": sum(sure), "unsure": sum(unsure), "faults": faults}))
"""


@pytest.fixture
async def gone(tmp_path: Path) -> AsyncIterator[None]:
    yield
    if pid := holder(tmp_path):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: holder(tmp_path) is None)


@pytest.mark.postgres
@pytest.mark.usefixtures("gone")
async def test_a_worklet_reaches_its_rows_of_postgresql(
    postgres_dsn: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    await upgrade_kv(postgres_dsn)
    settings = KVSettings(dsn=postgres_dsn.replace("://flow@", "://authenticator@"), admin_dsn=postgres_dsn)
    identity = Identity.load(tmp_path)
    client = GatewayClient(tmp_path, identity, "http://127.0.0.1:9", None, store=settings, environ=dict(os.environ))
    registry = Registry(lambda: open_admin(settings, tmp_path), max_keys=100, max_bytes=10_000, patience=20)
    runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    try:
        await registry.begin(W, "U1", "a prototype")
        assert registry.trouble == ""
        say = "from kvstore import *; s = create_worklet_kv_store(); print(s.increment('n'), s.get_stats().max_keys)"
        command = ("sh", "-c", f'{WAIT} {sys.executable} -c "{say}" > out 2>&1; mv out said; sleep 600')
        env = {"FLOW_WORKLET_ID": W, "PATH": "/usr/bin:/bin"}
        worklet = await runtime.start(WorkletSpec("w", command, identity.token("relay", "w"), env))
        await client.open("w", worklet.run_dir, W)
        said = tmp_path / "worklets" / "w" / "work" / "workspace" / "said"
        await until(said.exists, 60)
        assert said.read_text().split() == ["1", "100"]
        connection = await asyncpg.connect(postgres_dsn)
        rows = await connection.fetch("select worklet_id, key, value from worklet_kv_store")
        assert [(str(row[0]), row[1], json.loads(row[2])) for row in rows] == [(W, "n", 1)]
        await registry.remove(W)
        assert await connection.fetchval("select count(*) from worklet_kv_store") == 0
        await connection.close()
        assert postgres_dsn not in (control_dir(tmp_path) / "log").read_text()
    finally:
        await runtime.remove("w", grace=0)
        await runtime.close()
        await registry.aclose()
        await client.aclose()


@pytest.mark.usefixtures("gone")
async def test_threads_of_a_program_go_on_while_the_gateway_is_killed(tmp_path: Path) -> None:
    settings, identity = KVSettings(rate=100_000), Identity.load(tmp_path)
    client = GatewayClient(
        tmp_path, identity, "http://127.0.0.1:9", Credential(), store=settings, environ=dict(os.environ)
    )
    admin = open_admin(settings, tmp_path)
    runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    try:
        await admin.register(W, str(uuid.uuid4()), "a prototype", max_keys=None, max_bytes=None)
        (tmp_path / "threads.py").write_text(THREADS)
        command = ("sh", "-c", f"{WAIT} {sys.executable} {tmp_path}/threads.py > out 2>&1; mv out said; sleep 600")
        env = {"FLOW_WORKLET_ID": W, "PATH": "/usr/bin:/bin"}
        worklet = await runtime.start(WorkletSpec("w", command, identity.token("relay", "w"), env))
        await client.open("w", worklet.run_dir, W)
        said = tmp_path / "worklets" / "w" / "work" / "workspace" / "said"
        store = tmp_path / "kv" / "kv.sqlite"
        await until(store.exists, 60)
        for _ in range(2):
            if pid := holder(tmp_path):
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: holder(tmp_path) not in (None, pid), 60)
            await client.open("w", worklet.run_dir, W)  # it is connected: what follows is asked of the new one
            await asyncio.sleep(0.1)
        await until(said.exists, 120)
        found = json.loads(said.read_text())
        assert found["faults"] == []
        assert found["keys"] == 24 * 12 + 1
        assert found["sure"] <= found["hits"] <= found["sure"] + found["unsure"], "what was answered is there, once"
        print(found)
        # The key of the tokens is one file's, which both processes and the bot used.
        assert SigningKey.load(tmp_path / SIGNING_KEY).kid
    finally:
        await runtime.remove("w", grace=0)
        await runtime.close()
        await admin.close()
        await client.aclose()
