"""A Slack workspace on loopback: what apps see of Slack, and what people do in it.

    async with SlackSimulator() as slack:
        client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
        ts = await slack.post("maya", "#general", "@Flow hello")
        await slack.wait_for(lambda: slack.messages("#general", thread_ts=ts)[1:])

Unmodified slack_sdk and Bolt (Python and JavaScript) work against `api_url`. People: "maya" and "jonas". Channels:
#general and #engineering with the bot, #random without it, and the private #leadership without it.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from simulator.clock import Clock, RealClock
from simulator.core import ApiCall, Core
from simulator.envelopes import Ack, Delivery, Envelopes
from simulator.events import Events
from simulator.faults import Faults
from simulator.interactions import Interactions, Result
from simulator.limits import LimitChoice, RateLimits
from simulator.manifest import Manifest, load
from simulator.messages import Messages
from simulator.modals import Modals
from simulator.people import People
from simulator.server import build_app
from simulator.sockets import Sockets
from simulator.state import App, User, Workspace
from simulator.tasks import Tasks
from simulator.text import visible_text

__all__ = ["Result", "SlackSimulator", "visible_text"]

Json = dict[str, Any]
T = TypeVar("T")
RETRY_DELAYS = (0.0, 60.0, 300.0)


class SlackSimulator(People):
    """The workspace, its server, and the hands of its people.

    `clock` drives limits, timers and timestamps. `manifest`: a file or a Manifest; without one the app may do
    everything. `limits`: "real", None, or a mapping of method to calls per minute; `limit_scale` multiplies them.
    `retry_delays`: seconds before each redelivery of an unacknowledged event.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Clock | None = None,
        manifest: str | Path | Manifest | None = None,
        bot_token: str = "",
        app_token: str = "",
        limits: LimitChoice = "real",
        limit_scale: float = 1.0,
        ack_timeout: float = 3.0,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        ticket_lifetime: float = 30.0,
        ping_interval: float = 10.0,
    ) -> None:
        self.clock = clock or RealClock()
        self.host, self.port = host, port
        self._tasks = Tasks()
        self.faults = Faults()
        self.workspace = Workspace(self.clock)
        self.sockets = Sockets(
            self.clock,
            self.faults,
            self._tasks,
            ticket_lifetime=ticket_lifetime,
            ping_interval=ping_interval,
        )
        self.envelopes = Envelopes(
            self.clock, self.faults, self.sockets, ack_timeout=ack_timeout, retry_delays=tuple(retry_delays)
        )
        self._events = Events(self.workspace, self.envelopes.deliver_event)
        self._messages = Messages(self.workspace, self._events)
        self._interactions = Interactions(self.workspace, self.envelopes, self._messages)
        self._modals = Modals(self.workspace, self.envelopes, self._messages, self._interactions)
        rates = RateLimits(self.clock, limits, limit_scale)
        self.core = Core(
            self.clock,
            self.workspace,
            self._messages,
            self._interactions,
            self._modals,
            self.sockets,
            rates,
            self.faults,
            self._tasks,
        )
        self._news = asyncio.Event()
        self.workspace.listeners.append(lambda *_: self._news.set())
        self.sockets.on_change = self.envelopes.on_change = lambda: self.workspace.changed("socket")
        self._runner: web.AppRunner | None = None
        self._furnish(manifest, bot_token, app_token)

    def _furnish(self, manifest: str | Path | Manifest | None, bot_token: str, app_token: str) -> None:
        maya = self.workspace.add_user("maya", "Maya Lindqvist", "e8a33d")
        jonas = self.workspace.add_user("jonas", "Jonas Weber", "2bac76")
        people = [maya.id, jonas.id]
        self.workspace.add_channel("general", "channel", list(people))
        self.workspace.add_channel("engineering", "channel", list(people))
        self.workspace.add_channel("random", "channel", list(people))
        self.workspace.add_channel("leadership", "group", list(people))
        self.app = self.add_app(
            manifest=manifest, bot_token=bot_token, app_token=app_token, channels=("general", "engineering")
        )

    def add_app(
        self,
        name: str = "",
        *,
        manifest: str | Path | Manifest | None = None,
        bot_token: str = "",
        app_token: str = "",
        channels: Sequence[str] = ("general", "engineering"),
    ) -> App:
        """Installs an app, with made-up tokens unless given; its bot joins `channels` and has a DM with everyone."""
        workspace = self.workspace
        chosen = (
            manifest
            if isinstance(manifest, Manifest)
            else load(manifest)
            if manifest
            else Manifest(name=name or "Flow")
        )
        app_id, bot_id = workspace.new_id("A"), workspace.new_id("B")
        bot = User(
            workspace.new_id("U"),
            chosen.bot_name if not name else name.lower(),
            name or chosen.name,
            "4a154b",
            app_id,
            bot_id,
        )
        app = App(
            app_id,
            name or chosen.name,
            bot,
            bot_token or f"xoxb-{workspace.new_id('')}-{workspace.new_id('')}",
            app_token or f"xapp-1-{app_id}-{workspace.new_id('')}",
            chosen,
        )
        workspace.users[bot.id] = bot
        workspace.apps[app_id] = app
        for channel in channels:
            workspace.channel(channel).members.append(bot.id)
        for user in list(workspace.users.values()):
            if not user.is_bot:
                workspace.direct(user.id, bot.id)
        return app

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; `port` is the real one afterwards. OSError if it is taken."""
        self._runner = web.AppRunner(build_app(self.core, self), shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.core.base_url = self._messages.base_url = self._interactions.base_url = f"http://{self.host}:{self.port}"
        self.core.socket_url = f"ws://{self.host}:{self.port}"

    async def stop(self) -> None:
        """Closes every connection and stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self._tasks.aclose()

    # --- addresses and tokens

    @property
    def url(self) -> str:
        """The page that people read."""
        return f"{self.core.base_url}/"

    @property
    def api_url(self) -> str:
        """For `AsyncWebClient(base_url=…)`; ends in `/api/`."""
        return f"{self.core.base_url}/api/"

    @property
    def app_token(self) -> str:
        return self.app.app_token

    @property
    def bot_token(self) -> str:
        return self.app.bot_token

    @property
    def bot_user_id(self) -> str:
        return self.app.bot.id

    # --- what happened

    @property
    def calls(self) -> list[ApiCall]:
        """Every Web API call in the order of its answer."""
        return self.core.calls

    @property
    def acks(self) -> list[Ack]:
        """Every acknowledgement of an envelope."""
        return self.envelopes.acks

    @property
    def deliveries(self) -> list[Delivery]:
        """Every attempt to deliver an envelope, acknowledged or not."""
        return self.envelopes.deliveries

    def connected(self, app: App | None = None) -> bool:
        """Whether the app has a socket that is not about to close."""
        return any(not socket.leaving for socket in self.sockets.sockets_of(app or self.app))

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 60.0) -> T:
        """The first truthy `predicate()`, looked at after every change; TimeoutError after `timeout` real seconds."""
        async with asyncio.timeout(timeout):
            while True:
                self._news.clear()
                if value := predicate():
                    return value
                await self._news.wait()

    async def wait_connected(self, timeout: float = 60.0) -> None:
        """Waits until the first app's Socket Mode connection is up."""
        await self.wait_for(self.connected, timeout)
