"""MCP servers on stdio in sidecars: the bridge, the gateway's side, and hostile servers; with plain processes."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from structlog.testing import capture_logs
from waiting import until

from worklets.errors import WorkletStartFailed
from worklets.gateway import ModelGateway
from worklets.gatewaysubjects import routes
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.localsidecars import LocalSidecars
from worklets.sidecargrants import placed, sidecars_in, ways_out
from worklets.sidecars import Sidecar, Sidecars
from worklets.sockets import short_path

SECRET = "sk-the-secret-of-the-server"
#: Tools by the method's name: each line that comes in is answered by one of these.
SERVER = r"""
import json, os, sys, time
def say(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if method == "initialize":
        say({"id": id, "result": {"protocolVersion": params["protocolVersion"], "pid": os.getpid()}})
    elif method == "env":
        say({"id": id, "result": {"value": os.environ.get("TOKEN"), "home": os.environ["HOME"], "pid": os.getpid()}})
    elif method == "die":
        sys.stderr.write("last words with " + os.environ["TOKEN"])
        sys.stderr.flush()
        os._exit(7)
    elif method == "fork":
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
        say({"id": id, "result": {}})
    elif method == "progress":
        for number in range(3):
            say({"method": "notifications/progress", "params": {"n": number}})
        say({"id": id, "result": {"done": True}})
    elif method == "junk":
        sys.stdout.write("no json\n[1, 2]\n" + "[" * 100000 + "\n" + '{"id": %s, "result": NaN}\n' % json.dumps(id))
        sys.stdout.buffer.write(b"\xff\xfe\n")
        say({"id": "of nobody", "result": {}})
        say({"flow": "ended", "id": id, "result": {"still": "here"}})
    elif method == "feign":
        print('{"flow": "ended", "code": "x", "said": {}}', flush=True)
    elif method == "flood":
        sys.stdout.write("x" * (9 << 20))
        sys.stdout.flush()
"""


class Client:
    """Speaks to one server behind a worklet's door."""

    def __init__(self, http: aiohttp.ClientSession, name: str = "own") -> None:
        self.http, self.path, self.session = http, f"/flow/mcp/{name}", ""

    async def post(self, message: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        headers = {"Mcp-Session-Id": self.session} if self.session else {}
        async with self.http.post(self.path, json={"jsonrpc": "2.0", **message}, headers=headers) as answer:
            self.session = answer.headers.get("Mcp-Session-Id", self.session)
            text = await answer.text()
            lines = [line for line in text.splitlines() if line.startswith("data: ")]
            return answer.status, [json.loads(line[6:]) for line in lines] or ([json.loads(text)] if text else [])

    async def greet(self) -> dict[str, Any]:
        self.session = ""
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        _, (answer,) = await self.post({"id": 0, "method": "initialize", "params": params})
        assert (await self.post({"method": "notifications/initialized"}))[0] == 202
        return answer

    async def ask(self, method: str, id_: int = 1) -> dict[str, Any]:
        return (await self.post({"id": id_, "method": method}))[1][-1]


def grant(code: str = SERVER) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", code], "env": {"TOKEN": SECRET}, "hosts": []}


@asynccontextmanager
async def client(
    tmp_path: Path, granted: dict[str, Any] | None = None, told: list[Any] | None = None
) -> AsyncIterator[Client]:
    """Behind the door of the worklet "w", with a sidecar that runs; `told` gets what the gateway tells the bots."""
    identity = Identity.load(tmp_path)
    sidecars = Sidecars(LocalSidecars(tmp_path, identity), tmp_path, egress=False)
    grants = sidecars.placed("w", {"mcp": {"own": granted or grant()}})
    run_dir = tmp_path / "worklets" / "w" / "run"
    run_dir.mkdir()
    events = told if told is not None else []
    gateway = ModelGateway(
        "http://127.0.0.1:9", None, identity, routes=routes(), tell=lambda kind, **fields: events.append((kind, fields))
    )
    sidecars.begin("w", grants)
    try:
        await gateway.open("w", run_dir, None, grants)
        headers = {"Authorization": f"Bearer {identity.token('gateway', 'w')}"}
        with short_path(run_dir, "gateway.sock") as path:
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession("http://x", connector=connector, headers=headers) as http:
                yield Client(http)
    finally:
        await gateway.aclose()
        await sidecars.end("w")
        await sidecars.aclose()
        runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
        await runtime.remove("w", grace=0)  # ends whatever carries the worklet's mark
        await runtime.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_sessions_have_processes_of_their_own_with_the_secret(tmp_path: Path) -> None:
    async with client(tmp_path) as one:
        assert (await one.greet())["result"]["protocolVersion"] == "2025-06-18"
        first = (await one.ask("env"))["result"]
        assert first["value"] == SECRET
        other = Client(one.http)
        await other.greet()
        second = (await other.ask("env"))["result"]
        assert first["pid"] != second["pid"]
        _, said = await one.post({"id": "a", "method": "progress"})
        assert [message.get("params", {}).get("n") for message in said[:-1]] == [0, 1, 2]
        assert said[-1] == {"jsonrpc": "2.0", "id": "a", "result": {"done": True}}
        async with one.http.delete(other.path, headers={"Mcp-Session-Id": other.session}) as answer:
            assert answer.status == 204
        await until(lambda: not runs(second["pid"]), timeout=30)
        many = [Client(one.http) for _ in range(5)]
        for another in many:
            await another.greet()
        await until(lambda: not runs(first["pid"]), timeout=30)  # four at most: the oldest gives way
        assert (await one.ask("env"))["result"]["value"] == SECRET  # and begins anew without a word
        statuses = [
            (await one.post(message))[0]
            for message in ({"id": True, "method": "x"}, {"id": {}, "method": "x"}, {"method": "x"})
        ]
        assert statuses == [400, 400, 202]
        async with one.http.get(one.path) as answer:
            assert answer.status == 405
        async with one.http.post(one.path, data=io.BytesIO(b"x" * (5 << 20))) as answer:
            assert answer.status == 413
        for body in (b"[]", b"nonsense", b"[" * 100_000, b""):
            async with one.http.post(one.path, data=body, headers={"Mcp-Session-Id": one.session}) as answer:
                assert answer.status == 400
        for session in ("", "../x", "ü", "x" * 65):
            async with one.http.post(
                one.path, json={"id": 1, "method": "env"}, headers={"Mcp-Session-Id": session}
            ) as answer:
                assert answer.status == 400


async def test_an_end_is_told_once_and_the_server_starts_again(tmp_path: Path) -> None:
    told: list[Any] = []
    with capture_logs() as logs:
        async with client(tmp_path, told=told) as one:
            await one.greet()
            first = (await one.ask("env"))["result"]["pid"]
            await one.ask("fork")  # what it leaves behind holds the connection, too
            died = await one.ask("die")
            assert died["error"]["message"] == (
                "The MCP server own ended (exit status 7) and is started again when it is asked next."
            )
            again = (await one.ask("env"))["result"]
            assert again["pid"] != first
            await one.ask("die")
            assert [(kind, fields["text"]) for kind, fields in told] == [("sidecar ended", died["error"]["message"])]
            failed, refused = 2, ""
            while "Try again" not in refused:  # a busy machine may ask when the wait is nearly over, and it dies again
                refused = (await one.ask("die"))["error"]["message"]
                failed += "Try again" not in refused
            assert failed > 2
            assert f"has failed {failed} times. Try again in" in refused
    lines = [entry for entry in logs if entry["event"] == "an MCP server in a sidecar ended"]
    assert lines[0]["said"] == "last words with ‹masked›"
    assert SECRET not in repr(logs) + repr(told)


async def test_a_server_that_says_anything_harms_nobody(tmp_path: Path) -> None:
    async with client(tmp_path) as one:
        await one.greet()
        assert (await one.ask("junk", 5))["result"] == {"still": "here"}
        feigned = await one.ask("feign")
        assert "ended (it was killed)" in feigned["error"]["message"]  # then it is
        assert (await one.ask("env"))["result"]["value"] == SECRET
        flood = await one.ask("flood")
        assert "said more in one line than Flow takes" in flood["error"]["message"]
        assert (await one.ask("env"))["result"]["value"] == SECRET


async def test_what_cannot_start_says_so(tmp_path: Path) -> None:
    told: list[Any] = []
    async with client(tmp_path, {**grant(), "command": ["/no/such/program"]}, told) as one:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}}
        _, (answer,) = await one.post({"id": 0, "method": "initialize", "params": params})
        assert answer["error"]["message"] == (
            "The MCP server own does not start: /no/such/program: No such file or directory."
        )
        assert [kind for kind, _ in told] == ["sidecar ended"]


async def test_the_end_of_a_sidecar_is_the_end_of_all_in_it(tmp_path: Path) -> None:
    told: list[Any] = []
    async with client(tmp_path, told=told) as one:
        place = LocalSidecars(tmp_path, Identity.load(tmp_path))
        await one.greet()
        pid = (await one.ask("env"))["result"]["pid"]
        assert [len(ages) for ages in (await place.running()).values()] == [1]
        await place.end("w")
        await until(lambda: not runs(pid), timeout=30)
        assert await place.running() == {}
        asking = asyncio.create_task(one.ask("env"))  # the gateway misses it, and says so
        await until(lambda: any(kind == "sidecar wanted" for kind, _ in told), timeout=30)
        wanted = next(fields for kind, fields in told if kind == "sidecar wanted")
        assert wanted == {"worklet": "w", "server": "own"}
        heard: list[tuple[str, str]] = []
        again = Sidecars(place, tmp_path, egress=False)
        again.tell = lambda worklet, text: heard.append((worklet, text))
        again.missed(wanted)  # nothing that it knows
        assert await place.running() == {}
        again.begin("w", again.placed("w", {"mcp": {"own": grant()}}))
        assert (await asking)["result"]["value"] == SECRET
        # Whoever was killed meanwhile: those without a worklet go, and those of others stay.
        sweeper = Sidecars(place, tmp_path, egress=False, gone_after=0)

        async def alive() -> list[str]:
            return ["w"]

        async def none() -> list[str]:
            return []

        await sweeper.sweep(alive)
        assert list(await place.running()) == ["w"]
        await sweeper.sweep(none)
        assert await place.running() == {}
        await again.aclose()
        assert heard == []


async def test_more_than_four_are_left_out_and_told(tmp_path: Path) -> None:
    heard: list[str] = []

    class Nowhere:
        started: ClassVar[list[str]] = []

        async def start(self, sidecar: Sidecar) -> None:
            self.started.append(sidecar.server)
            if sidecar.server == "s1":
                raise WorkletStartFailed("Its sidecar did not start: no room.")

        async def end(self, worklet: str) -> None: ...

        async def running(self) -> dict[str, list[float]]:
            return {}

    sidecars = Sidecars(Nowhere(), tmp_path, egress=True)
    sidecars.tell = lambda _, text: heard.append(text)
    grants = sidecars.placed("w", {"mcp": {f"s{n}": grant() for n in range(6)} | {"github": {"url": "x"}}})
    sidecars.begin("w", grants)
    await sidecars.aclose()
    assert Nowhere.started == ["s0", "s1", "s2", "s3"]
    assert sorted(heard) == [
        "A worklet has 4 MCP servers in sidecars; the others are left out.",
        "The MCP server s1 does not start: Its sidecar did not start: no room.",
    ]
    assert "sidecar" not in grants["mcp"]["s5"]


def test_a_sidecars_way_out_is_within_its_worklets() -> None:
    mcp = {"own": {**grant(), "hosts": ["a.example"]}, "silent": grant(), "github": {"url": "x"}}
    grants = placed({"mcp": mcp}, {"own": Path("/d/own"), "silent": Path("/d/silent")})
    assert list(sidecars_in(grants)) == ["own", "silent"]
    bound = {"within": [["a.example", "b.example"]], "granted": ["c.example:443"], "asks": True}
    assert ways_out("w", {**grants, "egress": bound}) == {
        "w.own": (Path("/d/own"), {**bound, "within": [["a.example", "b.example"], ["a.example"]], "asks": False}),
    }
    assert ways_out("w", {"mcp": mcp}) == {}  # nowhere to listen
    assert ways_out("w", {}) == {}
