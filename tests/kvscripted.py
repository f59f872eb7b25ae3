"""A store's server that does what a test wrote down, request by request: answers, hangs up, dawdles, talks nonsense."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    function: str
    path: str
    headers: dict[str, str]
    arguments: dict[str, Any]
    connection: int  # the first is 0


class HangUp(Exception):
    """The connection ends here."""


#: Gets the connection and the request; raises HangUp to end the connection.
Deed = Callable[[socket.socket, Request], None]


def answer(value: Any, status: int = 200, **headers: str) -> Deed:
    return raw_body(json.dumps(value).encode(), status, **headers)


def raw_body(body: bytes, status: int = 200, **headers: str) -> Deed:
    told = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return raw(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)


def refusal(status: int, code: str, hint: str | None = None, message: str = "no", **headers: str) -> Deed:
    body = {"code": code, "message": message, "details": "secret-details", "hint": hint}
    return answer(body, status, **headers)


def raw(data: bytes) -> Deed:
    def do(sock: socket.socket, _: Request) -> None:
        sock.sendall(data)

    return do


def hang_up(sock: socket.socket, _: Request) -> None:
    raise HangUp


def reset(sock: socket.socket, _: Request) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise HangUp


def then_hang_up(deed: Deed) -> Deed:
    """As a server that closes an idle connection, without having said so."""

    def do(sock: socket.socket, request: Request) -> None:
        deed(sock, request)
        raise HangUp

    return do


def wait_for(event: threading.Event, deed: Deed) -> Deed:
    def do(sock: socket.socket, request: Request) -> None:
        event.wait(30)
        deed(sock, request)

    return do


@contextmanager
def reserved_port() -> Iterator[int]:
    """One at which nothing listens, and that nobody else is given; a `Scripted` may take it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Scripted:
    """Serves on loopback while it is entered. `script` is worked off over all connections; after it, null is answered.

    `before` is for connections: each one that is accepted while it is above 0 is closed unread.
    `unread` is done as soon as a connection has said anything, and then the connection is closed.
    """

    def __init__(self, *script: Deed, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script = deque(script)
        self.otherwise: Deed = answer(None)
        self.requests: list[Request] = []
        self.connections = 0
        self.before = 0
        self.unread: Deed | None = None
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Scripted:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def deafen(self) -> None:
        """Refuses further connections. Idempotent."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def stop(self) -> None:
        """Ends all connections too. Idempotent."""
        self.deafen()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):  # the other side, or its own thread, was quicker
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)

    @property
    def functions(self) -> list[str]:
        return [request.function for request in self.requests]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self.before > 0:
                self.before -= 1
                sock.close()
                continue
            number, self.connections = self.connections, self.connections + 1
            self._start(self._serve, sock, number)

    def _serve(self, plain: socket.socket, number: int) -> None:
        with plain:
            try:
                sock = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            except (ssl.SSLError, OSError):
                return
            with self._lock:
                self._open.add(sock)
            try:
                with sock, sock.makefile("rb") as stream:
                    if self.unread is not None:
                        stream.peek(1)
                        self.unread(sock, Request("", "", {}, {}, number))
                        return
                    while (request := _read(stream, number)) is not None:
                        with self._lock:
                            self.requests.append(request)
                            deed = self.script.popleft() if self.script else self.otherwise
                        deed(sock, request)
            except (HangUp, OSError, ValueError):
                return
            finally:
                with self._lock:
                    self._open.discard(sock)


def _read(stream: Any, number: int) -> Request | None:
    line = stream.readline().decode()
    if not line.endswith("\r\n"):
        return None
    method, path, version = line.split()
    assert (method, version) == ("POST", "HTTP/1.1")
    headers: dict[str, str] = {}
    while (line := stream.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers["content-length"]))
    return Request(path.rpartition("/")[2], path, headers, json.loads(body), number)
