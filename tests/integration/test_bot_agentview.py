"""An app made from manifest-agent.yml: Slack's sign that the agent works, and Slack's own Stop button."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slackdoor import MANIFEST, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from simulator.slack import SlackSimulator
from worklets.events import TextDelta

AGENT = MANIFEST.with_name("manifest-agent.yml")


@pytest.fixture
async def agent() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=AGENT, retry_delays=(0.1, 0.2, 0.3)) as running:
        yield running


async def test_slack_shows_that_the_agent_works_and_its_stop_button_stops_it(
    agent: SlackSimulator, tmp_path: Path
) -> None:
    host = ScriptedHost()
    async with starter(tmp_path, agent, host)(streaming="auto", pace=10) as flow:
        ts = await agent.post("maya", "dm", "HOLD hi")
        process = await flow.process("HOLD hi")
        process.say(TextDelta("So far so good. And on it goes "))
        await flow.shows("dm", ts, "So far so good", user="maya")
        key = next(key for key in await until(lambda: list(agent.workspace.statuses)) if key[1] == ts)
        await agent.stop_agent("maya", "dm", ts)
        await flow.shows("dm", ts, "So far so good", "Stopped by @maya", user="maya")
        await until(lambda: key not in agent.workspace.statuses)
        assert [call["status"] for call in flow.calls("agents.sessions.setStatus")][-1] == "active"
        answers = [message for message in agent.messages("dm", ts, "maya") if message.get("bot_id")]
        assert [answer["streaming_state"] for answer in answers] == ["completed"]


async def test_an_app_that_is_no_agent_asks_once(tmp_path: Path) -> None:
    async with (
        SlackSimulator(manifest=MANIFEST) as slack,
        starter(tmp_path, slack, ScriptedHost())(pace=10) as flow,
    ):
        for text in ("one", "two"):
            ts = await slack.post("maya", "dm", text)
            await flow.shows("dm", ts, "tokens in", user="maya")
        assert len(flow.calls("agents.sessions.setStatus")) == 1
