"""The app's end of the relay's socket: lines come in by number, inputs go out by id, whatever the connection does.

The frames are described in worklets/relay/bridge.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worklets.errors import AgentGone, WorkletStartFailed
from worklets.events import Position
from worklets.relay.proof import Forged, Sealed
from worklets.relaydial import CLOSE_SECONDS, HANDSHAKE_SECONDS, HandshakeFailed, Unproven, dial, shut

log = structlog.get_logger(__name__)

_PING_SECONDS = 15.0  # between two, and for the answer to each
_STUCK_SECONDS = 60.0  # how long a relay that is there but does not answer may take (a paused container)
_HELD_BYTES = 16 << 20  # lines kept for a slow consumer before the relay has to keep them
_ACK_SECONDS = 0.2
_PASSING_SECONDS = 0.2  # between two messages on which nothing depends; a relay leaves more


@dataclass(frozen=True, slots=True)
class Exit:
    """The process ended."""

    code: int
    stderr: str


class Refused(AgentGone):
    """Another Flow has taken this session over."""

    suggestion = "Two Flows must not share one data directory; stop one of them."


class OtherEpoch(AgentGone):
    """The worklet was started anew in the meantime."""


class RelayLink:
    """One owner's connection, kept up by reconnecting. Make it with `open`, end it with `close`.

    `notice` sees each line as it arrives, before and independently of whoever iterates `lines`. `over` is told when no
    further line will come: the process has ended, all is lost, or the link was closed. `stat` sees what the worklet
    says that it uses: anything may stand in that.
    """

    def __init__(
        self,
        run_dir: Path,
        token: str,
        position: Position | None,
        fence: int,
        *,
        notice: Callable[[bytes], None],
        over: Callable[[AgentGone], None] = lambda _error: None,
        stat: Callable[[dict[str, Any]], None] = lambda _frame: None,
        patience: float = 1.0,
        rng: random.Random | None = None,
    ) -> None:
        self.epoch = position.epoch if position else ""
        self.start = position.seq if position else 0
        self.exited_before = False  # the process had ended already when we connected
        self.resting = False  # its relay stays, and can start another one
        self._run_dir, self._token, self._fence = run_dir, token, fence
        self._read = self.start  # number of the last line taken in
        self.held = 0  # number of the last line that the relay had when it welcomed us last
        self._notice, self._over, self._patience, self._rng = notice, over, patience, rng or random.Random()
        self._stat, self._has_stats = stat, False
        self._passing = 0.0  # when the last message came on which nothing depends
        self._ws: Sealed | None = None
        self._lines: deque[tuple[int, bytes | Exit]] = deque()
        self._held = 0
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._inputs: dict[str, tuple[str, asyncio.Future[None]]] = {}  # not yet known to be applied
        self._acked = self._ack_sent = 0
        self._ack_news = asyncio.Event()
        self._exited = self._closed = False
        self._error: AgentGone | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, timeout: float) -> None:
        """Connects, waiting for a relay that is only just starting.

        Raises WorkletStartFailed when none answers in `timeout` seconds, AgentGone when it does not let us in.
        """
        end, pause = time.monotonic() + timeout, 0.005
        while True:
            try:
                ws = await self._connect()
                break
            except (OSError, TimeoutError, HandshakeFailed) as error:
                if time.monotonic() + pause > end:
                    raise WorkletStartFailed(f"The worklet's relay did not answer within {timeout:.0f} s.") from error
            await asyncio.sleep(pause)
            pause = min(0.05, pause * 1.5)
        self._tasks = [asyncio.create_task(self._keep(ws)), asyncio.create_task(self._acknowledge())]

    async def lines(self) -> AsyncIterator[tuple[int, bytes | Exit]]:
        """Numbered lines, each once and in order. Ends after Exit or `close`; raises AgentGone when all is lost."""
        while not self._closed:
            while self._lines:
                number, content = self._lines.popleft()
                self._held -= len(content) if isinstance(content, bytes) else 0
                self._room.set()
                yield number, content
                if isinstance(content, Exit):
                    return
            if self._error is not None:
                raise self._error
            self._news.clear()
            if not self._lines and self._error is None and not self._closed:
                await self._news.wait()

    async def put(self, key: str, line: dict[str, Any]) -> None:
        """Writes an input line to the process, once for each `key`; returns when the relay has done it.

        Raises AgentGone when it never will.
        """
        await asyncio.shield(self.post(key, line))

    def post(self, key: str, line: dict[str, Any]) -> asyncio.Future[None]:
        """`put` without waiting."""
        if self._error is not None or self._closed:
            raise self._error or AgentGone()
        if key in self._inputs:
            return self._inputs[key][1]
        frame = json.dumps({"type": "in", "id": key, "line": line})
        done = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda f: f.cancelled() or f.exception())  # `post` may not look at it
        self._inputs[key] = (frame, done)
        if self._ws is not None:
            self._start(self._send(self._ws, frame))
        return done

    async def signal(self, name: str) -> None:
        """Sends the process and its group a signal ("SIGTERM"). Raises AgentGone when the relay cannot be reached."""
        if self._error is not None or self._ws is None:
            raise self._error or AgentGone("The worklet's relay cannot be reached.")
        await self._send(self._ws, json.dumps({"type": "signal", "name": name}))

    def ask_stat(self) -> None:
        """Has the relay say soon what its worklet uses, if it can."""
        if self._ws is not None and self._has_stats:
            self._start(self._send(self._ws, '{"type": "stat"}'))

    def ack(self, number: int) -> None:
        """Everything up to `number` is stored."""
        self._acked = max(self._acked, number)
        self._ack_news.set()

    async def close(self) -> None:
        """Lets go. What is not acknowledged comes again at the next `open`."""
        self._closed = True
        self._news.set()
        with suppress(TimeoutError):  # a relay that does not read would be waited for without end, here and below
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._flush_ack()
        running = set(self._tasks)
        while running:  # a cancellation may be swallowed by what is awaited: nothing may go on in our name
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=1)
        if self._ws is not None:
            await shut(self._ws)
            self._ws = None
        self._fail_inputs(AgentGone("Flow let go of the agent before it took the input."))

    async def _connect(self) -> Sealed:
        """A connection on which the relay has welcomed us; every input that may not have arrived is sent again."""
        from websockets.exceptions import ConnectionClosed

        ws = await dial(self._run_dir, self._token, _PING_SECONDS)
        try:
            await self._greet(ws)
        except ConnectionClosed as error:
            raise HandshakeFailed(str(error)) from error
        except Forged as error:
            ws.abort()
            raise Unproven from error
        except BaseException:
            await shut(ws)
            raise
        return ws

    async def _greet(self, ws: Sealed) -> None:
        hello = {"type": "hello", "seq": self._read, "epoch": self.epoch or None, "fence": self._fence}
        await ws.send(json.dumps({**hello, "refusals": True}))
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            welcome = json.loads(await ws.recv())
        if welcome["type"] == "refused":
            raise Refused
        if self.epoch not in ("", welcome["epoch"]):
            raise OtherEpoch
        self.epoch = welcome["epoch"]
        self.exited_before = welcome["state"] == "exited"
        self.resting = welcome.get("resting") is True
        last = welcome.get("last")
        self.held = last if isinstance(last, int) else 0
        self._has_stats = welcome.get("stats") is True  # older relays do not know the question
        self._ack_sent = 0
        for frame, _ in list(self._inputs.values()):
            await ws.send(frame)
        self._ws = ws
        for frame, _ in list(self._inputs.values()):  # came while the others were on their way; repeating is harmless
            await ws.send(frame)
        self._ack_news.set()

    async def _keep(self, ws: Sealed) -> None:
        """Reads, and connects again, until the process or the relay has ended."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                with suppress(ConnectionClosed):  # by what code does not matter: it is not sealed
                    async for frame in ws:
                        await self._take(frame)
                self._ws = None
                if self._exited:
                    raise AgentGone  # whoever still puts something in hears it
                ws = await self._again()
        except AgentGone as error:
            self._error = error
            self._fail_inputs(error)
        except Exception as error:  # noqa: BLE001 - an agent can stand between us and the relay: no turn may hang on it
            log.warning("the relay says what no relay says", error=repr(error))
            self._error = Unproven() if isinstance(error, Forged) else AgentGone(_broken(error))
            self._fail_inputs(self._error)
        finally:
            self._news.set()

    async def _again(self) -> Sealed:
        """Reconnects with exponential backoff and full jitter. Raises AgentGone when nobody listens any more."""
        lost, attempt = time.monotonic(), 0
        while True:
            await asyncio.sleep(self._rng.uniform(0, min(5.0, 0.05 * 2**attempt)))
            attempt += 1
            try:
                return await self._connect()
            except (OSError, TimeoutError, HandshakeFailed) as error:
                # A living relay always listens: then these two cannot happen.
                nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError)
                if nobody and time.monotonic() - lost > self._patience:
                    raise AgentGone from error
                if time.monotonic() - lost > _STUCK_SECONDS:
                    raise AgentGone(f"The worklet's relay did not answer for {_STUCK_SECONDS:.0f} s.") from error

    async def _take(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            if not self._take_message(json.loads(frame)):
                await self._slow_down()
            return
        head, _, rest = frame.partition(b"\n")
        for number, line in enumerate(rest.split(b"\n"), int(head)):
            if number <= self._read:
                continue
            self._read = number
            self._notice(line)
            self._held += len(line)
            self._lines.append((number, line))
        self._news.set()
        while self._held > _HELD_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _slow_down(self) -> None:
        """After what no relay says often: one that does keeps its own connection busy, not this program."""
        soon = self._passing + _PASSING_SECONDS - time.monotonic()
        if soon > 0:
            await asyncio.sleep(soon)
        self._passing = time.monotonic()

    def _take_message(self, message: dict[str, Any]) -> bool:
        """False: nothing depends on it."""
        match message["type"]:
            case "inack":
                if entry := self._inputs.pop(message["id"], None):
                    _resolve(entry[1], None)
            case "inerror":
                if entry := self._inputs.pop(message["id"], None):
                    _resolve(entry[1], AgentGone(f"Claude could not take the input: {message['error']}."))
            case "stat":
                self._stat(message)
                return False
            case "exit":
                self._exited, self._read = True, message["seq"]
                self._lines.append((message["seq"], Exit(message["code"], message["stderr"])))
                self._fail_inputs(AgentGone())
                self._news.set()
            case "refused" if not self._exited:
                raise Refused
            case _:
                return False
        return True

    async def _acknowledge(self) -> None:
        """One ack for all lines of a moment; at once when the exit is stored, since the relay waits for that."""
        while True:
            self._ack_news.clear()
            if self._acked == self._ack_sent:
                await self._ack_news.wait()
            if not (self._exited and self._acked == self._read):
                await asyncio.sleep(_ACK_SECONDS)
            await self._flush_ack()
            if self._ws is None:
                await self._ack_news.wait()

    async def _flush_ack(self) -> None:
        if self._ws is not None and self._acked > self._ack_sent:
            self._ack_sent = self._acked
            await self._send(self._ws, json.dumps({"type": "ack", "seq": self._acked}))

    async def _send(self, ws: Sealed, frame: str) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):  # sent again after the reconnect
            await ws.send(frame)

    def _start(self, sending: Any) -> None:
        task = asyncio.create_task(sending)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    def _fail_inputs(self, error: AgentGone) -> None:
        for _, done in self._inputs.values():
            _resolve(done, error)
        self._inputs.clear()
        self._over(error)


def _broken(error: Exception) -> str:
    return f"The worklet's relay broke the protocol ({type(error).__name__})."


def _resolve(done: asyncio.Future[None], error: Exception | None) -> None:
    if not done.done():
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
