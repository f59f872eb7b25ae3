"""Envelopes: events at least once, commands and interactions at most once.

Behaviour after docs.slack.dev: an envelope wants its id back within 3 seconds. Events come again (at once, after one
minute, after five) with `retry_attempt` and `retry_reason`; slash commands and interactions do not, the person sees an
error instead.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.clock import Clock, Timer
from simulator.faults import Faults
from simulator.sockets import Socket, Sockets
from simulator.state import App

Json = dict[str, Any]
HELD_AT_MOST = 2.0  # seconds that an event waits for others to be reordered with


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


class Envelopes:
    """What is on its way to the apps, and a record of what was."""

    def __init__(
        self, clock: Clock, faults: Faults, sockets: Sockets, *, ack_timeout: float, retry_delays: tuple[float, ...]
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._sockets = sockets
        self._ack_timeout = ack_timeout
        self._retry_delays = retry_delays
        self._pending: dict[str, Delivery] = {}
        self._held: list[tuple[App, Json]] = []
        self.acks: list[Ack] = []
        self.deliveries: list[Delivery] = []
        self.on_change: Callable[[], None] = lambda: None
        sockets.on_text = self._acknowledge

    # --- events: at least once

    def deliver_event(self, app: App, payload: Json) -> None:
        """Sends an event to one of the app's sockets, and again on Slack's schedule until it is acknowledged."""
        if self._faults.reorder:
            if not self._held:
                self._clock.call_later(HELD_AT_MOST, self._release)
            self._held.append((app, payload))
            if len(self._held) >= self._faults.reorder:
                self._release()
            return
        self._leave_now_or_later(app, payload)

    def _release(self) -> None:
        """Those that were held leave, the last one first."""
        if self._held:
            self._faults.reorder = 0
        held, self._held = self._held, []
        for each in reversed(held):
            self._leave_now_or_later(*each)

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
        socket = self._sockets.choose(app)
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
        self.on_change()
        if socket is None:
            self._clock.call_later(0, lambda: on_failure(delivery))
            return
        self._pending[envelope_id] = delivery
        delivery.timer = self._clock.call_later(self._ack_timeout, lambda: self._time_out(delivery, on_failure))
        socket.send({"envelope_id": envelope_id, **envelope}, self._faults.socket_latency)

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
