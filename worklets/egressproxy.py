"""One worklet's way out: a forward proxy on `proxy.sock` in its run directory.

It takes CONNECT and requests for http://…, one for each connection, and passes on what `EgressPolicy` allows
(`worklets.egresscarry`). TLS is never opened. Whose connection it is follows from the socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from worklets import sockets
from worklets.egress import EgressPolicy
from worklets.egressasking import Questions
from worklets.egresscarry import Carrier, Way, linger
from worklets.egressdial import Connection, Dialer, Lookups, Undialled
from worklets.egresshttp import LONGEST_HEAD, BadRequest, Request, parse_request
from worklets.egressnetworks import contains
from worklets.gatewayroutes import Tell

SOCKET = "proxy.sock"
MOST_CONNECTIONS = 256
MOST_IN_ALL = 2048  # of all worklets: 0.4 MB each (measured) where a side sends and the other does not read
SHARE = 16  # connections that a worklet has also when others have taken all
_BACKLOG = 1024  # above `MOST_CONNECTIONS`: who finds it full is told so in words, not by a connection that breaks
_TOLD_SO = 32  # connections above the most that are told so; more are just closed
_PHRASE = 300  # bytes of a status line's reason: some programs show nothing else of a refusal
_LINES_A_MINUTE = 240  # a worklet's in the log, of each kind; it must not push out what others did

_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large",
            502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}  # fmt: skip

log = structlog.get_logger(__name__)


class Times(NamedTuple):
    """In seconds: until a request's head has come; how long one side may be silent when the other has ended."""

    head: float = 15.0
    half_closed: float = 120.0


@dataclass(slots=True)
class Tally:
    """Connections that were made, that may not be, that could not be; and how many bytes were carried.

    `most`: connections of all worklets at the same time, each with two file descriptors of the process's. `open` are
    all that there are; `asking` those that have said what they want, and count against `most`.
    """

    most: int = MOST_IN_ALL
    open: int = 0
    asking: int = 0

    @property
    def full(self) -> bool:
        """For whoever has more than its share."""
        return self.asking >= self.most

    @property
    def exhausted(self) -> bool:
        """What has said nothing yet takes one file descriptor only, and for seconds."""
        return self.open + self.asking >= 2 * self.most + _TOLD_SO

    allowed: int = 0
    refused: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0


class EgressDoor:
    """Listens at `run_dir/proxy.sock` from `listen` to `close` or `finish`. `tally` may be shared by many."""

    def __init__(
        self,
        name: str,
        run_dir: Path,
        policy: Callable[[], EgressPolicy],
        dialer: Dialer,
        tally: Tally,
        *,
        most: int = MOST_CONNECTIONS,
        tell: Tell = lambda _kind, **_fields: None,
        times: Times = Times(),  # noqa: B008 - a value
    ) -> None:
        self.name, self.run_dir = name, run_dir
        self.last_active = time.monotonic()  # when a byte was carried
        self._policy, self._dialer, self._tally = policy, dialer, tally
        self.questions = Questions(name, policy, tell)
        self._most, self._times = most, times
        self._lookups = Lookups()
        self._ways: set[Way] = set()
        self._listener: asyncio.Server | None = None
        self._place: tuple[int, int] | None = None
        self._lines, self._minute = {True: 0, False: 0}, 0.0  # in this minute: of what went out, of what did not
        self._closed = False

    @property
    def connections(self) -> int:
        return len(self._ways)

    async def listen(self) -> None:
        """Raises OSError."""
        made = sockets.listen(self.run_dir, SOCKET, backlog=_BACKLOG)
        try:
            self._place = sockets.place(self.run_dir, SOCKET)
            listener = await asyncio.start_unix_server(
                self._take, sock=made, limit=LONGEST_HEAD, backlog=_BACKLOG, start_serving=False
            )
            self._listener = await sockets.serving(listener)
        except BaseException:
            made.close()
            raise

    def stands(self, run_dir: Path) -> bool:
        """Whether it is in that directory, and its socket still the one found there: the agent could remove it."""
        return run_dir == self.run_dir and sockets.place(run_dir, SOCKET) == self._place

    def shut(self) -> None:
        """Takes no more connections. What is open goes on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def enforce(self) -> None:
        """Cuts off what the policy no longer allows, and lets go on what waited for it."""
        policy = self._policy()
        self.questions.look()
        for way in list(self._ways):
            denied = policy.refusal(way.host, way.port) or contains(policy.networks, way.address)
            if way.allowed and denied:
                self._say("egress cut off", way, reason="the settings have changed")
                way.task.cancel()

    async def finish(self, seconds: float) -> None:
        """Takes no more connections, lets those that are open end, cuts them off after `seconds`."""
        self.shut()
        self.questions.close()
        if self._ways:
            await asyncio.wait([way.task for way in self._ways], timeout=seconds)
        await self.close()

    async def close(self) -> None:
        """Ends everything. Idempotent."""
        self.shut()
        self._closed = True
        self.questions.close()
        await asyncio.sleep(0)  # what was being accepted arrives
        tasks = [way.task for way in self._ways]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._say_left_out()

    # One connection

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        crowded = self._tally.exhausted and len(self._ways) >= SHARE
        if self._closed or len(self._ways) >= self._most + _TOLD_SO or crowded:
            writer.transport.abort()
            return
        way = Way()
        way.task = asyncio.create_task(self._serve((reader, writer), way))
        self._ways.add(way)
        self._tally.open += 1
        way.task.add_done_callback(lambda task: self._ended(way, task))

    def _ended(self, way: Way, task: asyncio.Task[None]) -> None:
        self._ways.discard(way)
        self._tally.open -= 1
        self._tally.asking -= way.asking
        if not task.cancelled() and (error := task.exception()):
            log.error("a connection through the proxy failed", worklet=self.name, exc_info=error)

    async def _serve(self, inside: Connection, way: Way) -> None:
        try:
            await self._answer(inside, way)
        except BadRequest as e:
            self._note(way, e)
            if not way.answered:
                await _tell(inside, e.status, e.reason)
        except OSError:
            pass  # one side has gone
        finally:
            inside[1].transport.abort()  # the carrier has sent what was to be sent

    def _note(self, way: Way, error: BadRequest) -> None:
        if error.status == 403:
            self._tally.refused += 1
        else:
            self._tally.failed += 1
        self._say("egress refused" if error.status == 403 else "egress failed", way, reason=error.reason)

    async def _answer(self, inside: Connection, way: Way) -> None:
        if len(self._ways) > self._most:
            raise BadRequest(f"This worklet has {self._most} connections open already; close some.", 503)
        request = await self._request(inside[0])
        way.host, way.port = request.host, request.port
        if self._tally.full and len(self._ways) > SHARE:
            raise BadRequest(f"Flow's worklets have {self._tally.most} connections open already; try again later.", 503)
        self._tally.asking += 1
        way.asking = True
        await self.questions.allowed((request.host, request.port))
        way.allowed = True
        try:
            outside = await self._dialer.dial(request.host, request.port, self._lookups, self._policy().networks)
        except Undialled as e:
            if e.status == 403:
                self.questions.tell_blocked((request.host, request.port), e.reason)
            verb = "blocked" if e.status == 403 else "cannot reach"
            raise BadRequest(f"Flow {verb} {request.host}:{request.port}: {e.reason}.", e.status) from e
        way.address = str((outside[1].get_extra_info("peername") or ("",))[0])
        self._tally.allowed += 1
        self._say("egress allowed", way)
        try:
            count = partial(self._count, way)
            await Carrier(way, count, self._times.half_closed).carry(request, inside, outside)
        finally:
            outside[1].transport.abort()
            self._say("egress ended", way, sent=way.sent, received=way.received)

    async def _request(self, reader: asyncio.StreamReader) -> Request:
        try:
            async with asyncio.timeout(self._times.head):
                return parse_request(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError as e:
            raise BadRequest(f"The request's head is longer than {LONGEST_HEAD} bytes.", 431) from e
        except TimeoutError as e:
            raise BadRequest(f"No request came within {self._times.head:g} seconds.", 408) from e
        except asyncio.IncompleteReadError as e:
            raise ConnectionResetError from e

    def _count(self, way: Way, size: int, outwards: bool) -> None:
        self.last_active = time.monotonic()
        if outwards:
            way.sent += size
            self._tally.sent += size
        else:
            way.received += size
            self._tally.received += size

    def _say(self, event: str, way: Way, **more: object) -> None:
        """Into the log, up to so many lines a minute: of what went out, and as many of what did not."""
        now = time.monotonic()
        if now - self._minute >= 60:
            self._say_left_out()
            self._minute = now
        went = way.allowed and event not in ("egress refused", "egress failed")
        self._lines[went] += 1
        if self._lines[went] <= _LINES_A_MINUTE:
            log.info(event, worklet=self.name, host=way.host or None, port=way.port or None, **more)
        elif self._lines[went] == _LINES_A_MINUTE + 1:
            log.warning("more egress than is logged; the rest of this minute is only counted", worklet=self.name)

    def _say_left_out(self) -> None:
        out, refused = (max(0, self._lines[went] - _LINES_A_MINUTE) for went in (True, False))
        if out or refused:
            log.warning("egress that was not logged", worklet=self.name, went_out=out, refused_or_failed=refused)
        self._lines = {True: 0, False: 0}


async def _tell(inside: Connection, status: int, reason: str) -> None:
    """An answer of the proxy's own, with its reason also in the line that programs show."""
    text = f"{reason}\n".encode()
    phrase = _REASONS.get(status) or reason[:_PHRASE]
    head = [f"HTTP/1.1 {status} {phrase}", "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(text)}", "Connection: close"]  # fmt: skip
    if status == 403:
        head.append("X-Blocked-By: Flow")
    inside[1].write("\r\n".join([*head, "", ""]).encode() + text)
    await linger(inside)
