"""slack_sdk's Socket Mode client on aiohttp, with three repairs (state: slack_sdk 3.47).

- A URL of `apps.connections.open` carries a single-use ticket, but the SDK retries a failed handshake on the same URL
  for ever. Here every attempt asks for a new one.
- On a `disconnect` frame the SDK closes the old socket first and discards what it had received: events come back,
  commands and clicks are lost. Here the new one opens first, and the old one is read to its end.
- The SDK starts tasks that nobody holds. Here they are kept, and waited for at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.web.async_client import AsyncWebClient

from bot.refusals import refusal
from config.logging import get_logger

log = get_logger(__name__)

_HANDSHAKE_SECONDS = 15
_LINGER = 5.0  # seconds that an old socket is still read; Slack closes it by itself
_LAST_WORDS = 3.0  # seconds that listeners may take to end when the client closes


class FreshTicketClient(SocketModeClient):
    def __init__(
        self, app_token: str, web_client: AsyncWebClient, *, ping_interval: float, trace_enabled: bool = False
    ) -> None:
        self._heard_at = time.monotonic()
        self._pong: float | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._retired: set[asyncio.Task[None]] = set()
        super().__init__(
            app_token,
            logger=logging.getLogger("slack_sdk.socket_mode"),
            web_client=web_client,
            ping_interval=ping_interval,
            trace_enabled=trace_enabled,
        )

    # ---- whether it lives ----

    @property
    def last_ping_pong_time(self) -> float | None:
        return self._pong

    @last_ping_pong_time.setter
    def last_ping_pong_time(self, value: float | None) -> None:  # the base class notes each pong here
        self._pong = value
        if value is not None:
            self._heard_at = time.monotonic()

    async def enqueue_message(self, message: str) -> None:
        """Called by the base class for each frame of the current socket."""
        self._heard_at = time.monotonic()
        await self.message_queue.put((message, self.current_session))

    def silent_for(self) -> float:
        """Seconds since the last frame, pongs included."""
        return time.monotonic() - self._heard_at

    @property
    def up(self) -> bool:
        session = self.current_session
        return not self.closed and not self.stale and session is not None and not session.closed

    # ---- connecting ----

    async def connect_to_new_endpoint(self, force: bool = False) -> None:
        before = self.current_session
        async with self.connect_operation_lock:
            if self.current_session is before and (force or not await self.is_connected()):
                await self.connect()

    async def connect(self) -> None:
        """Returns when there is a connection, or the client is closed."""
        delay = 0.5
        while not self.closed:
            try:
                fresh = await self._open()
            except Exception as error:  # noqa: BLE001 - whatever stands in the way, try again
                why = refusal(error).error
                log.warning("cannot connect to Slack; trying again", error=why, seconds=round(delay, 1))
                await asyncio.sleep(delay * random.uniform(0.6, 1.0))
                delay = min(30.0, delay * 2)
            else:
                self._use(fresh)
                return

    async def _open(self) -> ClientWebSocketResponse:
        url = await self.issue_new_wss_url()
        if self.aiohttp_client_session.closed:
            self.aiohttp_client_session = aiohttp.ClientSession()
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            socket = await self.aiohttp_client_session.ws_connect(
                url,
                autoping=False,
                heartbeat=self.ping_interval,
                proxy=self.proxy,
                ssl=self.web_client.ssl if self.web_client.ssl is not None else True,
            )
            await socket.ping(f"sdk-ping-pong:{time.time()}".encode())
        return socket

    def _use(self, fresh: ClientWebSocketResponse) -> None:
        """Nothing is awaited here: this may run in one of the tasks that it replaces."""
        old, self.current_session = self.current_session, fresh
        self._heard_at = time.monotonic()
        self.stale, self.auto_reconnect_enabled = False, self.default_auto_reconnect_enabled
        self.last_ping_pong_time = time.time()
        receiver = self.message_receiver
        for task in (self.current_session_monitor, receiver):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self.current_session_monitor = asyncio.ensure_future(self.monitor_current_session())
        self.message_receiver = asyncio.ensure_future(self.receive_messages())
        log.info("connected to Slack")
        if old is not None:
            self._keep(self._retired, self._read_to_the_end(old, receiver))

    async def _read_to_the_end(self, old: ClientWebSocketResponse, receiver: asyncio.Future[None] | None) -> None:
        if receiver is not None:
            await asyncio.wait([receiver], timeout=_LINGER)
        with contextlib.suppress(TimeoutError, OSError, RuntimeError, aiohttp.ClientError):
            async with asyncio.timeout(_LINGER):
                while not old.closed:
                    message = await old.receive()
                    if message.type is WSMsgType.TEXT:
                        await self.message_queue.put((message.data, old))
                    elif message.type is WSMsgType.PING:
                        await old.pong(message.data)
                    elif message.type is not WSMsgType.PONG:
                        break
        with contextlib.suppress(OSError, aiohttp.ClientError):
            await old.close()

    # ---- messages ----

    async def process_message(self) -> None:
        raw, socket = await self.message_queue.get()
        message = json.loads(raw) if raw.startswith("{") else {}
        if message.get("type") != "disconnect":
            self._keep(self._handling, self.run_message_listeners(message, raw))
        elif socket is self.current_session:  # else it was meant for one that we have left already
            self._keep(self._handling, self._move(str(message.get("reason")), socket))

    async def _move(self, reason: str, socket: ClientWebSocketResponse | None) -> None:
        if socket is not self.current_session:
            return
        log.info("Slack asks for a new connection", reason=reason)
        if reason == "too_many_websockets" and socket is not None:
            await socket.close()  # to make room for the next
        await self.connect_to_new_endpoint(force=True)

    @staticmethod
    def _keep(where: set[asyncio.Task[None]], work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        where.add(task)
        task.add_done_callback(where.discard)

    # ---- end ----

    async def close(self) -> None:
        """Takes no more messages in, lets the listeners end and acknowledge, then disconnects."""
        self.closed, self.auto_reconnect_enabled = True, False
        tasks = [self.message_processor, self.current_session_monitor, self.message_receiver]
        held = [task for task in tasks if task is not None]
        for task in held:
            task.cancel()
        if self._handling:
            await asyncio.wait(set(self._handling), timeout=_LAST_WORDS)
        held += [*self._handling, *self._retired]
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        if self.current_session is not None:
            await self.current_session.close()
        await self.aiohttp_client_session.close()
