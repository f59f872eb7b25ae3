"""The Socket Mode connection: tokens checked first, every attempt with a fresh ticket, a watchdog over it all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
from slack_bolt.adapter.socket_mode.async_base_handler import AsyncBaseSocketModeHandler
from slack_bolt.adapter.socket_mode.async_internals import run_async_bolt_app, send_async_response
from slack_bolt.async_app import AsyncApp
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.web.async_client import AsyncWebClient

from bot.inbound import Identity
from bot.refusals import Meaning, refusal
from bot.socketclient import FreshTicketClient
from config.errors import FlowError
from config.logging import get_logger

log = get_logger(__name__)

#: What manifest.yml asks for; `auth.test` answers what the token has, in the header x-oauth-scopes.
SCOPES = (
    "app_mentions:read",
    "channels:history",
    "chat:write",
    "commands",
    "groups:history",
    "im:history",
    "mpim:history",
)
_CALL_SECONDS = 15
_TRIES = 4


class SlackAuthFailed(FlowError):
    """Slack refuses a token."""


class SlackUnreachable(FlowError):
    """Slack does not answer."""

    suggestion = "Check the network, a proxy, and SLACK_API_URL."


# ---- tokens ------------------------------------------------------------------------------------------------------


def web_client(token: str | None, api_url: str, session: aiohttp.ClientSession | None = None) -> AsyncWebClient:
    """Without the SDK's retry handlers: they repeat a post whose connection broke after it had succeeded."""
    return AsyncWebClient(token=token, base_url=api_url, timeout=_CALL_SECONDS, session=session, retry_handlers=[])


async def preflight(*, app_token: str, bot_token: str, api_url: str) -> Identity:
    """Who the bot is. Raises SlackAuthFailed (which token, what to do) and SlackUnreachable."""
    if not (bot_token or app_token):
        raise SlackAuthFailed(
            "SLACK_BOT_TOKEN and SLACK_APP_TOKEN are not set.",
            suggestion="Set both (README.md, Set up Slack), or try `flow demo`, which needs neither.",
        )
    _check_kind("SLACK_BOT_TOKEN", bot_token, "xoxb-", "*OAuth & Permissions*, Bot User OAuth Token")
    _check_kind("SLACK_APP_TOKEN", app_token, "xapp-", "*Basic Information*, App-Level Tokens")
    client = web_client(bot_token, api_url)
    auth = await _ask("SLACK_BOT_TOKEN", client.auth_test, api_url)
    _check_scopes(str(auth.headers.get("x-oauth-scopes", "")))
    await _ask("SLACK_APP_TOKEN", lambda: client.apps_connections_open(app_token=app_token), api_url)
    return Identity(
        team_id=str(auth["team_id"]),
        user_id=str(auth["user_id"]),
        bot_id=str(auth["bot_id"]),
        team=str(auth.get("team", "")),
        bot_name=str(auth.get("user", "flow")),
        url=str(auth.get("url", "")),
    )


def _check_kind(variable: str, token: str, prefix: str, where: str) -> None:
    if not token or token.endswith("..."):  # as .env.example has it
        raise SlackAuthFailed(f"{variable} is not set.", suggestion=f"Set it to the token under {where} ({prefix}…).")
    if not token.startswith(prefix):
        raise SlackAuthFailed(
            f"{variable} holds a token of another kind.", suggestion=f"It starts with {prefix}; find it under {where}."
        )


def _check_scopes(granted: str) -> None:
    have = {scope.strip() for scope in granted.split(",")} - {""}
    if have and (lacking := [scope for scope in SCOPES if scope not in have]):
        raise SlackAuthFailed(
            f"The token in SLACK_BOT_TOKEN lacks {', '.join(lacking)}.",
            suggestion="Paste manifest.yml into the app's manifest at api.slack.com/apps, and reinstall the app.",
        )


async def _ask(variable: str, call: Callable[[], Awaitable[Any]], api_url: str) -> Any:
    """The call's answer; waits out rate limits and short outages."""
    for attempt in range(1, _TRIES + 1):
        try:
            return await call()
        except Exception as error:
            said = refusal(error)
            if said.meaning not in (Meaning.LIMITED, Meaning.UNKNOWN):
                raise _auth_failed(variable, said.error) from error
            if attempt == _TRIES or said.seconds > 60:
                raise SlackUnreachable(f"Slack does not answer at {api_url} ({said.error}).") from error
            await asyncio.sleep(said.seconds or 0.25 * 2**attempt)
    raise AssertionError("unreachable")


def _auth_failed(variable: str, error: str) -> SlackAuthFailed:
    if error == "missing_scope":
        need = "connections:write" if variable == "SLACK_APP_TOKEN" else "those of manifest.yml"
        return SlackAuthFailed(
            f"The token in {variable} lacks a scope.", suggestion=f"Give it {need} at api.slack.com/apps."
        )
    return SlackAuthFailed(
        f"Slack refuses the token in {variable} ({error}).",
        suggestion="Copy it again from api.slack.com/apps; a revoked token has to be made anew.",
    )


# ---- connection --------------------------------------------------------------------------------------------------


class _Handler(AsyncBaseSocketModeHandler):
    """Bolt's own adapter, on our client."""

    def __init__(self, app: AsyncApp, client: FreshTicketClient) -> None:
        self.app: AsyncApp = app
        self.client: FreshTicketClient = client
        client.socket_mode_request_listeners.append(self.handle)

    async def handle(self, client: AsyncBaseSocketModeClient, req: SocketModeRequest) -> None:
        started = time.time()
        await send_async_response(client, req, await run_async_bolt_app(self.app, req), started)


class SlackSocket:
    """Keeps one Socket Mode connection open. `deaf_after`: seconds without any frame until it is replaced."""

    def __init__(
        self,
        *,
        app_token: str,
        bot_token: str,
        api_url: str,
        debug: bool = False,
        ping_interval: float = 10.0,
        deaf_after: float = 60.0,
    ) -> None:
        self._app_token = app_token
        self._web = web_client(bot_token, api_url)
        self._debug = debug
        self._ping_interval = ping_interval
        self._deaf_after = deaf_after
        self._handler: _Handler | None = None
        self._state: str = "down"
        self._since = datetime.now(UTC)
        self._was_up = float("-inf")
        self._closing = False

    async def run(self, app: AsyncApp) -> None:
        """Connects, and watches over the connection until cancelled; at the end running listeners may acknowledge."""
        try:
            await self._connect(app)
            while True:
                await asyncio.sleep(min(1.0, self._deaf_after / 4))
                self.state()
                client = self._client
                if client is not None and client.silent_for() > self._deaf_after:
                    log.warning("the connection to Slack is deaf; making a new one", seconds=round(client.silent_for()))
                    await self._connect(app)
        finally:
            self._closing = True
            await self._leave(self._handler)

    async def _connect(self, app: AsyncApp) -> None:
        old, self._handler = self._handler, _Handler(app, self._new_client())
        leaving = asyncio.create_task(self._leave(old), name="leave a deaf connection")
        try:
            await self._handler.client.connect()
        finally:
            await leaving
        self.state()

    def _new_client(self) -> FreshTicketClient:
        return FreshTicketClient(
            self._app_token, self._web, ping_interval=self._ping_interval, trace_enabled=self._debug
        )

    async def _leave(self, handler: _Handler | None) -> None:
        if handler is not None:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await handler.client.close()

    @property
    def _client(self) -> FreshTicketClient | None:
        return self._handler.client if self._handler else None

    @property
    def connected(self) -> bool:
        client = self._client
        return client is not None and client.up and not self._closing

    def state(self) -> dict[str, str]:
        """{"state": "connected" | "reconnecting" | "down", "since": ISO time}. Down: no connection for a minute."""
        now = time.monotonic()
        state: Literal["connected", "reconnecting", "down"] = "connected"
        if self.connected:
            self._was_up = now
        else:
            state = "reconnecting" if now - self._was_up < 60 and not self._closing else "down"
        if state != self._state:
            self._state, self._since = state, datetime.now(UTC)
            log.info("Slack", state=state)
        return {"state": state, "since": self._since.isoformat(timespec="seconds")}
