"""Faults that a test orders: the next calls of a method, the sockets, the order of events.

slack.faults.fail("chat.update", status=429, retry_after=2)       the next call is refused
slack.faults.fail("chat.postMessage", status=500, after=True)     it takes effect, and still answers 500
slack.faults.reset("chat.postMessage", times=2, after=True)       it takes effect, then the connection breaks
slack.faults.fail("download")                                     so for a file's content; "upload" too
slack.faults.refuse_handshakes(1)                                 the next WebSocket handshake gets HTTP 403
slack.faults.disconnect("refresh_requested")                      what Slack says before it closes a socket
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from simulator.sockets import Sockets

Kind = Literal["fail", "reset", "hang"]
DISCONNECT_REASONS = ("warning", "refresh_requested", "link_disabled", "too_many_websockets")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call; `after` says whether its effect takes place first."""

    kind: Kind
    after: bool = False
    status: int = 500
    error: str = ""
    retry_after: int = 1


class Faults:
    """Scripted trouble; everything is off until asked for, `clear` switches all of it off again."""

    def __init__(self) -> None:
        self.sockets: Sockets | None = None
        self.clear()

    def clear(self) -> None:
        self._calls: dict[str, deque[Fault]] = {}
        self._down: int | None = None
        self._latency: dict[str, float] = {}
        self.handshakes_refused = 0
        self.handshake_status = 403
        self.socket_latency = 0.0
        self.socket_mode_off = False
        self.duplicates = 0
        self.delays: deque[float] = deque()
        self.reorder = 0

    # --- Web API

    def fail(
        self,
        method: str,
        *,
        status: int = 500,
        error: str = "",
        retry_after: int = 1,
        times: int = 1,
        after: bool = False,
    ) -> None:
        """The next `times` calls answer `status`; with only `error`, HTTP 200 and `{"ok": false, "error": error}`."""
        chosen = 200 if error and status == 500 else status
        self._script(method, Fault("fail", after, chosen, error, retry_after), times)

    def reset(self, method: str, *, times: int = 1, after: bool = False) -> None:
        """The connection of the next `times` calls is reset (TCP RST)."""
        self._script(method, Fault("reset", after), times)

    def hang(self, method: str, *, times: int = 1, after: bool = False) -> None:
        """The next `times` calls are never answered: the caller runs into its own timeout."""
        self._script(method, Fault("hang", after), times)

    def go_down(self, status: int = 503) -> None:
        """Every Web API call answers `status`, without effect, until `come_up`."""
        self._down = status

    def come_up(self) -> None:
        self._down = None

    def _script(self, method: str, fault: Fault, times: int) -> None:
        self._calls.setdefault(method, deque()).extend([fault] * times)

    def take(self, method: str) -> Fault | None:
        """The fault that this call of `method` meets, if any ("*" stands for every method)."""
        if self._down is not None:
            return Fault("fail", status=self._down, error="service_unavailable")
        for name in (method, "*"):
            if waiting := self._calls.get(name):
                return waiting.popleft()
        return None

    def latency(self, seconds: float, method: str = "*") -> None:
        """Adds real seconds before each call of `method` is looked at."""
        self._latency[method] = seconds

    def latency_of(self, method: str) -> float:
        return self._latency.get(method, self._latency.get("*", 0.0))

    # --- sockets

    def refuse_handshakes(self, times: int = 1, status: int = 403) -> None:
        """The next WebSocket handshakes get an HTTP error; their tickets are used up all the same."""
        self.handshakes_refused, self.handshake_status = times, status

    def disconnect(self, reason: str = "refresh_requested", *, oldest: int | None = None) -> None:
        """Slack's `disconnect` frame on every open socket, or so many; all but "warning" close it a second later."""
        if reason not in DISCONNECT_REASONS:
            raise ValueError(f"{reason!r} is no reason of Slack's; there are {', '.join(DISCONNECT_REASONS)}")
        self._open_sockets().disconnect_all(reason, oldest)

    def switch_socket_mode(self, *, on: bool) -> None:
        """Somebody does so in the app's settings; while it is off, every socket is told "link_disabled" and closed."""
        self.socket_mode_off = not on
        if not on:
            self.disconnect("link_disabled")

    def reset_sockets(self, *, oldest: int | None = None) -> None:
        """Breaks every open socket, or so many, without a CLOSE frame (TCP RST)."""
        self._open_sockets().reset_all(oldest)

    def close_sockets(self, *, oldest: int | None = None) -> None:
        """Closes every open socket, or so many, with a CLOSE frame and no `disconnect` before it."""
        self._open_sockets().close_all(oldest)

    def deafen_sockets(self, *, oldest: int | None = None) -> None:
        """Every socket open now, or so many, stays open, but delivers nothing and answers no ping."""
        self._open_sockets().deafen_all(oldest)

    def _open_sockets(self) -> "Sockets":
        assert self.sockets is not None
        return self.sockets

    # --- events

    def duplicate_events(self, times: int = 1) -> None:
        """Each of the next `times` events is delivered twice, with one `event_id`."""
        self.duplicates = times

    def delay_events(self, seconds: float, times: int = 1) -> None:
        """Each of the next `times` events leaves `seconds` later."""
        self.delays.extend([seconds] * times)

    def reorder_events(self, count: int = 2) -> None:
        """The next `count` events are held and leave in reverse order, after two seconds also when they are fewer."""
        self.reorder = count
