"""A template out of a file, started from in Slack, with the real CLI; and what the thread is told of its base image."""

from __future__ import annotations

import json
import subprocess

import pytest
from modelrequests import in_conversation
from waiting import until
from world import World, containers

TEMPLATE = {
    "name": "verse",
    "description": "answers in verse",
    "public": True,
    "config": {
        "resources": {"memory": "600m"},
        "env": {"COLOUR": "blue"},
        "instructions": "Always answer in verse.",
        "prompt": "BASH echo the colour is $COLOUR",
        "image": "node:22",
    },
}


@pytest.mark.parametrize("runtime", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
async def test_a_template_from_a_file_to_an_answer(world: World) -> None:
    (world.program.cwd / "verse.json").write_text(json.dumps(TEMPLATE))
    await world.program.start()
    imported = await world.program.flow("templates", "import", "verse.json")
    assert (imported.returncode, imported.stdout) == (0, "made verse (admins)\n"), imported.stderr
    await world.slack.command("jonas", "general", "/flow", "templates")
    await until(lambda: "answers in verse" in str(world.slack.ephemerals("jonas")), what="the list")
    await world.slack.command("maya", "general", "/flow", "start verse")
    root = await world.root("the colour is")
    assert "Started from the template verse" in world.thread(root)[0].replace("`", "")
    answer = await world.settled(root, "the colour is blue")
    assert "template verse" in answer
    assert "node:22 is not among those" in "\n".join(world.thread(root))
    assert "Always answer in verse." in str(in_conversation(world.model)[-1].body["system"])
    (container,) = containers(world)
    limit = subprocess.run(
        ["docker", "inspect", "-f", "{{.HostConfig.Memory}}", container], capture_output=True, text=True, timeout=60
    )
    assert int(limit.stdout) == 600 << 20
    gone = await world.program.flow("templates", "rm", "verse")
    assert gone.returncode == 0
    await world.slack.post("maya", "general", "SAY and now", thread_ts=root)
    await world.settled(root, "and now")
    assert "Always answer in verse." in str(in_conversation(world.model)[-1].body["system"]), (
        "it keeps what it began with"
    )
