"""Which volume a session's agent is started on, with plain processes and a program in the place of the CLI."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from worklets.gateway import ModelGateway
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime


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
async def host(share_dir: Path) -> AsyncIterator[WorkletHost]:
    claude = share_dir.parent / "bin" / "claude"
    claude.parent.mkdir(exist_ok=True)
    claude.write_text("#!/bin/sh\nexec sleep 1000\n")
    claude.chmod(0o755)
    identity = Identity.load(share_dir)
    runtime = LocalRuntime(share_dir=share_dir, identity=identity, claude=claude)
    gateway = ModelGateway("http://localhost:1", None, identity)
    made = WorkletHost(runtime, gateway, identity, share_dir, environ=dict(os.environ), local_repositories=True)
    try:
        yield made
    finally:
        await made.close("w", grace=0)
        await gateway.aclose()
        await runtime.close()


async def opened(host: WorkletHost, repository: Path | None, *, has_history: bool) -> tuple[list[str], bool]:
    """The steps that people are told, and whether the volume is new."""
    steps: list[str] = []
    agent = await host.open(
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
    await agent.close()
    await host.close("w", grace=0)
    return steps, agent.new_volume


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
