"""The sockets of worklets on another machine, here: `relay.sock` and `inside.sock` in their run directories.

Whoever connects to one is carried to the worklet's own by the gate. So whatever talks to worklets does not know where
they are. A socket whose worklet has none is taken away here too: then nobody listens, and those who look see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from worklets import sockets
from worklets.gate.framing import CHUNK, carry, close
from worklets.gateclient import GateAway, GateRefused, Nobody, Way

SOCKETS = ("relay.sock", "inside.sock")
_STARTING = 30.0  # seconds that a worklet which was just started may take to listen
_RUNNING = 0.3

log = structlog.get_logger(__name__)


class Links:
    """One per program. `away` is told when the gate could not be reached."""

    def __init__(self, way: Way, away: Callable[[], None] = lambda: None) -> None:
        self._way, self._away = way, away
        self._served: dict[str, _Link] = {}
        self._relied: dict[str, asyncio.Task[None]] = {}  # on other Flows on this share directory
        self._one_at_a_time = asyncio.Lock()

    async def serve(self, name: str, run_dir: Path, *, starting: bool = False) -> None:
        """Idempotent. `starting`: it was started just now. Raises OSError."""
        async with self._one_at_a_time:  # else two would listen, or one rely on the other
            await self._serve(name, run_dir, starting)

    async def _serve(self, name: str, run_dir: Path, starting: bool) -> None:
        if not starting and (self.stands(name) or name in self._relied):
            return
        if not starting and (other := await _served(run_dir)) is not None:
            self._relied[name] = task = asyncio.create_task(self._rely(name, run_dir, *other))
            task.add_done_callback(lambda task: self._relied.pop(name) if self._relied.get(name) is task else None)
            return
        link = self._served.get(name)
        if link is None:
            self._served[name] = link = _Link(name, run_dir, self._way, self._away)
        await link.listen(_STARTING if starting else _RUNNING)

    async def _rely(self, name: str, run_dir: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the sockets over when the other Flow ends: who talks to a worklet soon takes it for gone otherwise."""
        try:
            await reader.read(1)  # it says nothing: the connection ends with whoever listens there
        except OSError:
            pass
        finally:
            close(writer)
        try:
            async with self._one_at_a_time:  # until then it is called off by `drop`
                self._relied.pop(name, None)
                await self._serve(name, run_dir, starting=False)
        except OSError as error:
            log.warning("a worklet's sockets cannot be taken over", worklet=name, error=str(error))

    def stands(self, name: str) -> bool:
        """Whether we listen for that worklet."""
        return name in self._served and self._served[name].stands()

    async def drop(self, name: str) -> None:
        """Nobody listens there any more. Idempotent."""
        async with self._one_at_a_time:  # else a link that does not listen at all its sockets yet would go on to
            if (task := self._relied.pop(name, None)) is not None:
                task.cancel()
            if (link := self._served.pop(name, None)) is not None:
                await link.close()

    async def aclose(self) -> None:
        """Another Flow that relied on us takes the sockets over."""
        async with self._one_at_a_time:
            relied = list(self._relied.values())
            for task in relied:
                task.cancel()
            await asyncio.gather(*relied, *(link.close() for link in self._served.values()), return_exceptions=True)
            self._served.clear()


class _Link:
    def __init__(self, name: str, run_dir: Path, way: Way, away: Callable[[], None]) -> None:
        self._name, self._run_dir, self._way, self._away = name, run_dir, way, away
        self._wait = _RUNNING
        self._servers: dict[str, tuple[asyncio.Server, tuple[int, int] | None]] = {}
        self._carrying: set[asyncio.Task[None]] = set()
        self._closed = False

    async def listen(self, wait: float) -> None:
        """Anew, while what is carried goes on. `wait`: seconds until the worklet listens, at most. Raises OSError."""
        self._wait = wait
        for name in SOCKETS:
            if name in self._servers:
                self._shut(name)
            made = sockets.listen(self._run_dir, name, mode=0o600)
            begin = partial(self._begin, name)
            server = await asyncio.start_unix_server(begin, sock=made, start_serving=False)
            self._servers[name] = server, sockets.place(self._run_dir, name)
            await server.start_serving()

    def stands(self) -> bool:
        return len(self._servers) == len(SOCKETS) and all(
            sockets.place(self._run_dir, name) == place for name, (_, place) in self._servers.items()
        )

    async def close(self) -> None:
        """For good. What was being accepted is closed when it arrives."""
        self._closed = True
        for name in list(self._servers):
            self._shut(name)
        for task in list(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def _shut(self, name: str) -> None:
        server, place = self._servers.pop(name)
        server.close()
        if sockets.place(self._run_dir, name) == place:  # else somebody else listens there
            (self._run_dir / name).unlink(missing_ok=True)

    def _begin(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of our own: asyncio's server reports the end of one of its own that is cancelled as an error."""
        if self._closed:
            close(writer)
            return
        task = asyncio.create_task(self._take(name, reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        task.add_done_callback(lambda _: close(writer))  # also where it was cancelled before it began

    async def _take(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not (first := await reader.read(CHUNK)):
                return  # somebody looked whether we are here
            framed = await self._way.dial(self._name, name, self._wait if name == SOCKETS[0] else 0)
            self._wait = _RUNNING
            await carry((reader, writer), framed, first)
        except GateAway as error:
            log.debug("a worklet's socket cannot be reached", worklet=self._name, error=str(error))
            self._away()
        except Nobody as error:
            log.debug("a worklet's socket is not there", worklet=self._name, socket=name, error=str(error))
            if name == SOCKETS[0] and name in self._servers:
                self._shut(name)
        except GateRefused as error:  # it may lack files or memory: the worklet is at work for all that
            log.warning("the gate refuses a worklet's socket", worklet=self._name, socket=name, error=str(error))


async def _served(run_dir: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection to the last of its sockets, if somebody listens at all of them."""
    made = None
    for name in SOCKETS:
        try:
            with sockets.short_path(run_dir, name) as path:
                last, made = made, await asyncio.open_unix_connection(path)
        except OSError:
            last, made = made, None
        if last is not None:
            close(last[1])
        if made is None:
            return None
    return made
