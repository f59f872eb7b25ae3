"""MCP servers on stdio that run in sidecars, as Streamable HTTP behind a worklet's door (`worklets.mcpdoor`).

The gateway listens in the sidecar's directory; what runs there (worklets/relay/sidecar.py) connects, and is told what
to start, with the secret. Each session of the protocol has a process of its own. One that has ended is started again
with the next request, by the same handshake, so neither its end nor the gateway's own is the end of Claude's session.
What a server says may be anything: its lines are bounded and have a pace, and what is no JSON-RPC is dropped.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets import sockets
from worklets.mcpdoor import Body, TooLong, refusal
from worklets.sidecarprocess import INITIALIZED, Away, Heard, Pace, Process

if TYPE_CHECKING:
    from aiohttp import web

    from worklets.gatewayroutes import Caller

SOCKET = "mcp.sock"
ENDED, WANTED = "sidecar ended", "sidecar wanted"  # kinds of events; fields: worklet, server; and text

_LONGEST = 4 << 20  # bytes of a message to a server
_SESSIONS = 4  # of one server, for one worklet: Claude has one, and an older one may not have been closed
_WAITING = 4  # connections without a process
_STEADY = 60.0  # seconds: a process that has lived so long had not failed
_SLOWEST = 60.0  # seconds between an end and the next start
_SHORT = 1.0  # seconds of that for which a request waits
_MISSED = 3.0  # seconds between two words to the bot that a sidecar is missed
_ALIVE = 15.0  # seconds between two signs of life while a server works
_DEFAULT = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "flow", "version": "1"},
}

log = structlog.get_logger(__name__)


class SidecarDoor:
    """All sidecars of a gateway. `start`: seconds that one's container, and `greet` that its server, may take."""

    def __init__(self, *, start: float = 60.0, greet: float = 120.0) -> None:
        self._start, self._greet = start, greet
        self._sidecars: dict[tuple[str, str], _Sidecar] = {}
        self._making = asyncio.Lock()

    async def answer(
        self, request: web.BaseRequest, body: Body, caller: Caller, name: str, target: Mapping[str, Any]
    ) -> web.StreamResponse:
        """Serves one request. There is no stream of the server's own (GET): what it says comes with answers."""
        from aiohttp import web

        if "sidecar" not in target:
            return refusal(502, f"{name} needs a sidecar, and there is none where this worklet runs.")
        if request.method == "GET":
            return web.Response(status=405, headers={"Allow": "POST, DELETE"})
        try:
            async with self._making:  # of two requests at once one makes it
                sidecar = await self._sidecar(caller, name, target)
        except OSError as error:
            log.warning("a sidecar's socket cannot be made", worklet=caller.name, server=name, error=str(error))
            return refusal(502, f"Flow cannot reach the sidecar of the MCP server {name}. Its log says why.")
        id_ = request.headers.get("Mcp-Session-Id", "")
        if request.method == "DELETE":
            await sidecar.forget(id_)
            return web.Response(status=204)
        body.longest = _LONGEST
        said = bytearray()
        try:
            async for chunk in body.pieces():
                said += chunk
        except TooLong:
            return refusal(413, f"A message to {name} has at most {_LONGEST >> 20} MiB.")
        return await _posted(request, sidecar, id_, bytes(said))

    async def _sidecar(self, caller: Caller, name: str, target: Mapping[str, Any]) -> _Sidecar:
        """Raises OSError."""
        key = (caller.name, name)
        found = self._sidecars.get(key)
        if found is not None and found.target == target and found.stands():
            return found
        if found is not None:
            await found.close()  # not forgotten before: where this is cut off, the next request ends the rest
            self._sidecars.pop(key, None)
        made = _Sidecar(caller, name, target, self._start, self._greet)
        await made.listen()
        self._sidecars[key] = made  # not before: one that does not listen is made again with the next request

        async def end() -> None:
            if self._sidecars.get(key) is made:
                del self._sidecars[key]
            await made.close()

        caller.at_end(f"sidecar {name}", end)
        return made


async def _posted(request: web.BaseRequest, sidecar: _Sidecar, id_: str, said: bytes) -> web.StreamResponse:
    from aiohttp import web

    try:
        message = json.loads(said)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return refusal(400, "This is no JSON-RPC message.")
    greeting = message.get("method") == "initialize"
    if greeting:
        id_ = secrets.token_hex(16)
    elif not (id_.isascii() and id_.isalnum() and len(id_) <= 64):
        return refusal(400, "The request has no session (Mcp-Session-Id).")
    session = await sidecar.session(id_, message.get("params") if greeting else None)
    if session is None:
        return refusal(429, f"{sidecar.name} has {_SESSIONS} sessions already, all at work.")
    asked = message.get("id")
    if "method" not in message or asked is None:
        try:
            await session.tell(message)
        except Away as error:
            return refusal(502, str(error))
        return web.Response(status=202)
    if not isinstance(asked, (str, int)) or isinstance(asked, bool):
        return refusal(400, "A request's id is a text or a number.")
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Mcp-Session-Id": id_}
    )
    with session.in_use():  # from its choice on: another one's request may come before the server is asked
        await response.prepare(request)
        await _answered(response, session, message)
    with suppress(ConnectionResetError):
        await response.write_eof()
    return response


async def _answered(response: web.StreamResponse, session: _Session, message: dict[str, Any]) -> None:
    """Writes what the server says to it, and beside it; a comment now and then, so that nobody takes it for dead."""
    heard = Heard()
    asking = asyncio.create_task(session.ask(message, heard))
    hearing = asyncio.create_task(heard.get())
    try:
        while not asking.done() or hearing.done():
            await asyncio.wait({asking, hearing}, timeout=_ALIVE, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                await response.write(_event(hearing.result()))
                hearing = asyncio.create_task(heard.get())
                await asyncio.sleep(0)  # it takes what is there already
            elif not asking.done():
                await response.write(b": at work\n\n")
        try:
            answer = asking.result()
        except Away as error:
            answer = {"jsonrpc": "2.0", "error": {"code": -32000, "message": str(error)}}
        await response.write(_event(json.dumps({**answer, "id": message["id"]}).encode()))
    except ConnectionResetError:
        pass  # the worklet has left
    finally:
        asking.cancel()
        hearing.cancel()
        await asyncio.gather(asking, hearing, return_exceptions=True)


def _event(message: bytes) -> bytes:
    return b"event: message\ndata: " + message + b"\n\n"


class _Sidecar:
    """One server of one worklet: where its sidecar calls, its sessions, and how often it has failed."""

    def __init__(self, caller: Caller, name: str, target: Mapping[str, Any], start: float, greet: float) -> None:
        self.name, self.target, self._worklet, self._tell = name, dict(target), caller.name, caller.tell
        self._directory = Path(target["sidecar"])
        self._start, self._greet = start, greet
        self._server: asyncio.Server | None = None
        self._place: tuple[int, int] | None = None
        self._waiting: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._came = asyncio.Event()
        self._closed = False
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # the one asked last stands last
        self._failures, self._not_before = 0, 0.0
        self._pace = Pace()  # of all its processes together

    async def listen(self) -> None:
        """Raises OSError."""
        made = sockets.listen(self._directory, SOCKET)
        self._place = sockets.place(self._directory, SOCKET)
        server = await asyncio.start_unix_server(self._connected, sock=made, start_serving=False)
        self._server = await sockets.serving(server)

    def stands(self) -> bool:
        return not self._closed and sockets.place(self._directory, SOCKET) == self._place

    async def close(self) -> None:
        """For good, with all its processes. Idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for _, writer in self._waiting:
            writer.close()
        self._waiting.clear()
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._sessions.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.close()
            return
        self._waiting.append((reader, writer))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft()[1].close()
        self._came.set()

    async def session(self, id_: str, greeting: Any) -> _Session | None:
        """That of the id, with `greeting` made for it; None: there are too many. A lost one begins anew."""
        while id_ not in self._sessions and len(self._sessions) >= _SESSIONS:
            idle = next((key for key, one in self._sessions.items() if not one.busy), None)
            if idle is None:
                return None
            await self.forget(idle)
        session = self._sessions.get(id_)
        if session is None:
            given = greeting if isinstance(greeting, dict) else _DEFAULT
            self._sessions[id_] = session = _Session(self, given)
        self._sessions.move_to_end(id_)
        return session

    async def forget(self, id_: str) -> None:
        """Ends the session, where there is one."""
        if (session := self._sessions.pop(id_, None)) is not None:
            await session.close()

    async def process(self) -> Process:
        """A new one of the server, which has not been greeted. Raises Away."""
        if self._closed:
            raise Away(f"The sidecar of the MCP server {self.name} was just exchanged or ended. Try again.")
        wait = self._not_before - asyncio.get_running_loop().time()
        if 0 < wait <= _SHORT:
            await asyncio.sleep(wait)
        elif wait > 0:
            raise Away(f"The MCP server {self.name} has failed {self._failures} times. Try again in {wait:.0f} s.")
        reader, writer = await self._taken()
        order = {"command": self.target["command"], "env": self.target["env"]}
        secrets = self.target.get("secrets", self.target["env"].values())  # a bot of before did not say which
        return Process(self.name, reader, writer, order, self._ended, self._pace, secrets)

    async def _taken(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection behind which somebody waits. Raises Away."""
        try:
            async with asyncio.timeout(self._start):
                while (found := self._living()) is None:
                    self._came.clear()
                    # Not `wait_for`: Python 3.11's can swallow a cancellation, and a session's end would wait.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_MISSED):
                            await self._came.wait()
                    if not self._came.is_set():
                        self._tell(WANTED, worklet=self._worklet, server=self.name)
                return found
        except TimeoutError:
            raise Away(f"The sidecar of the MCP server {self.name} does not run. Try again in a minute.") from None

    def _living(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._waiting:
            reader, writer = self._waiting.popleft()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    def _ended(self, process: Process) -> None:
        """By itself. The thread hears of it once, until one has lived for a while."""
        now = asyncio.get_running_loop().time()
        self._failures = self._failures + 1 if now - process.began < _STEADY else 1
        self._not_before = now + min(_SLOWEST, 2.0 ** (self._failures - 1) / 2)
        log.warning("an MCP server in a sidecar ended", worklet=self._worklet, server=self.name, why=process.why,
                    failures=self._failures, said=process.said)  # fmt: skip
        if self._failures == 1:
            self._tell(ENDED, worklet=self._worklet, server=self.name, text=process.why)

    async def greeted(self, params: dict[str, Any]) -> tuple[Process, dict[str, Any]]:
        """A new process, and its answer to `initialize`. Raises Away."""
        process = await self.process()
        try:
            async with asyncio.timeout(self._greet):
                hello = await process.ask(
                    {"jsonrpc": "2.0", "id": "flow-initialize", "method": "initialize", "params": params}, None
                )
                if "result" in hello:
                    await process.tell(INITIALIZED)
        except TimeoutError:
            await process.close()
            raise Away(f"The MCP server {self.name} does not answer {self._greet:.0f} s after its start.") from None
        except BaseException:
            await process.close()
            raise
        return process, hello


class _Session:
    """Of the protocol: one process at a time, greeted in the same way each time."""

    def __init__(self, sidecar: _Sidecar, greeting: dict[str, Any]) -> None:
        self._sidecar, self._greeting = sidecar, greeting
        self._process: Process | None = None
        self._hello: dict[str, Any] = {}
        self._starting = asyncio.Lock()
        self._begun: asyncio.Task[Process] | None = None
        self._closed = False
        self._asked = 0

    @property
    def busy(self) -> bool:
        return self._asked > 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """It does not make way for another one meanwhile."""
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    async def ask(self, message: dict[str, Any], hear: Heard | None) -> dict[str, Any]:
        """The server's answer; what it says meanwhile goes to `hear`. Raises Away."""
        with self.in_use():
            process = await self._running()
            return self._hello if message["method"] == "initialize" else await process.ask(message, hear)

    async def tell(self, message: dict[str, Any]) -> None:
        """A notification, or an answer to the server. Raises Away."""
        if message.get("method") != INITIALIZED["method"]:  # it was told so
            with self.in_use():
                await (await self._running()).tell(message)

    async def _running(self) -> Process:
        async with self._starting:
            if self._process is not None and not self._process.over:
                return self._process
            gone = Away(f"This session with the MCP server {self._sidecar.name} has ended.")
            if self._closed:
                raise gone
            self._begun = asyncio.create_task(self._begin())
            try:
                return await self._begun
            except asyncio.CancelledError:
                if self._begun.cancelled() and self._closed:
                    raise gone from None
                raise

    async def _begin(self) -> Process:
        """A task of its own, so that `close` ends it, and its process is the session's, whoever still waits for it."""
        self._process, self._hello = await self._sidecar.greeted(self._greeting)
        return self._process

    async def close(self) -> None:
        """For good."""
        self._closed = True
        if self._begun is not None:
            self._begun.cancel()
            await asyncio.wait([self._begun])
        if self._process is not None:
            await self._process.close()
