"""The gate: carries Flow's connections to worklets' sockets, and worklets' connections to Flow, on another machine.

It runs in a container of its own beside the worklets and listens at one TCP port, for the one certificate that it was
given. A connection begins with a line of JSON:

    {"do": "dial", "worklet": …, "socket": …, "wait": seconds}    a worklet's own socket; after {"ok": true}: frames
    {"do": "park"}     Flow waits for a worklet to call. When one has, the gate says {"worklet": …, "socket": …}; Flow
                       answers {"ok": true}, and from then on there are frames
    anything else      one of `_Gate.answer`; answered with a line, and another one may follow

So Flow needs no port, and who calls is known by the directory in which the socket is that was called.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from worklets.gate.calls import Calls
from worklets.gate.framing import CHUNK, Broken, Stream, carry, close, exactly, keep_alive, line, say
from worklets.gate.places import Places, Unfit

PORT = 7443  # inside the container
_THEIRS = ("relay.sock", "inside.sock")  # which worklets serve
_MOST_IN_ALL = 8192  # of Flow
_MOST_STRANGERS = 64  # that have not shown their certificate yet
_HANDSHAKE_SECONDS = 10.0
_LINE_SECONDS = 15.0
_LONGEST_WAIT = 30.0  # for a worklet that is only just starting
_LARGEST = 4 << 20  # bytes of a file that comes from Flow
_LARGEST_READ = 80 << 20  # bytes of one that Flow gets
_READING = 16  # files that Flow gets at a time
_PIECE = 1 << 18  # bytes of one that are in memory
_DELETING = 8  # directories at a time
_PAUSE = 0.2  # seconds, when no file can be opened


class Gate:
    def __init__(self, root: Path, version: str) -> None:
        self._places, self._version = Places(root), version
        self._calls = Calls(self._places)
        self._connections = 0
        self._reading = asyncio.Semaphore(_READING)
        self._deleting = ThreadPoolExecutor(_DELETING)  # what takes long keeps no short request waiting

    async def serve(self, listening: socket.socket, tls: ssl.SSLContext) -> None:
        """Until cancelled."""
        loop, strangers = asyncio.get_running_loop(), asyncio.Semaphore(_MOST_STRANGERS)
        try:
            async with asyncio.TaskGroup() as connections:
                while True:
                    await strangers.acquire()
                    try:
                        made, _ = await loop.sock_accept(listening)
                    except OSError:
                        strangers.release()
                        await asyncio.sleep(_PAUSE)
                        continue
                    connections.create_task(self._meet(made, tls, strangers))
        finally:
            self._deleting.shutdown(wait=False, cancel_futures=True)
            await self._calls.aclose()

    async def _meet(self, made: socket.socket, tls: ssl.SSLContext, strangers: asyncio.Semaphore) -> None:
        keep_alive(made)
        try:
            stream = await _shake_hands(made, tls)
        except (OSError, ValueError):  # whoever that was, it has not Flow's certificate
            made.close()
            return
        finally:
            strangers.release()
        self._connections += 1
        try:
            if self._connections <= _MOST_IN_ALL:
                await self._converse(*stream)
        except (OSError, Broken):
            pass  # Flow has gone
        finally:
            self._connections -= 1
            close(stream[1])

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        while True:
            async with asyncio.timeout(_LINE_SECONDS if first else None):
                asked = await line(reader)
            first = False
            if asked.get("do") == "park":
                await self._calls.park((reader, writer))
                return
            if asked.get("do") == "dial":
                await self._dial(asked, (reader, writer))
                return
            content = b""
            if size := asked.get("size"):
                if not isinstance(size, int) or not 0 < size <= _LARGEST:
                    raise Broken("a file is too large")
                async with asyncio.timeout(_LINE_SECONDS * 4):
                    content = await exactly(reader, size)
            try:
                if asked.get("do") == "get":
                    async with self._reading:
                        await self._send(asked, writer)
                    continue
                answer = await self.answer(asked, content)
            except (OSError, Unfit, KeyError, TypeError, ValueError) as error:
                missing = isinstance(error, FileNotFoundError | NotADirectoryError)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                answer = {"error": reason[:300] or type(error).__name__, "missing": missing}
            say(writer, **answer)
            await writer.drain()

    async def _send(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """A file, piece by piece. Raises as `answer` does; Broken when it cannot be read to its end any more."""
        limit = min(int(asked["limit"]), _LARGEST_READ)
        with await asyncio.to_thread(self._places.open, asked["worklet"], asked["path"]) as file:
            left = min(limit, os.fstat(file.fileno()).st_size)
            say(writer, ok=True, size=left)
            while left > 0:
                try:
                    piece = await asyncio.to_thread(file.read, min(_PIECE, left))
                except OSError as error:
                    raise Broken("the file cannot be read") from error
                if not piece:
                    raise Broken("the file was cut")
                left -= len(piece)
                writer.write(piece)
                await _drained(writer)
            await _drained(writer)

    async def answer(self, asked: dict[str, Any], content: bytes) -> dict[str, Any]:
        """Raises OSError, Unfit, and whatever a request without what it needs makes of itself."""
        do, places, run = asked.get("do"), self._places, asyncio.to_thread
        run_long = partial(asyncio.get_running_loop().run_in_executor, self._deleting)
        if do == "ping":
            return {"ok": True, "version": self._version, "time": time.time(), "doors": self._calls.doors}
        worklet = asked["worklet"]
        match do:
            case "prepare":
                await run_long(places.prepare, worklet, content)
            case "open":
                await self._calls.open(worklet)
            case "close":
                await self._calls.close(worklet)
            case "put":
                await run(places.put, worklet, asked["path"], content)
            case "clear":
                for path in asked["paths"][:16]:
                    await run(places.clear, worklet, path)
            case "stands":
                return {"ok": True, "stands": await run(places.place, worklet, asked["path"]) is not None}
            case "measure":
                return {"ok": True, "bytes": await run(places.size, worklet, asked["path"])}
            case "list":
                return {"ok": True, "names": await run(places.listed, worklet, asked["path"], 60)}
            case "remove":
                await self._calls.close(worklet)
                await run_long(places.remove, worklet)
            case _:
                raise Unfit("not understood")
        return {"ok": True}

    # -- streams ------------------------------------------------------------------------------------------------

    async def _dial(self, asked: dict[str, Any], framed: Stream) -> None:
        try:
            plain = await self._reach(asked)
        except (OSError, Unfit) as error:
            nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            say(framed[1], error=str(error)[:300], nobody=nobody)
            await framed[1].drain()
            return
        say(framed[1], ok=True)
        await carry(plain, framed)

    async def _reach(self, asked: dict[str, Any]) -> Stream:
        name, wait = asked.get("socket"), asked.get("wait")
        if name not in _THEIRS:
            raise Unfit("that is no socket of a worklet's")
        patience = min(float(wait), _LONGEST_WAIT) if isinstance(wait, int | float) else 0.0
        end, pause = time.monotonic() + patience, 0.01
        while True:
            try:
                with self._places.socket_at(asked.get("worklet", ""), name) as path:
                    return await asyncio.open_unix_connection(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 1.5)


async def _drained(writer: asyncio.StreamWriter) -> None:
    """Raises Broken: whoever reads what is written has gone."""
    try:
        await writer.drain()
    except OSError as error:
        raise Broken("the connection was cut off") from error


async def _shake_hands(made: socket.socket, tls: ssl.SSLContext) -> Stream:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, made, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS
    )
    transport.set_write_buffer_limits(high=CHUNK)  # 512 KiB otherwise, of each connection
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def context(identity: str, trusted: str) -> ssl.SSLContext:
    """`identity`: certificate and key as PEM; `trusted`: the only certificate that is let in. No file is written."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=trusted)
    handle = os.memfd_create("identity", os.MFD_CLOEXEC)  # OpenSSL reads keys from files only
    try:
        os.write(handle, identity.encode())
        made.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return made


async def run(root: Path, version: str, listening: socket.socket, tls: ssl.SSLContext) -> None:
    """Until SIGTERM."""
    listening.setblocking(False)
    serving = asyncio.create_task(Gate(root, version).serve(listening, tls))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main(config: dict[str, Any]) -> None:
    tls = context(config["identity"], config["trusted"])
    listening = socket.create_server(("", PORT), backlog=256)
    sys.stderr.write(f"the gate listens ({config['version']})\n")
    asyncio.run(run(Path(config["root"]), config["version"], listening, tls))
