"""A repository with a container.yaml: from the clone to a vendor's tool, and what the thread is told of a bad one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from mcpvendor import vendor
from world import World

SECRET = "lin_api_theVendorsToken0123456789abcdefghij"
CONFIG = """\
name: shop
tools:
  allowed: [Read, Write, "Bash(cat *)", "Bash(grep *)"]
mcpServers:
  tickets: linear
  sentry:
resources: {memory: 1t, timeout: 10m}
"""


def repository(world: World, config: str) -> Path:
    """A new one with that file, and what Claude works on."""
    made = world.share_dir.parent / "shop"
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    subprocess.run([*git, "init", "-q", made], check=True)
    (made / ".claude").mkdir()
    (made / ".claude" / "container.yaml").write_text(config)
    subprocess.run([*git, "-C", made, "add", "."], check=True)
    subprocess.run([*git, "-C", made, "commit", "-qm", "first"], check=True)
    return made


async def store(world: World, key: str, value: str, name: str = "mcp/linear") -> None:
    """As an administrator does it: the value is in no argument."""
    command, program = [sys.executable, "-m", "bot", "secrets", "set", name, key], world.program
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=value,
        env=program.env,
        cwd=program.cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.one_runtime
async def test_a_repositorys_own_worklet(world: World) -> None:
    async with vendor(f"Bearer {SECRET}") as found:
        world.program.env["FLOW_SECRETS_KEY"] = Fernet.generate_key().decode()
        await store(world, "token", SECRET)
        await store(world, "url", found.url)
        await world.program.start()
        repo = repository(world, CONFIG)
        text = 'TOOL mcp__tickets__add {"a": 40, "b": 2}\nWRITE notes.txt mine\nBASH cat notes.txt\nSAY first done'
        await world.slack.command("maya", "general", "/flow", f"{text} repo={repo} branch=main")
        ts = await world.root("first done")
        whole = await world.settled(ts, "first done")
        thread = "\n".join(world.thread(ts))
        assert "resources.memory asks for 1 TiB; a worklet has 2 GiB." in thread
        assert "The MCP server sentry is left out: there is no secret mcp/sentry" in thread
        assert SECRET not in thread + whole + "".join(world.program.output)
        assert {headers["authorization"] for headers in found.seen} == {f"Bearer {SECRET}"}

        rows = [json.loads(line) for line in (await world.program.flow("audit", "--json")).stdout.splitlines()]
        assert [(row["tool"], row["risk"], row["decision"]) for row in rows] == [
            ("mcp__tickets__add", "high", "rule"),
            ("Write", "medium", "rule"),
            ("Bash", "high", "rule"),
        ]
        assert all(len(row["digest"]) == 64 and row["session_id"] and row["turn_id"] for row in rows)
        shown = await world.program.flow("audit", "--risk", "high", "--since", "1h")
        assert "mcp__tickets__add" in shown.stdout
        assert "Write" not in shown.stdout


@pytest.mark.parametrize("runtime", ["local"])
async def test_a_bad_file_starts_nothing_and_the_thread_reads_why(world: World) -> None:
    await world.program.start()
    repo = repository(world, "nmae: shop\nsecurity: {networkMode: host}\n")
    checked = await world.program.flow("container", "check", str(repo))
    assert checked.returncode == 1
    assert f'{repo}/.claude/container.yaml:1:1: "nmae" is not known; did you mean name?' in checked.stderr
    await world.slack.command("maya", "general", "/flow", f"SAY never repo={repo}")
    ts = await world.root("SAY never")
    answer = await world.see(ts, "did you mean name?")
    assert "line 2:25: security.networkMode:" in answer
    assert "flow container check" in answer
    assert not list(world.share_dir.glob("worklets/*/work/workspace/*"))
