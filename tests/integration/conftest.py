"""The Slack door between the simulator and scripted agents; a file that needs another has fixtures of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slackdoor import MANIFEST, Flow, Start, starter
from unit.sessions.scripted import ScriptedHost

from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(0.1, 0.2, 0.3)) as running:
        yield running


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()


@pytest.fixture
def start(tmp_path: Path, slack: SlackSimulator, host: ScriptedHost) -> Start:
    return starter(tmp_path, slack, host)


@pytest.fixture
async def flow(start: Start) -> AsyncIterator[Flow]:
    async with start() as running:
        yield running
