"""One Socket Mode connection, from its handshake to its end (docs.slack.dev, Using Socket Mode).

Not slack_sdk's client, because that one (state: 3.47) keeps a single connection, closes it before the next one is open
and discards what it had received by then: events come back, commands and clicks are lost. It also retries a failed
handshake on the same URL for ever, although the ticket in it works once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMessage, WSMsgType

from config.logging import get_logger

log = get_logger(__name__)

_LINGER = 5.0  # seconds that a connection is still read after it was left; Slack closes it by itself
_SEND_SECONDS = 3.0
_ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
_BROKEN = (TimeoutError, OSError, RuntimeError, aiohttp.ClientError)


class Refused(Exception):
    """Slack lets us in only to say that we may not stay; the reason of its `disconnect` frame."""


class Connection:
    """Open from the start. `read` it in a task; when it is `spent`, open another one, then `leave` it.

    `deaf_after`: seconds without any frame, pongs included, until it counts as spent.
    """

    def __init__(self, socket: ClientWebSocketResponse, ping_interval: float, deaf_after: float) -> None:
        self._socket = socket
        self._ping_interval, self._deaf_after = ping_interval, deaf_after
        self._heard_at = time.monotonic()
        self._spent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Timeout | None = None

    @classmethod
    async def open(
        cls, http: aiohttp.ClientSession, url: str, *, ping_interval: float, deaf_after: float
    ) -> Connection:
        """Returns after Slack's `hello`. Raises Refused, and what aiohttp raises."""
        socket = await http.ws_connect(url, autoping=False)
        try:
            frame = _frame(await socket.receive())
            if frame.get("type") != "hello":
                raise Refused(str(frame.get("reason") or "closed"))
        except BaseException:
            await socket.close()
            raise
        return cls(socket, ping_interval, deaf_after)

    @property
    def up(self) -> bool:
        """Slack delivers here, as far as anybody knows; also until the end that a `disconnect` frame announces."""
        return not self._socket.closed and not (self._spent.done() and self._spent.result() in ("deaf", "closed"))

    async def spent(self) -> str:
        """Why another one is needed: the reason of a `disconnect` frame, "deaf" or "closed"."""
        return await asyncio.shield(self._spent)

    def leave(self) -> None:
        """There is another one. What still comes is read, but not for long; a deaf one only keeps messages away."""
        if self._reading is not None:
            linger = 0.0 if self._spent.done() and self._spent.result() == "deaf" else _LINGER
            self._reading.reschedule(asyncio.get_running_loop().time() + linger)

    async def read(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Gives each envelope to `take`, until the connection ends. Cancelled, it leaves it open."""
        pinging = asyncio.create_task(self._ping(), name="slack ping")
        try:
            async with asyncio.timeout(None) as self._reading:
                while await self._take_one(take):
                    pass
        except _BROKEN as error:
            log.debug("a connection to Slack broke", error=type(error).__name__)
        finally:
            pinging.cancel()
            self._reading = None
            self._spend("closed")
        await self.close()

    async def _take_one(self, take: Callable[[dict[str, Any]], None]) -> bool:
        """False: nothing more will come."""
        message = await self._socket.receive()
        if message.type in _ENDS:
            return False
        self._heard_at = time.monotonic()
        if message.type is WSMsgType.PING:
            await self._socket.pong(message.data)
        frame = _frame(message)
        if frame.get("type") == "disconnect":
            self._spend(str(frame.get("reason") or "unknown"))
        elif frame:
            take(frame)
        return True

    async def _ping(self) -> None:
        pinged_at = time.monotonic()
        while not self._spent.done():
            await asyncio.sleep(min(self._ping_interval, self._deaf_after) / 4)
            now = time.monotonic()
            if now - self._heard_at > self._deaf_after:
                self._spend("deaf")
            elif now - pinged_at >= self._ping_interval:
                pinged_at = now
                with contextlib.suppress(*_BROKEN):  # the reader hears of it too
                    await self._socket.ping(b"flow")

    def _spend(self, reason: str) -> None:
        if not self._spent.done():
            self._spent.set_result(reason)

    async def send(self, text: str) -> bool:
        """False: it did not go out."""
        if self._socket.closed:
            return False
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._socket.send_str(text)
        except _BROKEN:
            return False
        return True

    async def close(self) -> None:
        with contextlib.suppress(*_BROKEN):
            async with asyncio.timeout(_SEND_SECONDS):
                await self._socket.close()


def _frame(message: WSMessage) -> dict[str, Any]:
    """The JSON object of a text frame; empty for everything else."""
    if message.type is not WSMsgType.TEXT:
        return {}
    try:
        frame = json.loads(message.data)
    except ValueError:
        return {}
    return frame if isinstance(frame, dict) else {}
