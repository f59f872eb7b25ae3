"""The embedded store: one SQLite file, which several processes may use at once."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from kvstore.gateway import sqliteadmin, sqlitereads, sqliteschema, sqlitewrites
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import forbidden
from kvstore.gateway.sqlitereader import Reader
from kvstore.gateway.sqlitetransaction import Transaction
from kvstore.gateway.sqlitewriter import Work, Writer

#: What may take the writer milliseconds. So many of one worklet's wait at it, so that others get their turns.
_HEAVY: Final = frozenset({"kv_append", "kv_mset", "kv_transaction"})
_MOST_HEAVY: Final = 4


class SqliteStore:
    """Backend and Admin. `max_keys` and `max_bytes` are what a worklet gets that is registered without its own.

    `now` gives the time in seconds since 1970; `busy` is for how many seconds another program may hold the file.
    Writes are on the disk when they are answered (`synchronous = FULL`).
    """

    kind: Final = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        max_keys: int,
        max_bytes: int,
        now: Callable[[], float] = time.time,
        busy: float = sqliteschema.BUSY_SECONDS,
    ) -> None:
        self._path, self._now, self._busy = path, now, busy
        self._max_keys, self._max_bytes = max_keys, max_bytes
        self._opening = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._writer: Writer | None = None
        self._reader: Reader | None = None

    async def open(self) -> None:
        """Makes the file, and the last folder of its path, where they are missing. Idempotent. Raises Refusal."""
        async with self._opening:
            if self._writer is None:
                await asyncio.to_thread(sqliteschema.prepare, self._path)
                self._reader, self._writer = Reader(self._path), Writer(self._path, self._now, self._busy)
                self._writer.start()

    async def close(self) -> None:
        async with self._opening:
            writer, self._writer, reader, self._reader = self._writer, None, self._reader, None
            if writer is not None and reader is not None:
                await writer.close()
                await reader.close()

    async def check(self) -> None:
        _, reader = await self._opened()
        await reader.apart(lambda connection: connection.execute("select 1 from worklets limit 1").fetchone())

    # Backend

    async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            writer, reader = await self._opened()
        worklet_id = arguments["p_worklet_id"] or caller.worklet_id
        if worklet_id is None:
            raise forbidden()
        if function == "kv_get":
            now = int(self._now() * 1e6)
            return await reader.quickly(lambda c: sqlitereads.get(c, worklet_id, caller, arguments, now))
        if (read := sqlitereads.READS.get(function)) is not None:
            now = int(self._now() * 1e6)

            def reading(connection: sqlite3.Connection) -> str:
                return read(connection, sqlitereads.find(connection, worklet_id, caller), arguments, now)

            if sqlitereads.is_quick(function, arguments):
                return await reader.quickly(reading)
            return await reader.apart(reading)
        if function == "kv_clear":
            return str(await self._clear(writer, worklet_id, caller, arguments["p_namespace"]))
        write = sqlitewrites.WRITES[function]
        work: Work = lambda t: write(t, t.worklet(worklet_id, caller), arguments)  # noqa: E731
        if function not in _HEAVY:
            return str(await writer.do(work))
        if (turns := self._turns.get(worklet_id)) is None:
            turns = self._turns[worklet_id] = asyncio.Semaphore(_MOST_HEAVY)
        async with turns:
            return str(await writer.do(work))

    async def _clear(self, writer: Writer, worklet_id: str, caller: Caller, namespace: str | None) -> int:
        """In portions: many entries take a while, in which others write too. What they write meanwhile stays."""
        deleted = 0
        place: sqlitewrites.Place | None = sqlitewrites.BEGINNING
        while place is not None:

            def portion(t: Transaction, place: sqlitewrites.Place = place) -> tuple[int, sqlitewrites.Place | None]:
                return sqlitewrites.clear(t, t.worklet(worklet_id, caller), namespace, place)

            live, place = await writer.do(portion)
            deleted += live
        return deleted

    # Admin

    async def register(
        self, worklet_id: str, owner_id: str, name: str, *, max_keys: int | None = None, max_bytes: int | None = None
    ) -> None:
        writer, _ = await self._opened()
        keys, size = max_keys or self._max_keys, max_bytes or self._max_bytes
        await writer.do(lambda t: sqliteadmin.register(t, worklet_id.lower(), owner_id.lower(), name, keys, size))

    async def revoke(self, worklet_id: str, now: float) -> None:
        writer, _ = await self._opened()
        await writer.do(lambda t: sqliteadmin.revoke(t, worklet_id.lower(), now))

    async def remove(self, worklet_id: str) -> None:
        writer, _ = await self._opened()
        await writer.do(lambda t: sqliteadmin.remove(t, worklet_id.lower()))
        while await writer.do(sqliteadmin.delete_removed):
            pass

    async def sweep(self) -> int:
        writer, reader = await self._opened()
        while await writer.do(sqliteadmin.delete_removed):
            pass
        now, swept = int(self._now() * 1e6), 0
        for worklet_id in await reader.apart(lambda connection: sqliteadmin.to_sweep(connection, now)):
            while portion := await writer.do(functools.partial(sqliteadmin.sweep, worklet_id=worklet_id)):
                swept += portion
        return swept

    async def worklets(self) -> list[dict[str, str]]:
        _, reader = await self._opened()
        return await reader.apart(sqliteadmin.worklets)

    async def _opened(self) -> tuple[Writer, Reader]:
        if self._writer is None or self._reader is None:
            await self.open()
        assert self._writer is not None
        assert self._reader is not None
        return self._writer, self._reader
