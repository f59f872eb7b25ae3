"""An unmodified @slack/bolt app (JavaScript) works against the simulator."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simulator.slack import SlackSimulator

HERE = Path(__file__).parent / "bolt_js"
pytestmark = pytest.mark.node


async def install() -> None:
    if (HERE / "node_modules" / "@slack" / "bolt").exists():
        return
    npm = await asyncio.create_subprocess_exec(
        "npm",
        "ci",
        "--no-audit",
        "--no-fund",
        cwd=HERE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await npm.communicate()
    assert npm.returncode == 0, output.decode()


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    await install()
    async with SlackSimulator() as simulator:
        env = {
            "PATH": os.environ["PATH"],
            "SLACK_API_URL": simulator.api_url,
            "SLACK_BOT_TOKEN": simulator.bot_token,
            "SLACK_APP_TOKEN": simulator.app_token,
        }
        node = await asyncio.create_subprocess_exec("node", "app.js", cwd=HERE, env=env)
        try:
            await simulator.wait_connected()
            yield simulator
        finally:
            node.terminate()
            await node.wait()


async def test_bolt_for_javascript_answers_mentions_buttons_commands_and_modals(slack: SlackSimulator) -> None:
    ts = await slack.post("maya", "#general", "@Flow hello")
    await slack.wait_for(lambda: any("Go" in slack.visible_text(m) for m in slack.messages("#general", ts)))
    answer = slack.messages("#general", ts)[1]
    assert slack.visible_text(answer) == "**Done** & dusted\n[Go]"
    await slack.wait_for(lambda: slack.messages("#general")[0].get("reactions"))

    assert (await slack.click("maya", answer, "go")).ok
    await slack.wait_for(lambda: slack.messages("#general", ts)[-1]["text"] == "pressed 42")

    result = await slack.command("jonas", "#general", "/flow", "hi")
    assert result.ack == {"text": "You said hi"}
    await slack.wait_for(lambda: slack.messages("#general")[-1]["text"] == "for everybody")
    assert [m["text"] for m in slack.ephemerals("jonas")] == ["You said hi"]

    await slack.command("maya", "#general", "/flow", "modal")
    await slack.wait_for(lambda: slack.views("maya"))
    assert (await slack.submit("maya", {"input": "Ada"})).ok
    [message] = await slack.wait_for(lambda: slack.messages("dm", user="maya"))
    assert message["text"] == "Hi Ada"
    assert [file["name"] for file in message["files"]] == ["hi.txt"]
