"""What a live session waits for, and who waits until it is done with it."""

from __future__ import annotations

import asyncio

from scripted import Process, ScriptedAgent, ScriptedHost

from sessions.inbox import Inbox
from worklets.events import Text


async def test_who_waits_for_what_was_said_does_not_wait_when_the_end_of_listening_is_cancelled() -> None:
    process = Process("one", set(), "claude", False)
    process.say(Text("half"))
    inbox = Inbox()
    inbox.listen(ScriptedAgent(process, 0, ScriptedHost()))
    waiting = asyncio.create_task(inbox.caught_up())
    muting = asyncio.create_task(inbox.mute())
    await asyncio.sleep(0)  # both have begun to wait
    assert not waiting.done()
    assert not muting.done()
    muting.cancel()
    async with asyncio.timeout(30):
        await waiting
    assert muting.cancelled()
