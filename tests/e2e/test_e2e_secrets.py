"""No secret of Flow is anywhere in a worklet, and what its template gives it of Vault can be used there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hvac
import pytest
from images import IMAGE
from leaks import Leaks
from openbao import OpenBao, open_bao
from waiting import until
from world import API_KEY, World, containers

from sessions.db import open_database
from sessions.templates import drafted
from sessions.templatestore import TemplateStore
from worklets.gatewaychannel import Channel
from worklets.gatewaycontrol import LOG, control_dir
from worklets.identity import Identity

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(480),
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of another user"),
]

MCP_PASSWORD = f"real-mcp-{secrets.token_hex(16)}"
#: What Claude may know: it is in no file that Flow writes, and in the answers to those who ask Vault for it.
SHARED = f"shared-{secrets.token_hex(16)}"


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[OpenBao]:
    dsn = f"postgresql://reader:{MCP_PASSWORD}@127.0.0.1:1/app"
    kept = {"flow/mcp/postgres": {"dsn": dsn}, "team/db": {"password": SHARED}}
    with open_bao(tmp_path / "bao", kept) as server:
        yield server


async def _template(world: World) -> None:
    database = open_database(f"sqlite://{world.share_dir / 'db.sqlite'}")
    config = {"vault": {"paths": ["team/db", "flow/mcp/postgres"]}, "mcp_servers": ["postgres"]}
    await TemplateStore(database).add(drafted("trusted", "", config, is_public=True), "U0ADMIN")
    await database.close()


def _journal(world: World) -> str:
    files = world.share_dir.glob("worklets/*/run/journal/*.log")
    return "".join(file.read_text(errors="replace") for file in files)


def _named(container: str) -> str:
    """The worklet's name: its container's is flow-<instance>-<name>."""
    told = subprocess.run(["docker", "inspect", "-f", "{{.Name}}", container], capture_output=True, text=True)
    return told.stdout.strip().split("-", 2)[2]


async def _real_secrets(world: World, bao: OpenBao, container: str, other: str) -> dict[str, str]:
    """All that Flow has and that container may not."""
    identity = Identity.load(world.share_dir)
    channel = await Channel.open(control_dir(world.share_dir), 30)
    told = await channel.ask("doors")
    await channel.aclose()
    tokens = {one["vault"]["token"] for one in told["grants"].values() if "vault" in one}
    assert len(tokens) == 1
    assert MCP_PASSWORD in json.dumps(told["grants"][_named(container)]["mcp"])  # in use, so it could leak
    env, name, neighbour = world.program.env, _named(container), _named(other)
    return {
        "Anthropic key": API_KEY,
        "Slack app token": env["SLACK_APP_TOKEN"],
        "Slack bot token": env["SLACK_BOT_TOKEN"],
        "Flow's Vault token": env["VAULT_TOKEN"],
        "the session's Vault token": tokens.pop(),
        "Vault's root token": bao.root,
        "MCP server's password": MCP_PASSWORD,
        "key of Flow's own tokens": identity.key.hex(),
        "its relay's token": identity.token("relay", name),
        "another's relay token": identity.token("relay", neighbour),
        "another's gateway token": identity.token("gateway", neighbour),
    }


@pytest.mark.parametrize("runtime", ["docker"], indirect=True)
async def test_no_secret_of_flow_is_in_a_worklet(world: World, bao: OpenBao) -> None:
    world.program.env |= {
        "FLOW_SECRETS": "vault", "VAULT_ADDR": bao.url, "VAULT_TOKEN": bao.token("flow"), "FLOW_VAULT_SHARED": "team",
        "FLOW_KV": "sqlite",
    }  # fmt: skip
    await _template(world)
    await world.program.start()
    status, health = await world.program.health()
    assert (status, health["secrets"]) == (200, {"state": "ok", "kind": "vault"})
    ask = 'curl -s -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1'
    ts = await world.slack.post(
        "maya", "general", "@Flow template=trusted "
        f"BASH {ask}/secret/data/team/db | grep -q shared- && echo read-$((6 * 7))\n"
        f"BASH {ask}/secret/data/flow/mcp/postgres\n"
        f"BASH {ask}/auth/token/lookup-self > own.json\n"
        "SAY looked around",
    )  # fmt: skip
    await world.settled(ts, "looked around", timeout=90)
    (container,) = containers(world)
    neighbour = await world.slack.post("jonas", "general", "@Flow SAY I am another")
    await world.settled(neighbour, "I am another", timeout=90)
    (other,) = [one for one in containers(world) if one != container]
    said = _journal(world)
    assert "read-42" in said
    assert "Flow lets no GET of v1/secret/data/flow/mcp/postgres through" in said
    assert any("may not read flow/mcp/postgres in Vault" in text for text in world.thread(ts))
    real = await _real_secrets(world, bao, container, other)
    run_dir = world.share_dir / "worklets" / _named(container) / "run"
    with _planted_image() as (image, in_image):
        planted = in_image | _planted(container, run_dir)
        own = {"own": Identity.load(world.share_dir).token("gateway", _named(container)), "id": container}
        values = {**real, **planted, **own, "word": "looked around"}
        found = await asyncio.to_thread(Leaks(container, image, run_dir, values).found)
    assert {place: names & set(real) for place, names in found.items()} == {place: set() for place in found}
    _would_have_been_found(found)
    gateway_log = (control_dir(world.share_dir) / LOG).read_text()
    assert "the model gateway is ready" in gateway_log
    shown = "\n".join([*world.thread(ts), "".join(world.program.output), said, gateway_log])
    assert [name for name, value in real.items() if value in shown] == []
    # The session's end is its token's end.
    await world.program.flow("sessions", "stop", _session(world))
    await until(lambda: not _lives(bao, real["the session's Vault token"]))


def _session(world: World) -> str:
    """The id of the session that was started from the template."""
    with contextlib.closing(sqlite3.connect(world.share_dir / "db.sqlite")) as database:
        return str(database.execute("select id from sessions where template is not null").fetchone()[0])


def _lives(bao: OpenBao, token: str) -> bool:
    try:
        bao.admin.auth.token.lookup(token)
    except hvac.exceptions.Forbidden:
        return False
    return True


def _planted(container: str, run_dir: Path) -> dict[str, str]:
    """Values in the running container, by place."""
    planted = {name: f"planted-{secrets.token_hex(12)}" for name in ("env", "args", "file", "tmpfs", "run", "base64")}

    def inside(script: str, *options: str, given: str = "") -> None:
        words = ["docker", "exec", "-i", *options, container, "sh", "-c", script]
        subprocess.run(words, input=given.encode(), check=True, timeout=60)

    inside("sleep 300", "-d", "-e", f"PLANTED={planted['env']}")
    inside(f"sleep 300; : {planted['args']}", "-d")
    inside("cat > /work/workspace/.hidden", given=planted["file"])
    inside("cat > /tmp/planted", given=planted["tmpfs"])
    inside("cat > /tmp/encoded", given=base64.b64encode(f"user:{planted['base64']}, more".encode()).decode())
    (run_dir / "planted").write_text(planted["run"])
    return planted


@contextlib.contextmanager
def _planted_image() -> Iterator[tuple[str, dict[str, str]]]:
    """The worklet image with values in its configuration, and in a layer whose file the next one removes."""
    planted = {name: f"planted-{secrets.token_hex(12)}" for name in ("layer", "image")}
    half = len(planted["layer"]) // 2
    dockerfile = (
        f"FROM {IMAGE}\nENV PLANTED={planted['image']}\nUSER 0\n"
        f"RUN printf %s%s {planted['layer'][:half]} {planted['layer'][half:]} > /planted\nRUN rm /planted\n"
    )
    image = f"flow-planted-{secrets.token_hex(4)}"
    subprocess.run(["docker", "build", "-q", "-t", image, "-"], input=dockerfile.encode(), check=True, timeout=240)
    try:
        yield image, planted
    finally:
        subprocess.run(["docker", "rmi", "-f", image], capture_output=True, timeout=120)


def _would_have_been_found(found: dict[str, set[str]]) -> None:
    """The search has found in each place what was planted there: so it misses nothing."""
    assert len(found) == 8
    assert found["environment and arguments of processes"] >= {"env", "args", "own"}
    assert found["files"] >= {"file", "tmpfs", "run", "base64", "word"}
    assert "id" in found["configuration"]
    assert found["run directory and journal"] >= {"run", "word"}
    assert "image" in found["image's configuration"]
    assert "image" in found["image's history"]
    assert found["image's layers"] == {"layer"}
