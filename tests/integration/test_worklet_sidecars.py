"""A sidecar's container: what holds a hostile MCP server in it, and that nothing of it is left."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from images import worklet_image

from worklets.docker import DockerRuntime
from worklets.dockersidecars import Bounds, DockerSidecars
from worklets.gateway import ModelGateway
from worklets.gatewaysubjects import routes
from worklets.identity import Identity
from worklets.sidecars import Sidecars
from worklets.sockets import short_path

pytestmark = pytest.mark.docker

SECRET = "sk-only-the-server-may-have-it"
#: Runs what it is given, and answers with `found`.
SERVER = r"""
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    found = {}
    try:
        if message["method"] == "run":
            exec(message["params"]["code"], found)
        result = {"found": found.get("found")}
    except BaseException as error:
        result = {"found": type(error).__name__ + ": " + str(error)}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
STATUS = 'found = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)'
ATTEMPTS = {
    "socket directory": 'open("/run/sidecar/x", "w")',
    "its own socket": 'import os; os.unlink("/run/sidecar/mcp.sock")',
    "system": 'open("/usr/x", "w")',
    "the relay's program": 'open("/opt/relay/sidecar.py", "a")',
    "vsock": "import socket; socket.socket(40)",
    "mount": 'import ctypes, os; c = ctypes.CDLL(None, use_errno=True); c.mount(b"a", b"/tmp", b"tmpfs", 0, None);'
    " raise OSError(ctypes.get_errno(), 'mount')",
    "user namespace": "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.unshare(0x10000000);"
    " raise OSError(ctypes.get_errno(), 'unshare')",
    "memory of the bridge": 'import os; pid = os.getppid(); open(f"/proc/{pid}/mem", "rb").read(1)',
    "an address outside": 'import socket; socket.create_connection(("192.0.2.1", 80), 2)',
    "a disk": "import shutil; shutil.copyfile('/dev/zero', '/work/home/full')",
}


async def test_what_holds_a_server_in_its_sidecar(tmp_path: Path) -> None:
    identity = Identity.load(tmp_path)
    runtime = DockerRuntime(
        share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=1 << 30, cpus=2, pids=256
    )
    place = DockerSidecars(runtime, Bounds(memory=128 << 20, cpus=0.5, pids=40))
    sidecars = Sidecars(place, tmp_path, egress=False, gone_after=0)
    grants = sidecars.placed("w", {"mcp": {"own": {
        "command": ["python3", "-c", SERVER], "env": {"TOKEN": SECRET}, "hosts": [],
    }}})  # fmt: skip
    run_dir = tmp_path / "worklets" / "w" / "run"
    run_dir.mkdir()
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes=routes())
    try:
        sidecars.begin("w", grants)
        await gateway.open("w", run_dir, None, grants)
        headers = {"Authorization": f"Bearer {identity.token('gateway', 'w')}", "Mcp-Session-Id": "a1"}
        with short_path(run_dir, "gateway.sock") as path:
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession("http://x", connector=connector, headers=headers) as http:

                async def run(code: str) -> object:
                    message = {"jsonrpc": "2.0", "id": 1, "method": "run", "params": {"code": code}}
                    async with http.post("/flow/mcp/own", json=message) as answer:
                        (line,) = [x for x in (await answer.text()).splitlines() if x.startswith("data: ")]
                        said = json.loads(line[6:])
                        return said["result"]["found"] if "result" in said else said["error"]["message"]

                await _looked_at(run)
        container = f"flow-{identity.instance}-w.mcp-own"
        told = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, timeout=60).stdout
        assert SECRET not in told
        (found,) = json.loads(told)
        host = found["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (128 << 20, 128 << 20, 40)
        assert (host["NanoCpus"], host["NetworkMode"], host["Init"]) == (500_000_000, "none", True)
        assert [(one["Destination"], one["RW"]) for one in found["Mounts"]] == [("/run/sidecar", False)]
        # Flow came back: what runs stays; what belongs to nobody goes.
        again = Sidecars(place, tmp_path, egress=False, gone_after=0)
        again.begin("w", grants)
        await again.aclose()
        assert list(await place.running()) == ["w"]
        assert (
            json.loads(
                subprocess.run(["docker", "inspect", container], capture_output=True, text=True, timeout=60).stdout
            )[0]["Id"]
            == found["Id"]
        )
        assert await runtime.list() == []
        assert await runtime.sweep(older=-10) == []  # it is no helper that somebody forgot
        await sidecars.sweep(_none)
        assert await place.running() == {}
    finally:
        await gateway.aclose()
        await sidecars.end("w")
        await sidecars.aclose()
        await runtime.close()


async def _looked_at(run: Callable[[str], Awaitable[object]]) -> None:
    """Claude's session is known by its id alone: the server is greeted by Flow."""
    assert await run('import os; found = os.environ["TOKEN"]') == SECRET
    status = await run(STATUS)
    assert isinstance(status, dict)
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["Seccomp_filters"])) == ("1", "2", 2)
    assert await run("import os; found = [os.getuid(), sorted(os.listdir('/sys/class/net'))]") == [1000, ["lo"]]
    assert await run("import os; found = sorted(os.listdir('/run/sidecar')) + os.listdir('/work')") == [
        "mcp.sock",
        "home",
    ]
    for what, code in ATTEMPTS.items():
        found = str(await run(code))
        assert "Error" in found, (what, found)
    assert "ended (it was killed)" in str(await run("found = len(bytearray(300 << 20))"))
    assert await run("found = 'again'") == "again"
    forks = "import os, time\nfound = 0\nwhile found < 1000:\n    if os.fork() == 0: time.sleep(1000)\n    found += 1"
    assert str(await run(forks)).startswith("BlockingIOError")


async def _none() -> list[str]:
    return []
