"""One worklet's door: a Unix socket that serves HTTP, with bounds on what a hostile worklet can hold open.

Imported when the first door opens: aiohttp takes a fifth of a second to load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import structlog
from aiohttp import web

from worklets import sockets

SOCKET = "gateway.sock"
MOST_CONNECTIONS = 64  # to the model: the CLI uses one for each agent that it runs, and one or two beside
MOST_TO_STORE = 128  # to the key-value store: what Claude writes may be a server with as many threads
STORE_PATH = "/rest/v1/"
_REFUSED = 16  # connections with an answer that they are too many; aiohttp waits for the rest of what they send
_LOG_SECONDS = 60.0  # how often a worklet's connections are told of: it decides how many it tries
_LEFT_SECONDS = 0.5
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
        most_to_store: int = MOST_TO_STORE,
        seconds: float = FIRST_REQUEST_SECONDS,
    ) -> None:
        """`most` connections lead to the model, and `most_to_store` to the store: neither takes the other's place."""
        # Cancellation lets an interrupted CLI end the request upstream too, instead of paying for the rest.
        super().__init__(self._serve, handler_cancellation=True, access_log=None)
        self.name, self.run_dir, self.traffic = name, run_dir, traffic
        self.worklet_id: str | None = None  # whose store is behind it; None: nobody's
        self.grants: dict[str, Any] = {}  # what else is behind it, by subject
        self._ends: dict[str, Callable[[], Awaitable[None]]] = {}
        self._handler, self._seconds = handler, seconds
        self._refused: dict[Any, None] = {}  # oldest first
        self._most = most + most_to_store + 2 * _REFUSED  # so that whoever is left a place can ask for it
        self._silent_until = 0.0
        self._kinds = {False: _Kind("the model", most), True: _Kind("the key-value store", most_to_store)}
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
            loop = asyncio.get_running_loop()
            self._listener = await sockets.serving(await loop.create_server(self, sock=made, start_serving=False))
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
        await self._end()
        self.pre_shutdown()
        await self.shutdown(0.5)
        await self._end()  # of what requests have begun meanwhile

    async def _end(self) -> None:
        ends, self._ends = self._ends, {}
        await asyncio.gather(*(end() for end in ends.values()))

    def at_end(self, key: str, end: Callable[[], Awaitable[None]]) -> None:
        """`close` awaits it; the last one of each key."""
        self._ends[key] = end

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
                while self.connections:  # aiohttp forgets a lost one only when its cancelled request has ended
                    self._left.clear()
                    # Not `wait_for`: Python 3.11's can swallow a cancellation.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LEFT_SECONDS):
                            await self._left.wait()
        except TimeoutError:
            log.warning("a worklet's requests did not end and are cut off", worklet=self.name, seconds=seconds)
            await self.close()

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most and not self._drop_unheard():
            self._complain("all", self._most)
            transport.abort()
        else:
            self._unheard[handler] = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def _drop_unheard(self) -> bool:
        """The connection that has been silent for longest gives way. False: all have asked for something."""
        for connection in self._unheard:
            if connection.transport is not None:
                connection.transport.abort()
            self._heard(connection)
            return True
        return False

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._heard(handler)
        self._refused.pop(handler, None)
        for kind in self._kinds.values():
            kind.connections.discard(handler)
        self._left.set()

    def _heard(self, handler: Any) -> None:
        if timer := self._unheard.pop(handler, None):
            timer.cancel()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        self._heard(connection)
        if not self._has_place(request):
            return self._refuse(request)
        self._busy.add(connection)
        try:
            return await self._handler(request)
        finally:
            self._busy.discard(connection)
            if self._finishing:
                connection.close()  # the response is still sent

    def _has_place(self, request: web.BaseRequest) -> bool:
        """A connection counts where its last request went."""
        to_store = is_to_store(request)
        kind = self._kinds[to_store]
        if request.protocol in kind.connections:
            return True
        self._kinds[not to_store].connections.discard(request.protocol)
        if len(kind.connections) >= kind.most:
            self._complain(kind.name, kind.most)
            return False
        kind.connections.add(request.protocol)
        return True

    def _refuse(self, request: web.BaseRequest) -> web.Response:
        """To the store's client so that it tries again; the CLI sees a broken connection, after which it does."""
        message = "Too many connections to the store are open."
        body = {"code": "KV429", "message": message, "details": None, "hint": "KV_RATE"}
        response = web.json_response(body, status=429, headers={"Retry-After": "0.2"})
        response.force_close()
        self._refused[request.protocol] = None
        leaves = request.protocol if not is_to_store(request) else None
        if len(self._refused) > _REFUSED:
            leaves = leaves or next(iter(self._refused))
        if leaves is not None and leaves.transport is not None:
            leaves.transport.abort()
        return response

    def _complain(self, to: str, most: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_SECONDS
            log.warning("a worklet has too many connections open", worklet=self.name, to=to, most=most)


def is_to_store(request: web.BaseRequest) -> bool:
    """Whether it is for the key-value store; else it is for the model."""
    return request.rel_url.raw_path.startswith(STORE_PATH)


@dataclass(slots=True)
class _Kind:
    """Connections that lead to the same."""

    name: str
    most: int
    connections: set[Any] = field(default_factory=set)
