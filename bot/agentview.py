"""Slack's agent sessions, for apps made from manifest-agent.yml: Slack's own sign that something works, and its Stop.

Only in direct messages, where the agent view is. Slack shows its Stop button while a session is `processing`, and says
`agent_session_stopped` when somebody presses it; it changes nothing itself. What it says of an app that is no agent
(`feature_disabled`) is remembered, and nobody is asked again.
"""

from __future__ import annotations

from typing import Any, Literal

from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from bot.door import Door
from bot.refusals import Meaning, refusal
from bot.tasks import Tasks
from config.logging import get_logger
from sessions.events import LifeEvent, Settled, Started
from sessions.types import Session, SessionId, ThreadId, Turn, TurnId
from worklets.events import AgentEvent

log = get_logger(__name__)

Status = Literal["active", "processing"]


class AgentStatus:
    """`observe` is an Observer: what works is `processing`, what has ended is `active`. A status is but a decoration:
    a call that fails is not repeated."""

    def __init__(self, client: AsyncWebClient, tasks: Tasks) -> None:
        self._client = client
        self._tasks = tasks
        self._wanted: dict[SessionId, Status] = {}  # a call is under way, or is to follow it
        self._working: dict[SessionId, TurnId] = {}  # the turn that started last
        self.on = True

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        thread = session.thread
        if not (self.on and thread.channel.startswith("D") and thread.thread_ts and self._tasks.open):
            return
        if isinstance(event, Started):
            self._working[session.id] = turn.id
        elif isinstance(event, Settled):
            if self._working.get(session.id, turn.id) != turn.id:
                return  # one that waited was taken back: another works
            self._working.pop(session.id, None)
        if isinstance(event, Started | Settled):
            busy = session.id in self._wanted
            self._wanted[session.id] = "processing" if isinstance(event, Started) else "active"
            if not busy:
                self._tasks.start(self._tell(session.id, thread.channel, thread.thread_ts), "agent status")

    async def _tell(self, session_id: SessionId, channel: str, thread_ts: str) -> None:
        told: Status | None = None
        try:
            while self.on and (status := self._wanted[session_id]) != told:
                await self._call(channel, thread_ts, status)
                told = status
        finally:
            del self._wanted[session_id]

    async def _call(self, channel: str, thread_ts: str, status: Status) -> None:
        try:
            await self._client.agents_sessions_setStatus(channel_id=channel, thread_ts=thread_ts, status=status)
        except Exception as error:  # noqa: BLE001 - any refusal: nobody waits for it
            said = refusal(error)
            if said.error in ("feature_disabled", "unknown_method", "method_deprecated"):
                self.on = False
                log.debug("the app is no agent to Slack", error=said.error)
            elif said.meaning is not Meaning.UNKNOWN:
                log.info("Slack did not take an agent's status", error=said.error)


def register(app: AsyncApp, door: Door) -> None:
    async def stopped(event: dict[str, Any]) -> None:
        thread = ThreadId(door.me.team_id, str(event["channel"]), str(event["thread_ts"]))
        user, moment = str(event.get("user", "")), str(event.get("event_ts", ""))
        if door.acted.first(f"agent stop {thread.channel} {thread.thread_ts} {moment}"):
            door.after.start(_stop(door, thread, user), "stop")

    async def seen(event: dict[str, Any]) -> None:
        log.debug("nothing to do for this", type=event.get("type"))

    app.event("agent_session_stopped")(stopped)
    app.event("agent_session_title_changed")(seen)


async def _stop(door: Door, thread: ThreadId, user: str) -> None:
    session = await door.sessions.find(thread)
    if session is not None and await door.sessions.halt(session.id, user):
        log.info("stopped by Slack's own button", session=session.id, by=user)
