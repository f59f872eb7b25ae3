"""What SQLite needs to serve many sessions: a quicker connection, and an order among those who write.

aiosqlite makes four trips to its thread for a statement (cursor, execute, fetch, close), and each costs the event loop
more than SQLite's own work does. SQLAlchemy fetches every row at once anyhow, so here it is one trip.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

import aiosqlite


class _Cursor(aiosqlite.Cursor):
    """What SQLAlchemy's adapter uses of a cursor. Holds all rows of its last statement."""

    def __init__(self, connection: _Connection) -> None:
        self._on = connection
        self._rows: list[Any] = []

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        self._cursor, self._rows = await self._on.run(sql, tuple(parameters or ()))
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        self._cursor, self._rows = await self._on.run(sql, list(parameters), many=True)
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []


class _Connection(aiosqlite.Connection):
    def cursor(self) -> _Cursor:  # type: ignore[override]
        return _Cursor(self)

    async def rollback(self) -> None:
        """SQLAlchemy ends each read with one, though reads open no transaction."""
        if self.in_transaction:
            await super().rollback()

    async def run(self, sql: str, parameters: Any, *, many: bool = False) -> tuple[sqlite3.Cursor, list[Any]]:
        def in_thread() -> tuple[sqlite3.Cursor, list[Any]]:
            cursor = self._conn.cursor()
            (cursor.executemany if many else cursor.execute)(sql, parameters)
            return cursor, cursor.fetchall() if cursor.description else []

        found: tuple[sqlite3.Cursor, list[Any]] = await self._execute(in_thread)  # type: ignore[no-untyped-call]
        return found


def connect(database: str, **options: Any) -> aiosqlite.Connection:
    """To be awaited; `options` are those of `sqlite3.connect`. For SQLAlchemy's `async_creator_fn`."""
    connection = _Connection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: an open connection must not hold up the exit
    return connection


class Writers:
    """SQLite has one writer at a time: a lock whose queue has a fast lane."""

    def __init__(self) -> None:
        self._busy = False
        self._fast: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @property
    def hurried(self) -> bool:
        """Somebody who is `fast` waits."""
        return any(not called.done() for called in self._fast)

    @asynccontextmanager
    async def turn(self, *, fast: bool = False) -> AsyncIterator[None]:
        """Held while the context lasts. Whoever is `fast` goes before whoever is not."""
        if self._busy:
            await self._wait(self._fast if fast else self._others)
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        called = asyncio.get_running_loop().create_future()
        queue.append(called)
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():  # called and cancelled in the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        for queue in (self._fast, self._others):
            while queue:
                called = queue.popleft()
                if not called.done():  # else it was cancelled
                    called.set_result(None)
                    return
        self._busy = False
