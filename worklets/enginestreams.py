"""Long answers of the engine, each read in one thread: its news of containers, and a container's log.

The engine keeps its last 256 events, so what happened between two connections is told by the next; after a longer
gap, or an engine that was started anew, "missed" asks whoever listens to look at everything. A connection is
made anew every few minutes, which finds an engine that has stopped talking without closing anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from worklets.engine import Engine
from worklets.errors import RuntimeUnavailable, WorkletError
from worklets.news import News, Tell

if TYPE_CHECKING:
    from docker import DockerClient

log = structlog.get_logger(__name__)

_WINDOW = 300.0  # seconds that one connection lasts
_LATE = 60.0  # seconds after its time at which a connection is given up
_LONGEST = 30.0  # seconds between two tries
_KINDS = {"oom": "oom", "die": "exit"}


class Stream:
    """One answer at a time. It is closed from outside when whoever reads is cancelled: a thread cannot be."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: Any = None
        self._reading = False
        self._wanted: object = None  # a thread may get its answer after it was given up

    async def read(
        self, ask: Callable[[DockerClient], Any], hand: Callable[[Any], None], timeout: float | None = None
    ) -> None:
        """Each item of the stream that `ask` answers goes to `hand`, in the thread, until it ends.

        Raises WorkletError.
        """
        if self._reading:  # in vain: it was given up, and its thread still waits for the engine
            raise RuntimeUnavailable("The Docker engine says nothing.")
        self._wanted = mine = object()

        def work(client: DockerClient) -> None:
            self._reading = True
            try:
                stream = self._open = ask(client)
                if self._wanted is not mine:
                    self._close()
                    return
                for item in stream:
                    hand(item)
            finally:
                self._reading = False

        try:
            await self._engine.call("stream", work, timeout)
        finally:
            self._close()

    def _close(self) -> None:
        self._wanted = None
        stream, self._open = self._open, None
        if stream is not None:
            with contextlib.suppress(OSError, AttributeError):  # it had ended by itself
                stream.close()


class EngineEvents:
    """Of the containers with `label` ("name=value"); `worklet_of` makes a worklet's name of a container's, or None."""

    def __init__(
        self, engine: Engine, label: str, worklet_of: Callable[[str], str | None], *, window: float = _WINDOW
    ) -> None:
        self._stream, self._label, self._worklet_of, self._window = Stream(engine), label, worklet_of, window
        self._last = 0  # when the last event happened that was told, in nanoseconds by the engine's clock

    async def run(self, tell: Tell) -> None:
        """Tells on the event loop, until cancelled. What cannot be heard is logged once, and tried again."""
        loop, pause, trouble = asyncio.get_running_loop(), 1.0, ""

        def hand(event: dict[str, Any]) -> None:
            if (news := self._read(event)) is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                    loop.call_soon_threadsafe(tell, news)

        while True:
            began = time.monotonic()
            try:
                await self._stream.read(self._ask, hand, self._window + _LATE)
                error = "the engine ended the connection"
            except WorkletError as e:
                error = str(e)
            if time.monotonic() - began >= self._window:
                pause, trouble = 1.0, ""
                continue
            if trouble != error:
                log.warning("nothing is heard of the engine's containers now", reason=error)
                trouble = error
            await asyncio.sleep(pause * random.uniform(0.6, 1.0))
            pause = min(_LONGEST, pause * 2)
            tell(News("missed"))

    def _ask(self, client: DockerClient) -> Any:
        now = datetime.fromisoformat(str(client.info()["SystemTime"])).timestamp()
        self._last = self._last or int(now * 1e9)
        return client.api.events(
            since=self._last // 10**9,
            until=int(now + self._window) + 1,
            filters={"type": "container", "event": list(_KINDS), "label": self._label},
            decode=True,
        )

    def _read(self, event: dict[str, Any]) -> News | None:
        at = int(event.get("timeNano") or 0)
        if at <= self._last:  # what a connection begins with may be what the last one ended with
            return None
        self._last = at
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        worklet = self._worklet_of(str(attributes.get("name", "")))
        if worklet is None:
            return None
        code = str(attributes.get("exitCode", ""))
        return News("oom" if event.get("Action") == "oom" else "exit", worklet, int(code) if code.isdigit() else None)
