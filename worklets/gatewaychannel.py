"""A bot's connection to the gateway's process: requests and their answers, and word when the other side is gone."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import structlog

from worklets import sockets
from worklets.errors import WorkletError
from worklets.gatewaycontrol import LONGEST, SOCKET

log = structlog.get_logger(__name__)


class GatewayLost(WorkletError):
    """The connection to the model gateway's process broke."""


class GatewayHung(GatewayLost):
    """The model gateway's process does not answer."""


class GatewayRefused(WorkletError):
    """The model gateway's process did not understand."""


class Channel:
    """Made by `open`; closed by `aclose`. An answer may take `patience` seconds.

    `on_event` is called with the kind and the fields of what the process says unasked.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        patience: float,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self._writer, self._patience, self._on_event = writer, patience, on_event
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def open(
        cls, directory: Path, patience: float, on_event: Callable[[str, dict[str, Any]], None] | None = None
    ) -> Self:
        """Raises OSError when nothing listens there."""
        with sockets.short_path(directory, SOCKET) as path:
            return cls(*await asyncio.open_unix_connection(path, limit=LONGEST), patience, on_event)

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer. Raises GatewayLost, GatewayHung, GatewayRefused; OSError for a system call that failed there."""
        if self._reading.done():
            raise GatewayLost
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(self._patience):
                told = await answer
        except TimeoutError:
            raise GatewayHung from None
        finally:
            del self._waiting[number]
        if "errno" in told:
            raise OSError(told["errno"], told["error"])
        if "error" in told:
            raise GatewayRefused(f"The model gateway's process did not do as told: {told['error']}.")
        return told

    async def last(self, beat: float) -> None:
        """Returns when the connection is lost, or the process does not answer when asked every `beat` seconds."""
        with suppress(GatewayLost):
            while not (await asyncio.wait({self._reading}, timeout=beat))[0]:
                await self.ask("doors")

    async def aclose(self) -> None:
        """What is not sent yet is dropped: a process that does not read would be waited for without end."""
        self._reading.cancel()
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                told = json.loads(line)
                if (event := told.pop("event", None)) is not None:
                    self._pass_on(str(event), told)
                elif (answer := self._waiting.get(told["id"])) and not answer.done():
                    answer.set_result(told)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # broken, or no gateway at the other end: the connection is of no use
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(GatewayLost())

    def _pass_on(self, event: str, fields: dict[str, Any]) -> None:
        """Whatever is wrong with whoever hears it, the connection goes on."""
        try:
            if self._on_event is not None:
                self._on_event(event, fields)
        except Exception:
            log.exception("an event of the model gateway's process was lost", gateway_event=event)
