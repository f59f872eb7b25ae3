"""What `flow doctor` and /health say of the key-value store."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures
from waiting import until

from bot.doctor import find
from config.settings import load
from kvstore.gateway.opening import SIGNING_KEY, open_admin
from kvstore.gateway.tokens import SigningKey
from migrations.kvupgrade import upgrade_kv
from worklets.gatewaycontrol import holder
from worklets.kvregistry import owner_of


@pytest.fixture(autouse=True)
def share_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("FLOW_KV", "SUPABASE_", "REACT_APP_SUPABASE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    return tmp_path


async def test_nothing_is_made_by_looking(share_dir: Path) -> None:
    assert (await find("key-value store", load())).text == "SQLite, made at the first start"
    assert (await find("store's key", load())).text == "made at the first start"
    assert not (share_dir / "kv").exists()


async def test_sqlite_and_the_key_that_is_there(share_dir: Path) -> None:
    admin = open_admin(load().kv, share_dir)
    await admin.register(str(uuid.uuid4()), owner_of("U1"), "x", max_keys=None, max_bytes=None)
    await admin.close()
    found = await find("key-value store", load())
    assert (found.state, found.text) == ("ok", "SQLite, answers and knows our tokens")
    key = SigningKey.load(share_dir / SIGNING_KEY)
    assert (await find("store's key", load())).text == f"ES256, {key.kid}"
    (share_dir / SIGNING_KEY).chmod(0o644)
    found = await find("store's key", load())
    assert (found.state, found.advice) == ("warn", f"chmod 600 {share_dir / SIGNING_KEY}")


async def test_a_damaged_key_and_a_damaged_database(share_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (share_dir / "kv").mkdir()
    (share_dir / SIGNING_KEY).write_text("nonsense")
    (share_dir / "kv" / "kv.sqlite").write_text("no database, but long enough to be looked at" * 100)
    found = await find("store's key", load())
    assert (found.state, found.advice[:10]) == ("fail", "Restore it")
    assert (await find("key-value store", load())).state == "fail"


async def test_a_postgres_that_is_away_or_not_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_KV_DSN", "postgresql://authenticator:the-password@127.0.0.1:9/kv")
    found = await find("key-value store", load())
    assert found.state == "fail"
    assert "the-password" not in found.text + found.advice
    assert found.advice


@pytest.mark.postgres
async def test_a_postgres_without_the_schema(
    postgres_dsn: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOW_KV_DSN", postgres_dsn)
    found = await find("key-value store", load())
    assert found.state == "fail"
    assert "flow db upgrade --kv" in found.text + found.advice


@pytest.mark.postgres
async def test_a_login_without_a_password_and_one_that_may_too_much(
    postgres_dsn: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await upgrade_kv(postgres_dsn)
    monkeypatch.setenv("FLOW_KV_ADMIN_DSN", postgres_dsn)
    login = postgres_dsn.replace("://flow@", "://authenticator@")
    monkeypatch.setenv("FLOW_KV_DSN", login)
    assert (await find("key-value store", load())).text == "PostgreSQL, answers and knows our tokens"
    monkeypatch.setenv("FLOW_KV_DSN", postgres_dsn)
    found = await find("key-value store", load())
    assert (found.state, found.text) == ("warn", "PostgreSQL answers; of FLOW_KV_DSN, its role flow is a superuser")
    async with _asking_passwords(postgres_dsn):
        monkeypatch.setenv("FLOW_KV_DSN", login.replace("@", ":the-password@", 1))
        found = await find("key-value store", load())
        assert found.state == "fail"
        assert "Wrong or no password for the role authenticator" in found.text
        assert "alter role authenticator password '…'" in found.text
        assert "the-password" not in found.text + found.advice


@asynccontextmanager
async def _asking_passwords(dsn: str) -> AsyncIterator[None]:
    """Whoever logs in to this database as authenticator needs one, as in a cluster that somebody set up."""
    connection = await asyncpg.connect(dsn)
    name = dsn.rpartition("/")[2]
    try:
        file = Path(await connection.fetchval("show hba_file"))
        before = file.read_text()
        file.write_text(f"host {name} authenticator 127.0.0.1/32 scram-sha-256\n{before}")
        await connection.execute("select pg_reload_conf()")
        try:
            await until(lambda: _is_refused(dsn.replace("://flow@", "://authenticator:wrong@")))
            yield
        finally:
            file.write_text(before)
            await connection.execute("select pg_reload_conf()")
    finally:
        await connection.close()


async def _is_refused(dsn: str) -> bool:
    try:
        await (await asyncpg.connect(dsn)).close()
    except asyncpg.InvalidPasswordError:
        return True
    return False


async def test_a_supabase_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_ANON_KEY", "sb_publishable_x")
    found = await find("key-value store", load())
    assert found.state == "fail"
    assert found.text.startswith("Supabase: ")


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve(share_dir: Path) -> AsyncIterator[Serve]:
    """Starts `flow serve` without Slack and gives its address."""
    started: list[asyncio.subprocess.Process] = []

    async def serve(**settings: str) -> str:
        env = {
            **os.environ, "SLACK_BOT_ENABLED": "false", "FLOW_RUNTIME": "local", "FLOW_HTTP_PORT": "0",
            "FLOW_POOL_SIZE": "0", "ANTHROPIC_API_KEY": "sk-ant-x", **settings,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", "serve", env=env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        said = ""
        while not (ready := re.search(r"Flow is ready: (\S+)/health", said)):
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line, said
            said += line.decode()
        return ready[1]

    yield serve
    for process in started:
        process.terminate()
        await process.communicate()
    if pid := holder(share_dir):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: holder(share_dir) is None)


async def test_the_server_serves_the_store_to_people_and_says_how_it_is(serve: Serve, share_dir: Path) -> None:
    url = await serve()
    worklet_id = str(uuid.uuid4())
    admin = open_admin(load().kv, share_dir)
    await admin.register(worklet_id, owner_of("U1"), "x", max_keys=None, max_bytes=None)
    await admin.close()
    key = SigningKey.load(share_dir / SIGNING_KEY)
    async with aiohttp.ClientSession() as http:

        async def stats(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            body = {"p_worklet_id": worklet_id}
            async with http.post(f"{url}/rest/v1/rpc/kv_stats", headers=headers, json=body) as response:
                return response.status

        assert await stats(key.mint_person(owner_of("U1"))) == 200
        assert await stats(key.mint_person(owner_of("U2"))) == 403
        assert await stats(key.mint_worklet(worklet_id)) == 200
        assert await stats("nonsense") == 401
        async with http.get(f"{url}/health") as response:
            assert (await response.json())["kv"] == {"state": "ok", "kind": "sqlite"}


async def test_a_store_that_is_away_is_said_and_stops_nothing_else(serve: Serve) -> None:
    url = await serve(FLOW_KV_DSN="postgresql://authenticator:the-password@127.0.0.1:9/kv")
    async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as response:
        health = await response.json()
        assert (response.status, health["status"]) == (503, "degraded")
        assert health["kv"]["state"] == "down"
        assert "the-password" not in str(health)
        assert health["database"]["state"] == "ok"
