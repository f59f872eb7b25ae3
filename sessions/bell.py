"""The bell between processes: "look at this session", by PostgreSQL's LISTEN and NOTIFY.

A hint only, which may be lost: whoever missed it looks at the reaper's next pass. So it neither fails nor waits. With
SQLite there is no other process, and it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from config.logging import get_logger
from sessions.db import Database
from sessions.types import SessionId

log = get_logger(__name__)

CHANNEL = "flow_bell"

_CALL_SECONDS = 5.0
_ALIVE_SECONDS = 15.0  # how often an idle connection is asked whether it lives
_PAUSES = (0.2, 15.0)  # seconds between two tries to connect, at first and at last
_WAITING = 1_000  # rings that are kept while there is no connection


class Bell:
    """An async context manager that owns one connection of its own. `owner` names this process in the log."""

    def __init__(self, db: Database, owner: str) -> None:
        self._url = "" if db.sqlite else db.dsn.url
        self._owner = owner
        self._on_ring: Callable[[SessionId], None] = lambda _session_id: None
        self._rings: dict[SessionId, None] = {}  # an ordered set
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    async def __aenter__(self) -> Self:
        if self._url:
            self._task = asyncio.create_task(self._run(), name="bell")
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def listen(self, on_ring: Callable[[SessionId], None]) -> None:
        """`on_ring` is called on the event loop for each ring of another process; it must not block."""
        self._on_ring = on_ring

    async def ring(self, session_id: SessionId) -> None:
        """Tells the other processes; returns at once."""
        if self._url and len(self._rings) < _WAITING:
            self._rings[session_id] = None
            self._news.set()

    async def _run(self) -> None:
        import asyncpg

        pause, lost = _PAUSES[0], False
        while True:
            try:
                await self._serve(asyncpg)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if self.connected:
                    pause, lost = _PAUSES[0], False
                if not lost:
                    log.warning("the bell is silent; sessions of others are looked at less often", error=str(error))
                lost, self.connected = True, False
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_PAUSES[1], pause * 2)

    async def _serve(self, asyncpg: Any) -> None:
        """One connection, until it fails."""
        connection = await asyncpg.connect(self._url, timeout=_CALL_SECONDS, command_timeout=_CALL_SECONDS)
        try:
            connection.add_termination_listener(lambda _connection: self._news.set())
            await connection.add_listener(CHANNEL, self._heard)
            self.connected = True
            log.debug("the bell is heard", owner=self._owner)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ALIVE_SECONDS):
                        await self._news.wait()
                self._news.clear()
                await self._send(connection)
        finally:
            connection.terminate()

    async def _send(self, connection: Any) -> None:
        """With nothing to ring it asks whether the connection lives."""
        rings, self._rings = self._rings, {}
        try:
            await connection.execute("select pg_notify($1, id) from unnest($2::text[]) as id", CHANNEL, list(rings))
        except BaseException:
            self._rings = rings | self._rings
            raise

    def _heard(self, connection: Any, pid: int, _channel: str, payload: str) -> None:
        if pid == connection.get_server_pid():
            return
        try:
            self._on_ring(SessionId(payload))
        except Exception:
            log.exception("a ring was not understood", payload=payload[:100])
