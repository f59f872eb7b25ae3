"""MCP servers of a repository that run as programs: those of the image, and one with a secret beside the worklet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from dockerlists import listed
from images import IMAGE
from leaks import Leaks
from modelrequests import in_conversation
from test_e2e_container import repository, store
from test_e2e_egress import outside
from waiting import until
from world import World

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(480),
    pytest.mark.parametrize("runtime", ["docker"], indirect=True),
]

IN_THE_IMAGE = "mcpServers: {filesystem: , memory: , fetch: }\n"


def results(world: World) -> str:
    """What the tools of the worklet answered, as the model was told it last."""
    return json.dumps(in_conversation(world.model)[-1].body["messages"])


def calls(*tools: tuple[str, dict[str, object]]) -> str:
    return "\n".join(f"TOOL mcp__{name} {json.dumps(given)}" for name, given in tools)


async def test_the_images_own_servers_work_without_fetching_them(world: World) -> None:
    async with outside(world) as port:
        world.program.env |= {
            "FLOW_EGRESS": "allow-list", "FLOW_EGRESS_HOSTS": f"pages.test:{port}", "FLOW_EGRESS_PORTS": "80,443",
        }  # fmt: skip
        await world.program.start()
        graph = {"entities": [{"name": "Flow", "entityType": "bot", "observations": ["remembers-this"]}]}
        text = calls(
            ("filesystem__write_file", {"path": "/work/workspace/kept.txt", "content": "kept-by-filesystem"}),
            ("filesystem__read_text_file", {"path": "/work/workspace/kept.txt"}),
            ("filesystem__read_text_file", {"path": "/etc/passwd"}),
            ("memory__create_entities", graph),
            ("memory__search_nodes", {"query": "remembers-this"}),
            ("fetch__fetch", {"url": f"http://pages.test:{port}/"}),
            ("fetch__fetch", {"url": f"http://elsewhere.test:{port}/"}),
        )
        repo = repository(world, IN_THE_IMAGE)
        await world.slack.command("maya", "general", "/flow", f"{text}\nBASH ls ~ -A\nSAY all called repo={repo}")
        ts = await world.root("all called")
        await world.settled(ts, "all called", timeout=240)
        told = results(world)
        for answer in (
            "Successfully wrote to /work/workspace/kept.txt", "kept-by-filesystem", "path outside allowed directories",
            "remembers-this", "hello from pages.test", "received status 403", ".mcp-memory.jsonl",
        ):  # fmt: skip
            assert answer in told
        assert "hello from elsewhere.test" not in told


PAGE = "<title>Prototype</title><button onclick=\"this.textContent='pressed-'+6*7\">press me</button>"


async def test_a_browser_comes_when_somebody_wants_one(world: World) -> None:
    async with outside(world) as port:
        world.program.env |= {
            "FLOW_EGRESS": "allow-list", "FLOW_EGRESS_HOSTS": f"pages.test:{port}", "FLOW_EGRESS_PORTS": "80,443",
        }  # fmt: skip
        await world.program.start()
        server = f"mkdir site && echo {shlex.quote(PAGE)} > site/index.html && (python3 -m http.server -d site 3000 &)"
        text = calls(
            ("playwright__browser_navigate", {"url": "http://localhost:3000/"}),
            ("playwright__browser_click", {"element": "the button", "target": "button"}),
            ("playwright__browser_snapshot", {}),
            ("playwright__browser_navigate", {"url": f"http://pages.test:{port}/"}),
            ("playwright__browser_snapshot", {}),
        )
        repo = repository(world, "mcpServers: {playwright: }\n")
        prompt = f"BASH {server}\n{text}\nBASH git status --short\nSAY all seen repo={repo}"
        await world.slack.command("maya", "general", "/flow", prompt)
        ts = await world.root("all seen")
        await world.settled(ts, "all seen", timeout=400)
        told = results(world)
        for answer in ("Page Title: Prototype", "pressed-42", "hello from pages.test"):
            assert answer in told
        assert "?? site/" in told
        assert "?? .playwright-mcp" not in told
        listed = await world.program.flow("images", "list", "--json")
        assert [one["base"] for one in json.loads(listed.stdout)] == [IMAGE]


SECRET = "trk_theTrackersToken0123456789abcdefghij"
SERVER = r"""
import json, os, sys, urllib.request

def tool(name, given):
    if name == "die":
        sys.stderr.write("dying with " + os.environ["TRACKER_TOKEN"] + "\n")
        sys.stderr.flush()
        os._exit(3)
    if name == "who":
        return f"uid {os.getuid()} knows {len(os.environ['TRACKER_TOKEN'])} characters, sees {os.listdir('/work')}"
    try:
        return urllib.request.urlopen(given["url"], timeout=20).read().decode()
    except Exception as error:
        return f"refused: {error}"

for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                      "serverInfo": {"name": "tracker", "version": "1"}}
        case "tools/list":
            schema = {"type": "object", "properties": {"url": {"type": "string"}}}
            result = {"tools": [{"name": name, "description": name, "inputSchema": schema}
                                for name in ("who", "die", "reach")]}
        case "tools/call":
            text = tool(message["params"]["name"], message["params"].get("arguments") or {})
            result = {"content": [{"type": "text", "text": text}]}
        case _:
            result = {}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
WITH_SECRET = f"""\
mcpServers:
  tracker:
    command: python3
    args: ["-c", {json.dumps(SERVER)}]
    env: {{TRACKER_TOKEN: "${{TRACKER_TOKEN}}", LEVEL: low}}
"""


async def test_a_server_with_a_secret_runs_beside_the_worklet(world: World) -> None:
    async with outside(world) as port:
        world.program.env |= {
            "FLOW_EGRESS": "open", "FLOW_EGRESS_PORTS": f"80,443,{port}",
            "FLOW_SECRETS_KEY": Fernet.generate_key().decode(),
        }  # fmt: skip
        await store(world, "TRACKER_TOKEN", SECRET, "mcp/tracker")
        line = shlex.join(["TRACKER_TOKEN=${TRACKER_TOKEN}", "LEVEL=low", "python3", "-c", SERVER])
        await store(world, "command", line, "mcp/tracker")
        await store(world, "hosts", f"api.test:{port}", "mcp/tracker")
        await world.program.start()
        repo = repository(world, WITH_SECRET)
        text = calls(
            ("tracker__who", {}),
            ("tracker__reach", {"url": f"http://api.test:{port}/"}),
            ("tracker__reach", {"url": f"http://elsewhere.test:{port}/"}),
            ("tracker__die", {}),
            ("tracker__who", {}),
        )
        await world.slack.command("maya", "general", "/flow", f"{text}\nSAY tracked repo={repo}")
        ts = await world.root("tracked")
        await world.settled(ts, "tracked", timeout=240)
        told, ended = results(world), "The MCP server tracker ended (exit status 3) and is started again"
        assert told.count("uid 1000 knows 40 characters, sees ['home']") == 2
        assert "hello from api.test" in told
        assert f"Flow blocked elsewhere.test:{port}" in told
        assert ended in told
        for remark in (f"⚠️ {ended}", f"Flow blocked a host: elsewhere.test:{port}"):
            await world.see(ts, remark)
        thread = "\n".join(world.thread(ts))
        assert thread.count(f"⚠️ {ended}") == 1

        names = named(world)
        (beside,) = [id_ for name, id_ in names.items() if name.endswith(".mcp-tracker")]
        (worklet,) = [(name, id_) for name, id_ in names.items() if ".mcp-" not in name]
        run_dir = world.share_dir / "worklets" / worklet[0].split("-", 2)[2] / "run"
        found = await asyncio.to_thread(Leaks(worklet[1], IMAGE, run_dir, {"secret": SECRET, "word": "tracked"}).found)
        assert "word" in found["run directory and journal"] | found["files"]
        assert {place for place, kinds in found.items() if "secret" in kinds} == set()
        for shown in (["inspect", beside], ["logs", beside], ["inspect", IMAGE]):
            done = await asyncio.to_thread(
                subprocess.run, ["docker", *shown], capture_output=True, text=True, timeout=60
            )
            assert SECRET not in done.stdout + done.stderr
        assert SECRET not in thread + told + "".join(world.program.output)
        assert not any(SECRET in file.read_text(errors="replace") for file in files_of(world.share_dir))

        # Flow is killed and comes back: the sidecar went on with its worklet, and ends with it.
        await world.program.end(signal.SIGKILL)
        await world.program.start()
        await world.slack.post("maya", "general", f"{calls(('tracker__who', {}))}\nSAY again tracked", thread_ts=ts)
        await world.settled(ts, "again tracked", timeout=90)
        assert results(world).count("uid 1000 knows 40 characters, sees ['home']") == 3
        assert named(world) == names
        with contextlib.closing(sqlite3.connect(world.share_dir / "db.sqlite")) as database:
            (session,) = database.execute("select id from sessions").fetchone()
        await world.program.flow("sessions", "stop", str(session))
        await until(lambda: not named(world), timeout=60, what="the end of both containers")


def named(world: World) -> dict[str, str]:
    """The running containers of this Flow: ids by name."""
    instance = json.loads((world.share_dir / "instance.json").read_text())["instance"]
    shown = ("--no-trunc", "--format", "{{.Names}} {{.ID}}", "--filter", f"label=flow.instance={instance}")
    return dict(line.split() for line in listed("ps", *shown))


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
