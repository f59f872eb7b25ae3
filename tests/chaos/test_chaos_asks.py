"""The bot is killed around the moments in which Claude asks and people answer: each ask is decided, and shown, once.

The session timeout of these worlds is so short that a process that waits for people is put to sleep, too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_batches import runs
from storm import Storm, open_storm
from waiting import until

from simulator.errors import SlackError

pytestmark = pytest.mark.timeout(4 * 3600)  # as long as --chaos-runs asks for; whatever is stuck has its own limit

PROMPT = "@Flow SAY First.\nBASH touch a && echo ran=1\nSAY Then.\nBASH touch b && echo ran=1\nSAY Made."
BUTTONS = ("ask_allow_once", "ask_allow_once", "ask_deny")


async def test_the_bot_dies_between_questions_and_answers(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    seed = f"{pytestconfig.getoption('--chaos-seed')}/asks"
    async with open_storm("local", seed, tmp_path / "world", FLOW_ASK="Bash(touch *)") as storm:
        await storm.program.start()
        for _ in range(runs(pytestconfig, 0.1)):
            await _asked_and_killed(storm)
            assert await storm.law.at_rest(240) == [], storm.log
        assert await storm.end() == [], storm.log


async def _asked_and_killed(storm: Storm) -> None:
    slack, dice = storm.world.slack, storm.random
    root = await slack.post("maya", "general", PROMPT)
    pressing: list[asyncio.Task[None]] = []
    for _ in range(3):
        await asyncio.sleep(dice.uniform(0, 1.5))
        if dice.random() < 0.6:
            pressing.append(asyncio.create_task(_press(storm, root)))
            await asyncio.sleep(dice.uniform(0, 0.1))
        await storm.program.kill()
        await storm.program.start()
    await asyncio.gather(*pressing)

    async def settled() -> bool:
        await _press(storm, root)
        return not await storm.law.unfinished()

    await until(settled, timeout=240, what="an end of the story")


async def _press(storm: Storm, root: str) -> None:
    """One of the buttons of each ask that is open, as people see it."""
    slack = storm.world.slack
    for message in slack.messages("general", thread_ts=root):
        if "[Allow once]" in slack.visible_text(message):
            try:
                await slack.click("maya", message, storm.random.choice(BUTTONS))
            except (KeyError, SlackError):
                return  # the buttons went in this moment
