"""Hostile worklets in real containers: what is tried, what comes of it, and that the host and a neighbour stay well."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tables
from abuse_attempts import ESCAPES, WITH_A_WAY_OUT, Attempt
from aiohttp import web
from images import worklet_image
from waiting import until

from config.masking import secrets_of
from config.settings import load
from config.slices.egress import EgressSettings
from config.slices.kv import KVSettings
from kvstore.gateway.opening import SIGNING_KEY
from kvstore.gateway.tokens import SigningKey, minter
from worklets.agent import Agent, read_tail
from worklets.docker import DockerRuntime
from worklets.egress import EgressPolicy, told
from worklets.egressdial import Dialer, is_outside
from worklets.egressdoors import Egress
from worklets.errors import AgentGone
from worklets.events import AgentExited, DiskFull, Remark
from worklets.gateway import ModelGateway
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import holder
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.inside import NotRunning, dial
from worklets.relaydial import Answer
from worklets.runtime import Worklet, WorkletSpec

pytestmark = [pytest.mark.docker, pytest.mark.timeout(480)]

HERE = Path(__file__).parent
MEMORY = 256 << 20
PIDS = 64
DISK = 64 << 20
API_KEY = "sk-ant-api03-real-key-of-the-abuse-suite"
OUTSIDE = "127.0.0.9"
#: Names that the settings allow, and where a hostile name server sends them.
LEADS_TO = {
    "allowed.test": OUTSIDE,
    "metadata.test": "169.254.169.254",
    "metadata6.test": "fd00:ec2::254",
    "mapped.test": "::ffff:169.254.169.254",
    "host.test": "127.0.0.1",
    "bridge.test": "172.17.0.1",
    "private.test": "10.0.0.1",
}
#: What Flow is started with; each is looked for in the container.
SECRETS = {
    "ANTHROPIC_API_KEY": API_KEY,
    "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-real-token-of-the-abuse-suite",
    "SLACK_BOT_TOKEN": "xoxb-real-token-of-the-abuse-suite",
    "SLACK_APP_TOKEN": "xapp-real-token-of-the-abuse-suite",
    "FLOW_DSN": "postgresql://flow:password-of-the-abuse-suite@127.0.0.1/flow",
}

_rows: list[tuple[str, str, str]] = []


def _told() -> list[tables.Table]:
    wide = max((len(what) for what, _, _ in _rows), default=0)
    lines = [f"{what:<{wide}}  {came[:90]:<90}  {by}" for what, came, by in _rows]
    return [("What worklets tried", lines)] if lines else []


tables.providers.append(_told)


def note(what: str, came: object, by: str) -> None:
    _rows.append((what, " ".join(str(came).split()), by))


class HostileRuntime(DockerRuntime):
    """The real one, but for what runs in Claude's place."""

    async def start(self, spec: WorkletSpec) -> Worklet:
        program = (HERE / "abuse_program.py").read_text()
        return await super().start(replace(spec, command=("python3", "-c", program)))


@dataclass
class Inmate:
    """A worklet whose agent does what it is told."""

    name: str
    agent: Agent
    run_dir: Path
    events: list[Any] = field(default_factory=list)
    reading: asyncio.Task[None] | None = None

    async def do(self, *expressions: str, seconds: float = 60, patience: float = 240) -> list[str]:
        name = f"told-{secrets.token_hex(4)}"
        asked = json.dumps({"name": name, "do": expressions, "seconds": seconds})
        await self.agent.send(str(uuid.uuid4()), asked)
        path = self.run_dir / name
        await until(path.exists, timeout=patience, what=f"the outcome of {expressions}")
        told = json.loads(path.read_text())
        path.unlink()
        return told

    async def read(self) -> None:
        async for position, events in self.agent.events():
            self.events += events
            await self.agent.ack(position)


@dataclass
class Prison:
    share: Path
    identity: Identity
    runtime: HostileRuntime
    host: WorkletHost
    upstream: list[web.BaseRequest]
    inmates: dict[str, Inmate] = field(default_factory=dict)

    async def open(self, name: str) -> Inmate:
        agent = await self.host.open(
            name, claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
            repository=None, branch=None, worklet_id=str(uuid.uuid4()), on_step=lambda _step: None,
        )  # fmt: skip
        inmate = self.inmates[name] = Inmate(name, agent, self.share / "worklets" / name / "run")
        inmate.reading = asyncio.create_task(inmate.read())
        return inmate

    async def well(self, neighbour: Inmate) -> None:
        """The host and the neighbour: engine, gateway, relay, files, a new process."""
        await self.runtime.check()
        told = await neighbour.do("ask(own())", "forks_one()", "fill('/work/workspace/beat', 1 << 20)")
        assert [told[0][:4], *told[1:]] == ["200 ", "DONE", "NO LIMIT"], told
        assert neighbour.name in await self.host.running()

    async def release(self) -> None:
        for inmate in self.inmates.values():
            assert inmate.reading is not None
            inmate.reading.cancel()
            await asyncio.wait([inmate.reading])
            await inmate.agent.close()


@pytest.fixture
async def prison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Prison]:
    """Indirectly parametrized with the disk that a worklet may fill, in bytes."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    identity = Identity.load(tmp_path)
    asked: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        return web.json_response({"type": "message"})

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    port = server.addresses[0][1]
    runtime = HostileRuntime(
        share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=MEMORY, cpus=1, pids=PIDS,
        disk=getattr(request, "param", 0),
    )  # fmt: skip
    gateway = GatewayClient(
        tmp_path, identity, f"http://127.0.0.1:{port}", Credential(api_key=API_KEY), store=KVSettings(),
        environ=dict(os.environ),
    )  # fmt: skip
    prison = Prison(tmp_path, identity, runtime, WorkletHost(runtime, gateway, identity, tmp_path), asked)
    try:
        yield prison
    finally:
        await prison.release()
        for worklet in await runtime.list():
            await runtime.remove(worklet.name, grace=0)
        for name in await runtime.volumes():
            await runtime.remove_volume(name)
        await gateway.aclose()
        await runtime.close()
        await server.cleanup()
        if pid := holder(tmp_path):
            os.kill(pid, signal.SIGKILL)
            await until(lambda: holder(tmp_path) is None)


def hidden(secret: str) -> str:
    """As a prompt may have it: the journal keeps prompts, and is looked through."""
    return "".join(chr(ord(c) ^ 1) for c in secret)


async def judge(inmate: Inmate, group: str, attempts: tuple[Attempt, ...], known: dict[str, str]) -> list[str]:
    """Has them tried; what came out otherwise than it should."""
    codes = []
    for attempt in attempts:
        code = attempt.code
        for name, value in known.items():
            code = code.replace(f"<{name}>", value)
        codes.append(code)
    wrong = []
    for attempt, came in zip(attempts, await inmate.do(*codes), strict=True):
        held = re.match(attempt.held, came, re.DOTALL) is not None
        note(f"{group}: {attempt.what}", came, attempt.by if held else "NOT HELD")
        if not held:
            wrong.append(f"{attempt.what}: {came}")
    return wrong


async def test_nothing_leads_out_and_no_secret_is_inside(prison: Prison) -> None:
    neighbour, inmate = await asyncio.gather(prison.open("neighbour"), prison.open("hostile"))
    abstract = f"flow-abuse-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unnamed:
        unnamed.bind(f"\0{abstract}")
        unnamed.listen()
        known = {
            "host port": str(listener.getsockname()[1]),
            "abstract": abstract,
            "neighbour": str(neighbour.run_dir),
            "share": str(prison.share),
            "expired store token": hidden(_expired(prison, inmate)),
            "other store token": hidden((neighbour.run_dir / "kv.token").read_text()),
            "other token": hidden(prison.identity.token("gateway", "neighbour")),
        }
        wrong = []
        for group, attempts in ESCAPES.items():
            wrong += await judge(inmate, group, attempts, known)
    assert wrong == []
    # What reached the model's API was let through, and had the real key: nothing else.
    assert [(one.method, one.path) for one in prison.upstream] == [("POST", "/v1/messages")]
    assert prison.upstream[0].headers["x-api-key"] == API_KEY
    await _looks_for_secrets(prison, inmate)
    await _leads_flow_astray(prison, inmate, neighbour)
    await prison.well(neighbour)
    await _poses_as_the_relay(prison, inmate)
    await prison.well(neighbour)


async def test_one_that_eats_all_it_can_harms_nobody_else(prison: Prison) -> None:
    neighbour, inmate = await asyncio.gather(prison.open("neighbour"), prison.open("hungry"))
    shown = [
        Attempt("orphans", "orphans(40)", "0 left", "the relay collects them"),
        Attempt("forks", "forks()", r"\d\d processes, then Resource temporarily unavailable", f"pids limit ({PIDS})"),
        Attempt("memory", f"eat({4 * MEMORY})", "killed by signal 9", "memory limit: its largest process ends"),
        Attempt("/tmp", f"fill('/tmp/x', {2 * MEMORY})", "64 MiB, then No space left", "size of tmpfs, a quarter"),
        Attempt("/run", f"fill('/run/x', {2 * MEMORY})", "16 MiB, then No space left", "size of tmpfs"),
        Attempt("/dev/shm", f"fill('/dev/shm/x', {2 * MEMORY})", "32 MiB, then No space left", "size, an eighth"),
        Attempt("all three still leave room", f"eat({MEMORY // 4})", "NO LIMIT", "they are less than its memory"),
        Attempt("open files", "hold_files()", r"163\d\d files, then Too many open files", "limit of 16,384"),
        Attempt(
            "connections to the gateway", "hold_connections(1000)", r"1000 opened, (6[0-4]|[1-5]\d) kept", "64 each"
        ),
    ]
    wrong = []
    for attempt in shown:
        wrong += await judge(inmate, "Eating", (attempt,), {})
        await prison.well(neighbour)
    assert wrong == []
    for words in (f"All {PIDS} processes of this thread's workspace are taken", "its memory is full (256 MiB)"):
        await until(lambda words=words: _remarks(inmate, words), timeout=60, what=f"the thread to be told: {words}")
        note(f"Eating: the thread is told: {words}", "told once", "the relay reads the control group")
    await inmate.do("subprocess.run(['rm', '/tmp/x', '/run/x', '/dev/shm/x'])")
    await _floods(prison, inmate, neighbour)
    # A bomb that nobody inside could end: the others do not notice, and it goes with its container.
    (came,) = await inmate.do("bomb()")
    assert int(came) <= PIDS
    await prison.well(neighbour)
    await inmate.agent.close()
    await asyncio.wait_for(prison.host.close("hungry", grace=1), 60)
    assert "hungry" not in await prison.host.running()
    note("Eating: a fork bomb", f"{came} processes, ended with its container", f"pids limit ({PIDS})")
    await prison.well(neighbour)


def _remarks(inmate: Inmate, words: str) -> list[Remark]:
    return [event for event in inmate.events if isinstance(event, Remark) and words in event.text]


async def _floods(prison: Prison, inmate: Inmate, neighbour: Inmate) -> None:
    # A line that is longer than any that Claude writes: the relay drops it, and goes on.
    size = 70 << 20
    assert await inmate.do(f"say_long({size})", seconds=60, patience=120) == ["SAID"]
    assert await inmate.do("1 + 1") == ["2"]
    await until(lambda: _remarks(inmate, "longer than I can take in, and was dropped"), what="word of the line")
    note("Eating: a line of 70 MiB into the relay", "dropped; the next one is read", "60 MiB at most")
    garbage = "say(b'{' * 300000 + b'\\n' + b'\\xff' * 1000 + b'\\n' + b'[1]\\n' * 10000)"
    assert await inmate.do(garbage) == ["SAID"]
    assert await inmate.do("1 + 1") == ["2"]
    note("Eating: lines that no parser should meet", "passed over", "bounded parsing")
    await prison.well(neighbour)


@pytest.mark.parametrize("prison", [DISK], indirect=True)
async def test_one_that_fills_the_disk_is_told_and_then_stopped(prison: Prison) -> None:
    neighbour, inmate = await asyncio.gather(prison.open("neighbour"), prison.open("filling"))

    def told(kind: type[Any]) -> list[Any]:
        return [event for event in inmate.events if isinstance(event, kind)]

    # In two places, and in a file that has no name any more.
    part = DISK * 3 // 10
    await inmate.do(
        f"fill('/work/workspace/a', {part})",
        f"fill('/run/worklet/journal/b', {part})",
        "subprocess.Popen(['bash', '-c', "
        f"'exec 3>/work/c; rm /work/c; head -c {part} /dev/zero >&3; exec sleep 1000'], start_new_session=True).pid",
    )
    (remark,) = await until(lambda: told(Remark), timeout=60, what="word of the disk")
    assert re.fullmatch(r"(5[4-9].*|6\d.*) MiB of 64 MiB are used in this thread's workspace. At 64 .*", remark.text)
    note("Eating: 90 % of the disk, a part of it deleted and open", remark.text, "the relay's watch")
    filling = {"name": "x", "do": ["fill('/work/d', 16 << 20)"], "seconds": 60}
    await inmate.agent.send(str(uuid.uuid4()), json.dumps(filling))
    (full,) = await until(lambda: told(DiskFull), timeout=60, what="the end")
    assert full.limit == DISK <= full.used
    await until(lambda: told(AgentExited))

    async def gone() -> bool:
        return "filling" not in await prison.host.running()

    await until(gone, timeout=60)
    note("Eating: the disk", f"stopped at {full.used >> 20} MiB of {full.limit >> 20} MiB", "the relay's watch")
    await prison.well(neighbour)
    # It may begin again, so that something can be deleted.
    await inmate.agent.close()
    await prison.host.close("filling")
    again = await prison.open("filling")
    await again.do("fill('/work/e', 8 << 20)")
    await until(lambda: any(isinstance(one, Remark) for one in again.events), timeout=60)
    assert await again.do("os.remove('/work/d')") == ["None"]
    await prison.well(neighbour)


@pytest.mark.parametrize("prison", [DISK], indirect=True)
async def test_one_that_fills_the_disk_unmeasured_is_stopped_as_well(prison: Prison) -> None:
    """It leaves no process and no processor to whoever would measure."""
    neighbour, inmate = await asyncio.gather(prison.open("neighbour"), prison.open("smothering"))
    asked = {"name": "x", "do": [f"smother('/work/workspace/a', {2 * DISK})"], "seconds": 300}
    await inmate.agent.send(str(uuid.uuid4()), json.dumps(asked))

    def full() -> list[DiskFull]:
        return [event for event in inmate.events if isinstance(event, DiskFull)]

    (told,) = await until(full, timeout=300, what="the end")

    async def gone() -> bool:
        return "smothering" not in await prison.host.running()

    await until(gone, timeout=120)
    how = "measured" if told.measured else "what may have been written counted"
    note("Eating: the disk, with all processes taken", f"stopped at {told.used >> 20} MiB ({how})", "the relay's watch")
    await prison.well(neighbour)


async def test_nothing_gets_around_the_proxy(tmp_path: Path) -> None:
    """One host is outside, as far as the injected dialer goes; the rest of what it permits is the real one's."""
    looked_up: list[str] = []

    def resolve(name: str) -> list[str]:
        looked_up.append(name)
        if name == "rebound.test":
            return [OUTSIDE if looked_up.count(name) == 1 else "169.254.169.254"]
        return [LEADS_TO[name]]

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text="from outside")

    server = web.ServerRunner(web.Server(answer))
    await server.setup()
    await web.TCPSite(server, OUTSIDE, 0).start()
    port = server.addresses[0][1]
    hosts = [f"{name}:{port}" for name in ("allowed.test", "rebound.test")]
    policy = told(EgressSettings(mode="allow-list", hosts=(*hosts, *(LEADS_TO.keys() - {"allowed.test"}))))
    egress, identity = Egress(Dialer(resolve, lambda a: a == OUTSIDE or is_outside(a))), Identity.load(tmp_path)
    await egress.configure(policy)
    runtime = HostileRuntime(
        share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=MEMORY, cpus=1, pids=PIDS
    )
    gateway = ModelGateway("http://127.0.0.1:1", Credential(api_key=API_KEY), identity, None, egress)
    host = WorkletHost(runtime, gateway, identity, tmp_path, egress=EgressPolicy.of(policy))
    prison = Prison(tmp_path, identity, runtime, host, [])
    try:
        neighbour, inmate = await asyncio.gather(prison.open("neighbour"), prison.open("hostile"))
        known = {"port": str(port), "other port": str(port + 1), "neighbour": str(neighbour.run_dir)}
        wrong = [one for group, tried in WITH_A_WAY_OUT.items() for one in await judge(inmate, group, tried, known)]
        assert wrong == []
        assert set(looked_up) <= {*LEADS_TO, "rebound.test"}, "names that are not allowed are not looked up"
        assert looked_up.count("rebound.test") == 2, "once for each connection"
    finally:
        await prison.release()
        for worklet in await runtime.list():
            await runtime.remove(worklet.name, grace=0)
        for name in await runtime.volumes():
            await runtime.remove_volume(name)
        await gateway.aclose()
        await runtime.close()
        await server.cleanup()


def _expired(prison: Prison, inmate: Inmate) -> str:
    """The token that this worklet's store had an hour ago, signed with the real key."""
    held = (inmate.run_dir / "kv.token").read_text().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(held + "=" * (-len(held) % 4)))
    key = SigningKey.load(prison.share / SIGNING_KEY)
    return minter(key).mint_worklet(claims["worklet_id"], now=time.time() - 3600)


async def _looks_for_secrets(prison: Prison, inmate: Inmate) -> None:
    """Everything that Flow was started with, its own key, and what guards the relay."""
    tokens = [prison.identity.token("relay", "hostile"), prison.identity.token("gateway", "neighbour")]
    tokens.append((prison.share / "worklets/neighbour/run/kv.token").read_text())
    wanted = sorted({*secrets_of(load()), *SECRETS.values(), prison.identity.key.hex(), *tokens} - {""})
    assert len(wanted) >= 9
    canary = f"canary-{secrets.token_hex(8)}"
    (inmate.run_dir / "canary").write_text(canary)
    asked = [hidden(one) for one in [*wanted, canary]]
    processes, tree, everywhere = await inmate.do(
        f"secret_in_processes({asked!r})",
        f"secret_in({asked!r}, '/run', '/work', '/tmp', '/dev/shm', '/etc', '/opt', '/var', '/home')",
        f"secret_in({asked!r}, '/usr/local', '/node_modules')", seconds=150, patience=300,
    )  # fmt: skip
    assert (processes, tree, everywhere) == ("[] in some", "['/run/worklet/canary']", "[]")
    note("Secrets: environment and command line of each process", "none", f"{len(wanted)} were looked for")
    note("Secrets: its files, the journal, the image's tree", "none", f"{len(wanted)} were looked for")
    (container,) = [one.id for one in (await prison.host.running()).values() if one.name == "hostile"]
    image = (await worklet_image(),)
    for what, command in (
        ("what the engine knows of the container", ("docker", "inspect", container)),
        ("the image's layers and their commands", ("docker", "history", "--no-trunc", *image)),
        ("the image's configuration", ("docker", "image", "inspect", *image)),
        ("the container's log", ("docker", "logs", container)),
    ):
        said = await _run(*command)
        assert [one for one in wanted if one in said] == [], what
        note(f"Secrets: {what}", "none", f"{len(wanted)} were looked for")


async def _run(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=60)
    return str(done.stdout) + str(done.stderr)


async def _leads_flow_astray(prison: Prison, inmate: Inmate, neighbour: Inmate) -> None:
    """Links in the places where Flow writes and reads for it."""
    outside = prison.share / "outside"
    outside.mkdir()
    (outside / "content").write_text("of the host")
    (outside / "meta.json").write_text(json.dumps({"name": "content", "size": 11}))
    epoch = "0123456789abcdef"
    (outside / f"{epoch}-000000000001.log").write_text('o 1 {"type":"conversation_reset"}\n')
    # The attachments' folder leads to a place of the host: the engine unpacks inside the container's root.
    await prison.host.place("hostile", {"unhindered/placed.txt": outside / "content"})
    assert await prison.host.taken("hostile", ["unhindered/placed.txt"]), "else nothing below would tell anything"
    await inmate.do(f"link('{outside}', '/work/workspace/attachments')")
    with suppress(Exception):
        await prison.host.place("hostile", {"attachments/placed.txt": outside / "content"})
    assert sorted(one.name for one in outside.iterdir()) == [f"{epoch}-000000000001.log", "content", "meta.json"]
    note("Files: a link in the place of attachments/", "nothing was written outside", "the engine unpacks inside")
    # Files for the thread that are links to the host's.
    out = "/run/worklet/outgoing"
    await inmate.do(
        f"link('{outside}', '{out}/whole')",
        f"link('{outside}/content', '{out}/parts/content')",
        f'write(\'{out}/parts/meta.json\', \'{{"name": "x", "size": 11}}\')',
        f"link('{neighbour.run_dir}/journal', '{out}/journal')",
    )
    outgoing = prison.host.outgoing("hostile")
    for name in ("whole", "parts", "journal", "../../neighbour/run/outgoing"):
        assert outgoing.look(name) is None, name
        with pytest.raises((OSError, ValueError)):
            outgoing.read(name, 1000)
    note("Files: send_file of a link to the host's files", "refused", "no link is followed")
    # The journal is a link to another.
    await inmate.do(f"link('{outside}', '/run/worklet/before-00000000000000000001')")
    assert read_tail(inmate.run_dir, None).batches == []
    note("Files: a journal that is a link", "not read", "no link is followed")
    # A socket that Flow connects to, as root perhaps, leads to another of the host's, such as the engine's.
    with socket.socket(socket.AF_UNIX) as engines:
        engines.bind(str(outside / "e.sock"))
        engines.listen()
        engines.setblocking(False)
        await inmate.do(f"link('{outside}/e.sock', '/run/worklet/inside.sock')")
        with pytest.raises(NotRunning):
            await dial(inmate.run_dir, 80)
        with pytest.raises(BlockingIOError):
            engines.accept()
    note("Files: a socket that is a link to the engine's", "not connected to", "no link is followed")


async def _poses_as_the_relay(prison: Prison, inmate: Inmate) -> None:
    """At the relay's socket, between Flow and the relay, then alone in its place."""
    token = prison.identity.token("relay", inmate.name).encode()
    heard = inmate.run_dir / "heard"
    assert await inmate.do("stand_between()") == ["LISTENS"]
    assert await prison.host.answers(inmate.name) is Answer.PROVEN
    await inmate.agent.close()
    assert inmate.reading is not None
    await asyncio.wait([inmate.reading])
    inmate.agent = await Agent.attach(inmate.run_dir, token.decode(), None, 1, worklet_id="c", timeout=60)
    inmate.reading = asyncio.create_task(inmate.read())
    assert await inmate.do("'a prompt ' * 2") == ["a prompt a prompt "]
    told = heard.read_bytes()
    assert told.count(b"Relay-Proof") >= 2, "it stands between"
    assert token not in told
    note("The relay's socket: taken, and all passed on", "no token; it works", "proofs, and a seal on each frame")
    assert await inmate.do("os.unlink('/run/worklet/heard')", "stand_in()") == ["None", "LISTENS"]
    assert await prison.host.answers(inmate.name) is not Answer.PROVEN
    with pytest.raises(AgentGone):
        await Agent.attach(inmate.run_dir, token.decode(), None, 1, timeout=30)
    told = heard.read_bytes()
    assert b"Relay-Nonce" in told
    assert token not in told
    note("The relay's socket: a listener in its place", "no token; it is not taken for the relay", "a proof")


def test_the_documents_table_is_what_is_tried() -> None:
    page = (HERE.parents[1] / "docs" / "isolation.md").read_text()
    groups = {**ESCAPES, **WITH_A_WAY_OUT}
    for attempts in groups.values():
        for attempt in attempts:
            assert f"| {attempt.what} |" in page, attempt.what
    rows = sum(line.startswith("| ") for line in page.split("### Network")[1].split("### Secrets")[0].splitlines())
    assert rows == sum(map(len, groups.values())) + len(groups), "with a heading each, and nothing else"
