"""RelayClient: reads, writes and calls over a relay, whatever the connection does meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from websockets.exceptions import ConnectionClosed

from worklets.events import Position
from worklets.stdiorelay.dial import Unreachable, dial
from worklets.stdiorelay.errors import Code, RelayGone, failure
from worklets.stdiorelay.inbox import Inbox
from worklets.stdiorelay.outbox import Outbox
from worklets.stdiorelay.protocol import Event, Exited, Gap, Line, Started, parse_notice, text, unpack_lines

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_BASE, _LONGEST = 0.2, 30.0  # seconds between two tries: full jitter below base · 2ⁿ
_ACK_SECONDS = 0.2
_WELCOME_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class State:
    """`connected`: all is well. `degraded`: there is no connection, or no process, and that is being mended.

    `gone`: the process has ended for good or the relay will not have us; nothing more will come. `reason` is a
    sentence for people, `code` what a call made now would answer.
    """

    name: Literal["connected", "degraded", "gone"]
    reason: str = ""
    code: Code | None = None


class RelayClient:
    """An async context manager: entered once the first try to connect was made, successful or not.

    `start`: where to begin to read: "start" with all that the relay holds, "now" with what comes, or the
    `position` of an earlier client. `on_state` hears of each change of `state`. `calls_only` drops lines
    that answer no call; otherwise somebody must read them, since the relay sends no more than 4 MiB ahead.
    `patience`: seconds without a connection after which the relay is gone; None tries for ever.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        start: Literal["start", "now"] | Position = "start",
        on_state: Callable[[State], None] | None = None,
        calls_only: bool = False,
        tls: ssl.SSLContext | None = None,
        patience: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.state = State("degraded", "The relay was not reached yet.", "CONNECTION_REFUSED")
        self.exited: Exited | None = None  # the process's end for good
        self._url, self._token, self._tls = url, token, tls
        self._id = secrets.token_hex(8)
        self._on_state, self._calls_only, self._patience = on_state, calls_only, patience
        self._rng = rng or random.Random()
        self._start = start if isinstance(start, str) else ""
        self._epoch = None if isinstance(start, str) else start.epoch
        self._inbox = Inbox(0 if isinstance(start, str) else start.seq)
        self._outbox = Outbox()
        self._joined: int | None = None  # the relay's last number when we came: earlier notices are history
        self._acked = 0  # what we acknowledged on this connection
        self._why = RelayGone("The client was closed.")
        self._calls: dict[str | int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._tried, self._changed = asyncio.Event(), asyncio.Event()
        self._ws: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    # Life

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        try:
            await self._tried.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connected(self, timeout: float = 30.0) -> None:
        """Returns once connected. Raises RelayGone when that will not be, or was not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.state.name == "degraded":
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RelayGone(self.state.reason, self.state.code or "TIMEOUT") from None
        if self.state.name == "gone":
            raise self._gone()

    async def close(self, *, resume: bool = False) -> None:
        """Lets go. With `resume` the relay keeps what comes, for a client that starts at our `position`."""
        if self._ws is not None and self.state.name != "gone":
            with suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._send_ack(self._ws, self._inbox.consumed)
                    if not resume:
                        await self._ws.send(text("bye"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.state.name != "gone":
            self._end(RelayGone("The client was closed."))

    @property
    def position(self) -> Position | None:
        """Up to where the consumer has everything; None before the first connection."""
        return Position(self._epoch, self._inbox.consumed) if self._epoch else None

    def current(self, event: Exited) -> bool:
        """False for an end that was over when we came: another process has been started since."""
        return event.again is None or event.seq > (self._joined or 0)

    # Reading

    async def batch(self) -> list[Event]:
        """What has come, at least one; asking again says that the last batch is dealt with.

        Empty when the process has ended and all was read. Raises RelayGone when the relay is gone otherwise.
        """
        events = await self._inbox.take()
        if not events and self.exited is None:
            raise self._gone()
        return events

    async def events(self) -> AsyncIterator[Event]:
        """Lines and notices, each once and in order; ends after the process's last Exited. Raises RelayGone."""
        while batch := await self.batch():
            for event in batch:
                yield event

    async def lines(self) -> AsyncIterator[bytes]:
        """`events` without the notices: the lines."""
        async for event in self.events():
            if isinstance(event, Line):
                yield event.data

    # Writing

    async def send(self, line: str | bytes) -> None:
        """Takes a line for the process, which gets it once and in order, after reconnects too.

        Waits while more than 1 MiB is not yet written to the process. Raises RelayGone, and ValueError for what
        is not one line of at most 60 MiB.
        """
        data = line.encode() if isinstance(line, str) else line
        await self._outbox.put(data.removesuffix(b"\n"))

    async def drain(self) -> None:
        """Returns once the process was given all that was sent. Raises RelayGone when it never will be."""
        await self._outbox.drained()

    async def call(self, request: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
        """Sends a JSON-RPC request (`id` is made if it has none) and returns the response object.

        Never raises for the relay's sake: what cannot be answered is `{"success": false, "error", "code",
        "details": {"suggestion"}}`, at once where there is no connection. A call under way waits for a reconnect.
        """
        if self.state.name != "connected":
            return failure(self.state.reason, self.state.code or "CONNECTION_REFUSED")
        request = {"jsonrpc": "2.0", "id": f"{self._id}-{next(self._ids)}", **request}
        answer = asyncio.get_running_loop().create_future()
        self._calls[request["id"]] = answer
        try:
            async with asyncio.timeout(timeout):
                await self.send(json.dumps(request))
                response: dict[str, Any] = await answer
                return response
        except TimeoutError:
            return failure(f"There was no answer within {timeout:g} s.", "TIMEOUT")
        except RelayGone as gone:
            return failure(str(gone), gone.code, gone.suggestion)
        finally:
            self._calls.pop(request["id"], None)

    # The connection

    async def _run(self) -> None:
        attempt, lost = 0, time.monotonic()
        try:
            while self.exited is None:
                try:
                    async with dial(self._url, self._token, self._tls) as ws:
                        await self._greet(ws)
                        attempt = 0
                        await self._converse(ws)
                except Unreachable as error:
                    lost = lost if self._ws is None else time.monotonic()
                    self._ws = None
                    if self._patience is not None and time.monotonic() - lost > self._patience:
                        raise RelayGone(str(error), "CONNECTION_REFUSED") from error
                    self._be("degraded", str(error), "CONNECTION_REFUSED")
                    await asyncio.sleep(self._rng.uniform(0, min(_LONGEST, _BASE * float(1 << min(attempt, 10)))))
                    attempt += 1
            self._end(RelayGone(f"The process has ended with {self.exited.code}."))
        except RelayGone as gone:
            self._end(gone)

    async def _greet(self, ws: ClientConnection) -> None:
        seq = self._start if self._epoch is None else self._inbox.read
        ack = None if self._epoch is None else self._inbox.consumed
        await ws.send(text("hello", client=self._id, epoch=self._epoch, seq=seq, ack=ack))
        async with asyncio.timeout(_WELCOME_SECONDS):
            welcome = json.loads(await ws.recv())
        if self._epoch is None:
            self._epoch = str(welcome["epoch"])
            self._inbox.begin(int(welcome["seq"]))
        if self._joined is None:
            self._joined = int(welcome["last"])
        if not self._outbox.resume(int(welcome["applied"])):
            raise RelayGone("The relay has forgotten which input it had from us.")
        self._ws, self._acked = ws, 0
        self._inbox.moved.set()
        if welcome["process"] == "running":
            self._be("connected")
        elif welcome["process"] == "waiting":
            self._be("degraded", "The process has ended; the relay will start it again.", "CONNECTION_REFUSED")

    async def _converse(self, ws: ClientConnection) -> None:
        """Until the process's end is known. Raises ConnectionClosed."""
        others = [asyncio.create_task(self._acknowledge(ws)), asyncio.create_task(self._send_inputs(ws))]
        try:
            while self.exited is None:
                self._take(await ws.recv())
            await self._send_ack(ws, self._inbox.read)  # all is in our hands: the relay need not wait
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _acknowledge(self, ws: ClientConnection) -> None:
        while True:
            await self._inbox.moved.wait()
            # Not `wait_for`: Python 3.11's can swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ACK_SECONDS):
                    await self._inbox.much.wait()
            await self._send_ack(ws, self._inbox.consumed)

    async def _send_ack(self, ws: ClientConnection, number: int) -> None:
        self._inbox.acknowledged()
        if number > self._acked:
            self._acked = number
            await ws.send(text("ack", seq=number))

    async def _send_inputs(self, ws: ClientConnection) -> None:
        while True:
            if (frame := self._outbox.next()) is None:
                await self._outbox.news.wait()
            else:
                await ws.send(frame)

    # What comes

    def _take(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self._take_lines(unpack_lines(frame))
            return
        message = json.loads(frame)
        if message["type"] == "inack":
            self._outbox.acknowledged(int(message["id"]))
        elif (event := parse_notice(message)) is not None:
            last = event.last if isinstance(event, Gap) else event.seq
            self._inbox.add([event], last)
            self._notice(event)

    def _take_lines(self, lines: list[Line]) -> None:
        if lines[0].seq != self._inbox.read + 1:
            raise ValueError(f"line {lines[0].seq} after {self._inbox.read}")
        kept: list[Event] = []
        for line in lines:
            if not (self._calls and self._answers(line.data)) and not self._calls_only:
                kept.append(line)
        self._inbox.add(kept, lines[-1].seq)
        if len(kept) < len(lines):
            self._inbox.skip(lines)

    def _answers(self, data: bytes) -> bool:
        """Whether this line is the response to a call; then the call has it."""
        if b'"id"' not in data:
            return False
        try:
            message = json.loads(data)
            call = self._calls.get(message["id"])
        except (ValueError, KeyError, TypeError):
            return False
        if call is None or not ("result" in message or "error" in message):
            return False
        if not call.done():
            call.set_result(message)
        return True

    def _notice(self, event: Event) -> None:
        match event:
            case Exited(again=None):
                self.exited = event
            case Gap():
                self._fail_calls(RelayGone("The answer may be among lines that the relay dropped."))
            case Exited() if self.current(event):
                self._fail_calls(RelayGone(f"The process ended with {event.code} before it answered."))
                self._be("degraded", f"The process has ended with {event.code}; the relay will start it again.")
            case Started() if event.seq > (self._joined or 0):
                self._be("connected")

    # State

    def _be(self, name: Literal["connected", "degraded", "gone"], reason: str = "", code: Code | None = None) -> None:
        state = State(name, reason, code)
        if state != self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)
        self._changed.set()
        self._tried.set()

    def _end(self, gone: RelayGone) -> None:
        self._ws = None
        self._why = gone
        self._inbox.end()
        self._outbox.fail(gone)
        self._fail_calls(gone)
        self._be("gone", str(gone), gone.code)

    def _gone(self) -> RelayGone:
        return RelayGone(str(self._why), self._why.code, self._why.suggestion)

    def _fail_calls(self, gone: RelayGone) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(gone)
