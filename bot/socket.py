"""Socket Mode: tokens checked first, then two connections kept open, each attempt with a fresh ticket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

import aiohttp
from slack_bolt.adapter.socket_mode.async_internals import run_async_bolt_app, send_async_response
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.web.async_client import AsyncWebClient

from bot.inbound import Identity
from bot.refusals import Meaning, refusal
from bot.socketclient import Connection, Refused
from bot.tasks import Tasks
from config.errors import FlowError
from config.logging import get_logger

if TYPE_CHECKING:
    from slack_bolt.async_app import AsyncApp
    from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
    from slack_sdk.socket_mode.response import SocketModeResponse

log = get_logger(__name__)

#: What manifest.yml asks for; `auth.test` answers what the token has, in the header x-oauth-scopes.
SCOPES = (
    "app_mentions:read",
    "channels:history",
    "chat:write",
    "commands",
    "files:read",
    "files:write",
    "groups:history",
    "im:history",
    "mpim:history",
    "reactions:read",
    "reactions:write",
    "users:read",
)
CONNECTIONS = 2  # Slack allows an app 10, over all its processes
_CALL_SECONDS = 15
_TRIES = 4
_ATTEMPT_SECONDS = 15  # for a ticket and the handshake
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between attempts to connect
_LASTING = 10.0  # seconds after which a connection was not in vain
_SUDDEN = ("deaf", "closed")  # ends of a connection that Slack did not announce
_NOTICE = 15.0  # seconds: one that was announced to end is not trusted for longer
_LAST_WORDS = 3.0  # seconds that listeners may take to end when the program does
_ACK_SECONDS = 2.0  # how long an acknowledgement waits for a connection; Slack waits 3 s in all

_SENTENCES = {
    "link_disabled": "Socket Mode is switched off in the app's settings; switch it on at api.slack.com/apps.",
    "too_many_websockets": (
        "The app has too many open connections (Slack allows 10); stop other copies of Flow that use its tokens."
    ),
}
_STATES = {
    "connected": "connected to Slack",
    "reconnecting": "lost the connection to Slack; connecting again",
    "down": "there has been no connection to Slack for a minute; still trying",
}


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


# ---- connections -------------------------------------------------------------------------------------------------


class _Acknowledger:
    """What Bolt's adapter wants of a client: somewhere to send the acknowledgement."""

    logger = logging.getLogger("slack_bolt.flow")

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self._send = send

    async def send_socket_mode_response(self, response: SocketModeResponse) -> None:
        await self._send(json.dumps(response.to_dict()))


class SlackSocket:
    """Keeps `CONNECTIONS` open at the same time: Slack delivers to the others while one is replaced, or lost.

    `deaf_after`: seconds without any frame until a connection is replaced. `on_connected` is called when Slack can be
    heard again after something may have been missed, also for the first time; not after a refresh that Slack announced
    while there was a connection.
    """

    def __init__(
        self,
        *,
        app_token: str,
        bot_token: str,
        api_url: str,
        debug: bool = False,
        ping_interval: float = 10.0,
        deaf_after: float = 25.0,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self._app_token = app_token
        self._web = web_client(bot_token, api_url)
        self._debug = debug
        self._timing = {"ping_interval": ping_interval, "deaf_after": deaf_after}
        self._on_connected = on_connected
        self._open: list[Connection] = []  # those that are still read, the newest last
        self._news = asyncio.Event()  # of the next connection
        self._opening = asyncio.Lock()
        self._trouble = ""
        self._state = "down"
        self._since = datetime.now(UTC)
        self._was_up = float("-inf")
        self._closing = False

    async def run(self, app: AsyncApp) -> None:
        """Connects, and stays connected until cancelled; at the end running listeners may acknowledge."""
        async with aiohttp.ClientSession(trust_env=True) as http, Tasks("slack events") as events:
            try:
                async with Tasks("slack connections") as lines:
                    for number in range(CONNECTIONS):
                        lines.start(self._keep_open(app, http, lines, events), f"connection {number}")
                    try:
                        while True:
                            await asyncio.sleep(1.0)
                            self.state()
                    finally:
                        self._closing = True  # before the readers end: what they leave open still takes answers
            finally:
                await events.ended(_LAST_WORDS)
                await asyncio.gather(*(connection.close() for connection in self._open))

    async def _keep_open(self, app: AsyncApp, http: aiohttp.ClientSession, lines: Tasks, events: Tasks) -> None:
        """One connection after another; the next is open before the last is left."""
        last: Connection | None = None
        reason, ended_at = "", time.monotonic()
        short = 0  # connections in a row that did not last
        while True:
            connection, opened_at = await self._connect(http), time.monotonic()
            missed = not self._up or (last is not None and (reason in _SUDDEN or opened_at - ended_at > _NOTICE))
            self._open.append(connection)
            lines.start(self._read(connection, app, events), "read")
            if last is not None:
                last.leave()
            self._tell_connected(missed=missed)
            reason, ended_at = await connection.spent(), time.monotonic()
            log.info("a connection to Slack ends; opening another", reason=reason)
            if reason in _SENTENCES:
                self._trouble = _SENTENCES[reason]
            self.state()
            last = connection
            short = short + 1 if time.monotonic() - opened_at < _LASTING else 0
            if short > 1 and reason not in ("warning", "refresh_requested"):
                await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(short - 2, 8)))

    def _tell_connected(self, *, missed: bool) -> None:
        self._trouble = ""
        self._news.set()
        self._news = asyncio.Event()
        self.state()
        log.debug("connected to Slack", connections=self._up)
        if missed and self._on_connected is not None:
            try:
                self._on_connected()
            except Exception:
                log.exception("what follows a new connection to Slack failed")

    async def _connect(self, http: aiohttp.ClientSession) -> Connection:
        """Tries until it works."""
        pause, told = _FIRST_PAUSE, ""
        while True:
            try:
                async with self._opening, asyncio.timeout(_ATTEMPT_SECONDS):
                    # A ticket works once: each attempt has its own.
                    answer = await self._web.apps_connections_open(app_token=self._app_token)
                    return await Connection.open(http, str(answer["url"]), **self._timing)
            except Exception as error:  # noqa: BLE001 - whatever stands in the way, try again
                why, seconds = _why(error), max(pause, refusal(error).seconds)
                self._trouble = why
                (log.debug if why == told else log.warning)(f"{why} Trying again.", seconds=round(seconds, 1))
                await asyncio.sleep(seconds * random.uniform(0.6, 1.0) if seconds == pause else seconds)
                pause, told = min(_LONGEST_PAUSE, pause * 2), why

    # ---- envelopes ----

    async def _read(self, connection: Connection, app: AsyncApp, events: Tasks) -> None:
        def take(frame: dict[str, Any]) -> None:
            request = SocketModeRequest.from_dict(frame)
            if request is not None:
                if self._debug:
                    log.debug("an envelope from Slack", type=request.type, attempt=request.retry_attempt)
                events.start(self._handle(connection, app, request), request.type)

        try:
            await connection.read(take)
        finally:
            if not self._closing:
                self._open = [other for other in self._open if other is not connection]

    async def _handle(self, connection: Connection, app: AsyncApp, request: SocketModeRequest) -> None:
        started = time.time()
        response = await run_async_bolt_app(app, request)
        acknowledger = cast("AsyncBaseSocketModeClient", _Acknowledger(lambda text: self._send(connection, text)))
        await send_async_response(acknowledger, request, response, started)

    async def _send(self, connection: Connection, text: str) -> None:
        """Over the connection that the envelope came on while it is open, else over another."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ACK_SECONDS):
                while True:
                    news = self._news  # before the look: what opens during it is seen too
                    for each in (connection, *reversed(self._open)):
                        if await each.send(text):
                            return
                    await news.wait()
        log.warning("no connection to acknowledge on; Slack will send an event again, but not a command or click")

    # ---- state ----

    @property
    def _up(self) -> int:
        return 0 if self._closing else sum(connection.up for connection in self._open)

    @property
    def connected(self) -> bool:
        """At least one connection is up."""
        return self._up > 0

    def state(self) -> dict[str, str]:
        """{"state": "connected" | "reconnecting" | "down", "since": ISO time, "connections": "2 of 2"}.

        Down: no connection for a minute. `reason`: a sentence, when something stands in the way.
        """
        now = time.monotonic()
        state: Literal["connected", "reconnecting", "down"] = "connected"
        if self.connected:
            self._was_up = now
        else:
            state = "reconnecting" if now - self._was_up < 60 and not self._closing else "down"
        if state != self._state:
            self._state, self._since = state, datetime.now(UTC)
            log.info(_STATES[state])
        known = {"state": state, "since": self._since.isoformat(timespec="seconds")}
        known["connections"] = f"{min(self._up, CONNECTIONS)} of {CONNECTIONS}"
        return known | ({"reason": self._trouble} if self._trouble else {})


def _why(error: Exception) -> str:
    """A sentence."""
    if isinstance(error, Refused):
        return _SENTENCES.get(str(error), f"Slack closes each new connection at once ({error}).")
    said = refusal(error)
    if said.meaning is Meaning.TOKEN:
        return f"Slack refuses the token in SLACK_APP_TOKEN ({said.error}); run `flow doctor`."
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"Slack refuses the connection (HTTP {error.status})."
    if said.meaning is Meaning.LIMITED:
        return "Slack limits how often the app may connect."
    return f"Slack cannot be reached ({said.error})."
