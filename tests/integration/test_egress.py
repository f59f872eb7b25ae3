"""A worklet's way out in a real container: what its programs reach through the proxy, and what they do not.

The test's own peers are on loopback, which the injected dialer takes for the outside; no route leads further.
"""

import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from certificates import make_certificate
from images import worklet_image
from waiting import until

from config.slices.egress import EgressSettings
from simulator.model import ScriptedModel
from worklets import rundir
from worklets.docker import DockerRuntime
from worklets.egress import told
from worklets.egressdial import Dialer
from worklets.egressdoors import Egress
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.runtime import WorkletSpec

pytestmark = pytest.mark.docker

KEY = "sk-ant-only-outside"
BIG = 64 << 20

#: Each step's output, then its exit code.
SCRIPT = r"""
step() { echo "== $1"; shift; "$@" 2>&1; code=$?; echo; echo "-- $code"; }
cd /work/workspace
echo "$CERTIFICATE" > own.pem
cat /etc/ssl/certs/ca-certificates.crt own.pem > all.pem
{
step named curl -sS "http://named.test:$PORT/hello"
step refused curl -sS -i "http://other.test:$PORT/hello"
step connect curl -sS -v "https://other.test:$TLS/hello"
step forged curl -sS -H "Host: other.test" "http://named.test:$PORT/host"
step tls curl -sS --cacert all.pem "https://named.test:$TLS/hello"
step unknown-authority curl -sS "https://named.test:$TLS/hello"
step address curl -sS "http://127.0.0.2:$PORT/hello"
step number curl -sS "http://2130706434:$PORT/hello"
step metadata curl -sS http://169.254.169.254/latest/meta-data
step rebound curl -sS "http://rebound.test:$PORT/hello"
step direct curl -sS --max-time 20 --noproxy '*' http://1.1.1.1/
step outside-host curl -sS --max-time 20 --noproxy '*' "http://172.17.0.1:$PORT/hello"
step dns getent hosts named.test
step devices ls /sys/class/net
step git git ls-remote "http://named.test:$PORT/repository.git"
step git-refused git ls-remote "http://other.test:$PORT/repository.git"
step python python3 -c "import urllib.request as u; print(u.urlopen('http://named.test:$PORT/hello').read().decode())"
step pip pip download --no-cache-dir --retries 0 --trusted-host named.test -i "http://named.test:$PORT/pip" demo
step npm npm view --fetch-retries 0 --registry "http://named.test:$PORT/npm/" demo name
step apt /usr/lib/apt/apt-helper download-file "http://named.test:$PORT/hello" /tmp/from-apt
step upload sh -c "head -c $BIG /dev/zero | curl -sS -T - http://named.test:$PORT/size"
step download sh -c "curl -sS http://named.test:$PORT/big | wc -c"
step claude sh -c "claude -p 'SAY hello from afar' </dev/null"
} > /run/worklet/draft
mv /run/worklet/draft /run/worklet/answer
sleep 100
"""


class Outside(NamedTuple):
    port: int
    tls: int
    certificate: str
    agents: dict[str, str]  # what asked for which path last


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    agents: dict[str, str] = {}

    @web.middleware
    async def note(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:  # type: ignore[type-arg]
        agents[request.path] = request.headers.get("User-Agent", "")
        return await handler(request)  # type: ignore[operator, no-any-return]

    async def size(request: web.Request) -> web.Response:
        total = 0
        async for chunk in request.content.iter_any():
            total += len(chunk)
        return web.Response(text=str(total))

    async def big(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(BIG >> 20):
            await response.write(bytes(1 << 20))
        return response

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello from outside\n")

    async def host(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Host"])

    app = web.Application(middlewares=[note])  # type: ignore[list-item]
    app.router.add_get("/hello", hello)
    app.router.add_get("/host", host)
    app.router.add_get("/big", big)
    app.router.add_put("/size", size)
    app.router.add_static("/repository.git", _repository(tmp_path))
    certificate, key = make_certificate(tmp_path, None, "named.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with TestServer(app, scheme="http") as plain:
        runner = web.AppRunner(app_of(hello))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield Outside(plain.port or 0, runner.addresses[0][1], certificate.read_text(), agents)
        await runner.cleanup()


def app_of(handler: object) -> web.Application:
    app = web.Application()
    app.router.add_get("/hello", handler)  # type: ignore[arg-type]
    return app


def _repository(directory: Path) -> Path:
    """A bare repository with one commit, as a plain web server can offer it."""
    bare, work = directory / "repository.git", directory / "work"
    identity = ["-c", "user.name=Maya", "-c", "user.email=maya@example.org"]
    for command in (
        ["git", "init", "-q", "-b", "main", str(work)],
        ["git", "-C", str(work), *identity, "commit", "-q", "--allow-empty", "-m", "Begin"],
        ["git", "clone", "-q", "--bare", str(work), str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True)
    return bare


def _addresses(host: str) -> list[str]:
    return {"named.test": ["127.0.0.1"], "rebound.test": ["169.254.169.254"]}.get(host, ["127.0.0.1"])


def _steps(text: str) -> dict[str, tuple[str, int]]:
    found = re.findall(r"^== (\S+)\n(.*?)^-- (\d+)$", text, re.DOTALL | re.MULTILINE)
    return {name: (output.strip(), int(code)) for name, output, code in found}


async def test_programs_in_a_container_reach_what_is_named_and_nothing_else(tmp_path: Path, outside: Outside) -> None:
    identity = Identity.load(tmp_path)
    egress = Egress(Dialer(_addresses, lambda address: address == "127.0.0.1"))
    hosts = [f"{name}:{port}" for name in ("named.test", "rebound.test") for port in (outside.port, outside.tls)]
    await egress.configure(told(EgressSettings(mode="allow-list", hosts=hosts)))
    runtime = DockerRuntime(share_dir=tmp_path, identity=identity, image=await worklet_image(), memory=1 << 30, cpus=2)
    env = {
        "ANTHROPIC_API_KEY": identity.token("gateway", "w"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "PORT": str(outside.port),
        "TLS": str(outside.tls),
        "CERTIFICATE": outside.certificate,
        "BIG": str(BIG),
    }
    async with ScriptedModel(api_key=KEY) as model:
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity, None, egress)
        try:
            await gateway.open("w", rundir.prepare(tmp_path, "w", rundir.AGENT_UID))
            spec = WorkletSpec("w", ("bash", "-c", SCRIPT), identity.token("relay", "w"), env, egress=True)
            answer = (await runtime.start(spec)).run_dir / "answer"
            await until(answer.exists, timeout=240)
            steps = _steps(answer.read_text())
        finally:
            await gateway.aclose()
            await runtime.remove("w", grace=0)
            await runtime.remove_volume("w")
            await runtime.close()
    _check_what_is_reached(steps, outside)
    _check_what_is_not(steps)


def _check_what_is_reached(steps: dict[str, tuple[str, int]], outside: Outside) -> None:
    for name in ("named", "tls", "python"):
        assert steps[name] == ("hello from outside", 0), name
    assert steps["forged"][0] == f"named.test:{outside.port}"
    assert "refs/heads/main" in steps["git"][0]
    assert "No matching distribution" in steps["pip"][0]
    assert outside.agents["/pip/demo/"].startswith("pip/")
    assert outside.agents["/npm/demo"].startswith("npm/")
    assert steps["apt"][1] == 0, steps["apt"]
    assert steps["upload"] == (str(BIG), 0)
    assert steps["download"] == (str(BIG), 0)
    assert steps["claude"] == ("hello from afar", 0)  # the model's gateway is reached without the proxy


def _check_what_is_not(steps: dict[str, tuple[str, int]]) -> None:
    output, _ = steps["refused"]
    assert output.startswith("HTTP/1.1 403 Flow blocked other.test:")
    assert "X-Blocked-By: Flow" in output
    assert "ask for it to be added to FLOW_EGRESS_HOSTS" in output
    assert "403 Flow blocked other.test:" in steps["connect"][0]
    assert steps["connect"][1] == 56
    assert "403" in steps["git-refused"][0]
    assert steps["unknown-authority"][1] == 60  # the image's certificates are looked at
    for name in ("address", "number", "metadata"):
        assert "hosts are named, not given by address" in steps[name][0]
    assert "its address is not one of the public internet" in steps["rebound"][0]
    for name in ("direct", "outside-host"):
        assert steps[name][1] == 7
    assert steps["dns"][1] == 2
    assert steps["devices"][0].split() == ["lo"]
