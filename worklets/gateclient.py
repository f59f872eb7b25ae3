"""Flow's end of the gate's connections: `dial` and `park` for streams, `GateFiles` for requests. See worklets/gate."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worklets.errors import RuntimeUnavailable, WorkletError
from worklets.gate.framing import Broken, Stream, close, exactly, keep_alive, line, say
from worklets.gateaddress import GateAddress, known

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 90.0  # the longest: a directory that is deleted
_LONGEST_ANSWER = 1 << 16  # bytes of a line


class GateAway(RuntimeUnavailable):
    """The gate of the remote engine cannot be reached."""

    suggestion = "Flow goes on trying; `flow doctor` says more."


class GateRefused(WorkletError):
    """It said no. `missing`: there is no such file or directory."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(f"The gate on the remote engine's machine refused: {reason}.")
        self.missing = missing


class Nobody(GateRefused):
    """Nobody listens at that socket of the worklet."""


class Way:
    """How the gate of a share directory is reached now: it changes when another one is started."""

    def __init__(self, share_dir: Path) -> None:
        self._share_dir = share_dir
        self._known: tuple[GateAddress, ssl.SSLContext] | None = None

    def find(self) -> tuple[GateAddress, ssl.SSLContext]:
        """Blocks for a moment. Raises GateAway."""
        try:
            address = known(self._share_dir)
            if address is None:
                raise GateAway("No gate was started on the remote engine yet.")
            if self._known is None or self._known[0] != address:
                self._known = address, address.context(self._share_dir)
        except (OSError, ValueError) as error:
            raise GateAway(f"What Flow knows of the remote engine's gate cannot be read: {error}.") from error
        return self._known

    async def open(self) -> Stream:
        """A connection to the gate. Raises GateAway."""
        address, tls = self.find()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=tls, ssl_handshake_timeout=_CONNECT_SECONDS
                )
        except (OSError, TimeoutError) as error:
            raise _away(address, error) from error
        keep_alive(writer.get_extra_info("socket"))
        return reader, writer

    async def holds(self) -> bool:
        """Whether the gate answers. Raises nothing."""
        try:
            stream = await self.open()
            try:
                await self.ask(stream, _CONNECT_SECONDS, do="ping")
            finally:
                close(stream[1])
        except (GateAway, GateRefused):
            return False
        return True

    async def dial(self, worklet: str, name: str, wait: float = 0.0) -> Stream:
        """A connection to a worklet's socket, in frames; it is waited for `wait` seconds. Raises GateAway, Nobody."""
        reader, writer = await self.open()
        try:
            say(writer, do="dial", worklet=worklet, socket=name, wait=wait)
            async with asyncio.timeout(_CONNECT_SECONDS + wait):
                await writer.drain()
                answer = await line(reader)
            if "ok" in answer:
                return reader, writer
        except (OSError, TimeoutError, Broken) as error:
            close(writer)
            raise GateAway(f"The remote engine's gate does not answer: {error or 'in time'}.") from error
        except BaseException:
            close(writer)
            raise
        close(writer)
        raise Nobody(str(answer.get("error"))) if answer.get("nobody") else GateRefused(str(answer.get("error")))

    async def ask(self, stream: Stream, seconds: float = 30.0, content: bytes = b"", **request: Any) -> dict[str, Any]:
        """One request over a connection of `open`, answered without content. Raises GateAway, GateRefused."""
        try:
            async with asyncio.timeout(seconds):
                say(stream[1], **request, **({"size": len(content)} if content else {}))
                stream[1].write(content)
                await stream[1].drain()
                answer = await line(stream[0])
                if size := answer.get("size"):
                    await exactly(stream[0], size)
        except (OSError, TimeoutError, Broken) as error:
            raise GateAway(f"The remote engine's gate does not answer: {error or 'in time'}.") from error
        if "ok" not in answer:
            raise GateRefused(str(answer.get("error")), missing=answer.get("missing") is True)
        return answer

    def call(self, content: bytes = b"", **request: Any) -> tuple[dict[str, Any], bytes]:
        """One request, from a thread: it blocks. The answer and its content. Raises GateAway, GateRefused."""
        address, tls = self.find()
        try:
            with (
                socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS) as plain,
                tls.wrap_socket(plain) as made,
            ):
                made.settimeout(_ANSWER_SECONDS)
                sized = {"size": len(content)} if content else {}
                made.sendall(json.dumps({**request, **sized}).encode() + b"\n" + content)
                with made.makefile("rb") as answers:
                    answer = json.loads(answers.readline(_LONGEST_ANSWER))
                    wanted = int(answer.get("size", 0))
                    found = answers.read(wanted)
        except (OSError, ValueError, AttributeError) as error:
            raise _away(address, error) from error
        if "ok" not in answer:
            raise GateRefused(str(answer.get("error")), missing=answer.get("missing") is True)
        if len(found) != wanted:
            raise GateAway("The connection to the remote engine's gate was cut off.")
        return answer, found


class GateFiles:
    """A worklet's run directory on the gate's machine. All of it blocks, and raises GateAway, GateRefused."""

    def __init__(self, way: Way) -> None:
        self._call: Callable[..., tuple[dict[str, Any], bytes]] = way.call

    def prepare(self, worklet: str, spec: bytes) -> None:
        self._call(spec, do="prepare", worklet=worklet)

    def get(self, worklet: str, path: Sequence[str], limit: int) -> bytes:
        return self._call(do="get", worklet=worklet, path=list(path), limit=limit)[1]

    def put(self, worklet: str, path: Sequence[str], content: bytes) -> None:
        self._call(content, do="put", worklet=worklet, path=list(path))

    def clear(self, worklet: str, *paths: Sequence[str]) -> None:
        self._call(do="clear", worklet=worklet, paths=[list(path) for path in paths])

    def stands(self, worklet: str, path: Sequence[str]) -> bool:
        return bool(self._call(do="stands", worklet=worklet, path=list(path))[0]["stands"])

    def size(self, worklet: str, path: Sequence[str]) -> int:
        return int(self._call(do="measure", worklet=worklet, path=list(path))[0]["bytes"])

    def names(self, worklet: str, path: Sequence[str]) -> list[str]:
        return list(self._call(do="list", worklet=worklet, path=list(path))[0]["names"])

    def remove(self, worklet: str) -> None:
        self._call(do="remove", worklet=worklet)


def _away(address: GateAddress, error: Exception) -> GateAway:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "it does not answer in time"
    return GateAway(
        f"The gate of the remote engine cannot be reached at {address.host}:{address.port}: {reason}.",
        suggestion="Open that port to Flow's machine, or set FLOW_GATE_ADDRESS; `flow doctor` says more.",
    )
