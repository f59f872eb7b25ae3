"""The key-value store at worklets' doors: a real gateway process, SQLite behind it, worklets that ask by HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from waiting import until

from config.masking import Masker
from config.slices.kv import KVSettings
from kvstore.gateway.opening import SIGNING_KEY, open_admin
from kvstore.gateway.tokens import SigningKey
from worklets import rundir
from worklets.gateway import ModelGateway
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import control_dir, holder, version
from worklets.gatewaydoor import Door, Traffic
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.kvdoor import StoreDoor, _sent, told
from worklets.kvtokens import TokenFiles
from worklets.sockets import short_path

W, V = str(uuid.uuid4()), str(uuid.uuid4())
OWNER = str(uuid.uuid4())


@pytest.fixture
async def share_dir(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    if pid := holder(tmp_path):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists() or holder(tmp_path) is None)


@pytest.fixture
async def bot(share_dir: Path) -> AsyncIterator[Callable[..., GatewayClient]]:
    made: list[GatewayClient] = []

    def bot(settings: KVSettings | None = None) -> GatewayClient:
        made.append(
            GatewayClient(
                share_dir, Identity.load(share_dir), "http://127.0.0.1:9", Credential(api_key="sk-ant-x"),
                store=settings or KVSettings(), environ=dict(os.environ),
            )
        )  # fmt: skip
        return made[-1]

    yield bot
    for client in made:
        await client.aclose()


Bot = Callable[..., GatewayClient]


def run_dir(share_dir: Path, name: str) -> Path:
    return rundir.prepare(share_dir, name, None)


async def registered(share_dir: Path, *worklets: str) -> None:
    admin = open_admin(KVSettings(), share_dir)
    for worklet_id in worklets:
        await admin.register(worklet_id, OWNER, "a worklet", max_keys=None, max_bytes=None)
    await admin.close()


def token_of(share_dir: Path, name: str) -> str:
    return (share_dir / "worklets" / name / "run" / "kv.token").read_text()


async def ask(share_dir: Path, name: str, function: str, token: str | None = None, **arguments: Any) -> tuple[int, Any]:
    """What the worklet's client gets; it tries until a gateway listens, as the relay does."""
    headers = {"Authorization": f"Bearer {token if token is not None else token_of(share_dir, name)}"}

    async def answer() -> tuple[int, Any] | None:
        with short_path(share_dir / "worklets" / name / "run", "gateway.sock") as path:
            async with aiohttp.ClientSession(
                "http://localhost", connector=aiohttp.UnixConnector(path), headers=headers
            ) as http:
                try:
                    async with http.post(f"/rest/v1/rpc/{function}", json=arguments) as response:
                        return response.status, await response.json()
                except aiohttp.ClientConnectionError:
                    return None

    found: tuple[int, Any] = await until(answer, timeout=30)
    return found


async def put(share_dir: Path, name: str, value: Any, **more: Any) -> tuple[int, Any]:
    return await ask(share_dir, name, "kv_set", p_namespace="default", p_key="k", p_value=json.dumps(value), **more)


async def value(share_dir: Path, name: str) -> Any:
    status, entry = await ask(share_dir, name, "kv_get", p_namespace="default", p_key="k")
    assert status == 200, entry
    return entry and entry["value"]


async def test_a_worklet_keeps_its_data_and_no_other_reaches_it(bot: Bot, share_dir: Path) -> None:
    await registered(share_dir, W, V)
    client = bot()
    await client.open("w", run_dir(share_dir, "w"), W)
    await client.open("v", run_dir(share_dir, "v"), V)
    assert (await put(share_dir, "w", "mine"))[0] == 200
    assert await value(share_dir, "w") == "mine"
    assert await value(share_dir, "v") is None
    # With the other's token at one's own door, at the other's door with one's own, by naming the other.
    key = SigningKey.load(share_dir / SIGNING_KEY)
    for name, token, named in (
        ("v", token_of(share_dir, "w"), None),
        ("w", token_of(share_dir, "v"), None),
        ("v", None, W),
        ("v", key.mint_person(OWNER), W),
    ):
        more = {"p_worklet_id": named} if named else {}
        status, refused = await ask(share_dir, name, "kv_get", token, p_namespace="default", p_key="k", **more)
        assert (status, refused["code"]) == (403, "42501"), (name, named)
    assert (await ask(share_dir, "w", "kv_stats", ""))[0] == 401
    assert (await client.state())["running"] == 0


async def test_it_goes_on_without_the_bot_and_after_a_kill(bot: Bot, share_dir: Path) -> None:
    await registered(share_dir, W)
    first = bot()
    await first.open("w", run_dir(share_dir, "w"), W)
    await first.aclose()
    assert (await put(share_dir, "w", 1))[0] == 200
    second = bot()
    await second.open("w", run_dir(share_dir, "w"), W)
    killed = holder(share_dir)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert await value(share_dir, "w") == 1, "the answered write is there"
    assert holder(share_dir) != killed


async def test_other_settings_reach_a_running_process(bot: Bot, share_dir: Path) -> None:
    await registered(share_dir, W)
    first = bot()
    await first.open("w", run_dir(share_dir, "w"), W)
    assert (await put(share_dir, "w", 1))[0] == 200
    pid, before = holder(share_dir), token_of(share_dir, "w")
    await first.aclose()
    second = bot(KVSettings(rate=1, jwt_secret="a secret of some project, long enough"))
    await second.open("w", run_dir(share_dir, "w"), W)
    assert holder(share_dir) == pid
    await until(lambda: token_of(share_dir, "w") != before)
    answers = [(await ask(share_dir, "w", "kv_stats"))[0] for _ in range(6)]
    assert 200 in answers
    assert 429 in answers
    # A database that is not there is said, and Claude's way to the model is not touched by it.
    await second.aclose()
    third = bot(KVSettings(dsn="postgresql://authenticator:the-password@127.0.0.1:9/kv"))
    await third.open("w", run_dir(share_dir, "w"), W)
    status, refused = await ask(share_dir, "w", "kv_stats")
    assert (status, refused["code"]) == (503, "PGRST000")
    assert "the-password" not in json.dumps(refused) + (control_dir(share_dir) / "log").read_text()
    assert holder(share_dir) == pid


async def test_nothing_secret_is_told_but_over_the_control_socket(bot: Bot, share_dir: Path) -> None:
    settings = KVSettings(
        supabase_url="https://x.example", supabase_key="sb_publishable_x", service_role_key="sb_secret_never",
        jwt_secret="a secret of some project, long enough", admin_dsn="postgresql://owner:never@127.0.0.1/x",
    )  # fmt: skip
    assert "never" not in json.dumps(told(settings))
    client = bot(settings)
    await client.open("w", run_dir(share_dir, "w"), W)
    pid = holder(share_dir)
    outside = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    outside += b"".join(path.read_bytes() for path in share_dir.rglob("*") if path.is_file())
    assert b"sb_publishable" not in outside
    assert b"a secret of some project" not in outside


async def test_a_door_opened_by_an_older_flow_gets_its_store_from_the_next_bot(bot: Bot, share_dir: Path) -> None:
    await registered(share_dir, W)
    client = bot()
    await client.open("w", run_dir(share_dir, "w"))
    key = SigningKey.load(share_dir / SIGNING_KEY)
    status, refused = await ask(share_dir, "w", "kv_stats", key.mint_worklet(W))
    assert (status, refused["code"]) == (503, "PGRST000")
    await client.open("w", run_dir(share_dir, "w"), W)
    assert (await ask(share_dir, "w", "kv_stats"))[0] == 200
    await client.open("w", run_dir(share_dir, "w"))
    assert (await ask(share_dir, "w", "kv_stats"))[0] == 200, "what is known is not forgotten"


async def test_the_token_goes_with_the_door(bot: Bot, share_dir: Path) -> None:
    client = bot()
    run = run_dir(share_dir, "w")
    await client.open("w", run, W)
    assert stat.S_IMODE((run / "kv.token").stat().st_mode) == 0o600
    await client.close("w")
    assert not (run / "kv.token").exists()
    assert not [path for path in run.parent.iterdir() if path.name.startswith(".")], "no draft stays"


async def test_a_damaged_key_is_said_and_leaves_the_model_alone(bot: Bot, share_dir: Path) -> None:
    (share_dir / "kv").mkdir()
    (share_dir / SIGNING_KEY).write_text("nonsense")
    client = bot()
    await client.open("w", run_dir(share_dir, "w"), W)
    status, refused = await ask(share_dir, "w", "kv_stats", "x")
    assert status == 503
    assert "does not hold the key-value store's signing key" in refused["message"]
    (share_dir / SIGNING_KEY).unlink()
    await until(lambda: _served(share_dir), timeout=30)


async def _served(share_dir: Path) -> bool:
    await registered(share_dir, W)
    key = SigningKey.load(share_dir / SIGNING_KEY)
    return (await ask(share_dir, "w", "kv_stats", key.mint_worklet(W)))[0] == 200


def test_the_version_covers_the_store(tmp_path: Path) -> None:
    import shutil
    import subprocess
    import sys

    for package in ("config", "kvstore", "worklets"):
        shutil.copytree(
            Path(__file__).parents[3] / package, tmp_path / package,
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )  # fmt: skip

    def other() -> str:
        say = "from worklets.gatewaycontrol import version; print(version())"
        done = subprocess.run([sys.executable, "-c", say], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert other() == version()
    with (tmp_path / "kvstore" / "gateway" / "app.py").open("a") as source:
        source.write("# another version\n")
    assert other() != version()


# What a worklet may hold open


async def _connection(path: str, target: str) -> tuple[bytes, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        return (await reader.readline()).strip(), writer
    except ConnectionError:
        return b"", writer


async def test_many_connections_to_the_store_leave_claude_its_own(tmp_path: Path) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="well")

    door = Door("w", tmp_path, answer, Traffic(), most=2, most_to_store=3, seconds=60)
    await door.listen()
    held: list[asyncio.StreamWriter] = []
    with short_path(tmp_path, "gateway.sock") as path:
        said = []
        for _ in range(4):
            line, writer = await _connection(path, "/rest/v1/rpc/kv_get")
            said.append(line)
            held.append(writer)
        assert [line.split()[1] for line in said] == [b"200", b"200", b"200", b"429"], "its client tries again"
        idle = [(await asyncio.open_unix_connection(path))[1] for _ in range(9)]
        for _ in range(2):
            line, writer = await _connection(path, "/v1/messages")
            assert line.split()[1] == b"200"
            held.append(writer)
        line, writer = await _connection(path, "/v1/messages")
        assert line == b""
        for one in (*held, *idle, writer):
            one.close()
    await door.close()


async def test_requests_to_the_store_that_never_end_leave_claude_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(text="well")

    door = Door("w", tmp_path, answer, Traffic(), most=8, most_to_store=8, seconds=60)
    await door.listen()
    held: list[asyncio.StreamWriter] = []
    with short_path(tmp_path, "gateway.sock") as path:
        for _ in range(100):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"POST /rest/v1/rpc/kv_set HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            held.append(writer)
            if len(held) > 8:
                assert b"429" in await reader.readline()
        for _ in range(8):
            line, writer = await _connection(path, "/v1/messages")
            assert line.split()[1] == b"200"
            held.append(writer)
    for writer in held:
        writer.close()
    await door.close()
    assert capsys.readouterr().out.count("too many connections") == 1


async def test_the_stores_traffic_is_not_the_models(tmp_path: Path) -> None:
    identity, store = Identity.load(tmp_path), StoreDoor(tmp_path)
    store.configure(told(KVSettings()))
    await registered(tmp_path, W)
    gateway = ModelGateway("http://127.0.0.1:9", Credential(api_key="x"), identity, store)
    await gateway.open("w", run_dir(tmp_path, "w"), W)
    before, quiet_since = gateway.last_request, store.last_request
    assert (await put(tmp_path, "w", "x" * 100_000))[0] == 200, "a body over aiohttp's own limit too"
    assert (await put(tmp_path, "w", "x" * 1_048_000))[0] == 200
    assert gateway.traffic("w") == Traffic()
    assert gateway.last_request == before
    assert store.last_request > quiet_since
    await gateway.aclose()


async def test_large_bodies_wait_for_their_place(tmp_path: Path) -> None:
    """So many that a hostile worklet could fill the memory of the process which serves them all."""
    identity, store = Identity.load(tmp_path), StoreDoor(tmp_path)
    store.configure(told(KVSettings()))
    await registered(tmp_path, W)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, store)
    await gateway.open("w", run_dir(tmp_path, "w"), W)
    token = token_of(tmp_path, "w")
    with short_path(tmp_path / "worklets" / "w" / "run", "gateway.sock") as path:
        hung = []
        for _ in range(6):
            reader, writer = await asyncio.open_unix_connection(path)
            head = f"POST /rest/v1/rpc/kv_set HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
            hung.append((reader, writer))
        await until(lambda: store.running == 6)
        assert (await put(tmp_path, "w", 1))[0] == 200, "small ones pass"
        for _, writer in hung:
            writer.close()
    await until(lambda: store.running == 0)
    await gateway.aclose()


async def test_large_answers_wait_for_their_place_until_they_are_read(tmp_path: Path) -> None:
    identity, store = Identity.load(tmp_path), StoreDoor(tmp_path)
    store.configure(told(KVSettings()))
    await registered(tmp_path, W)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, store)
    await gateway.open("w", run_dir(tmp_path, "w"), W)
    names = [str(n) for n in range(8)]
    for key in names:
        given = {"p_namespace": "default", "p_key": key, "p_value": json.dumps("x" * 1_000_000)}
        assert (await ask(tmp_path, "w", "kv_set", **given))[0] == 200
    body = json.dumps({"p_namespace": "default", "p_keys": names})
    head = (
        f"POST /rest/v1/rpc/kv_mget HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(tmp_path, 'w')}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with short_path(tmp_path / "worklets" / "w" / "run", "gateway.sock") as path:
        unread = []
        for n in range(20):  # each of eight megabytes, of 128 MiB
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write((head if n % 2 else head.replace("kv_mget", "kv_mge%74")).encode() + body.encode())
            unread.append((reader, writer))
        begun = [reader for reader, _ in unread[:16]]
        for reader in begun:
            assert b"200" in await reader.readline()
        await until(lambda: store.running == 20)
        assert not any(reader._buffer for reader, _ in unread[16:])  # type: ignore[attr-defined]
        assert (await put(tmp_path, "w", 1))[0] == 200, "others pass"
        for reader, writer in unread:
            assert len(await reader.read()) > 8_000_000
            writer.close()
    await until(lambda: store.running == 0)
    await gateway.aclose()


async def test_an_answer_that_is_not_read_is_cut_off(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await _sent(request, web.Response(body=b"x" * 4_000_000), -7.5)
        finally:
            ended.set()

    door = Door("w", tmp_path, answer, Traffic())
    await door.listen()
    with short_path(tmp_path, "gateway.sock") as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /rest/v1/rpc/kv_get HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            await ended.wait()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(4_000_000)
        writer.close()
    await door.close()


async def test_who_waits_for_changes_is_answered_when_the_process_ends(tmp_path: Path) -> None:
    identity, store = Identity.load(tmp_path), StoreDoor(tmp_path)
    store.configure(told(KVSettings()))
    await registered(tmp_path, W)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, store)
    await gateway.open("w", run_dir(tmp_path, "w"), W)
    _, now = await ask(tmp_path, "w", "kv_watch")
    waiting = asyncio.create_task(ask(tmp_path, "w", "kv_watch", p_cursor=now["cursor"], p_wait=25))
    await until(lambda: store.running == 1)
    async with asyncio.timeout(15):
        await gateway.finish()
        assert (await waiting)[1]["changes"] == []


async def test_another_key_reaches_worklets_that_have_not_asked_yet(tmp_path: Path) -> None:
    store = StoreDoor(tmp_path)
    store.configure(told(KVSettings()))
    await store.tokens.keep(run_dir(tmp_path, "w"), W)
    before = token_of(tmp_path, "w")
    store.configure(told(KVSettings(jwt_secret="a secret of some project, long enough")))
    await until(lambda: token_of(tmp_path, "w") != before)
    await store.aclose()


async def test_a_key_told_while_the_last_one_is_loaded_wins(tmp_path: Path) -> None:
    class Told(Mapping[str, Any]):
        """Settings during whose reading others are told."""

        read = False

        def __getitem__(self, name: str) -> Any:
            return told(KVSettings())[name]

        def __iter__(self) -> Iterator[str]:
            if not self.read:
                self.read, said = True, threading.Event()
                loop.call_soon_threadsafe(store.configure, other)
                loop.call_soon_threadsafe(said.set)
                assert said.wait(30)
            return iter(told(KVSettings()))

        def __len__(self) -> int:
            return len(told(KVSettings()))

    loop, store = asyncio.get_running_loop(), StoreDoor(tmp_path)
    other = told(KVSettings(jwt_secret="a secret of some project, long enough"))
    store.configure(Told())
    await store.tokens.keep(run_dir(tmp_path, "w"), W)
    await store.tokens.renew()
    header = token_of(tmp_path, "w").split(".")[0]
    assert b"HS256" in base64.urlsafe_b64decode(header + "==")
    await store.aclose()


async def test_a_gateway_that_ends_leaves_the_token_files_to_its_successor(tmp_path: Path) -> None:
    looked = asyncio.Event()
    now = 1000.0

    def clock() -> float:
        looked.set()
        return now

    store = StoreDoor(tmp_path)
    store.tokens = TokenFiles(store._mint, look=0.01, clock=clock)
    store.configure(told(KVSettings()))
    gateway = ModelGateway("http://127.0.0.1:9", None, Identity.load(tmp_path), store)
    await gateway.open("w", run_dir(tmp_path, "w"), W)
    token = token_of(tmp_path, "w")
    with short_path(tmp_path / "worklets" / "w" / "run", "gateway.sock") as path:
        _, writer = await asyncio.open_unix_connection(path)
    head = f"POST /rest/v1/rpc/kv_set HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\n".encode())
    await until(lambda: store.running == 1)
    finishing = asyncio.create_task(gateway.finish())
    await until(lambda: gateway._doors["w"]._finishing)
    written = token_of(tmp_path, "w")
    now += 301
    looked.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(looked.wait(), 0.3)
    assert token_of(tmp_path, "w") == written
    writer.close()
    await finishing


def test_a_token_that_claude_prints_is_masked(tmp_path: Path) -> None:
    token = SigningKey.load(tmp_path / SIGNING_KEY).mint_worklet(W)
    assert token.split(".")[2] not in Masker([]).text(f"FLOW_KV_TOKEN={token}\n{token}")
    assert token not in Masker([]).text(json.dumps({"a": token}))
    pem = (tmp_path / SIGNING_KEY).read_text()
    assert pem.splitlines()[1] not in Masker([]).text(pem)
