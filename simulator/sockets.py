"""Socket Mode, Slack's side: tickets, sockets, envelopes, acknowledgements, redelivery.

Behaviour after docs.slack.dev "Using Socket Mode": a URL works once and for a short time; at most 10 sockets an app;
an envelope goes to one of them and wants its id back within 3 seconds. Events come again (at once, after one minute,
after five); slash commands and interactions do not.
"""

import asyncio
import itertools
import json
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Ack:
    """One acknowledgement as it came in; `latency` in real seconds since its envelope was sent."""

    time: float
    latency: float
    envelope_id: str
    type: str
    socket: int
    payload: Any
    attempt: int = 0
    late: bool = False
    other_socket: bool = False


@dataclass(slots=True)
class Delivery:
    """One attempt to deliver one envelope; `socket` is None when no socket was open."""

    envelope_id: str
    type: str
    app_id: str
    payload: Json
    attempt: int
    time: float
    socket: int | None
    started: float
    acked: bool = False
    timed_out: bool = False
    timer: Timer | None = field(default=None, repr=False)
    on_ack: Callable[[Any], None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an app answered to a command or interaction; `error` is "operation_timeout" or "dispatch_failed"."""

    ok: bool
    payload: Any = None
    error: str | None = None
    effect: Any = None


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
    """Every app's sockets, and the envelopes on their way."""

    def __init__(
        self,
        clock: Clock,
        faults: Faults,
        tasks: Tasks,
        *,
        ack_timeout: float,
        retry_delays: tuple[float, ...],
        ticket_lifetime: float,
        ping_interval: float,
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._tasks = tasks
        self._ack_timeout = ack_timeout
        self._retry_delays = retry_delays
        self._ticket_lifetime = ticket_lifetime
        self._ping_interval = ping_interval
        self._numbers = itertools.count(1)
        self._turn = itertools.count()
        self._tickets: dict[str, tuple[App, float]] = {}
        self._pending: dict[str, Delivery] = {}
        self._held: list[tuple[App, Json]] = []
        self.open: list[Socket] = []
        self.acks: list[Ack] = []
        self.deliveries: list[Delivery] = []
        self.on_change: Callable[[], None] = lambda: None
        faults.sockets = self

    # --- connections

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
        if len(self.sockets_of(app)) >= MAX_SOCKETS:
            await ws.send_str(json.dumps(self._disconnect_frame("too_many_websockets")))
            await ws.close()
            return ws
        await self._serve(socket)
        return ws

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
            await socket.ws.pong(data)
        elif kind == WSMsgType.TEXT:
            latency = self._faults.socket_latency
            if latency:
                asyncio.get_running_loop().call_later(latency, self._acknowledge, socket, data)
            else:
                self._acknowledge(socket, data)

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
        try:
            await socket.ws.ping(f"Ping from {socket.number}".encode())
        except ConnectionError:
            return

    def _hello(self, socket: Socket) -> Json:
        return {
            "type": "hello",
            "num_connections": len(self.sockets_of(socket.app)),
            "debug_info": {"host": "applink-simulator", "build_number": 1, "approximate_connection_time": 18060},
            "connection_info": {"app_id": socket.app.id},
        }

    def _disconnect_frame(self, reason: str) -> Json:
        return {"type": "disconnect", "reason": reason, "debug_info": {"host": "wss-simulator"}}

    def disconnect_all(self, reason: str) -> None:
        for socket in list(self.open):
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

    def close_all(self) -> None:
        for socket in list(self.open):
            socket.leaving = True
            self._tasks.start(self._close(socket))

    async def _close(self, socket: Socket) -> None:
        if not socket.ws.closed:
            await socket.ws.close()

    def reset_all(self) -> None:
        for socket in list(self.open):
            socket.leaving = True
            socket.reset()

    def deafen_all(self) -> None:
        for socket in self.open:
            socket.deaf = True

    # --- events: at least once

    def deliver_event(self, app: App, payload: Json) -> None:
        """Sends an event to one of the app's sockets, and again on Slack's schedule until it is acknowledged."""
        if self._faults.reorder:
            self._held.append((app, payload))
            if len(self._held) >= self._faults.reorder:
                self._faults.reorder = 0
                held, self._held = self._held, []
                for each in reversed(held):
                    self._leave_now_or_later(*each)
            return
        self._leave_now_or_later(app, payload)

    def _leave_now_or_later(self, app: App, payload: Json) -> None:
        if self._faults.duplicates:
            self._faults.duplicates -= 1
            self._attempt_event(app, payload, 1)
        if self._faults.delays:
            self._clock.call_later(self._faults.delays.popleft(), lambda: self._attempt_event(app, payload, 0))
        else:
            self._attempt_event(app, payload, 0)

    def _attempt_event(self, app: App, payload: Json, attempt: int) -> None:
        envelope = {
            "type": "events_api",
            "accepts_response_payload": False,
            "payload": payload,
            "retry_attempt": attempt,
            "retry_reason": "timeout" if attempt else "",
        }
        self._dispatch(app, envelope, attempt, None, lambda _: self._retry_event(app, payload, attempt))

    def _retry_event(self, app: App, payload: Json, attempt: int) -> None:
        if attempt < len(self._retry_delays):
            delay = self._retry_delays[attempt]
            self._clock.call_later(delay, lambda: self._attempt_event(app, payload, attempt + 1))

    # --- commands and interactions: at most once

    async def ask(
        self,
        app: App,
        kind: str,
        payload: Json,
        *,
        accepts_response: bool,
        on_payload: Callable[[Any], Any] = lambda _: None,
    ) -> Answer:
        """Sends a command or interaction once and waits for its acknowledgement, at most 3 seconds.

        `on_payload` takes effect as the acknowledgement arrives, before anything that the app sends after it.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        envelope = {"type": kind, "accepts_response_payload": accepts_response, "payload": payload}

        def settle(result: Answer) -> None:
            if not answer.done():
                answer.set_result(result)

        def fail(delivery: Delivery) -> None:
            settle(Answer(False, error="dispatch_failed" if delivery.socket is None else "operation_timeout"))

        def take(response: Any) -> None:
            settle(Answer(True, response, effect=on_payload(response)))

        self._dispatch(app, envelope, 0, take, fail)
        return await answer

    def _dispatch(
        self,
        app: App,
        envelope: Json,
        attempt: int,
        on_ack: Callable[[Any], None] | None,
        on_failure: Callable[[Delivery], None],
    ) -> None:
        socket = self._choose(app)
        envelope_id = str(uuid.uuid4())
        delivery = Delivery(
            envelope_id,
            envelope["type"],
            app.id,
            envelope["payload"],
            attempt,
            self._clock.now(),
            socket.number if socket else None,
            time.perf_counter(),
            on_ack=on_ack,
        )
        self.deliveries.append(delivery)
        if socket is None:
            self._clock.call_later(0, lambda: on_failure(delivery))
            return
        self._pending[envelope_id] = delivery
        delivery.timer = self._clock.call_later(self._ack_timeout, lambda: self._time_out(delivery, on_failure))
        socket.send({"envelope_id": envelope_id, **envelope}, self._faults.socket_latency)

    def _choose(self, app: App) -> Socket | None:
        ready = [socket for socket in self.sockets_of(app) if not socket.leaving]
        return ready[next(self._turn) % len(ready)] if ready else None

    def _time_out(self, delivery: Delivery, on_failure: Callable[[Delivery], None]) -> None:
        delivery.timed_out = True
        on_failure(delivery)
        self.on_change()

    def _acknowledge(self, socket: Socket, data: str) -> None:
        try:
            frame = json.loads(data)
        except ValueError:
            return
        delivery = self._pending.get(frame.get("envelope_id", "")) if isinstance(frame, dict) else None
        if delivery is None or delivery.acked:
            return
        delivery.acked = True
        if delivery.timer:
            delivery.timer.cancel()
        self.acks.append(
            Ack(
                self._clock.now(),
                time.perf_counter() - delivery.started,
                delivery.envelope_id,
                delivery.type,
                socket.number,
                frame.get("payload"),
                delivery.attempt,
                delivery.timed_out,
                socket.number != delivery.socket,
            )
        )
        if delivery.on_ack and not delivery.timed_out:
            delivery.on_ack(frame.get("payload"))
        self.on_change()
