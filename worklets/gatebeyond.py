"""Doors of worklets on another machine: what calls there reaches, by way of the gate, the sockets here.

Flow dials: some connections always wait at the gate until a worklet calls, so that Flow needs no port of its own. Files
that Flow keeps in a run directory here while a worklet runs are brought to the one there.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from worklets import sockets
from worklets.gate.framing import Broken, Stream, carry, close, line, say
from worklets.gateaddress import directory
from worklets.gateclient import GateAway, GateRefused, Nobody, Way
from worklets.gitgrants import AUTHOR
from worklets.rundir import KV_TOKEN

PARKED = 8
FILES = (KV_TOKEN, AUTHOR)
_DOORS = ("gateway.sock", "proxy.sock")
_LARGEST = 1 << 20  # bytes of such a file
_LOOK_SECONDS = 0.5  # between two looks at the files
_PING_SECONDS = 10.0
_MOST_PAUSE = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _There:
    """What the gate has of one door: `files` by name, and whether it is `opened`."""

    files: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    opened: bool = False
    refusals: int = 0  # in a row
    not_before: float = 0.0


class Beyond:
    """Does nothing where no gate is known. `open` begins to look for it; `aclose` ends it all."""

    def __init__(self, share_dir: Path) -> None:
        self._share_dir, self._way = share_dir, Way(share_dir)
        self._doors: dict[str, Path] = {}
        self._there: dict[str, _There] = {}
        self._closing: set[str] = set()
        self._news, self._settled = asyncio.Event(), asyncio.Condition()
        self._keeping: asyncio.Task[None] | None = None
        self._parking: set[asyncio.Task[None]] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._shut = False

    def open(self, name: str, run_dir: Path) -> None:
        """The worklet's calls arrive at the sockets in `run_dir` from now on, as soon as the gate can be reached."""
        if self._shut or not (directory(self._share_dir) / "gate.json").exists():
            return
        self._closing.discard(name)
        self._doors[name] = run_dir
        self._there.pop(name, None)  # it may be another worklet of that name
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())
            self._parking = {asyncio.create_task(self._park()) for _ in range(PARKED)}
        self._news.set()

    def close(self, name: str) -> None:
        """No further calls. Idempotent."""
        if self._doors.pop(name, None) is not None:
            self._there.pop(name, None)
            self._closing.add(name)
            self._news.set()

    async def is_alive(self, name: str) -> bool | None:
        """Whether the relay of a worklet there listens. None: it is not there, or that cannot be told now."""
        if name not in self._doors:
            return None
        try:
            close((await self._way.dial(name, "relay.sock"))[1])
        except Nobody:
            return False
        except (GateAway, GateRefused):
            return True  # nothing is known of it: its door stays
        return True

    def shut(self) -> None:
        """Takes no new calls: another process does. Those that are on their way go on."""
        self._shut = True
        for task in (self._keeping, *self._parking):
            if task is not None:
                task.cancel()

    async def aclose(self) -> None:
        self.shut()
        tasks = [*self._parking, *self._carrying, *([self._keeping] if self._keeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- doors and files ----------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                stream = await self._way.open()
                try:
                    self._there.clear()
                    attempt = 0
                    await self._look_after(stream)
                finally:
                    close(stream[1])
            except GateAway as error:
                if attempt == 0:
                    log.warning("the remote engine's gate is away, and is tried again", reason=str(error))
                attempt += 1
                await asyncio.sleep(random.uniform(0, min(_MOST_PAUSE, 0.1 * 2 ** min(attempt, 10))))

    async def _look_after(self, stream: Stream) -> None:
        """Raises GateAway."""
        pinged = time.monotonic()
        while True:
            self._news.clear()
            for name in list(self._closing):
                with suppress(GateRefused):
                    await self._way.ask(stream, do="close", worklet=name)
                self._closing.discard(name)
            for name, run_dir in list(self._doors.items()):
                await self._bring(stream, name, run_dir)
            if time.monotonic() > pinged + _PING_SECONDS:
                await self._way.ask(stream, _PING_SECONDS, do="ping")
                pinged = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()

    async def _bring(self, stream: Stream, name: str, run_dir: Path) -> None:
        """A worklet's files first: what Claude starts finds them."""
        there = self._there.setdefault(name, _There())
        if time.monotonic() < there.not_before:
            return
        try:
            for file in FILES:
                if (place := _place(run_dir / file)) != there.files.get(file):
                    content = await asyncio.to_thread(_content, run_dir / file) if place else None
                    if content is None:
                        await self._way.ask(stream, do="clear", worklet=name, paths=[[file]])
                    else:
                        await self._way.ask(stream, content=content, do="put", worklet=name, path=[file])
                    there.files[file] = place
            if not there.opened:
                await self._way.ask(stream, do="open", worklet=name)
                there.opened = True
            there.refusals = 0
        except GateRefused as error:
            if there.refusals == 0:
                log.warning("the gate refuses what a worklet needs, and is asked again", worklet=name, error=str(error))
            there.not_before = time.monotonic() + min(_MOST_PAUSE, 0.1 * 2 ** min(there.refusals, 10))
            there.refusals += 1
        except GateAway:
            self._there.pop(name, None)
            raise

    # -- calls --------------------------------------------------------------------------------------------------

    async def _park(self) -> None:
        """Waits for one call after the other; each goes on by itself."""
        attempt = 0
        while True:
            try:
                framed = await self._way.open()
            except GateAway:
                attempt += 1
                await asyncio.sleep(random.uniform(0, min(_MOST_PAUSE, 0.1 * 2 ** min(attempt, 10))))
                continue
            try:
                say(framed[1], do="park")
                await framed[1].drain()
                called = await line(framed[0])
                attempt = 0
            except (OSError, Broken):
                close(framed[1])
                attempt += 1
                await asyncio.sleep(random.uniform(0, min(_MOST_PAUSE, 0.1 * 2 ** min(attempt, 10))))
                continue
            except BaseException:
                close(framed[1])
                raise
            task = asyncio.create_task(self._answer(framed, called.get("worklet"), called.get("socket")))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _answer(self, framed: Stream, name: object, door: object) -> None:
        try:
            run_dir = self._doors.get(name) if isinstance(name, str) else None
            if run_dir is None or door not in _DOORS:
                say(framed[1], error="there is no such door")
                return
            with sockets.short_path(run_dir, str(door)) as path:
                plain = await asyncio.open_unix_connection(path)
            say(framed[1], ok=True)
            await carry(plain, framed)
        except OSError as error:
            log.debug("a worklet's door does not open", worklet=name, door=door, error=str(error))
            say(framed[1], error="the door does not open")
        finally:
            close(framed[1])


def _place(path: Path) -> tuple[int, int] | None:
    """What tells a file from a later one of its name."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError:
        return None
