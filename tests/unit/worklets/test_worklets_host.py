"""Which volume a session's agent is started on, with plain processes and a program in the place of the CLI."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from config.slices.egress import EgressSettings
from worklets.agent import Agent
from worklets.egress import EgressPolicy
from worklets.egress import told as told_egress
from worklets.egressdoors import Egress
from worklets.gateway import ModelGateway
from worklets.git import Git
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.mirrors import Mirrors


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        (path / "file").write_text("whole")
        subprocess.run(["git", *words], cwd=path, check=True, capture_output=True)
    return path


@asynccontextmanager
async def host(share_dir: Path, egress: dict[str, Any] | None = None) -> AsyncIterator[WorkletHost]:
    claude = share_dir.parent / "bin" / "claude"
    claude.parent.mkdir(exist_ok=True)
    claude.write_text('#!/bin/sh\n{ env; echo "$@"; } > $HOME/draft; mv $HOME/draft $HOME/told; exec sleep 1000\n')
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    ways = Egress()
    await ways.configure(egress)
    gateway = ModelGateway("http://localhost:1", None, identity, None, ways)
    made = WorkletHost(
        runtime,
        gateway,
        identity,
        share_dir,
        mirrors=Mirrors(share_dir, identity, Git(os.environ, local=True)),
        egress=EgressPolicy.of(egress),
    )
    try:
        yield made
    finally:
        await made.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()


async def opened(host: WorkletHost, repository: Path | None, *, has_history: bool) -> tuple[list[str], bool]:
    """The steps that people are told, and whether the volume is new."""
    steps: list[str] = []
    agent = await attached(host, repository, steps, has_history=has_history)
    await agent.close()
    await host.close("w", grace=0)
    return steps, agent.new_volume


async def attached(host: WorkletHost, repository: Path | None, steps: list[str], *, has_history: bool) -> Agent:
    return await host.open(
        "w",
        claude_session_id=str(uuid.uuid4()),
        has_history=has_history,
        position=None,
        fence=1,
        env={},
        repository=str(repository) if repository else None,
        branch=None,
        on_step=steps.append,
    )


async def test_a_repository_is_brought_once(tmp_path: Path, repository: Path) -> None:
    share_dir = tmp_path / "data"
    async with host(share_dir) as made:
        assert await opened(made, repository, has_history=False) == (["cloning", "starting"], True)
        workspace = share_dir / "worklets" / "w" / "work" / "workspace"
        (workspace / "file").write_text("changed")
        assert await opened(made, repository, has_history=False) == (["starting"], False)
        assert (workspace / "file").read_text() == "changed"


@pytest.mark.parametrize("has_history", [False, True])
async def test_a_volume_of_which_nobody_wrote_that_it_is_full_counts_with_history_only(
    tmp_path: Path, repository: Path, has_history: bool
) -> None:
    share_dir = tmp_path / "data"
    workspace = share_dir / "worklets" / "w" / "work" / "workspace"
    workspace.mkdir(parents=True)
    (workspace / "half").touch()
    async with host(share_dir) as made:
        told = await opened(made, repository, has_history=has_history)
    assert told == ((["waking"], False) if has_history else (["cloning", "starting"], True))
    assert (workspace / "half").exists() == has_history
    assert (workspace / "file").exists() != has_history


async def test_a_volume_whose_filling_was_cut_off_is_filled_anew_with_history_too(
    tmp_path: Path, repository: Path
) -> None:
    share_dir = tmp_path / "data"
    (share_dir / "worklets" / "w" / "work" / "workspace").mkdir(parents=True)
    (share_dir / "worklets" / "w" / "filling").touch()
    async with host(share_dir) as made:
        assert await opened(made, repository, has_history=True) == (["cloning", "waking"], True)
        assert await opened(made, repository, has_history=True) == (["waking"], False)


async def test_a_volume_without_a_repository_needs_no_filling(tmp_path: Path) -> None:
    async with host(tmp_path / "data") as made:
        assert await opened(made, None, has_history=False) == (["starting"], True)
        assert await opened(made, None, has_history=False) == (["starting"], False)


async def told(share_dir: Path) -> str:
    """The environment and the command line that Claude was started with."""
    path = share_dir / "worklets" / "w" / "work" / "home" / "told"
    await until(path.exists)
    return path.read_text()


async def test_a_worklet_with_a_way_out_finds_it_and_is_told_where_it_leads(tmp_path: Path) -> None:
    share_dir = tmp_path / "data"
    egress = told_egress(EgressSettings(mode="allow-list", hosts="named.test", ports="443"))
    async with host(share_dir, egress) as made:
        agent = await attached(made, None, [], has_history=False)
        text = await told(share_dir)
        assert "it reaches named.test at port 443." in text
        proxies = dict(re.findall(r"^(https?_proxy)=http://127\.0\.0\.1:(\d+)$", text, re.MULTILINE | re.IGNORECASE))
        assert sorted(proxies) == ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"]
        assert "\nNO_PROXY=localhost,127.0.0.1,::1\n" in text
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxies["HTTPS_PROXY"]))
        writer.write(b"CONNECT other.test:443 HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 403 Flow blocked other.test:443:")
        writer.close()
        await writer.wait_closed()
        await agent.close()
    assert not (share_dir / "worklets" / "w" / "run" / "proxy.sock").exists()


async def test_a_worklet_without_a_way_out_has_no_proxy(tmp_path: Path) -> None:
    share_dir = tmp_path / "data"
    async with host(share_dir) as made:
        agent = await attached(made, None, [], has_history=False)
        text = await told(share_dir)
        assert "PROXY=" not in text
        assert "The container has no network" in text
        assert not (share_dir / "worklets" / "w" / "run" / "proxy.sock").exists()
        await agent.close()
