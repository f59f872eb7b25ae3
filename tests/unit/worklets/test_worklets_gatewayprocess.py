"""The gateway's process and the bots that come and go: real processes, a model in between that streams as told."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from waiting import until

from config.slices.egress import EgressSettings
from worklets import gatewayprocess
from worklets.egressasking import WANTED
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import LOG, LONGEST, PROGRAM, SOCKET, control_dir, dismiss, holder, version
from worklets.gatewaydoor import Door, Traffic
from worklets.gatewaymodel import Credential
from worklets.gatewayprocess import GatewayProcess
from worklets.identity import Identity
from worklets.sockets import listen, short_path

ROOT = Path(__file__).parents[3]
KEY = "sk-ant-known-to-the-process-only"
PROCESS = (sys.executable, "-m", PROGRAM)


class Model:
    """Answers "first", then "last" as soon as `go_on` is set, or `body`. `keys` are those that it was asked with."""

    def __init__(self) -> None:
        self.url = ""
        self.go_on = asyncio.Event()
        self.keys: list[str] = []
        self.body = b""  # the answer, in one piece and as JSON

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.keys.append(request.headers["x-api-key"])
        if self.body:
            return web.Response(body=self.body, content_type="application/json")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first ")
        await self.go_on.wait()
        await response.write(b"last")
        return response


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = Model()
    app = web.Application()
    app.router.add_post("/v1/messages", model.handle)
    async with TestServer(app) as server:
        model.url = str(server.make_url("/"))
        yield model
        model.go_on.set()


@pytest.fixture
async def share_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """Deeper than a socket's path may be long."""
    share_dir = tmp_path.joinpath(*["deep" * 10] * 3, "data")
    share_dir.mkdir(parents=True)
    yield share_dir
    if pid := holder(share_dir):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not _runs(pid))


@pytest.fixture
async def bot(share_dir: Path, model: Model) -> AsyncIterator[Callable[..., GatewayClient]]:
    """Makes a bot's client; all are closed at the end."""
    made: list[GatewayClient] = []

    def bot(key: str = KEY, *, command: tuple[str, ...] = PROCESS, **options: Any) -> GatewayClient:
        identity = Identity.load(share_dir)
        credential = Credential(api_key=key)
        client = GatewayClient(
            share_dir, identity, model.url, credential, environ=dict(os.environ), command=command, **options
        )
        made.append(client)
        return client

    yield bot
    for client in made:
        await client.aclose()


Bot = Callable[..., GatewayClient]


def run_dir(share_dir: Path, name: str = "w") -> Path:
    path = share_dir / "worklets" / name / "run"
    path.mkdir(parents=True, exist_ok=True)
    return path


@asynccontextmanager
async def asking(share_dir: Path, name: str = "w") -> AsyncIterator[aiohttp.ClientResponse]:
    """A request of the worklet, its answer begun; it tries until a gateway listens, as the relay does."""
    token = Identity.load(share_dir).token("gateway", name)
    await until(lambda: _connects(run_dir(share_dir, name)))
    with short_path(run_dir(share_dir, name), "gateway.sock") as path:
        async with (
            aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path)) as http,
            http.post("/v1/messages", json={"prompt": "a secret of Maya's"}, headers={"x-api-key": token}) as answer,
        ):
            assert await answer.content.readexactly(6) == b"first "
            yield answer


async def status(share_dir: Path, name: str = "w") -> int:
    """Of an answer that the worklet reads to its end."""
    headers = {"x-api-key": Identity.load(share_dir).token("gateway", name)}
    with short_path(run_dir(share_dir, name), "gateway.sock") as path:
        async with (
            aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path), headers=headers) as http,
            http.post("/v1/messages", json={}) as answer,
        ):
            await answer.read()
            return answer.status


async def pid_of(client: GatewayClient) -> int:
    async def pid() -> int:
        return int((await client.state()).get("pid", 0))

    return int(await until(pid, timeout=30))


async def short_lived(bot: Bot, *options: str, **more: Any) -> tuple[GatewayClient, int]:
    """A bot and its process, which soon ends without one: on a busy machine even before its bot has come."""
    for _ in range(50):
        client = bot(command=(*PROCESS, *options), **more)
        if (pid := await pid_of(client)) != os.getpid():
            return client, pid
        await client.aclose()
    raise AssertionError("no process lives until its bot has come")


async def doors_of(client: GatewayClient) -> int:
    """Of the process, as soon as it serves: a busy machine may take a while to start one."""

    async def doors() -> str:
        return str((await client.state()).get("doors", ""))

    return int(await until(doors))


def _connects(directory: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe, short_path(directory, "gateway.sock") as path:
            probe.connect(path)
    except OSError:
        return False
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_an_answer_goes_on_without_the_bot_and_the_next_bot_does_not_disturb_it(
    bot: Bot, share_dir: Path, model: Model
) -> None:
    first = bot()
    await first.open("w", run_dir(share_dir))
    pid = await pid_of(first)
    async with asking(share_dir) as answer:
        await first.aclose()
        second = bot()
        await second.open("w", run_dir(share_dir))
        assert await pid_of(second) == pid == holder(share_dir)
        assert (await second.state())["running"] == 1
        model.go_on.set()
        assert await answer.content.read() == b"last"
    assert len(model.keys) == 1


async def test_a_killed_process_is_started_again_with_its_doors_and_its_credential(
    bot: Bot, share_dir: Path, model: Model
) -> None:
    model.go_on.set()
    client = bot()
    for name in ("v", "w"):
        await client.open(name, run_dir(share_dir, name))
    killed = await pid_of(client)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: holder(share_dir) not in (None, killed))
    for name in ("v", "w"):
        async with asking(share_dir, name):
            pass
    assert model.keys == [KEY, KEY]
    assert await doors_of(client) == 2


async def test_a_process_that_hangs_is_replaced(bot: Bot, share_dir: Path, model: Model) -> None:
    client = bot(beat=0.1, patience=2.5)
    await client.open("w", run_dir(share_dir))
    hung = await pid_of(client)
    os.kill(hung, signal.SIGSTOP)
    await until(lambda: not _runs(hung))
    client._launcher._patience = 60.0  # with its successor, which a busy machine may keep from answering for a while
    await until(lambda: holder(share_dir) not in (None, hung))
    async with asking(share_dir):
        assert not _runs(hung)


async def test_a_process_that_hung_only_for_an_order_is_asked_again(bot: Bot, share_dir: Path) -> None:
    """The next heartbeat, an hour later, is answered: nobody but the order has seen it."""
    hung = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            asked = json.loads(line)
            if asked.get("name") == "v" and not hung.is_set():
                hung.set()
                continue
            state = {"version": version(), "pid": os.getpid(), "doors": {}, "running": 0, "egress": {}}
            writer.write(json.dumps({"id": asked["id"], **state}).encode() + b"\n")
        writer.close()

    control_dir(share_dir).mkdir(mode=0o700)
    async with await asyncio.start_unix_server(answer, sock=listen(control_dir(share_dir), SOCKET)):
        client = bot(beat=3600.0, patience=5.0)
        await client.open("w", run_dir(share_dir))
        async with asyncio.timeout(60):
            await client.open("v", run_dir(share_dir, "v"))
        assert hung.is_set()
        assert (await client.state())["state"] == "ok"
        await client.aclose()


async def test_a_new_credential_counts_for_new_requests(bot: Bot, share_dir: Path, model: Model) -> None:
    first = bot()
    await first.open("w", run_dir(share_dir))
    async with asking(share_dir) as before:
        await first.aclose()
        second = bot("sk-ant-another")
        await second.open("w", run_dir(share_dir))
        async with asking(share_dir) as after:
            model.go_on.set()
            assert await before.content.read() == await after.content.read() == b"last"
    assert model.keys == [KEY, "sk-ant-another"]


async def test_a_process_of_another_version_hands_over(bot: Bot, share_dir: Path, model: Model, tmp_path: Path) -> None:
    for package in ("config", "kvstore", "worklets"):
        shutil.copytree(ROOT / package, tmp_path / "older" / package)
    with (tmp_path / "older" / "worklets" / "gatewaydoor.py").open("a") as source:
        source.write("# an older version\n")
    there = f'cd "{tmp_path / "older"}" && exec "$0" -m {PROGRAM} "$@"'
    old = bot(command=("/bin/sh", "-c", there, sys.executable))
    old_pid, own_pid = await _started_by_another(old, share_dir), os.getpid()
    assert old_pid != own_pid
    async with asking(share_dir) as begun:
        new = bot()
        new_pid = await pid_of(new)
        assert new_pid == holder(share_dir) != old_pid
        async with asking(share_dir) as answer:  # the door came along, though nobody asked for it
            model.go_on.set()
            assert await answer.content.read() == b"last"
        assert await begun.content.read() == b"last"
    await until(lambda: not _runs(old_pid))
    assert await pid_of(new) == new_pid
    assert await status(share_dir, "spent") == 403, "what it may spend came along"


async def _started_by_another(client: GatewayClient, share_dir: Path) -> int:
    """The process that an older Flow left behind, with a door. It has to be told as that Flow would have told it."""
    client._met = True  # an older Flow knows its own version, which the code here cannot have
    await client.open("w", run_dir(share_dir))
    await client.open("spent", run_dir(share_dir, "spent"))
    await client.limit("spent", 0.0, 1.0, "turn")
    pid = await pid_of(client)
    await client.aclose()
    return pid


async def test_two_bots_at_once_share_one_process(bot: Bot, share_dir: Path, model: Model) -> None:
    one, other = bot(), bot()
    await asyncio.gather(one.open("v", run_dir(share_dir, "v")), other.open("w", run_dir(share_dir, "w")))
    assert await pid_of(one) == await pid_of(other)
    assert (await one.state())["doors"] == 2
    await one.aclose()
    async with asking(share_dir, "v"):
        pass


async def test_a_closed_door_stays_closed(bot: Bot, share_dir: Path) -> None:
    client = bot()
    await client.open("w", run_dir(share_dir))
    await client.close("w")
    await client.close("w")
    assert not _connects(run_dir(share_dir))
    killed = await pid_of(client)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: holder(share_dir) not in (None, killed))
    assert await doors_of(client) == 0


async def test_closing_where_nothing_runs_starts_nothing(bot: Bot, share_dir: Path) -> None:
    await bot().close("w")
    assert not control_dir(share_dir).exists()


async def test_a_directory_that_is_not_there_is_an_error_of_that_door_only(bot: Bot, share_dir: Path) -> None:
    client = bot()
    with pytest.raises(FileNotFoundError):
        await client.open("w", share_dir / "nowhere")
    await client.open("w", run_dir(share_dir))


async def test_it_is_nobodys_child_and_hears_no_ctrl_c(bot: Bot, share_dir: Path) -> None:
    pid = await pid_of(bot())
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] != str(os.getpid())


async def test_the_credential_is_in_its_memory_only(
    bot: Bot, share_dir: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    model.go_on.set()
    client = bot()
    await client.open("w", run_dir(share_dir))
    async with asking(share_dir):
        pass
    pid = await pid_of(client)
    outside = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    outside += b"".join(path.read_bytes() for path in share_dir.rglob("*") if path.is_file())
    assert b"the model gateway is ready" in outside
    assert KEY.encode() not in outside
    assert b"Maya" not in outside
    assert control_dir(share_dir).stat().st_mode & 0o777 == 0o700
    assert (control_dir(share_dir) / SOCKET).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", [("/bin/false",), ("/no/such/program",), (sys.executable, "-c", "raise OSError()")])
async def test_where_no_process_can_be_started_the_bot_does_it_itself(
    bot: Bot, share_dir: Path, model: Model, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    model.go_on.set()
    client = bot(command=command)
    await client.open("w", run_dir(share_dir))
    async with asking(share_dir):
        assert await pid_of(client) == os.getpid()
    await client.close("w")
    assert not _connects(run_dir(share_dir))
    out = capsys.readouterr()
    assert (out.out + out.err).count("runs in this process") == 1


async def test_a_process_that_dies_again_and_again_is_given_up(
    bot: Bot, share_dir: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    model.go_on.set()
    client = bot()
    await client.open("w", run_dir(share_dir))
    for _ in range(5):
        killed = await until(lambda: holder(share_dir), timeout=30)
        await client.open("w", run_dir(share_dir))  # it is connected
        os.kill(killed, signal.SIGKILL)
        await until(lambda pid=killed: not _runs(pid))  # it lets go of the lock before its sockets
    async with asking(share_dir):
        assert await pid_of(client) == os.getpid()
    out = capsys.readouterr()
    assert "lost 5 times in a row" in out.out + out.err


# The end of it


async def test_sigterm_lets_a_request_end(bot: Bot, share_dir: Path, model: Model) -> None:
    client = bot()
    await client.open("w", run_dir(share_dir))
    async with asking(share_dir) as answer:
        pid = await pid_of(client)
        os.kill(pid, signal.SIGTERM)
        await until(lambda: holder(share_dir) != pid)
        model.go_on.set()
        assert await answer.content.read() == b"last"
    await until(lambda: not _runs(pid))


@pytest.mark.parametrize("hung", [False, True])
async def test_it_can_be_dismissed(bot: Bot, share_dir: Path, hung: bool) -> None:
    client, pid = await short_lived(bot, "--empty", "300")
    await client.aclose()
    if hung:
        os.kill(pid, signal.SIGSTOP)
    await dismiss(share_dir, patience=0.3 if hung else 60)
    assert holder(share_dir) is None
    await until(lambda: not _runs(pid))
    await dismiss(share_dir)  # there is none


async def test_it_ends_when_no_bot_and_no_worklet_is_left(bot: Bot, share_dir: Path) -> None:
    client, pid = await short_lived(bot, "--empty", "0.3")
    await client.open("gone", run_dir(share_dir, "gone"))  # nothing listens there as a relay would
    await client.open("closed", run_dir(share_dir, "closed"))
    await client.close("closed")
    await asyncio.sleep(1)  # a bot is there: it stays
    assert _runs(pid)
    await client.aclose()
    await until(lambda: not _runs(pid))
    assert "its worklet has ended" in (control_dir(share_dir) / LOG).read_text()
    assert not (control_dir(share_dir) / SOCKET).exists()


async def test_a_door_that_a_bot_opens_while_worklets_are_looked_for_stays(
    share_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worklet that is about to start has its door before its relay listens."""
    process = GatewayProcess(share_dir, -1)
    await process._gateway.open("w", run_dir(share_dir, "w"))
    bot: Any = object()

    async def answers_late(_: Path) -> bool:
        process._bots.add(bot)
        return False

    monkeypatch.setattr(gatewayprocess, "_is_alive", answers_late)
    try:
        assert not await process._is_useless()
        assert process._bots
        assert "w" in process._gateway.doors()
    finally:
        await process._gateway.aclose()


async def test_it_waits_longer_for_the_bot_of_a_worklet_that_lives(bot: Bot, share_dir: Path) -> None:
    open_at_each: list[bool] = []  # whether the door was open when the relay was asked, once each 0.15 seconds

    async def relay(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_at_each.append(_connects(run_dir(share_dir)))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        writer.close()

    client, pid = await short_lived(bot, "--empty", "0.3", "--idle", "6")
    await client.open("w", run_dir(share_dir))
    async with await asyncio.start_unix_server(relay, sock=listen(run_dir(share_dir), "relay.sock")):
        await client.aclose()
        await until(lambda: not _runs(pid))
    assert len(open_at_each) > 4, "it stays, though it has been without a bot for longer than 0.3 seconds"
    assert all(open_at_each), "the door stays open"


async def test_it_does_not_end_while_a_request_runs(bot: Bot, share_dir: Path, model: Model) -> None:
    client, pid = await short_lived(bot, "--empty", "0.2", "--idle", "0.2")
    await client.open("w", run_dir(share_dir))
    async with asking(share_dir) as answer:
        await client.aclose()
        await asyncio.sleep(1)
        model.go_on.set()
        assert await answer.content.read() == b"last"
    await until(lambda: not _runs(pid))


async def test_it_ends_with_its_directory(bot: Bot, share_dir: Path) -> None:
    client, pid = await short_lived(bot, "--empty", "0.3", beat=60)
    await client.aclose()
    shutil.rmtree(share_dir)
    await until(lambda: not _runs(pid))


async def test_as_a_service_it_waits_for_its_turn_and_stays(bot: Bot, share_dir: Path, model: Model) -> None:
    model.go_on.set()
    client, first = await short_lived(bot, "--empty", "0.2")
    service = await asyncio.create_subprocess_exec(*PROCESS, "--service", "--empty", "0.2", str(share_dir), cwd=ROOT)
    try:
        await client.aclose()
        await until(lambda: holder(share_dir) == service.pid)
        await until(lambda: not _runs(first))  # it lets go of the lock before it ends
        await asyncio.sleep(1)
        second = bot()
        await second.open("w", run_dir(share_dir))
        async with asking(share_dir):
            assert await pid_of(second) == service.pid
    finally:
        service.terminate()
        assert await service.wait() == 0


async def test_a_stranger_on_the_control_socket_changes_nothing(bot: Bot, share_dir: Path, model: Model) -> None:
    model.go_on.set()
    client = bot()
    await client.open("w", run_dir(share_dir))
    with short_path(control_dir(share_dir), SOCKET) as path:
        for line in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"do": "nonsense", "id": 7}\n', b'{"do": "open"}\n'):
            reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST)
            writer.write(line)
            writer.write_eof()
            answer = await reader.read()
            assert not answer or "error" in json.loads(answer)
            writer.close()
    async with asking(share_dir):
        pass


# What a worklet may hold open


@asynccontextmanager
async def door(directory: Path, *, most: int, to_store: int = 0, seconds: float = 60) -> AsyncIterator[Door]:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="well")

    made = Door("w", directory, answer, Traffic(), most=most, most_to_store=to_store, seconds=seconds)
    await made.listen()
    yield made
    await made.close()


async def test_a_worklet_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with door(tmp_path, most=2, seconds=60):
        with short_path(tmp_path, "gateway.sock") as path:
            held = [await _asked(path, "/v1/messages") for _ in range(2)]
            assert not await _answers(path)
            for writer in held:
                writer.close()
            await until(lambda: _answers(path))


async def test_a_connection_that_asks_for_nothing_is_closed_and_one_that_did_is_kept(tmp_path: Path) -> None:
    async with door(tmp_path, most=9, seconds=0.2):
        with short_path(tmp_path, "gateway.sock") as path:
            slow, slow_writer = await asyncio.open_unix_connection(path)
            slow_writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: ")
            kept, kept_writer = await _asked_in_time(path)
            assert b"200" not in await slow.read()
            kept_writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await kept.readuntil(b"well")).startswith(b"HTTP/1.1 200")
            slow_writer.close()
            kept_writer.close()


async def test_a_request_that_never_ends_does_not_keep_a_door_that_finishes(tmp_path: Path) -> None:
    reading = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        reading.set()
        return web.Response(body=await request.read())

    made = Door("w", tmp_path, answer, Traffic())
    await made.listen()
    with short_path(tmp_path, "gateway.sock") as path:
        reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    await reading.wait()
    async with asyncio.timeout(30):
        await made.finish(seconds=0.1)
        assert b"200" not in await reader.read()
    assert not made.connections
    writer.close()


async def _asked_in_time(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that had an answer before it was taken for one that asks for nothing."""
    for _ in range(50):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
        except (asyncio.IncompleteReadError, ConnectionError):  # the machine was too busy
            writer.close()
        else:
            return reader, writer
    raise AssertionError("it never asks in time")


async def _asked(path: str, target: str) -> asyncio.StreamWriter:
    """A connection that had its answer, and stays open."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
    return writer


async def _answers(path: str) -> bool:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"200" in await reader.read()
    except ConnectionError:
        return False
    finally:
        writer.close()


async def test_what_worklets_may_reach_follows_the_settings(bot: Bot, share_dir: Path) -> None:
    """The process goes on through restarts of the bot, and so do its doors; the names end in .invalid: none exists."""

    async def ask(host: str) -> str:
        with short_path(run_dir(share_dir), "proxy.sock") as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer.decode()

    first = bot(egress=EgressSettings(mode="allow-list", hosts="one.invalid"))
    await first.open("w", run_dir(share_dir))
    pid = await pid_of(first)
    assert "X-Blocked-By" not in await ask("one.invalid")
    assert "allows one.invalid; ask for it" in await ask("two.invalid")
    state = (await first.state())["egress"]
    assert (state["mode"], state["refused"], state["failed"]) == ("allow-list", 1, 1)
    await first.aclose()
    second = bot(egress=EgressSettings(mode="allow-list", hosts="two.invalid"))
    assert await pid_of(second) == pid
    assert "allows two.invalid; ask for it" in await ask("one.invalid")
    assert "X-Blocked-By" not in await ask("two.invalid")
    await second.aclose()
    third = bot()
    assert await pid_of(third) == pid
    assert "FLOW_EGRESS=none" in await ask("two.invalid")
    await third.open("v", run_dir(share_dir, "v"))
    assert not (run_dir(share_dir, "v") / "proxy.sock").exists()


async def test_a_question_for_a_host_outlives_its_events_the_bot_and_the_process(bot: Bot, share_dir: Path) -> None:
    async def connect() -> str:
        with short_path(run_dir(share_dir), "proxy.sock") as path:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"CONNECT wanted.invalid:443 HTTP/1.1\r\n\r\n")
        try:
            return (await asyncio.wait_for(reader.read(), 60)).decode()
        finally:
            writer.close()

    def hears(client: GatewayClient) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        client.on(WANTED, heard.append)
        return heard

    settings, asks = EgressSettings(mode="allow-list", ask="*"), {"egress": {"asks": True}}
    first = bot(egress=settings)
    heard = hears(first)
    await first.open("w", run_dir(share_dir), None, asks)
    waiting = asyncio.create_task(connect())
    await until(lambda: heard)
    assert heard[0] == {"worklet": "w", "host": "wanted.invalid", "port": 443}
    await first.aclose()  # whatever was said, nobody may have heard it
    second = bot(egress=settings)
    heard = hears(second)
    pid = await pid_of(second)
    await until(lambda: heard, timeout=30)  # said again, without being asked for it
    os.kill(pid, signal.SIGKILL)
    assert await waiting == ""
    heard.clear()
    await until(lambda: _connects(run_dir(share_dir)), timeout=30)
    assert await pid_of(second) != pid
    waiting = asyncio.create_task(connect())
    await until(lambda: heard)  # the new process knows that it may ask
    await second.open("w", run_dir(share_dir), None, {"egress": {"granted": ["wanted.invalid:443"]}})
    assert (await waiting).startswith("HTTP/1.1 502 ")  # let through; there is no such host


async def test_without_a_process_worklets_reach_what_the_settings_say(bot: Bot, share_dir: Path) -> None:
    client = bot(command=("/bin/false",), egress=EgressSettings(mode="open", deny="one.invalid"))
    await client.open("w", run_dir(share_dir))
    assert (await client.state())["egress"]["mode"] == "open"
    assert (run_dir(share_dir) / "proxy.sock").is_socket()


async def test_a_killed_process_is_told_again_what_worklets_were_granted_and_may_spend(
    bot: Bot, share_dir: Path, model: Model
) -> None:
    model.go_on.set()
    client, connected = bot(), []
    client.on("connected", lambda fields: connected.append(fields))
    await client.open("w", run_dir(share_dir), None, {"thing": 1})
    await client.limit("w", 0.0)
    killed = await pid_of(client)
    book, _ = await client.usage("", 0)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: len(connected) == 2, timeout=40)
    assert (await client.usage("", 0))[0] != book
    other = bot()
    await other.open("v", run_dir(share_dir, "v"))
    assert other._doors["w"].grants == {"thing": 1}  # it learnt so from the process
    assert await status(share_dir) == 403
    assert model.keys == []


async def test_what_a_bot_knows_of_a_worklet_that_another_runs_now_counts_for_nothing(
    bot: Bot, share_dir: Path, model: Model
) -> None:
    model.go_on.set()
    first, second, connected = bot(), bot(), list[str]()
    first.on("connected", lambda _: connected.append("first"))
    second.on("connected", lambda _: connected.append("second"))
    await first.open("w", run_dir(share_dir), None, {"thing": 1})
    await first.limit("w", 5.0, 0.0, "an old turn")
    await second.open("w", run_dir(share_dir), None, {"thing": 2})  # it has taken the session over
    await second.limit("w", 0.0, 3.0, "a new turn")
    first.runs = lambda _: False
    assert await status(share_dir) == 403
    assert first._channel is not None
    await first._channel.aclose()  # the connection is lost, the process is the same
    await until(lambda: connected.count("first") == 2, timeout=30)
    assert await status(share_dir) == 403
    os.kill(await pid_of(first), signal.SIGKILL)
    await until(lambda: (connected.count("first"), connected.count("second")) == (3, 2), timeout=60)
    assert await status(share_dir) == 403
    await first.look()
    assert first.grants()["w"] == {"thing": 2}
    await second.regrant("w", "thing", 3, 2)
    await first.look()
    assert first.grants()["w"] == {"thing": 3}


async def test_every_bot_hears_of_an_answer_that_was_counted(bot: Bot, share_dir: Path, model: Model) -> None:
    model.body = b'{"id": "m", "model": "sonnet", "usage": {"input_tokens": 3}}'
    heard: list[int] = []
    one, other = bot(), bot()
    for number, client in enumerate((one, other)):
        client.on("usage", lambda _fields, number=number: heard.append(number))  # type: ignore[misc]
        await client.open("w", run_dir(share_dir), "6f1c3f0e-3a54-4a64-9d0b-6a3e8c4a7b11")
    assert await status(share_dir) == 200
    await until(lambda: sorted(heard) == [0, 1])
    book, rows = await one.usage("", 0)
    assert [(row["number"], row["input_tokens"]) for row in rows] == [(1, 3)]
    assert await other.usage(book, 1) == (book, [])
    assert await one.usage("", 0) == (book, [])


async def test_what_a_process_counted_outlives_it(bot: Bot, share_dir: Path, model: Model) -> None:
    model.body = b'{"id": "m", "model": "sonnet", "usage": {"input_tokens": 3}}'
    first = bot()
    await first.open("w", run_dir(share_dir), "6f1c3f0e-3a54-4a64-9d0b-6a3e8c4a7b11")
    assert await status(share_dir) == 200
    pid = await pid_of(first)
    await first.aclose()
    os.kill(pid, signal.SIGTERM)
    await until(lambda: not _runs(pid))
    second = bot()
    book, (row,) = await second.usage("", 0)
    assert (row["input_tokens"], row["worklet_id"]) == (3, "6f1c3f0e-3a54-4a64-9d0b-6a3e8c4a7b11")
    assert row["id"] != f"{book}:1"
    assert await pid_of(second) != pid


async def test_so_does_what_the_bot_itself_counted(bot: Bot, share_dir: Path, model: Model) -> None:
    model.body = b'{"id": "m", "model": "sonnet", "usage": {"input_tokens": 3}}'
    first = bot(command=("/bin/false",))
    await first.open("w", run_dir(share_dir))
    assert await status(share_dir) == 200
    await first.aclose()
    _, rows = await bot().usage("", 0)
    assert [row["input_tokens"] for row in rows] == [3]
