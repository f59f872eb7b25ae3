"""Starting with something wrong: one sentence that says what to do, and a non-zero exit code."""

from __future__ import annotations

import pytest
from world import World

pytestmark = pytest.mark.parametrize("runtime", ["local"], indirect=True)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLACK_BOT_TOKEN", "xoxb-wrong"),
        ("SLACK_APP_TOKEN", "xapp-wrong"),
        ("SLACK_BOT_TOKEN", ""),
        ("SLACK_APP_TOKEN", ""),
    ],
)
async def test_wrong_tokens_fail_in_one_sentence(world: World, variable: str, value: str) -> None:
    world.program.env |= {variable: value, "SLACK_BOT_DEBUG": "false"}
    done = await world.program.flow("serve")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("flow: ")
    assert variable in last


async def test_a_second_program_on_the_same_data_is_refused(world: World) -> None:
    await world.program.start()
    second = await world.program.flow("serve")
    assert second.returncode == 1
    assert "Another Flow is running" in second.stderr


async def test_an_unknown_setting_is_refused_by_name(world: World) -> None:
    world.program.env["FLOW_MAX_SESSION"] = "3"
    done = await world.program.flow("doctor")
    assert done.returncode == 1
    assert "FLOW_MAX_SESSION." in done.stderr
    assert "FLOW_MAX_SESSIONS" in done.stderr


async def test_with_the_engine_down_the_thread_says_what_to_do(world: World) -> None:
    await world.program.start(FLOW_RUNTIME="docker", DOCKER_HOST="unix:///nowhere/docker.sock")
    status, body = await world.program.health()
    assert status == 503
    assert body["runtime"]["state"] == "down"
    ts = await world.slack.post("maya", "general", "@Flow SAY anything")
    answer = await world.see(ts, "No Docker engine answers")
    assert "flow doctor" in answer


async def test_without_a_credential_the_thread_says_which_setting(world: World) -> None:
    world.program.env["ANTHROPIC_API_KEY"] = ""
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow SAY anything")
    await world.see(ts, "ANTHROPIC_API_KEY")


async def test_doctor_tells_what_is_wrong_and_what_to_do(world: World) -> None:
    world.program.env |= {
        "SLACK_BOT_TOKEN": "xoxb-wrong",
        "FLOW_RUNTIME": "docker",
        "DOCKER_HOST": "unix:///nowhere.sock",
    }
    done = await world.program.flow("doctor")
    assert done.returncode == 1
    for word in ("SLACK_BOT_TOKEN", "engine", "database", "disk"):
        assert word.lower() in done.stdout.lower()


async def test_doctor_is_content_when_all_is_well(world: World) -> None:
    done = await world.program.flow("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
