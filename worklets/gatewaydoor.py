"""One worklet's door: a Unix socket that serves HTTP, with bounds on what a hostile worklet can hold open.

Imported when the first door opens: aiohttp takes a fifth of a second to load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import structlog
from aiohttp import web

from worklets import sockets

SOCKET = "gateway.sock"
MOST_CONNECTIONS = 64  # the CLI uses one for each agent that it runs, and one or two beside
FIRST_REQUEST_SECONDS = 30.0  # from a connection's begin to the end of its first request's headers
FINISH_SECONDS = 900.0  # longer than an answer takes; a worklet need not end its request at all

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Traffic:
    """What a worklet asked the model: requests, bytes sent and received (bodies only)."""

    requests: int = 0
    sent: int = 0
    received: int = 0


class Door(web.Server):
    """Listens at `run_dir/gateway.sock` from `listen` to `close` or `finish`."""

    def __init__(
        self,
        name: str,
        run_dir: Path,
        handler: Handler,
        traffic: Traffic,
        *,
        most: int = MOST_CONNECTIONS,
        seconds: float = FIRST_REQUEST_SECONDS,
    ) -> None:
        # Cancellation lets an interrupted CLI end the request upstream too, instead of paying for the rest.
        super().__init__(self._serve, handler_cancellation=True, access_log=None)
        self.name, self.run_dir, self.traffic = name, run_dir, traffic
        self._handler, self._most, self._seconds = handler, most, seconds
        self._listener: asyncio.Server | None = None
        self._place: tuple[int, int] | None = None
        self._unheard: dict[Any, asyncio.TimerHandle] = {}  # connections that have not asked for anything yet
        self._busy: set[Any] = set()
        self._finishing = False
        self._left = asyncio.Event()

    async def listen(self) -> None:
        """Raises OSError."""
        made = sockets.listen(self.run_dir, SOCKET)
        try:
            self._place = sockets.place(self.run_dir, SOCKET)
            self._listener = await asyncio.get_running_loop().create_server(self, sock=made)
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

    async def close(self) -> None:
        """Ends everything; a request may take another half second."""
        self.shut()
        self.pre_shutdown()
        await self.shutdown(0.5)

    async def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Takes no more connections, lets running requests end in their own time, cuts them off after `seconds`.

        aiohttp's own shutdown would drop the rest of a request's body that is still coming in.
        """
        self.shut()
        self._finishing = True
        for connection in list(self.connections):
            if connection not in self._busy:
                connection.close()
        try:
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            log.warning("a worklet's requests did not end and are cut off", worklet=self.name, seconds=seconds)
            await self.close()

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most:
            log.warning("a worklet has too many connections open to the model", worklet=self.name, most=self._most)
            transport.abort()
        else:
            self._unheard[handler] = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._heard(handler)
        self._left.set()

    def _heard(self, handler: Any) -> None:
        if timer := self._unheard.pop(handler, None):
            timer.cancel()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        self._heard(connection)
        self._busy.add(connection)
        try:
            return await self._handler(request)
        finally:
            self._busy.discard(connection)
            if self._finishing:
                connection.close()  # the response is still sent
