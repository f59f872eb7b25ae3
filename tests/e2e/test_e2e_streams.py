"""A direct message answered as one of Slack's streams, by the real CLI, with a secret in it, over a kill of the bot."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from world import World

pytestmark = pytest.mark.one_runtime

SECRET = "word40 word41"  # comes from the model in two pieces


async def test_a_stream_survives_a_kill_and_its_secret_is_never_shown(world: World) -> None:
    await world.program.start(FLOW_MASK=SECRET)
    dm = world.slack.dm("maya").id
    ts = await world.slack.post("maya", dm, "WORDS 150 60\nHOLD open\nSAY the end of it")
    await world.see(ts, "word12 ", channel=dm)
    [answer] = _answers(world, dm, ts)
    assert answer["streaming_state"] == "in_progress"
    await world.program.end(signal.SIGKILL)
    await world.program.start(FLOW_MASK=SECRET)
    world.model.release("open")
    text = await world.settled(ts, "the end of it", channel=dm)
    assert "word39 ‹masked› word42" in text
    assert all(f"word{n} " in text for n in range(1, 150) if n not in (40, 41))
    [message] = _answers(world, dm, ts)
    assert (message["ts"], message["streaming_state"]) == (answer["ts"], "completed")
    looks = [world.slack.visible_text(revision.body) for revision in world.slack.history(message)]
    assert len(looks) > 3
    assert not any("word40" in look or "word41" in look for look in looks)
    assert not any("word40" in line for line in world.program.output)
    assert (await world.program.end()) == 0
    assert b"word40" not in (world.share_dir / "db.sqlite").read_bytes()


def _answers(world: World, channel: str, ts: str) -> list[dict[str, Any]]:
    return [m for m in world.slack.messages(channel, thread_ts=ts, user="maya")[1:] if m.get("bot_id")]
