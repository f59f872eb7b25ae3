"""One process of an MCP server in a sidecar, as the gateway sees it: lines of JSON-RPC over a connection.

The gateway carries all worklets in one event loop, and a server may write what it likes. So its lines have a pace; one
that nobody waits for is not looked at, and one is parsed only where that is known to be quick.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from config.masking import Masker
from config.secretpatterns import passwords_in

INITIALIZED: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_OURS = b'{"flow"'  # so the sidecar's own last line begins

_TOLD = 2000  # bytes of its last words; the sidecar has cut off what came before
_LINE = 8 << 20  # bytes of a line
_PIECE = 1 << 16  # bytes that are read at once; so long a line is parsed as it comes
_VALUES = 100_000  # in a longer one
_PACE = 8 << 20  # bytes a second
_BURST = 16 << 20
_EACH = 4 << 10  # bytes as which each line counts besides: it costs more than its length
_REST = 0.05  # seconds for which is paused longer than need be, instead of after each line
_UNHEARD = 1 << 19  # bytes of messages beside an answer that the worklet has not taken
_KEPT = 256  # bytes as which each of these counts besides


class Away(Exception):
    """A sentence for Claude: why the server does not answer."""


class Pace:
    """What is read of one server: `rate` bytes a second, after a first `burst`."""

    def __init__(self, rate: float = _PACE, burst: float = _BURST) -> None:
        self._rate, self._burst, self._left = rate, burst, burst
        self._since = asyncio.get_running_loop().time()

    async def take(self, size: int) -> None:
        """Lets others run at any rate."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._since) * self._rate) - size
        self._since = now
        await asyncio.sleep(_REST - self._left / self._rate if self._left < 0 else 0)


class Heard:
    """What a server says beside an answer, as it came; what is more than `most` bytes is dropped."""

    def __init__(self, most: int = _UNHEARD) -> None:
        self._left = most
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    def put(self, line: bytes) -> None:
        if (size := len(line) + _KEPT) <= self._left:  # else nobody takes them: what counts is the answer
            self._left -= size
            self._lines.put_nowait(line)

    async def get(self) -> bytes:
        """One message of JSON, without an end of line."""
        line = await self._lines.get()
        self._left += len(line) + _KEPT
        return line


class Process:
    """Begins with what to run, `order`, and ends with the connection. `ended` is called when that is not by `close`.

    `why`: a sentence, once it is `over`; `said`: the end of its stderr, without `secrets`, those that it was given.
    """

    def __init__(
        self,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        order: dict[str, Any],
        ended: Callable[[Process], None],
        pace: Pace,
        secrets: Iterable[str],
    ) -> None:
        self._name, self._writer, self._ended, self._pace = name, writer, ended, pace
        self._secrets = list(secrets)
        self._pending: dict[str, tuple[asyncio.Future[dict[str, Any]], Heard | None]] = {}
        self.began = asyncio.get_running_loop().time()
        self.over, self.why, self.said = False, "", ""
        self._closing = False
        told = json.dumps(order).encode()
        writer.write(b"%08d" % len(told) + told)
        self._reading = asyncio.create_task(self._read(reader))

    async def ask(self, message: dict[str, Any], hear: Heard | None) -> dict[str, Any]:
        """The answer: an object with `result` or `error`. Raises Away."""
        key = json.dumps(message["id"])
        if key in self._pending:
            raise Away(f"A request with the id {key[:40]} is on its way already.")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[key] = (answer, hear)
        try:
            await self.tell(message)
            return await answer
        finally:
            del self._pending[key]

    async def tell(self, message: dict[str, Any]) -> None:
        """Raises Away."""
        if self.over:
            raise Away(self.why)
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except OSError:
            await asyncio.wait([self._reading], timeout=1)  # it knows why
            raise Away(self.why or f"The MCP server {self._name} has ended.") from None

    async def close(self) -> None:
        """Ends it. Idempotent."""
        self._closing = True
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        self.why = f"The MCP server {self._name} was lost with its sidecar, and is started again."
        try:
            async with aclosing(self._lines(reader)) as lines:
                async for line in lines:
                    if not self._pending and not line.startswith(_OURS):
                        continue  # nobody waits for it
                    if (message := _parsed(line)) is None:
                        continue
                    if "flow" in message and "jsonrpc" not in message:
                        self._last(message)
                        break
                    self._take(message, line)
        except ValueError:
            self.why = f"The MCP server {self._name} said more in one line than Flow takes, and is started again."
        except OSError:
            pass  # as if it had ended
        finally:
            self._finish()

    async def _lines(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
        """Raises ValueError for one that is too long, OSError."""
        held = bytearray()
        while piece := await reader.read(_PIECE):
            *ends, rest = piece.split(b"\n")
            for end in ends:
                await self._pace.take(len(end) + _EACH)
                yield bytes(held + end)
                held.clear()
            await self._pace.take(len(rest))
            held += rest
            if len(held) > _LINE:
                raise ValueError
        yield bytes(held)

    def _finish(self) -> None:
        self.over = True
        self._writer.close()
        for answer, _ in self._pending.values():
            if not answer.done():
                answer.set_exception(Away(self.why))
        if not self._closing:
            self._ended(self)

    def _last(self, told: dict[str, Any]) -> None:
        if told["flow"] == "failed":
            self.why = f"The MCP server {self._name} does not start: {self._masked(told.get('why'))[:200]}."
        else:
            code = told.get("code")
            how = f"exit status {code}" if isinstance(code, int) and code >= 0 else "it was killed"
            self.why = f"The MCP server {self._name} ended ({how}) and is started again when it is asked next."
            self.said = self._masked(told.get("said"))[-_TOLD:]

    def _masked(self, told: Any) -> str:
        text = str(told).lstrip("\ufffd")  # a character that was cut through
        cut = len(text.encode(errors="replace")) > _TOLD - 4
        return Masker([*self._secrets, *passwords_in(self._secrets)]).text(text, cut=cut)

    def _take(self, message: dict[str, Any], line: bytes) -> None:
        if "method" not in message:
            found = self._pending.get(json.dumps(message.get("id")))
            if found is not None and not found[0].done():
                found[0].set_result(message)
            return
        hearing = next((hear for _, hear in reversed(self._pending.values()) if hear is not None), None)
        if hearing is not None:
            hearing.put(line.strip().replace(b"\r", b" "))  # which JSON has between its values only


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None: it is no message, or none that JSON can carry on. Raises ValueError for one that would take long."""
    if len(line) > _PIECE and _values(line) > _VALUES:
        raise ValueError
    try:
        message = json.loads(line.decode(), parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _values(line: bytes) -> int:
    """How many a text of JSON has at most. Its strings may be long and say anything: they are quickly read."""
    bare = line.replace(b"\\\\", b"").replace(b'\\"', b"")  # what is left of quotes begins strings and ends them
    if (count := bare.count(b'"') // 2) > _VALUES:
        return count
    outside = b"".join(bare.split(b'"')[::2])
    return sum(map(outside.count, (b",", b":", b"[", b"{")))


def _refused(_: str) -> None:
    """Raises ValueError: NaN and Infinity are no JSON."""
    raise ValueError
