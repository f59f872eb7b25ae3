"""The Slack door as a whole: the Bolt app with its listeners, the outbox, and the connection.

door = SlackDoor(sessions, database, identity, app_token=…, bot_token=…, api_url=…, version=…, runtime=…)
sessions.observe(door.observe)
async with door:                    # can show answers, hears nothing yet
    await sessions.replay()
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(door.listen())
        …
        listening.cancel()          # the door is closed
        …                           # sessions drain
        await door.flush(5.0)
"""

from __future__ import annotations

import logging
import re
from types import TracebackType
from typing import Any, Self

import aiohttp
from slack_bolt.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.error import BoltUnhandledRequestError
from slack_bolt.response import BoltResponse

from bot import actions, commands, home, messages
from bot.delivery import Delivery
from bot.door import Ack, Door
from bot.inbound import Identity
from bot.show import Show
from bot.socket import SlackSocket, web_client
from bot.store import MessageStore
from config.errors import FlowError
from config.logging import get_logger
from sessions.db import Database
from sessions.events import LifeEvent
from sessions.manager import Sessions
from sessions.types import Session, Turn
from worklets.events import AgentEvent

log = get_logger(__name__)
_ANY = re.compile(".*")


def build_app(door: Door, api_url: str) -> AsyncApp:
    """Every listener of Flow; nothing that Slack may send is left without one."""

    async def authorize() -> AuthorizeResult:
        # Known since the preflight. Bolt's own way asks auth.test while the first event waits for its ack.
        me = door.me
        return AuthorizeResult(
            enterprise_id=None,
            team_id=me.team_id,
            bot_user_id=me.user_id,
            bot_id=me.bot_id,
            bot_token=door.client.token,
        )

    app = AsyncApp(
        name="flow",
        logger=_quiet_logger(),
        client=web_client(None, api_url),
        authorize=authorize,
        process_before_response=True,  # the ack leaves when the listener has returned: after the insert
        raise_error_for_unhandled_request=True,
        request_verification_enabled=False,  # Socket Mode carries no signatures
        ssl_check_enabled=False,
        url_verification_enabled=False,
    )
    for feature in (messages, commands, actions, home):
        feature.register(app, door)
    _register_rest(app)
    return app


def _quiet_logger() -> logging.Logger:
    """Bolt warns that a token in SLACK_BOT_TOKEN goes unused when it is given a client."""
    logger = logging.getLogger("slack_bolt.flow")
    logger.addFilter(lambda record: "`token`" not in str(record.msg))
    return logger


def _register_rest(app: AsyncApp) -> None:
    """Slack redelivers events that nobody acknowledges, and shows people an error for the rest."""

    async def seen(ack: Ack, body: dict[str, Any]) -> None:
        await ack()
        kind = (body.get("event") or body).get("type")
        log.debug("nothing to do for this", type=kind)

    for listen in (app.event, app.action, app.shortcut, app.view, app.options):
        listen(_ANY)(seen)

    async def failed(error: Exception, body: dict[str, Any]) -> BoltResponse:
        if isinstance(error, BoltUnhandledRequestError):
            log.debug("nobody listens to this", type=body.get("type"))
            return BoltResponse(status=200)
        if not isinstance(error, FlowError):
            log.error("a listener failed", exc_info=error, type=body.get("type"))
        return BoltResponse(status=500)  # anything but 200 stays unacknowledged

    app.error(failed)


class SlackDoor:
    """See the module's head for the order of things. `listen` raises nothing on a bad network: it tries again."""

    def __init__(
        self,
        sessions: Sessions,
        database: Database,
        me: Identity,
        *,
        app_token: str,
        bot_token: str,
        api_url: str,
        version: str,
        runtime: str,
        debug: bool = False,
    ) -> None:
        """`me` is what `bot.socket.preflight` found; `version` and `runtime` are words for `/flow status`."""
        self._client = web_client(bot_token, api_url)
        show = Show(sessions, Delivery(self._client, me.bot_id), MessageStore(database))
        self._door = Door(sessions, show, self._client, me, version, runtime)
        self._app = build_app(self._door, api_url)
        self._socket = SlackSocket(app_token=app_token, bot_token=bot_token, api_url=api_url, debug=debug)

    async def __aenter__(self) -> Self:
        self._client.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15))
        await self._door.after.__aenter__()
        await self._door.show.outbox.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._door.after.__aexit__(kind, error, trace)
            await self._door.show.outbox.__aexit__(kind, error, trace)
        finally:
            if self._client.session is not None:
                await self._client.session.close()

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """An Observer of sessions."""
        self._door.show.observe(session, turn, event)

    async def listen(self) -> None:
        """Takes in what Slack sends, until cancelled."""
        await self._socket.run(self._app)

    async def flush(self, timeout: float) -> bool:
        """Shows the newest state of every answer; False: not all in `timeout` seconds, the next start goes on."""
        return await self._door.show.outbox.flush(timeout)

    @property
    def connected(self) -> bool:
        return self._socket.connected

    def state(self) -> dict[str, str]:
        """For /health: {"state": "connected" | "reconnecting" | "down", "since": ISO time}."""
        return self._socket.state()
