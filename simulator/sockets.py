"""Socket Mode, Slack's side of the connections: tickets, handshakes, pings, refreshes.

Behaviour after docs.slack.dev "Using Socket Mode": a URL works once and for a short time; at most 10 sockets an app.
"""

import asyncio
import contextlib
import itertools
import json
import struct
import time
import uuid
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import WSMsgType, web

from simulator.clock import Clock, Timer
from simulator.faults import Faults
from simulator.state import App
from simulator.tasks import Tasks

Json = dict[str, Any]
MAX_SOCKETS = 10
CLOSE_AFTER = 1.0  # seconds between a `disconnect` frame and the end of its socket
WARNING_AHEAD = 10.0


class Socket:
    """One open connection; frames leave in order through a queue, so that latency delays but never reorders them."""

    def __init__(self, number: int, app: App, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number = number
        self.app = app
        self.ws = ws
        self.deaf = False
        self.leaving = False
        self._transport = request.transport
        self._outbox: asyncio.Queue[tuple[float, Json]] = asyncio.Queue()

    def send(self, frame: Json, latency: float) -> None:
        if not self.deaf:
            self._outbox.put_nowait((time.monotonic() + latency, frame))

    async def write(self) -> None:
        """Sends what is queued until the socket is gone."""
        while True:
            due, frame = await self._outbox.get()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if self.ws.closed or self.deaf:
                continue
            try:
                await self.ws.send_str(json.dumps(frame))
            except ConnectionError:
                return

    def reset(self) -> None:
        """Ends the TCP connection with a RST and without a CLOSE frame."""
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class Sockets:
    """Every app's sockets. What comes in goes to `on_text(socket, text)`; `on_change` hears of openings and ends."""

    def __init__(
        self,
        clock: Clock,
        faults: Faults,
        tasks: Tasks,
        *,
        ticket_lifetime: float,
        ping_interval: float,
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._tasks = tasks
        self._ticket_lifetime = ticket_lifetime
        self._ping_interval = ping_interval
        self._numbers = itertools.count(1)
        self._tickets: dict[str, tuple[App, float]] = {}
        self.open: list[Socket] = []
        self._turn = itertools.count()
        self.on_text: Callable[[Socket, str], None] = lambda *_: None
        self.on_change: Callable[[], None] = lambda: None
        faults.sockets = self

    def issue_ticket(self, app: App) -> str:
        ticket = uuid.uuid4().hex
        self._tickets[ticket] = (app, self._clock.now() + self._ticket_lifetime)
        return ticket

    def redeem(self, ticket: str) -> App | None:
        """The app that a ticket lets in; None when it is unknown, used or too old. It is used up either way."""
        app, expires = self._tickets.pop(ticket, (None, 0.0))
        return app if app is not None and self._clock.now() <= expires else None

    def sockets_of(self, app: App) -> list[Socket]:
        return [socket for socket in self.open if socket.app is app]

    def choose(self, app: App) -> Socket | None:
        """The socket that gets the next envelope: they take turns, those about to close excepted."""
        ready = [socket for socket in self.sockets_of(app) if not socket.leaving]
        return ready[next(self._turn) % len(ready)] if ready else None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /link/: the WebSocket handshake and the life of the socket."""
        app = self.redeem(request.query.get("ticket", ""))
        if self._faults.handshakes_refused > 0:
            self._faults.handshakes_refused -= 1
            return web.Response(status=self._faults.handshake_status, text="handshake refused")
        if app is None:
            return web.Response(status=403, text="invalid or used ticket")
        ws = web.WebSocketResponse(autoping=False, max_msg_size=16 * 1024 * 1024)
        await ws.prepare(request)
        socket = Socket(next(self._numbers), app, ws, request)
        if (refusal := self._refusal(app)) is not None:
            await ws.send_str(json.dumps(self._disconnect_frame(refusal)))
            await ws.close()
            return ws
        await self._serve(socket)
        return ws

    def _refusal(self, app: App) -> str | None:
        """Why this app gets no further socket."""
        if self._faults.socket_mode_off:
            return "link_disabled"
        return "too_many_websockets" if len(self.sockets_of(app)) >= MAX_SOCKETS else None

    async def _serve(self, socket: Socket) -> None:
        self.open.append(socket)
        socket.send(self._hello(socket), self._faults.socket_latency)
        writer = asyncio.create_task(socket.write())
        ping = self._ping_later(socket)
        self.on_change()
        try:
            async for message in socket.ws:
                await self._receive(socket, message.type, message.data)
        finally:
            self.open.remove(socket)
            ping()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.on_change()

    async def _receive(self, socket: Socket, kind: WSMsgType, data: Any) -> None:
        if kind == WSMsgType.PING and not socket.deaf:
            with contextlib.suppress(ConnectionError):
                await socket.ws.pong(data)
        elif kind == WSMsgType.TEXT:
            latency = self._faults.socket_latency
            if latency:
                asyncio.get_running_loop().call_later(latency, self.on_text, socket, data)
            else:
                self.on_text(socket, data)

    def _ping_later(self, socket: Socket) -> Callable[[], None]:
        """Slack's own pings, every `ping_interval`; the returned function stops them."""
        timer: Timer | None = None

        def ping() -> None:
            nonlocal timer
            if not socket.ws.closed and not socket.deaf:
                self._tasks.start(self._ping(socket))
            timer = self._clock.call_later(self._ping_interval, ping)

        timer = self._clock.call_later(self._ping_interval, ping)
        return lambda: timer.cancel() if timer else None

    async def _ping(self, socket: Socket) -> None:
        with contextlib.suppress(ConnectionError):
            await socket.ws.ping(f"Ping from {socket.number}".encode())

    def _hello(self, socket: Socket) -> Json:
        return {
            "type": "hello",
            "num_connections": len(self.sockets_of(socket.app)),
            "debug_info": {"host": "applink-simulator", "build_number": 1, "approximate_connection_time": 18060},
            "connection_info": {"app_id": socket.app.id},
        }

    def _disconnect_frame(self, reason: str) -> Json:
        return {"type": "disconnect", "reason": reason, "debug_info": {"host": "wss-simulator"}}

    def disconnect_all(self, reason: str, oldest: int | None = None) -> None:
        for socket in self._staying(oldest):
            socket.send(self._disconnect_frame(reason), self._faults.socket_latency)
            if reason == "warning":
                self._clock.call_later(WARNING_AHEAD, lambda s=socket: self._refresh(s))  # type: ignore[misc]
            else:
                self._leave(socket)

    def _refresh(self, socket: Socket) -> None:
        if socket in self.open and not socket.leaving:
            socket.send(self._disconnect_frame("refresh_requested"), self._faults.socket_latency)
            self._leave(socket)

    def _leave(self, socket: Socket) -> None:
        socket.leaving = True
        self._clock.call_later(CLOSE_AFTER, lambda: self._tasks.start(self._close(socket)))

    def _staying(self, oldest: int | None) -> list[Socket]:
        """The oldest so many of the sockets that are not about to close; None: all, those that are included."""
        return list(self.open) if oldest is None else [s for s in self.open if not s.leaving][:oldest]

    def close_all(self, oldest: int | None = None) -> None:
        for socket in self._staying(oldest):
            socket.leaving = True
            self._tasks.start(self._close(socket))

    async def _close(self, socket: Socket) -> None:
        if not socket.ws.closed:
            await socket.ws.close()

    def reset_all(self, oldest: int | None = None) -> None:
        for socket in self._staying(oldest):
            socket.leaving = True
            socket.reset()

    def deafen_all(self, oldest: int | None = None) -> None:
        for socket in self._staying(oldest):
            socket.deaf = True
