"""What `Database` stands on: how connections to SQLite and PostgreSQL are made, and how drivers are waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessions import sqlite
from sessions.dsn import Dsn

T = TypeVar("T")

_POOL_SECONDS = 10.0  # the most that anybody waits for a free connection
_WAL_BYTES = 64 * 1024**2  # what the write-ahead log keeps of the disk after a rush


def create_engine(dsn: Dsn, *, busy: float = 5.0) -> AsyncEngine:
    """`busy`: seconds that SQLite itself waits for a lock of another process."""
    return _sqlite_engine(dsn, busy) if dsn.path is not None else _postgres_engine(dsn)


def _sqlite_engine(dsn: Dsn, busy: float) -> AsyncEngine:
    url = sa.URL.create("sqlite+aiosqlite", database=str(dsn.path))
    engine = create_async_engine(
        url,
        # The driver opens no transactions of its own; ours begin in `_begin`.
        connect_args={"isolation_level": None, "timeout": busy, "async_creator_fn": sqlite.connect},
        pool_size=4,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,  # each of our transactions ends itself; a reset is one more trip to the thread
    )
    sa.event.listen(engine.sync_engine, "connect", _pragmas)
    sa.event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    wal = ("journal_mode=WAL", f"journal_size_limit={_WAL_BYTES}")
    for pragma in (*wal, "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock at once: a reader that turns writer in mid-transaction fails instead of waiting.
    if connection.get_execution_options().get("flow_writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgres_engine(dsn: Dsn) -> AsyncEngine:
    url = sa.make_url(dsn.url).set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:  # libpq's word; asyncpg's argument is called ssl and takes the same values
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
    return create_async_engine(
        url,
        # In seconds. Our own transactions are cut off earlier (`_cut`); a migration may wait for another one's.
        connect_args={"timeout": 5, "command_timeout": 60},
        pool_size=8,
        max_overflow=8,
        pool_timeout=_POOL_SECONDS,
    )


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which runs to its end even if the caller is cancelled meanwhile.

    A cancellation in the middle of a driver's call makes SQLAlchemy throw the connection away, and with aiosqlite that
    can wait for ever on the connection's ended thread.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # also when cancelled again; drivers have their own timeouts
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the cancellation is what counts now
        raise
