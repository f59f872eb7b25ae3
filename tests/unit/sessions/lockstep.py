"""The program's time in a test's hand: a loop that runs step by step, a database without threads, both able to fail.

Nothing happens by itself: `Loop.step` runs one round of what is ready, `Loop.advance` lets time pass. SQLite works in
the loop's own thread, so the same steps always lead to the same place.
"""

from __future__ import annotations

import asyncio
import functools
import io
import selectors
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import schema
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from sessions import engines, sqlite
from sessions.db import Connection, Database
from sessions.dsn import parse_dsn
from sessions.errors import StoreUnavailable

T = TypeVar("T")
_ROUNDS = 20_000  # more without a rest is a loop that spins


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_NoWaiting())
        self.now = 0.0
        self.rounds = 0
        self.after: dict[int, Callable[[], None]] = {}  # what is to happen after that many rounds

    def time(self) -> float:
        return self.now

    def step(self) -> None:
        """One round: everything that is ready now."""
        self.call_soon(self.stop)
        self.run_forever()
        self.rounds += 1
        if happens := self.after.pop(self.rounds, None):
            happens()

    def settle(self) -> None:
        """Until nothing is ready; no time passes."""
        for _ in range(_ROUNDS):
            if not self._ready and not self._due(self.now):
                return
            self.step()
        raise AssertionError("the program spins")

    def advance(self, seconds: float) -> None:
        """Lets time pass; timers run when they are due."""
        end = self.now + seconds
        self.settle()
        while timers := self._due(end):
            self.now = max(self.now, min(timers))
            self.settle()
        self.now = end

    def finish(self, work: Coroutine[Any, Any, T], seconds: float = 120.0) -> T:
        """The result of `work`, which has so many seconds."""
        task = self.create_task(work)
        end = self.now + seconds
        self.settle()
        while not task.done() and (timers := self._due(end)):
            self.now = max(self.now, min(timers))
            self.settle()
        assert task.done(), f"{task.get_coro()} hangs"
        return task.result()

    def _due(self, until: float) -> list[float]:
        return [timer.when() for timer in self._scheduled if not timer.cancelled() and timer.when() <= until]


class _NoWaiting(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> Any:
        return super().select(0)


class _Connection(sqlite._Connection):
    """Executes where it is called. Of a program that was killed it does nothing any more, and never returns."""

    power: Power

    def __await__(self) -> Generator[Any, None, Any]:
        return self._connect().__await__()

    async def _connect(self) -> Any:
        await self.power.on()
        if self._connection is None:
            self._connection = self._connector()
        return self

    async def _execute(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await self.power.on()
        return function(*args, **kwargs)

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._running = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Power:
    """Of one run of the program. Once it is off, nothing that it awaits of the world outside returns."""

    def __init__(self) -> None:
        self.off = False
        self.over = False  # the test is over: what hangs may end
        self.connections: list[_Connection] = []

    def connect(self, database: str, **options: Any) -> _Connection:
        connection = _Connection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
        connection.power = self
        self.connections.append(connection)
        return connection

    async def on(self) -> None:
        if self.off:
            if self.over:
                raise asyncio.CancelledError
            await asyncio.get_running_loop().create_future()

    def cut(self) -> None:
        """SIGKILL: an open transaction is rolled back."""
        self.off = True
        for connection in self.connections:
            if connection._connection is not None:
                connection._connection.rollback()

    def close(self) -> None:
        for connection in self.connections:
            connection.stop()


class FaultyDatabase(Database):
    """Fails when told to: for as long as `down`, or after a commit whose success is not heard of."""

    def __init__(self, path: Path, power: Power) -> None:
        super().__init__(parse_dsn(f"sqlite://{path}"), _engine(path, power), io.BytesIO())  # type: ignore[arg-type]
        self.down = False
        self.unheard = 0  # commits to come whose success is not heard of

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("The disk is full.")

    @asynccontextmanager
    async def transaction(self, *, fast: bool = False) -> AsyncIterator[Connection]:
        self._check()
        async with super().transaction(fast=fast) as connection:
            yield connection
            self._check()
        if self.unheard:
            self.unheard -= 1
            raise StoreUnavailable("The connection broke.")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        self._check()
        async with super().read() as connection:
            yield connection


def _engine(path: Path, power: Power) -> AsyncEngine:
    model = _model()
    pool = AsyncAdaptedQueuePool(
        lambda: model.dialect.connect(str(path), isolation_level=None, timeout=0, async_creator_fn=power.connect),
        pool_size=4,
        max_overflow=0,
        reset_on_return=None,
        dialect=model.dialect,
    )
    engine = sa.Engine(pool, model.dialect, model.url)
    engine._compiled_cache = model._compiled_cache  # statements are compiled once, not in each run of the program
    sa.event.listen(engine, "connect", _pragmas)
    sa.event.listen(engine, "begin", engines._begin)
    return AsyncEngine(engine)


@functools.cache
def _model() -> sa.Engine:
    """An engine that has met its database."""
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")

    async def connect() -> None:
        async with engine.connect():
            pass
        await engine.dispose()

    with asyncio.Runner() as runner:
        runner.run(connect())
    return engine.sync_engine


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Disk:
    """Where the database lies; outlives the program."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="flow-stateful-"))
        self.path = self.home / "db.sqlite"
        self.path.write_bytes(schema.template())

    def look(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """What is committed."""
        connection = sqlite3.connect(self.path)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
