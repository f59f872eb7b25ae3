"""A whole Slack door per test: real Bolt app, real sessions on SQLite, the simulated workspace, a scripted host."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import schema
from unit.sessions.scripted import Process, ScriptedHost
from waiting import until

from bot.access import Facts
from bot.agentview import AgentStatus
from bot.app import build_app
from bot.couriers import Couriers
from bot.delivery import Delivery
from bot.door import Door
from bot.filestore import SentFiles
from bot.nativestream import Mode
from bot.show import Show
from bot.socket import SlackSocket, preflight, web_client
from bot.store import MessageStore
from bot.tasks import Tasks
from config.settings import AccessSettings
from sessions.db import Database, open_database
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from simulator.slack import SlackSimulator
from worklets.files import Outgoing

MANIFEST = Path(__file__).parents[1] / "manifest.yml"


@dataclass
class Flow:
    """One run of the program."""

    slack: SlackSimulator
    host: ScriptedHost
    db: Database
    sessions: Sessions
    show: Show
    door: Door
    socket: SlackSocket

    def thread(self, channel: str, ts: str, user: str = "") -> list[str]:
        """What the thread shows, its parent first."""
        return [self.slack.visible_text(message) for message in self.slack.messages(channel, ts, user)]

    async def shows(self, channel: str, ts: str, *words: str, user: str = "", timeout: float = 60) -> list[str]:
        """Waits until the thread shows all the words somewhere."""

        def seen() -> list[str] | None:
            texts = self.thread(channel, ts, user)
            return texts if all(any(word in text for text in texts) for word in words) else None

        try:
            return await until(seen, timeout)
        except AssertionError:
            raise AssertionError(f"no {words} in {self.thread(channel, ts, user)}") from None

    async def root(self, channel: str, words: str, user: str = "") -> str:
        """The ts of the channel's message with these words."""

        def found() -> str | None:
            hits = [m["ts"] for m in self.slack.messages(channel, user=user) if words in self.slack.visible_text(m)]
            return hits[0] if hits else None

        return await until(found, what=f"{words!r} in {channel}")

    async def process(self, text: str) -> Process:
        """The process that works on the prompt with this text."""

        def found() -> Process | None:
            for process in self.host.processes.values():
                if not process.dead and process.running and process.prompts and process.prompts[-1][1] == text:
                    return process
            return None

        return await until(found, what=f"{text!r} to arrive")

    def calls(self, method: str) -> list[dict[str, Any]]:
        return [call.args for call in self.slack.calls if call.method == method and call.app_id == self.slack.app.id]


Start = Callable[..., Any]


def starter(path: Path, slack: SlackSimulator, host: ScriptedHost) -> Start:
    """A context manager that starts the program on these; again and again, one at a time."""
    dsn = f"sqlite://{path}/db.sqlite"

    @asynccontextmanager
    async def run(
        max_sessions: int = 10,
        flush: bool = True,
        connect: bool = True,
        call_seconds: float = 2.0,
        deaf_after: float = 25.0,
        pace: float = 1.0,
        now: Callable[[], float] = time.time,
        access: AccessSettings | None = None,
        known: bool = True,
        plan: bool = False,
        reactions: bool = True,
        streaming: Mode = "edits",
        clock: Callable[[], float] = time.monotonic,
    ) -> AsyncIterator[Flow]:
        await schema.migrated(dsn)
        db = open_database(dsn)
        tokens = {"app_token": slack.app_token, "bot_token": slack.bot_token, "api_url": slack.api_url}
        store = Store(db)
        me = await preflight(**tokens)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(call_seconds)) as http,
                Tasks("test") as tasks,
            ):
                client = web_client(slack.bot_token, slack.api_url, http)
                async with Sessions(store, host, max_sessions=max_sessions) as sessions:
                    show = Show(
                        sessions,
                        Delivery(client, me.bot_id),
                        MessageStore(db),
                        clock,
                        pace,
                        plan=plan,
                        streaming=streaming,
                    )
                    sessions.observe(show.observe)
                    door = Door(sessions, show, client, me, "1.2.3", "scripted", now, access, reactions=reactions)
                    if known:  # as if each had written a minute ago
                        for user in slack.workspace.users.values():
                            door.access.remember(user.id, Facts(bool(user.guest), bool(user.team)))
                    door.attend()
                    sessions.observe(AgentStatus(client, door.after).observe)
                    timing = {"ping_interval": min(2.0, deaf_after / 4), "deaf_after": deaf_after}
                    socket = SlackSocket(**tokens, **timing, on_connected=door.connected)
                    couriers = Couriers(
                        sessions,
                        client,
                        SentFiles(db, sessions.owner),
                        lambda name: Outgoing(path / "worklets" / name / "run"),
                        limit=1_000_000,
                        shown=lambda thread: show.spoken(thread, door.ts()),
                        pauses=(0.05, 0.1),
                        sweep=0.2,
                    )
                    sessions.observe(couriers.observe)
                    async with show.outbox, door.after, couriers:
                        await Reaper(sessions, store, host, session_timeout=timedelta(minutes=30)).sweep()
                        if connect:
                            tasks.start(socket.run(build_app(door)), "socket")
                            await slack.wait_connected()
                        yield Flow(slack, host, db, sessions, show, door, socket)
                        if flush:
                            assert await show.outbox.flush(60)
        finally:
            await db.close()

    return run
