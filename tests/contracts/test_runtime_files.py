"""Files that cross a worklet's border, held against containers and against plain processes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from images import worklet_image
from waiting import until

from worklets.docker import DockerRuntime
from worklets.files import OUTGOING, SEND_FILE, HandedOver, Outgoing
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Runtime, Worklet, WorkletSpec


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    share_dir = tmp_path / "data"
    identity = Identity.load(share_dir)
    made: Runtime = LocalRuntime(share_dir=share_dir, identity=identity)
    if request.param == "docker":
        image = await worklet_image()
        made = DockerRuntime(share_dir=share_dir, identity=identity, image=image, memory=1 << 30, cpus=1.5)
    yield made
    await made.remove("w", grace=0)
    await made.remove_volume("w")
    await made.close()


def run_dir(runtime: Runtime) -> str:
    """As the worklet's agent sees it."""
    return "/run/worklet" if runtime.kind == "docker" else "$HOME/../../run"


async def started(runtime: Runtime, script: str) -> Worklet:
    """A worklet whose agent runs the script in its workspace, says that it has, and sleeps."""
    done = f"{script}\necho > {run_dir(runtime)}/done; exec sleep 1000"
    worklet = await runtime.start(WorkletSpec("w", ("bash", "-c", done), "token"))
    await until((worklet.run_dir / "done").exists, what="the agent's script")
    return worklet


async def told(runtime: Runtime, worklet: Worklet, command: str) -> str:
    """What a command that an agent has waited to run says of the workspace."""
    await until((worklet.run_dir / "told").exists, what=command)
    return (worklet.run_dir / "told").read_text()


def on_sign(runtime: Runtime, command: str) -> str:
    """A script that runs the command when the test makes `go` in the run directory."""
    run = run_dir(runtime)
    waiting = f"while [ ! -e {run}/go ]; do sleep 0.05; done; ({command}) > {run}/draft 2>&1; mv {run}/draft {run}/told"
    return f"({waiting}) &"


def go(worklet: Worklet) -> None:
    (worklet.run_dir / "go").touch()


async def test_files_land_in_the_workspace_and_belong_to_the_agent(runtime: Runtime, tmp_path: Path) -> None:
    command = "cat attachments/a.txt; echo more >> attachments/a.txt && stat -c %U:%a attachments/b.bin && whoami"
    worklet = await started(runtime, on_sign(runtime, command))
    (tmp_path / "a").write_text("hello\n")
    (tmp_path / "b").write_bytes(os.urandom(300_000))
    assert await runtime.taken("w", ["attachments/a.txt"]) == set()
    await runtime.place("w", {"attachments/a.txt": tmp_path / "a", "attachments/b.bin": tmp_path / "b"})
    assert await runtime.taken("w", ["attachments/a.txt", "attachments/c"]) == {"attachments/a.txt"}
    go(worklet)
    first, owner, me = (await told(runtime, worklet, command)).split()
    assert first == "hello"
    assert owner == f"{me}:644"


async def test_placing_again_replaces_the_file(runtime: Runtime, tmp_path: Path) -> None:
    worklet = await started(runtime, on_sign(runtime, "cat attachments/a.txt; ls attachments | wc -l"))
    for content in ("one", "two\n"):
        (tmp_path / "a").write_text(content)
        await runtime.place("w", {"attachments/a.txt": tmp_path / "a"})
    go(worklet)
    assert (await told(runtime, worklet, "cat")).split() == ["two", "1"]


async def test_planted_links_lead_nowhere(runtime: Runtime, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "b.txt").write_text("untouched")
    plant = f"ln -s {outside} attachments; {on_sign(runtime, 'stat -c %F attachments; cat attachments/b.txt')}"
    worklet = await started(runtime, plant)
    (tmp_path / "a").write_text("mine")
    await runtime.place("w", {"attachments/b.txt": tmp_path / "a"})
    assert [path.name for path in outside.iterdir()] == ["b.txt"]
    assert (outside / "b.txt").read_text() == "untouched"
    go(worklet)
    assert (await told(runtime, worklet, "stat")).splitlines() == ["directory", "mine"]


async def test_a_link_in_a_files_place_is_replaced(runtime: Runtime, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    victim.chmod(0o666)
    plant = f"mkdir attachments; ln -s {victim} attachments/a.txt; {on_sign(runtime, 'stat -c %F attachments/a.txt')}"
    worklet = await started(runtime, plant)
    assert await runtime.taken("w", ["attachments/a.txt"]) == {"attachments/a.txt"}
    (tmp_path / "a").write_text("mine")
    await runtime.place("w", {"attachments/a.txt": tmp_path / "a"})
    go(worklet)
    assert (await told(runtime, worklet, "stat")).strip() == "regular file"
    assert victim.read_text() == "untouched"


def call(path: str, tool_id: str = "toolu_1", **more: str) -> str:
    """What the CLI writes to the MCP server."""
    parameters = {"name": "send_file", "arguments": {"path": path, **more}, "_meta": {"claudecode/toolUseId": tool_id}}
    lines = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters},
    ]
    return "\\n".join(json.dumps(line) for line in lines)


def sends(runtime: Runtime, before: str, request: str, limit: int = 1_000_000) -> str:
    """A script that prepares the workspace, then has the MCP server answer one call into `said`."""
    server = " ".join(runtime.sender("w", limit))
    talk = f"{{ printf '{request}\\n'; sleep 300; }} | {server} > {run_dir(runtime)}/said"
    return f"{before}\n({talk}) &"


async def verdict(worklet: Worklet) -> tuple[str, bool]:
    said = worklet.run_dir / "said"
    await until(lambda: said.exists() and len(said.read_text().splitlines()) == 2, what="the tool's answer")
    result = json.loads(said.read_text().splitlines()[1])["result"]
    return result["content"][0]["text"], result["isError"]


async def test_a_sent_file_waits_for_flow_and_hears_of_it(runtime: Runtime) -> None:
    assert SEND_FILE == "mcp__flow__send_file"
    script = sends(runtime, "echo picture > chart.png", call("chart.png", title="A chart", comment="Look"))
    worklet = await started(runtime, script)
    outgoing = Outgoing(worklet.run_dir)
    found = await until(lambda: outgoing.look("toolu_1"), what="the file")
    assert found == HandedOver("chart.png", 8, "A chart", "Look")
    assert outgoing.read("toolu_1", 100) == b"picture\n"
    with pytest.raises(ValueError, match="too large"):
        outgoing.read("toolu_1", 7)
    outgoing.reply("toolu_1", None)
    assert await verdict(worklet) == ("chart.png is in the thread.", False)
    assert outgoing.look("toolu_1") is None


async def test_claude_hears_why_a_file_could_not_be_shown(runtime: Runtime) -> None:
    worklet = await started(runtime, sends(runtime, "echo x > a.txt", call("a.txt")))
    outgoing = Outgoing(worklet.run_dir)
    await until(lambda: outgoing.look("toolu_1"), what="the file")
    outgoing.reply("toolu_1", "Slack has no room left.")
    assert await verdict(worklet) == ("Slack has no room left.", True)


async def test_what_is_not_in_the_workspace_is_not_sent(runtime: Runtime) -> None:
    worklet = await started(runtime, sends(runtime, "ln -s /etc/passwd link", call("link")))
    said, failed = await verdict(worklet)
    assert failed
    assert "not in the workspace" in said
    assert not (worklet.run_dir / OUTGOING / "toolu_1").exists()


async def test_what_the_agent_plants_where_files_go_out_is_not_followed(runtime: Runtime, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    out = f"{run_dir(runtime)}/{OUTGOING}"
    meta = '{\\"name\\": \\"../../x\\"}'
    plant = (
        f"mkdir -p {out}/link {out}/pipe {out}/odd; for d in link pipe odd; do echo {meta} > {out}/$d/meta.json; done\n"
        f"ln -s {secret} {out}/link/content; mkfifo {out}/pipe/content; echo y > {out}/odd/content\n"
        f"ln -s {secret} {out}/odd/reply.json; ln -s {tmp_path} {out}/away"
    )
    worklet = await started(runtime, plant)
    outgoing = Outgoing(worklet.run_dir)
    assert outgoing.look("link") is None
    assert outgoing.look("pipe") is None
    assert outgoing.look("away") is None
    assert outgoing.look("../run") is None
    assert outgoing.look("odd") == HandedOver("x", 2)
    outgoing.reply("odd", None)
    assert secret.read_text() == "of the host"
    assert stat.S_ISREG((worklet.run_dir / OUTGOING / "odd" / "reply.json").lstat().st_mode)
