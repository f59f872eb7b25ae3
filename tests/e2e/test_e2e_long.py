"""A very long answer of the real CLI: over many messages, with tables and code, through a kill, and as a file."""

from __future__ import annotations

import re
import signal

import pytest
from waiting import until
from world import World

pytestmark = pytest.mark.one_runtime

LINES = 1_900
PROMPT = f"""SLOW 1
SAY # A long way\\n\\n| step | does |\\n|---|---|\\n| one | begins |\\n\\n
SAY | other | table |\\n|---|---|\\n| two | ends |\\n\\n
CODE {LINES}
SAY \\n\\nAnd that was the end of it."""


@pytest.mark.parametrize("runtime", ["local"], indirect=True)  # what is shown does not depend on it
async def test_a_very_long_answer_is_whole_through_a_kill_and_comes_as_a_file_too(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", f"@Flow {PROMPT}")
    await world.see(ts, "def step_20(")
    await world.program.end(signal.SIGKILL)
    aside = await world.slack.post("jonas", "general", "@maya look at this", thread_ts=ts)
    await world.program.start()
    await world.settled(ts, "And that was the end of it.", timeout=90)

    def shared() -> list[str]:
        messages = world.slack.messages("general", thread_ts=ts)
        return [file["id"] for message in messages for file in message.get("files", [])]

    await until(shared)
    shown = [m for m in world.slack.messages("general", thread_ts=ts)[1:] if m.get("bot_id") and not m.get("files")]
    texts = [b["text"] for m in shown for b in m.get("blocks", []) if b["type"] == "markdown"]
    steps = [int(n) for text in texts for n in re.findall(r"def step_(\d+)\(", text)]
    assert steps == list(range(1, LINES + 1))
    assert len(texts) > 8
    assert all(text.count("```") % 2 == 0 for text in texts), "a fence is open at the end of a message"
    assert "| step | does |" in texts[0]
    assert "| other | table |" in texts[1], "one table a message"
    (file_id,) = shared()
    content = (world.slack.workspace.files[file_id].content or b"").decode()
    assert [int(n) for n in re.findall(r"def step_(\d+)\(", content)] == steps
    assert content.count("```") == 2
    assert aside < max(m["ts"] for m in shown), "it went on below what people wrote"
    assert not [call for call in world.slack.calls if str(call.response.get("error", "")).startswith("invalid")]
