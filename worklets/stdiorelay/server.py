"""The relay: one process, any number of connections. The frames are in protocol.py.

Every client may write: whole lines, in the order in which they arrive. With `single` there is one client at a
time, which is what a JSON-RPC server needs whose clients choose the numbers of their requests themselves.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from worklets.stdiorelay.access import format_address
from worklets.stdiorelay.connection import Connection, greeted
from worklets.stdiorelay.errors import RelayError
from worklets.stdiorelay.journal import open_journal
from worklets.stdiorelay.output import Output
from worklets.stdiorelay.protocol import MAX_FRAME, PING_SECONDS, SUBPROTOCOL
from worklets.stdiorelay.readers import Readers
from worklets.stdiorelay.supervisor import Supervisor

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.typing import Subprotocol

_LAST_WORDS = 2.0  # seconds for the readers that are here, when somebody waits for us to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times in seconds, sizes in bytes. `port` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str
    tls: ssl.SSLContext | None = None
    origins: Sequence[str] = ()  # web pages that may connect, such as https://tools.example.com
    journal: Path | None = None  # a directory; None for a temporary one
    journal_limit: int = 64 << 20
    drop_oldest: bool = False  # instead of holding the process back
    single: bool = False
    restart: bool = False
    grace: float = 5.0  # between SIGTERM and SIGKILL
    linger: float = 10.0  # after the process's end, for readers that do not know yet
    forget: float = 600.0  # until a reader that is away is no longer waited for


class StdioRelay:
    """`start`, then `run`; `stop` at any time between."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], options: Options, say: Callable[[str], None]
    ) -> None:
        self._options, self._say = options, say
        self._journal = open_journal(options.journal, secrets.token_hex(8), options.journal_limit)
        self._readers = Readers(options.forget)
        self._output = Output(self._journal, self._readers, drop_oldest=options.drop_oldest, say=say)
        self._supervisor = Supervisor(
            command,
            env,
            self._output,
            self._readers,
            restart=options.restart,
            grace=options.grace,
            linger=options.linger,
            say=say,
        )
        self._server: Server | None = None
        self._connections: dict[str, Connection] = {}
        self._write = asyncio.Lock()
        self._began = time.monotonic()

    async def start(self) -> str:
        """Listens, then starts the process. The URL to connect to. Raises RelayError and CommandFailed."""
        try:
            self._server = await self._listen()
            await self._supervisor.start()
        except BaseException:
            await self._close()
            raise
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"{'wss' if self._options.tls else 'ws'}://{format_address(self._options.host, port)}/"

    async def run(self) -> int:
        """Serves until the process has ended and the readers know, or had their time to. Its exit code."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            code = await self._supervisor.run()
            self._say(f"the process ended with {code}")
            await self._linger()
            return code
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            self._supervisor.kill()
            await self._close()

    def stop(self) -> None:
        """Ends the process politely, after its grace by force; at the second call at once."""
        self._supervisor.stop()

    async def _listen(self) -> Server:
        options = self._options
        try:
            return await serve(
                self._serve,
                options.host,
                options.port,
                ssl=options.tls,
                process_request=self._admit,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
                select_subprotocol=_choose_subprotocol,
                compression=None,
                max_size=MAX_FRAME,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                close_timeout=2,
                server_header=None,
            )
        except OSError as error:
            where = format_address(options.host, options.port)
            if error.errno == errno.EADDRINUSE:
                suggestion = "End the program that does, or choose another port."
                raise RelayError(f"Somebody listens on {where} already.", suggestion=suggestion) from error
            suggestion = "Choose an address of this machine, and a port that you may use."
            raise RelayError(f"Nobody can listen on {where}: {error.strerror}.", suggestion=suggestion) from error

    # The door

    def _admit(self, ws: ServerConnection, request: Request) -> Response | None:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._options.origins:
            return ws.respond(HTTPStatus.FORBIDDEN, "Pages of this origin may not connect (--allow-origin).\n")
        if request.path == "/health":
            return self._health(ws)
        if not hmac.compare_digest(_given_token(request).encode(), self._options.token.encode()):
            return ws.respond(HTTPStatus.UNAUTHORIZED, "The token is wrong or missing.\n")
        if request.path.partition("?")[0] != "/":
            return ws.respond(HTTPStatus.NOT_FOUND, "There are / (WebSocket) and /health.\n")
        return None

    def _health(self, ws: ServerConnection) -> Response:
        running = self._supervisor.state == "running"
        response = ws.respond(HTTPStatus.OK if running else HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(self.health()))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    def health(self) -> dict[str, Any]:
        """Nothing secret: `GET /health` answers it to everybody."""
        return {
            "process": self._supervisor.state,
            "exit_code": self._supervisor.code if self._supervisor.state != "running" else None,
            "starts": self._supervisor.starts,
            "first": self._output.first,
            "last": self._output.last,
            "journal_bytes": self._output.held,
            "journal_error": self._output.trouble,
            "held_back": self._output.held_back,
            "readers": self._readers.here,
            "readers_away": self._readers.known - self._readers.here,
            "uptime": round(time.monotonic() - self._began, 3),
        }

    # The connections

    async def _serve(self, ws: ServerConnection) -> None:
        hello = await greeted(ws)
        if hello is None:
            return
        connection = Connection(
            ws, hello, self._output, self._readers, self._supervisor, self._write, single=self._options.single
        )
        if not await connection.admitted():
            return
        old = self._connections.get(hello.client)
        self._connections[hello.client] = connection
        if old is not None:
            old.supersede()
        try:
            await connection.run()
        except ConnectionClosed:
            pass  # the client went away; the process goes on
        except OSError as error:
            self._say(f"a reader was sent away, because the journal cannot be read: {error}")
            await ws.close(1011, "the journal cannot be read")
        finally:
            if self._connections.get(hello.client) is connection:
                del self._connections[hello.client]
                self._readers.leave(hello.client)
            self._output.release()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._options.forget / 4))
            self._readers.sweep()
            self._output.release()

    async def _linger(self) -> None:
        end = time.monotonic() + self._options.linger
        while self._journal.acked < self._output.last and time.monotonic() < end:
            if self._supervisor.stopped:
                end = min(end, time.monotonic() + _LAST_WORDS) if self._readers.here else 0
            await asyncio.sleep(0.02)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._journal.close()


def _given_token(request: Request) -> str:
    """From the Authorization header, or, as a page cannot send one, from the subprotocol "bearer.<token>"."""
    if bearer := request.headers.get("Authorization"):
        return bearer.removeprefix("Bearer ")
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol")).split(",")
    return next((o.strip().removeprefix("bearer.") for o in offered if o.strip().startswith("bearer.")), "")


def _choose_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((name for name in offered if name == SUBPROTOCOL), None)
