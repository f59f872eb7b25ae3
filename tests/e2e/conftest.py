"""Each story runs twice: with worklets in Docker, and with worklets as plain processes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from images import worklet_image
from world import API_KEY, ROOT, Program, World, remove_worklets

from simulator.model import ScriptedModel
from simulator.slack import SlackSimulator


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(runtime: str, tmp_path: Path) -> AsyncIterator[World]:
    if runtime == "docker":
        await worklet_image()
    manifest = ROOT / "manifest.yml"
    async with (
        SlackSimulator(manifest=manifest, retry_delays=(0, 2, 4, 8)) as slack,
        ScriptedModel(api_key=API_KEY) as model,
    ):
        share_dir = tmp_path / "data"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SLACK_APP_TOKEN": slack.app_token,
            "SLACK_BOT_TOKEN": slack.bot_token,
            "SLACK_API_URL": slack.api_url,
            "SLACK_BOT_DEBUG": "true",
            "ANTHROPIC_API_KEY": API_KEY,
            "ANTHROPIC_BASE_URL": model.url,
            "FLOW_SHARE_DIR": str(share_dir),
            "FLOW_HTTP_PORT": "0",
            "FLOW_RUNTIME": runtime,
            "FLOW_LOCAL_REPOSITORIES": "true",
            "FLOW_GRACE": "1s",
        }
        program = Program(env, tmp_path)
        world = World(slack, model, program, runtime, share_dir)
        try:
            yield world
        finally:
            if program.process and program.process.returncode is None:
                await program.end(signal.SIGKILL)
            await remove_worklets(world)
