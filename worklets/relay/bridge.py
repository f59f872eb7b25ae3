"""Between the CLI process (process.py) and the app: its lines go from the journal to one owner, input comes back.

Frames on the WebSocket. Text frames are JSON objects; a binary frame is a run of output lines:
`<number of the first>\\n<line>\\n<line>…`, numbers being consecutive.

    app → relay   hello {seq, epoch, fence, refusals} · in {id, line} · ack {seq} · signal {name} · stat ·
                  rest · start {command, env}
    relay → app   welcome {epoch, first, last, state, gap, pending, initialize, stats, resting} · (lines) ·
                  inack {id} · inerror {id, error} · exit {seq, code, stderr} · stat {…} ·
                  resting · started {epoch} · refused {why}

`in` is applied once for each id. `exit` has the last number and is kept until it is acknowledged. `stat` tells what the
worklet uses (stats.py) and what the process said last on stderr: now and then, and when it is asked for; it is in no
journal. `rest` ends the process, and the relay stays; `start` then begins another one, with an epoch and a journal of
its own.

All frames are sealed (proof.py). `refused` is the last frame on its connection: `superseded`, a newer owner took over,
or `low fence`; that the epoch is another one is told by the welcome. The app goes by these frames alone, since close
codes are not sealed. An app of before them leaves `refusals` out of its hello and goes by the codes: 4001 superseded,
4002 another epoch, 4003 low fence; 4004 not understood, 4005 not proven.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worklets.relay.process import Process
    from worklets.relay.proof import Sealed

SUPERSEDED, OTHER_EPOCH, LOW_FENCE, NOT_UNDERSTOOD = 4001, 4002, 4003, 4004
_HELLO_SECONDS = 10
_REST_SECONDS = 5.0  # between SIGTERM and SIGKILL, to a process that only has to write down what it knows
_STAT_SECONDS = 15.0  # between two unasked
_STAT_FIRST = 1.0  # after a connection was made: not while the process starts
_STAT_GAP = 0.5  # between two that are asked for


class _Link:
    """The owner's connection, and the number of the last line sent on it. `refusals`: it goes by those frames."""

    def __init__(self, ws: Sealed, seq: int, refusals: bool) -> None:
        self.ws = ws
        self.seq = seq
        self.refusals = refusals
        self.news = asyncio.Event()
        self.asked = asyncio.Event()  # for a stat


class Bridge:
    """`measure` tells what the worklet uses, as a JSON object; `renew` starts the next process."""

    def __init__(
        self,
        process: Process,
        measure: Callable[[], dict[str, Any]] = dict,
        renew: Callable[[list[str], dict[str, str]], Awaitable[Process]] | None = None,
    ) -> None:
        self.process = process  # the one that runs, or ran last
        self.resting = False  # it was told to end, or has; we stay for the next one
        self._measure, self._renew = measure, renew
        self._starting = False  # the next one
        self._owner: _Link | None = None
        self._fence = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        process.on_news = self._wake

    @property
    def owned(self) -> bool:
        return self._owner is not None

    # Who is connected

    async def serve(self, ws: Sealed) -> None:
        """One connection, from its hello to its end. The newest with a sufficient fence is the owner. Raises Forged."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = json.loads(await ws.recv())
            seq, epoch, fence = int(hello["seq"]), hello.get("epoch"), int(hello["fence"])
            refusals = hello.get("refusals") is True
        except (ValueError, KeyError, TypeError, TimeoutError):
            await ws.close(NOT_UNDERSTOOD, "hello is not understood")
            return
        except ConnectionClosed:
            return
        if fence < self._fence:
            await _refuse(ws, "low fence", LOW_FENCE, refusals)
            return
        link = self._take_over(ws, seq, fence, refusals)
        try:
            await ws.send(json.dumps(self._welcome(seq)))
            if epoch not in (None, self.process.journal.epoch):
                await ws.close(OTHER_EPOCH, "another epoch")
                return
            await self._converse(link)
        except ConnectionClosed:
            pass  # the app went away; the process goes on
        finally:
            if self._owner is link:
                self._owner = None

    def _take_over(self, ws: Sealed, seq: int, fence: int, refusals: bool) -> _Link:
        old, self._owner = self._owner, _Link(ws, max(seq, self.process.journal.first - 1), refusals)
        self._fence = fence
        if old is not None:
            task = asyncio.create_task(_refuse(old.ws, "superseded", SUPERSEDED, old.refusals))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._owner

    def _welcome(self, seq: int) -> dict[str, Any]:
        process = self.process
        return {
            "type": "welcome",
            "epoch": process.journal.epoch,
            "first": process.journal.first,
            "last": process.journal.last,
            "state": "running" if process.exit is None else "exited",
            "gap": seq + 1 < process.journal.first,
            "pending": process.pending(seq),
            "initialize": process.initialize_reply,
            "stats": True,  # it may be asked for one
            "resting": self.resting and process.exit is not None,
        }

    async def _converse(self, link: _Link) -> None:
        sending = [asyncio.create_task(self._send(link)), asyncio.create_task(self._report(link))]
        try:
            async for message in link.ws:
                if self._owner is link:
                    await self._receive(link, message)  # else it is being told that it is not, and closed
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    # What it is told

    def _wake(self) -> None:
        if self._owner is not None:
            self._owner.news.set()

    async def _report(self, link: _Link) -> None:
        pause = _STAT_FIRST
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await link.asked.wait()
                link.asked.clear()
                await link.ws.send(json.dumps({**self._measure(), "type": "stat", "stderr": self.process.stderr}))
                await asyncio.sleep(_STAT_GAP)
                pause = _STAT_SECONDS

    async def _send(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                link.news.clear()
                journal, ended = self.process.journal, self.process.exit
                last_line = journal.last
                if ended is not None:
                    last_line = min(last_line, ended["seq"] - 1)
                if link.seq < last_line:
                    lines = journal.read(link.seq + 1, max_lines=min(256, last_line - link.seq))
                    await link.ws.send(b"%d\n%s" % (link.seq + 1, b"\n".join(lines)))
                    link.seq += len(lines)
                elif ended is not None and link.seq < ended["seq"]:
                    await link.ws.send(json.dumps(ended))
                    link.seq = ended["seq"]
                else:
                    await link.news.wait()

    # What it says

    async def _receive(self, link: _Link, message: str | bytes) -> None:
        try:
            frame = json.loads(message)
            kind = frame["type"]
            if kind == "ack":
                self.process.ack(int(frame["seq"]))
            elif kind == "in":
                await link.ws.send(json.dumps(await self.process.apply(str(frame["id"]), frame["line"])))
            elif kind == "stat":
                link.asked.set()
            elif kind == "rest":
                await self._rest(link)
            elif kind == "start":
                await self._start(link, list(map(str, frame["command"])), dict(frame["env"]))
            elif kind == "signal":
                self.process.signal(signal.Signals[frame["name"]])
            else:
                raise ValueError(kind)
        except (ValueError, KeyError, TypeError):
            await link.ws.close(NOT_UNDERSTOOD, "a frame is not understood")

    async def _rest(self, link: _Link) -> None:
        """The process ends, and so do the processes of its group; what it left running elsewhere goes on."""
        process = self.process
        if self._renew is None or (process.exit is not None and not self.resting):
            raise ValueError("rest")  # we are about to end ourselves
        self.resting = True
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_REST_SECONDS):
                await process.over.wait()
        except TimeoutError:
            process.signal(signal.SIGKILL)
            await process.over.wait()
        await link.ws.send(json.dumps({"type": "resting"}))

    async def _start(self, link: _Link, command: list[str], env: dict[str, str]) -> None:
        """Another process, with a journal and an epoch of its own: whoever was connected has to come anew."""
        if self._renew is None or not self.resting or self.process.exit is None or self._starting:
            raise ValueError("start")
        self._starting = True
        try:
            process = await self._renew(command, env)
        except (TimeoutError, RuntimeError) as error:
            raise ValueError("start") from error
        finally:
            self._starting = False
        self.process.journal.close()
        self.process = process
        process.on_news = self._wake
        await process.open()
        self.resting = False
        self._woken.set()
        await link.ws.send(json.dumps({"type": "started", "epoch": process.journal.epoch}))

    async def woken(self, stopped: asyncio.Event) -> bool:
        """Waits for the next process. False: we are told to end first."""
        waiting = [asyncio.create_task(self._woken.wait()), asyncio.create_task(stopped.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if self._woken.is_set():
            self._woken.clear()
            return True
        self.resting = False
        return False


async def _refuse(ws: Sealed, why: str, code: int, told: bool) -> None:
    with contextlib.suppress(ConnectionClosed):
        if told:
            await ws.send(json.dumps({"type": "refused", "why": why}))
    await ws.close(code, why)
