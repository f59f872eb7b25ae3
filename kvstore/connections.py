"""Connections to the store, without any input or output of their own.

What needs the network is written as generators that yield a step (connect, write, read, wait) and get its result:
`kvstore.client` takes the steps with blocking sockets, `kvstore.aio` on an event loop. So there is one set of rules
for retries, timeouts and broken connections. A step that fails raises OSError in the generator.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from socket import MSG_PEEK, SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kvstore.http1 import Answer, AnswerReader

if TYPE_CHECKING:
    import ssl

#: How long an idle connection is trusted. Whoever must not repeat a request wants to be surer that it arrives.
_IDLE_SECONDS: Final = 50.0
_IDLE_SECONDS_ONCE: Final = 5.0
_MAX_IDLE: Final = 64


class Connect(NamedTuple):
    host: str
    port: int
    deadline: float  # by time.monotonic(), as all of them; gives the connected socket


class Write(NamedTuple):
    """Gives nothing. When it fails, some of the bytes have not left."""

    socket: socket
    data: bytes
    deadline: float


class Read(NamedTuple):
    """Gives what has arrived; b"" when the other side closed."""

    socket: socket
    deadline: float


class Sleep(NamedTuple):
    """Ends early when the pool is closed."""

    seconds: float


class Ask(NamedTuple):
    """Gives the result of the caller's function; on an event loop it may be awaitable."""

    function: Callable[[], Any]


Step = Connect | Write | Read | Sleep | Ask
T = TypeVar("T")
Steps = Generator[Step, Any, T]


class Lost(Exception):
    """An exchange broke off. `arrived`: the request had left, so it may have been carried out."""

    def __init__(self, cause: OSError, *, arrived: bool, reused: bool) -> None:
        super().__init__(str(cause))
        self.cause, self.arrived, self.reused = cause, arrived, reused


class Connection:
    """One connection, used by one call at a time."""

    def __init__(self, sock: socket, tls: Tls | None) -> None:
        self.socket, self._tls = sock, tls
        self.used_at = time.monotonic()

    def exchange(self, request: bytes, deadline: float, *, reused: bool) -> Steps[Answer]:
        """Raises Lost, and BadAnswer."""
        cut: OSError | None = None
        try:
            yield Write(self.socket, self._tls.seal(request) if self._tls else request, deadline)
        except TimeoutError as error:
            raise Lost(error, arrived=False, reused=reused) from error
        except OSError as error:
            cut = error  # a server that refuses a long request may answer and close before it has read all
        reader = AnswerReader()
        while True:
            try:
                data = yield Read(self.socket, deadline)
                if data and self._tls:
                    data = self._tls.open(data)
                    if data is None:  # a record that is not whole, or one that is no data
                        continue
                answer = reader.feed(data)
            except OSError as error:
                raise Lost(cut or error, arrived=cut is None, reused=reused) from error
            if answer is not None:
                self.used_at = time.monotonic()
                return answer

    def is_quiet(self) -> bool:
        """Whether nothing has come unasked: an idle connection that can be read was closed by the other side."""
        try:
            self.socket.setblocking(False)
            self.socket.recv(1, MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def interrupt(self) -> None:
        """Makes whoever waits for this connection, in another thread say, see its end at once."""
        try:
            self.socket.shutdown(SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def close(self) -> None:
        self.socket.close()


class Tls:
    """TLS over bytes: ciphertext in and out by hand."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        import ssl

        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._wants_more, self._closed = ssl.SSLWantReadError, (ssl.SSLZeroReturnError, ssl.SSLEOFError)

    def handshake(self, sock: socket, deadline: float) -> Steps[None]:
        while True:
            try:
                self._session.do_handshake()
                done = True
            except self._wants_more:
                done = False
            finally:
                told = self._out.read()
            if told:
                yield Write(sock, told, deadline)
            if done:
                return
            data = yield Read(sock, deadline)
            if not data:
                raise ConnectionResetError("the connection was closed while it was being secured")
            self._in.write(data)

    def seal(self, data: bytes) -> bytes:
        self._session.write(data)
        return self._out.read()

    def open(self, data: bytes) -> bytes | None:
        """None: nothing yet. b"": the other side closed."""
        self._in.write(data)
        parts: list[bytes] = []
        while True:
            try:
                part = self._session.read(65_536)
            except self._wants_more:
                return b"".join(parts) if parts else None
            except self._closed:
                return b"".join(parts)
            if not part:
                return b"".join(parts)
            parts.append(part)


class Pool:
    """The connections to one address: idle ones wait here, each is used by one call at a time, from any thread.

    After a fork the child begins with none: its parent goes on using them.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.tls = host, port, tls
        self.closed = False
        self.bell = threading.Event()  # rung by close()
        self._begin()

    def exchange(self, request: bytes, deadline: float, *, once: bool) -> Steps[Answer]:
        """One request and its answer. `once`: it must not be sent a second time. Raises Lost, and BadAnswer."""
        connection = self._take(_IDLE_SECONDS_ONCE if once else _IDLE_SECONDS)
        reused = connection is not None
        if connection is None:
            connection = yield from self._connect(deadline)
        self._busy.add(connection)
        if self.closed:
            connection.interrupt()  # close() may not have seen it
        reusable = False
        try:
            answer = yield from connection.exchange(request, deadline, reused=reused)
            reusable = answer.reusable
        finally:  # also when the caller gives up in the middle: an answer is on its way there, so it is not used again
            self._busy.discard(connection)
            if reusable and not self.closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Ends calls that are under way too; in a child only the child's, not its parent's. For good."""
        if self._process != os.getpid():
            self._leave()
        self.closed = True
        self.bell.set()
        for connection in list(self._busy):
            connection.interrupt()
        self._drop_idle()

    def _connect(self, deadline: float) -> Steps[Connection]:
        sock: socket | None = None
        try:
            sock = yield Connect(self.host, self.port, deadline)
            secured = Tls(self.tls, self.host) if self.tls else None
            if secured is not None:
                yield from secured.handshake(sock, deadline)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError):
                raise Lost(error, arrived=False, reused=False) from error
            raise
        return Connection(sock, secured)

    def _take(self, trusted: float) -> Connection | None:
        if self._process != os.getpid():
            self._leave()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - connection.used_at <= trusted and connection.is_quiet():
                return connection
            connection.close()

    def _leave(self) -> None:
        """In a child: lets go of the parent's connections. Nothing is shut down, as the parent goes on using them."""
        for connection in self._busy:
            connection.close()
        self._drop_idle()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        if not self.closed:
            self.bell = threading.Event()  # a lock of the old one may have been held by a thread that is gone

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread took it
                return

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self._drop_idle()
