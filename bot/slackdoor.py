"""The Slack door as a whole: the outbox that shows answers, the listeners, and the connection.

async with open_slack_door(...) as slack:     # shows answers, hears nothing yet
    await sessions.replay()
    async with slack.listening():             # hears
        ...
    await sessions.drain(grace)
    await slack.flush(5)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import aiohttp

from bot.agentview import AgentStatus
from bot.answerers import Answerers
from bot.app import build_app
from bot.couriers import Couriers
from bot.delivery import Delivery
from bot.door import Door
from bot.filestore import SentFiles
from bot.previews import PreviewOffers
from bot.show import Show
from bot.slackcalls import SlackCalls
from bot.socket import SlackSocket, web_client
from bot.store import MessageStore

if TYPE_CHECKING:
    from bot.inbound import Identity
    from config.settings import AccessSettings, AskSettings, FileSettings, ShowSettings, SlackSettings
    from sessions.db import Database
    from sessions.manager import Sessions
    from sessions.previews import Links, Previews
    from worklets.files import Outgoing

_CALL_SECONDS = 15
_CONNECT_SECONDS = 10.0  # how long the start waits for Slack; the socket goes on trying after that


@dataclass(frozen=True, slots=True)
class SlackDoor:
    show: Show
    door: Door
    socket: SlackSocket
    calls: SlackCalls

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Connected, or soon. On the way out what has come in is handled before the connection goes."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self.socket.run(build_app(self.door)), name="slack socket")
            with suppress(TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    while not self.socket.connected:  # noqa: ASYNC110 - rare, and a bell would serve nobody else
                        await asyncio.sleep(0.01)
            try:
                yield
            finally:
                listening.cancel()

    async def flush(self, timeout: float) -> bool:
        """Shows the newest state of every answer; False: not all in `timeout` seconds, the next start goes on."""
        return await self.show.flush(timeout)


@asynccontextmanager
async def open_slack_door(
    settings: SlackSettings,
    me: Identity,
    sessions: Sessions,
    database: Database,
    runtime: str,
    asks: AskSettings,
    access: AccessSettings,
    files: FileSettings,
    outgoing: Callable[[str], Outgoing],
    shown: ShowSettings,
    previews: tuple[Previews, Links] | None = None,
    debug: bool = False,
) -> AsyncIterator[SlackDoor]:
    """`me` is what the preflight found; `runtime` is a word for `/flow status`.

    `outgoing(worklet)` is where that worklet's files come out. `previews`: servers in worklets can be opened.
    """
    bot_token = settings.bot_token.get_secret_value()
    calls = SlackCalls()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(_CALL_SECONDS), trust_env=True, trace_configs=[calls.tracing()]
    ) as http:
        client = web_client(bot_token, settings.api_url, http)
        show = Show(
            sessions,
            Delivery(client, me.bot_id),
            MessageStore(database),
            plan=shown.plan_blocks,
            streaming=settings.streaming,
        )
        sessions.observe(show.observe)
        door = Door(
            sessions,
            show,
            client,
            me,
            version("flow-slack"),
            runtime,
            access=access,
            answerers=Answerers(asks.answerers, asks.approvers),
            reactions=shown.reactions,
        )
        door.attend()
        sessions.observe(AgentStatus(client, door.after).observe)
        socket = SlackSocket(
            app_token=settings.app_token.get_secret_value(),
            bot_token=bot_token,
            api_url=settings.api_url,
            debug=debug,
            on_connected=door.connected,
        )
        couriers = Couriers(
            sessions,
            client,
            SentFiles(database, sessions.owner),
            outgoing,
            limit=files.limit,
            shown=lambda thread: show.spoken(thread, door.ts()),
        )
        sessions.observe(couriers.observe)
        async with show.outbox, door.after, couriers, AsyncExitStack() as stack:
            if previews is not None:
                offers = PreviewOffers(sessions, client, *previews, bot_id=me.bot_id)
                door.previews = await stack.enter_async_context(offers)
                sessions.observe(door.previews.observe)
            yield SlackDoor(show, door, socket, calls)
