"""What people see of the real CLI's work, and that a kill of Flow in the middle changes nothing of it."""

from __future__ import annotations

import signal

import pytest
from world import World

pytestmark = pytest.mark.one_runtime

WORK = r"""@Flow BASH printf 'one\ntwo\n'
BASH echo broken; exit 3
WRITE notes.txt first
TOOL Edit {"file_path": "notes.txt", "old_string": "first", "new_string": "second"}
TOOL Grep {"pattern": "second"}
TOOL TaskCreate {"subject": "Look around", "description": "everywhere", "activeForm": "Looking around"}
TOOL TaskCreate {"subject": "Tell of it", "description": "here"}
TOOL TaskUpdate {"taskId": "1", "status": "completed"}
TOOL Agent {"description": "Dig", "subagent_type": "general-purpose", "prompt": "BASH echo deep\nSAY found"}
HOLD half
TOOL TaskUpdate {"taskId": "2", "status": "completed"}
SAY That is all."""

SHOWN = """\
✓ Bash `printf 'one\\ntwo\\n'`
```
one
two
```
✗ Bash `echo broken; exit 3` – exit 3
```
broken
```
✓ Write `notes.txt` – +1 −0
✓ Edit `notes.txt` – +1 −1
✓ Search `second` – 1 file
✓ Agent `Dig` – 1 tool, """


def reactions(world: World, ts: str) -> list[str]:
    return [one["name"] for one in world.slack.record(ts).body.get("reactions", [])]


async def test_activity_over_a_kill(world: World) -> None:
    await world.program.start(FLOW_MENTION_AT_END="true")
    root = await world.slack.post("maya", "general", WORK)
    await world.see(root, "Plan: 1 of 2 done\n☑ Look around\n☐ Tell of it")
    await world.model.held("half")
    await world.see(root, SHOWN)
    await world.slack.wait_for(lambda: reactions(world, root) == ["gear"])
    await world.program.end(signal.SIGKILL)
    await world.program.start(FLOW_MENTION_AT_END="true", FLOW_LEVEL="quiet")  # for turns to come
    world.model.release("half")
    text = await world.settled(root, "That is all.")
    assert SHOWN in text
    assert "Plan: 2 of 2 done\n☑ Look around\n☑ Tell of it" in text
    await world.see(root, "@maya That is done.")
    assert sum("That is done." in said for said in world.thread(root)) == 1
    await world.slack.wait_for(lambda: reactions(world, root) == ["white_check_mark"])

    below = world.slack.messages("general", thread_ts=root)[1:]
    answer = next(message for message in below if "notes.txt" in world.slack.visible_text(message))
    await world.slack.click("jonas", answer, "diff_1")
    view = (await world.slack.wait_for(lambda: world.slack.views("jonas")))[-1]
    assert "-first" in (diff := world.slack.visible_text({"blocks": view["blocks"]}))
    assert "+second" in diff
