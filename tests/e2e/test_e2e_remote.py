"""Worklets on an engine of another machine: nothing of Flow is there but the gate, and nothing there reaches Flow."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from images import IMAGE, worklet_image
from modelrequests import in_conversation
from remoteengine import RemoteEngine, lacking, remote_engine
from world import API_KEY, World

pytestmark = [pytest.mark.docker, pytest.mark.parametrize("runtime", ["docker"], indirect=True)]

SLOW = 300  # seconds: of a machine that does much else
SEND = 'TOOL mcp__flow__send_file {"path": "made.txt"}'


@pytest.fixture(scope="module")
def engine() -> Iterator[RemoteEngine]:
    if reason := lacking():
        pytest.skip(reason)
    asyncio.run(worklet_image())
    with remote_engine(IMAGE) as made:
        yield made


@pytest.fixture
async def remote(world: World, engine: RemoteEngine) -> AsyncIterator[World]:
    world.program.env |= {"DOCKER_HOST": engine.host, "DOCKER_CERT_PATH": str(engine.certificates)}
    yield world
    if world.program.process and world.program.process.returncode is None:
        await world.program.end(signal.SIGKILL)  # it would start the gate anew
    await asyncio.to_thread(engine.clear)


def gate_of(world: World) -> str:
    """Its container's id, as Flow has it."""
    return str(json.loads((world.share_dir / "remote/gate.json").read_text())["container"])


def worklet_of(engine: RemoteEngine) -> Any:
    found = engine.client().containers.list(filters={"label": "flow.instance"})
    assert len(found) == 1
    return found[0]


def a_repository(path: Path) -> Path:
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "the first commit"], check=True)
    return path


async def look_around(world: World, engine: RemoteEngine) -> None:
    """What a worklet over there, and whoever may inspect containers there, finds of Flow."""
    worklet, gate = worklet_of(engine), engine.client().containers.get(gate_of(world))

    def run(container: Any, *command: str) -> str:
        return str(container.exec_run(list(command)).output.decode(errors="replace"))

    everything = json.dumps([worklet.attrs, gate.attrs]) + gate.logs().decode()
    everything += run(gate, "grep", "-rhaE", "PRIVATE KEY|BEGIN CERT", "/work", "/tmp", "/dev/shm", "/proc/1/environ")
    everything += run(worklet, "sh", "-c", "cat /proc/*/environ /proc/*/cmdline; grep -rha sk-ant /work /run /tmp")
    assert API_KEY not in everything
    assert "PRIVATE KEY" not in everything
    knock = f"import socket; socket.create_connection(('{engine.address}', 7443), 5)"
    assert "Network is unreachable" in run(worklet, "python3", "-c", knock)
    assert worklet.attrs["HostConfig"]["NetworkMode"] == "none"
    assert "Permission denied" in run(gate, "sh", "-c", "echo x > /opt/relay/relay.py || echo Permission denied")
    neighbours = run(gate, "sh", "-c", "ls /work/worklets")
    assert len(neighbours.split()) == 1
    assert run(worklet, "sh", "-c", "ls -d /work/worklets /run/worklet/../*/relay.sock").count("relay.sock") == 1
    doctor = await world.program.flow("doctor")
    assert f"the gate answers at {engine.address}:7443" in " ".join(doctor.stdout.split()), doctor.stdout


async def test_a_thread_on_another_machine_outlives_gate_cable_and_bot(
    remote: World, engine: RemoteEngine, tmp_path: Path
) -> None:
    repository = a_repository(tmp_path / "repository")
    await remote.program.start()
    began = time.monotonic()
    look = "git log --format=%s && ls /run/worklet | tee made.txt"
    asked = f"@Flow repo={repository} BASH {look}\n{SEND}\nSAY hello from afar"
    ts = await remote.slack.post("maya", "general", asked)
    await remote.settled(ts, "hello from afar", timeout=SLOW)
    print(f"first answer, with a new gate: {time.monotonic() - began:.1f} s")
    told = str(in_conversation(remote.model)[-1].body["messages"])
    assert "the first commit" in told
    assert "gateway.sock" in told
    files = [one for m in remote.slack.messages("general", thread_ts=ts) for one in m.get("files", [])]
    assert b"relay.sock" in (remote.slack.workspace.files[files[0]["id"]].content or b"")
    await look_around(remote, engine)
    first = gate_of(remote)

    await remote.slack.post("maya", "general", "WORDS 40 50\nHOLD gate\nSAY after the gate", thread_ts=ts)
    await remote.model.held("gate")
    await asyncio.to_thread(engine.client().api.kill, first)
    remote.model.release("gate")
    answer = await remote.settled(ts, "after the gate", timeout=SLOW)
    assert [answer.count(f"word{n} ") for n in range(1, 40)] == [1] * 39
    assert gate_of(remote) != first

    await remote.slack.post("maya", "general", "WORDS 40 50\nHOLD cable\nSAY after the cable", thread_ts=ts)
    await remote.model.held("cable")
    engine.cut(up=False)
    await asyncio.sleep(2)  # that long is nobody there
    engine.cut(up=True)
    remote.model.release("cable")
    answer = await remote.settled(ts, "after the cable", timeout=SLOW)
    assert [answer.count(f"word{n} ") for n in range(1, 40)] == [1] * 39

    await remote.slack.post("maya", "general", "WORDS 40 50\nHOLD bot\nSAY after the bot", thread_ts=ts)
    await remote.model.held("bot")
    await remote.program.end(signal.SIGKILL)
    remote.model.release("bot")
    await remote.program.start()
    answer = await remote.settled(ts, "after the bot", timeout=SLOW)
    assert [answer.count(f"word{n} ") for n in range(1, 40)] == [1] * 39
    assert sum("after the" in message for message in remote.thread(ts)) == 6, "three prompts, and an answer each"
