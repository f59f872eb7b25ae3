"""The database: one engine, transactions, and the one place where driver errors become ours.

SQLite by default, through aiosqlite, in WAL mode: readers never wait for the writer. `synchronous=FULL`, because
Slack is told that a message arrived right after its insert; with NORMAL a power cut could lose what was acknowledged.
One fsync a commit is cheap at this rate. Writes of this process queue on a lock: SQLite's own waiting sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import IO, Any, TypeVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from config.logging import get_logger
from sessions import sqlite
from sessions.dsn import Dsn, parse_dsn
from sessions.engines import create_engine, unbroken
from sessions.errors import StoreBusy, StoreUnavailable
from sessions.outage import Outage, hindrance, is_locked, translated

log = get_logger(__name__)

T = TypeVar("T")

_FAST = 2.0  # seconds that Slack's listeners wait for a write; Slack itself waits for 3
_SLOW = 10.0  # seconds for any other transaction as a whole
_BUSY = 0.4  # for one try at a lock that another process (`flow db upgrade`, a backup) holds


class Connection:
    """What queries use of SQLAlchemy's AsyncConnection; see `unbroken`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: sa.Executable, parameters: Any = None) -> sa.CursorResult[Any]:
        """The buffered result."""
        return await unbroken(self._connection.execute(statement, parameters))

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> sa.CursorResult[Any]:
        return await unbroken(self._connection.exec_driver_sql(statement, parameters))

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        return await unbroken(self._connection.run_sync(function, *args))


class Database:
    """An open database. `exclusive`: no other Flow can be on it (SQLite's lock file is ours)."""

    def __init__(self, dsn: Dsn, engine: AsyncEngine, lock: IO[bytes] | None) -> None:
        self.dsn = dsn
        self.exclusive = lock is not None
        self.sqlite = dsn.path is not None
        self.engine = engine
        self.outage = Outage()
        #: Names this process where it holds a session for housekeeping, not to run it.
        self.housekeeper = f"housekeeping {uuid4()}"
        #: The database's own clock, in seconds since 1970. In PostgreSQL the wall clock, not the transaction's start.
        self.now: sa.ColumnElement[float] = sa.literal_column(
            "((julianday('now') - 2440587.5) * 86400.0)" if self.sqlite else "extract(epoch from clock_timestamp())",
            sa.Double,
        )
        self._lock_file = lock
        self._writers = sqlite.Writers() if self.sqlite else None
        self._hindrance = ""  # what the writer whose turn it is waits for
        self._abandoned: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def transaction(self, *, fast: bool = False) -> AsyncIterator[Connection]:
        """A connection in a transaction that may write. Commits at the end. Raises StoreUnavailable.

        `fast`: somebody outside waits for it. On SQLite it goes before writes that are not; and where it cannot be done
        in the time that Slack gives an acknowledgement, it fails, so that whoever waits can be told.
        """
        deadline = _now() + (_FAST if fast else _SLOW)
        with self._noted(writes=True):
            async with self._writing(deadline, fast=fast) as connection:
                transaction = connection.get_transaction()
                assert transaction is not None
                try:
                    yield Connection(connection)
                except BaseException:
                    await unbroken(transaction.rollback())
                    raise
                await unbroken(transaction.commit())

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A connection for queries. On SQLite each statement sees the latest commit. Raises StoreUnavailable."""
        with self._noted(writes=False):
            async with self._connection(_now() + _SLOW) as connection:
                yield Connection(connection)

    @contextlib.contextmanager
    def _noted(self, *, writes: bool) -> Iterator[None]:
        """What a full disk or a lock forbids on SQLite is to write: that reads go on says nothing."""
        try:
            with translated(self.dsn):
                yield
        except StoreUnavailable as error:
            self.outage.failed(error.sentence())
            raise
        if writes or not self.sqlite:
            self.outage.served()

    @contextlib.asynccontextmanager
    async def _writing(self, deadline: float, *, fast: bool) -> AsyncIterator[AsyncConnection]:
        """Waits for another program's lock in short pieces: in each pause a fast write goes first."""
        if self._writers is None:
            async with self._connection(deadline, flow_writes=True) as connection:
                yield connection
            return
        while True:
            async with self._turn(deadline, fast=fast), contextlib.AsyncExitStack() as stack:
                if (unlocked := await self._unlocked(stack, deadline, fast=fast)) is not None:
                    yield unlocked
                    return

    async def _unlocked(
        self, stack: contextlib.AsyncExitStack, deadline: float, *, fast: bool
    ) -> AsyncConnection | None:
        """A connection that may write. None: another program has the file locked, and somebody waits who is faster."""
        assert self._writers is not None
        while True:
            try:
                connection = await stack.enter_async_context(self._connection(deadline, flow_writes=True))
            except sa.exc.OperationalError as error:
                self._hindrance = hindrance(error, self.dsn) or ""
                if not is_locked(error) or _now() >= deadline:
                    raise
                if not fast and self._writers.hurried:
                    return None
            else:
                self._hindrance = ""
                return connection

    @contextlib.asynccontextmanager
    async def _turn(self, deadline: float, *, fast: bool) -> AsyncIterator[None]:
        assert self._writers is not None
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self._writers.turn(fast=fast))
            except TimeoutError:
                why = self._hindrance or "The database is too slow: writes wait for each other."
                raise StoreUnavailable(f"{why} ({self.dsn})") from None
            yield

    @contextlib.asynccontextmanager
    async def _connection(self, deadline: float, **options: Any) -> AsyncIterator[AsyncConnection]:
        """In a transaction, given back clean whatever happened. A PostgreSQL that is silent is left at the deadline."""
        connection, watch = await self._open(deadline, options)
        try:
            yield connection
        finally:
            try:
                await self._give_back(connection)
            finally:
                if watch is not None:
                    watch.cancel()

    async def _open(
        self, deadline: float, options: Mapping[str, Any]
    ) -> tuple[AsyncConnection, asyncio.TimerHandle | None]:
        """A pooled connection may have died with its server: then all of them have, and the next one is new."""
        again = not self.sqlite
        while True:
            connection = self.engine.connect()
            await self._start(connection, deadline)
            watch = None if self.sqlite else asyncio.get_running_loop().call_at(deadline, _cut, connection)
            try:
                await connection.execution_options(**options)
                await unbroken(connection.begin().start())
                if not self.sqlite:
                    await unbroken(connection.exec_driver_sql("select 1"))
            except BaseException as error:
                if watch is not None:
                    watch.cancel()
                await self._give_back(connection)
                if again and getattr(error, "connection_invalidated", False) and _now() < deadline:
                    again = False
                    continue
                raise
            return connection, watch

    async def _start(self, connection: AsyncConnection, deadline: float) -> None:
        """Takes a connection out of the pool, or makes one."""
        starting = asyncio.ensure_future(connection.start())
        try:
            await asyncio.wait([starting], timeout=max(0.0, deadline - _now()))
        except asyncio.CancelledError:  # also in the moment in which it arrives
            self._abandon(starting, connection)
            raise
        if not starting.done():
            self._abandon(starting, connection)
            who = "The database" if self.sqlite else "PostgreSQL"
            raise StoreUnavailable(f"{who} does not answer in time. ({self.dsn})")
        starting.result()

    def _abandon(self, starting: asyncio.Future[Any], connection: AsyncConnection) -> None:
        """Cutting it off could lose the connection's slot: it goes back to the pool when it has arrived."""

        async def give_back() -> None:
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                await self._give_back(connection)

        task = asyncio.create_task(give_back(), name="a connection that came too late")
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    async def _give_back(self, connection: AsyncConnection) -> None:
        if connection.sync_connection is None:
            return
        try:
            # After a commit that failed (a full disk) SQLite may still be in the transaction, with its lock.
            if self.sqlite and not connection.invalidated and (driver := _driver(connection)).in_transaction:
                await unbroken(driver.rollback())
        except Exception as error:  # noqa: BLE001 - such a connection is of no more use, whatever it says
            log.debug("a connection is thrown away", error=str(error))
            await unbroken(connection.invalidate())
        finally:
            await unbroken(connection.close())

    def insert(self, table: sa.Table) -> Any:
        """An INSERT with this database's `on_conflict_do_nothing`."""
        return sqlite_insert(table) if self.sqlite else postgres_insert(table)

    async def check(self) -> None:
        """Raises StoreUnavailable when the database does not answer, or cannot be written."""
        async with self.transaction(fast=True) as connection:
            await connection.execute(sa.text("update alembic_version set version_num = version_num"))

    async def close(self) -> None:
        if self._abandoned:
            await asyncio.wait(self._abandoned)
        await self.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _driver(connection: AsyncConnection) -> Any:
    """The driver's own connection, of aiosqlite or asyncpg."""
    assert connection.sync_connection is not None
    return connection.sync_connection.connection.driver_connection


def _cut(connection: AsyncConnection) -> None:
    """The server is silent: whoever waits for it fails at once, and the pool is renewed."""
    if connection.sync_connection is not None and not connection.closed and not connection.invalidated:
        _driver(connection).terminate()


def open_database(dsn: str, *, exclusive: bool = True) -> Database:
    """Opens the database; connects at the first use. `exclusive` False: for a look beside a running Flow.

    Raises StoreBusy when another Flow has this SQLite file, StoreUnavailable for a DSN or directory that cannot be.
    """
    parsed = parse_dsn(dsn)
    lock = _lock(parsed) if exclusive and parsed.path is not None else None
    return Database(parsed, create_engine(parsed, busy=_BUSY), lock)


def _lock(dsn: Dsn) -> IO[bytes]:
    assert dsn.path is not None
    path = dsn.path.with_name(dsn.path.name + ".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise StoreUnavailable(
            f"The database's directory {path.parent} cannot be written: {os.strerror(error.errno or 0)}."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreBusy(f"Another Flow is running on {dsn.path}.") from error
    return file
