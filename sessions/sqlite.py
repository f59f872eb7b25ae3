"""A SQLite connection that makes one trip to its thread a statement.

aiosqlite makes four of them (cursor, execute, fetch, close), and each costs the event loop more than SQLite's own work
does. SQLAlchemy fetches every row at once anyhow, so nothing is lost by doing it all in the same trip.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
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
