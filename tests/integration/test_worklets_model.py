"""The real Claude CLI in a worklet, over relay and gateway, to the scripted model, and where the credential is not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from images import worklet_image
from waiting import until

from simulator.model import ScriptedModel
from worklets import rundir
from worklets.docker import DockerRuntime
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Runtime, WorkletSpec

KEY = "sk-ant-only-outside"


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    identity = Identity.load(tmp_path)
    runtime: Runtime = LocalRuntime(share_dir=tmp_path, identity=identity)
    if request.param == "docker":
        image = await worklet_image()
        runtime = DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=1 << 30, cpus=2)
    yield runtime
    await runtime.remove("w", grace=0)
    await runtime.remove_volume("w")
    await runtime.close()


async def ask(runtime: Runtime, identity: Identity, prompt: str) -> Path:
    """Starts the CLI on one prompt; its last words come as `answer` in the run directory."""
    run = "/run/worklet" if runtime.kind == "docker" else "$HOME/../../run"
    cli = f"claude -p '{prompt}' --allowedTools=Bash"
    script = f"{cli} > {run}/draft 2>&1 </dev/null; mv {run}/draft {run}/answer; sleep 100"
    env = {
        "ANTHROPIC_API_KEY": identity.token("gateway", "w"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
    }
    worklet = await runtime.start(WorkletSpec("w", ("bash", "-c", script), identity.token("relay", "w"), env))
    return worklet.run_dir / "answer"


async def test_the_model_sees_the_credential_and_the_worklet_never_does(runtime: Runtime, tmp_path: Path) -> None:
    identity = Identity.load(tmp_path)
    async with ScriptedModel(api_key=KEY) as model:
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity)
        try:
            await gateway.open(
                "w", rundir.prepare(tmp_path, "w", rundir.AGENT_UID if runtime.kind == "docker" else None)
            )
            answer = await ask(runtime, identity, "BASH env; cat /proc/[0-9]*/environ\nSAY hello from afar")
            await until(answer.exists, timeout=60)
            assert "hello from afar" in answer.read_text()
            assert gateway.traffic("w").requests >= 1
            assert gateway.traffic("w").received > 0
            assert {r.headers["x-api-key"] for r in model.requests} == {KEY}
            everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
            assert KEY.encode() not in everything
        finally:
            await gateway.aclose()


async def test_no_credential_reaches_the_person_as_a_sentence(runtime: Runtime, tmp_path: Path) -> None:
    identity = Identity.load(tmp_path)
    gateway = ModelGateway("http://127.0.0.1:1", None, identity)
    try:
        await gateway.open("w", rundir.prepare(tmp_path, "w", rundir.AGENT_UID if runtime.kind == "docker" else None))
        answer = await ask(runtime, identity, "SAY hello")
        await until(answer.exists, timeout=60)
        assert "No Claude credential is configured" in answer.read_text()
    finally:
        await gateway.aclose()


async def test_count_tokens_errors_and_streams_pass_as_they_are(runtime: Runtime, tmp_path: Path) -> None:
    """Asked as the model would answer without us, by a client inside whose every byte is compared."""
    identity = Identity.load(tmp_path)
    run = "/run/worklet" if runtime.kind == "docker" else "$HOME/../../run"
    asks = {
        "count": ("/v1/messages/count_tokens", "SAY hello"),
        "refused": ("/v1/messages", "ERROR 529"),
        "streamed": ("/v1/messages", "SAY one two three four"),
    }
    bodies = {
        name: json.dumps({
            "model": "claude-sonnet-4-5", "max_tokens": 99, "stream": name == "streamed",
            "messages": [{"role": "user", "content": text}],
        })
        for name, (_, text) in asks.items()
    }  # fmt: skip
    calls = [
        f"curl -sN -D {run}/{name}.head -o {run}/{name}.body $ANTHROPIC_BASE_URL{path}"
        f" -H 'content-type: application/json' -H \"x-api-key: $ANTHROPIC_API_KEY\" -d '{bodies[name]}'"
        for name, (path, _) in asks.items()
    ]
    script = "; ".join([*calls, f"touch {run}/done", "sleep 100"])
    env = {"ANTHROPIC_API_KEY": identity.token("gateway", "w")}
    async with ScriptedModel(api_key=KEY) as model, aiohttp.ClientSession() as http:
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity)
        try:
            agent = rundir.AGENT_UID if runtime.kind == "docker" else None
            await gateway.open("w", rundir.prepare(tmp_path, "w", agent))
            spec = WorkletSpec("w", ("bash", "-c", script), identity.token("relay", "w"), env)
            worklet = await runtime.start(spec)
            await until((worklet.run_dir / "done").exists, timeout=60)
            for name, (path, _) in asks.items():
                headers = {"x-api-key": KEY, "content-type": "application/json"}
                async with http.post(f"{model.url}{path}", data=bodies[name], headers=headers) as direct:
                    head = (worklet.run_dir / f"{name}.head").read_text()
                    assert int(head.split()[1]) == direct.status
                    assert f"content-type: {direct.headers['Content-Type']}".lower() in head.lower()
                    through = (worklet.run_dir / f"{name}.body").read_bytes()
                    assert alike(through) == alike(await direct.read())
            assert [used["output_tokens"] for used in gateway.usage.fetch("", 0)] == [model.usage[-1]["output_tokens"]]
        finally:
            await gateway.aclose()


def alike(body: bytes) -> bytes:
    """Without what the model makes up anew each time: ids."""
    return re.sub(rb'"(id|request_id)": ?"[^"]*"', b"", body)
