"""What Slack is told of a session when one of its turns ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from slack_sdk.web.async_client import AsyncWebClient
from waiting import until

from bot.agentview import AgentStatus
from bot.tasks import Tasks
from sessions.events import Settled, Started
from sessions.types import Done, Session, Turn


class _Client:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def agents_sessions_setStatus(self, *, status: str, **_: Any) -> None:
        self.told.append(status)


async def test_a_waiting_turn_that_ends_leaves_the_sign_of_the_one_that_works() -> None:
    client = _Client()
    session = cast(Session, SimpleNamespace(id="s", thread=SimpleNamespace(channel="D1", thread_ts="1.0")))
    works, waits = (cast(Turn, SimpleNamespace(id=one)) for one in ("works", "waits"))
    async with Tasks("test") as tasks:
        status = AgentStatus(cast(AsyncWebClient, client), tasks)
        status.observe(session, works, Started())
        await until(lambda: client.told == ["processing"])
        status.observe(session, waits, Settled(Done()))
        await tasks.ended(5)
        assert client.told == ["processing"]
        status.observe(session, works, Settled(Done(), 1.0))
        await until(lambda: client.told == ["processing", "active"])
