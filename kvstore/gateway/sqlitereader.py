"""Connections that only read: one for the event loop, where an answer takes microseconds, and some for threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from kvstore.gateway import sqliteschema
from kvstore.gateway.errors import unavailable

_THREADS: Final = 2  # they share the processor with the event loop anyway
_LOOK_SECONDS: Final = 0.25

T = TypeVar("T")
Reading = Callable[[sqlite3.Connection], T]


class Reader:
    """Opens connections as they are needed. After a fault, and when another file stands at the path, it opens anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here: _Connection | None = _Connection(path, busy=0.0)
        self._local = threading.local()
        self._all: list[_Connection] = []
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-reader")

    async def quickly(self, reading: Reading[T]) -> T:
        """In the event loop. Raises Refusal."""
        if self._here is None:
            raise _closed()
        try:
            return self._here.read(reading)
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise sqliteschema.explained(e, self._path) from e
        except sqlite3.Error as e:
            raise sqliteschema.explained(e, self._path) from e
        return await self.apart(reading)  # somebody recovers the file; that may take a while

    async def apart(self, reading: Reading[T]) -> T:
        """In a thread, and within one transaction. Raises Refusal."""
        if self._here is None:
            raise _closed()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, reading)

    async def close(self) -> None:
        """Finishes what is being read. Idempotent."""
        if self._here is not None:
            here, self._here = self._here, None
            await asyncio.to_thread(self._threads.shutdown)
            for connection in [here, *self._all]:
                connection.close()

    def _read(self, reading: Reading[T]) -> T:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _Connection(self._path)
            self._all.append(connection)
        try:
            return connection.read(lambda c: _in_transaction(c, reading))
        except sqlite3.Error as e:
            raise sqliteschema.explained(e, self._path) from e


class _Connection:
    def __init__(self, path: Path, busy: float = sqliteschema.BUSY_SECONDS) -> None:
        self._path, self._busy = path, busy
        self._connection: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self._found: tuple[int, int] | None = None
        self._looked = -_LOOK_SECONDS

    def read(self, reading: Reading[T]) -> T:
        place = self._looked_up()
        if place is None:
            self.close()
            raise sqliteschema.gone(self._path)
        if self._connection is None or place != self._place:
            self.close()
            self._connection = sqliteschema.connect(self._path, read_only=True, busy=self._busy)
            self._place = place
        try:
            return reading(self._connection)
        except sqlite3.Error:
            self.close()
            raise

    def _looked_up(self) -> tuple[int, int] | None:
        """Which file stands at the path, as of a moment ago: asking costs a third of a read."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS or self._connection is None:
            self._looked, self._found = now, sqliteschema.place(self._path)
        return self._found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _in_transaction(connection: sqlite3.Connection, reading: Reading[T]) -> T:
    connection.execute("begin")
    try:
        return reading(connection)
    finally:
        connection.execute("rollback")


def _closed() -> Exception:
    return unavailable("The key-value store is closed.")
