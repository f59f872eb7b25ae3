"""People who talk to Flow in several threads at once, while Slack fails."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from slackdoor import Flow
from unit.sessions.scripted import Process

from sessions.types import ThreadId
from worklets.events import Text, TextDelta

CHANNELS = ("#general", "#engineering", "dm")


@dataclass
class Talk:
    """`said`: channel, ts and text of each message that wants an answer."""

    flow: Flow
    dice: random.Random
    said: list[tuple[str, str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)  # texts of those that were acknowledged

    async def thread(self, number: int, messages: int) -> None:
        """One thread: a root, then replies, some at once and some after a while."""
        dice, slack = self.dice, self.flow.slack
        channel, user = CHANNELS[number % len(CHANNELS)], dice.choice(["maya", "jonas"])
        root: str | None = None
        for count in range(messages):
            text = _text(dice, f"{number}.{count}")
            called = text if channel == "dm" else f"@flow {text}"
            ts = await slack.post(user, channel, called if root is None else text, thread_ts=root)
            root = root or ts
            self.said.append((slack.channel(channel, user).id, ts, text))
            if text.startswith("HOLD"):
                await self._answer(text)
            await asyncio.sleep(dice.choice([0.0, 0.0, 0.2, 0.8]))
            if count == 0:
                await self._session(slack.channel(channel, user).id, ts)

    async def _session(self, channel: str, ts: str) -> None:
        """Replies before the first message is heard would be taken for talk among people."""
        thread = ThreadId(self.flow.door.me.team_id, channel, ts)
        while await self.flow.sessions.find(thread) is None:
            await asyncio.sleep(0.05)

    async def command(self, number: int) -> None:
        text = _text(self.dice, f"command {number}").removeprefix("HOLD ")
        if (await self.flow.slack.command("maya", "#general", "/flow", text)).ok:
            self.commands.append(text)

    async def _answer(self, text: str) -> None:
        """Word by word, when Claude has got it."""
        answer = f"slowly {text.removeprefix('HOLD ')}"
        while (process := self._at_work_on(text)) is None:
            await asyncio.sleep(0.05)
        process.say(TextDelta(answer[:10]))
        await asyncio.sleep(self.dice.uniform(0.0, 1.0))
        process.say(TextDelta(answer[10:]))
        process.say(Text(answer))
        process.end()

    def _at_work_on(self, text: str) -> Process | None:
        for process in self.flow.host.processes.values():
            if not process.dead and process.running and process.prompts[-1][1] == text:
                return process
        return None


def _text(dice: random.Random, name: str) -> str:
    kind = dice.choice(["", "", "", "", "HOLD ", "HOLD ", "long "])
    words = dice.randint(1, 40) if kind != "long " else dice.randint(1500, 3000)
    return kind + f"number {name}: " + " ".join(f"w{count}" for count in range(words))
