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
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import IO, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sessions import sqlite
from sessions.dsn import Dsn, parse_dsn
from sessions.errors import StoreBusy, StoreUnavailable

T = TypeVar("T")

_BUSY_MS = 5000  # another process (`flow sessions list`) may hold the file for a moment


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
        self._lock_file = lock
        self._writers = sqlite.Writers() if self.sqlite else None

    @contextlib.asynccontextmanager
    async def transaction(self, *, fast: bool = False) -> AsyncIterator[Connection]:
        """A connection in a transaction that may write. Commits at the end. Raises StoreUnavailable.

        `fast`: somebody outside waits for it; on SQLite it goes before writes that are not.
        """
        turn = self._writers.turn(fast=fast) if self._writers else contextlib.nullcontext()
        async with turn, self._connection(flow_writes=True) as connection:
            transaction = connection.begin()
            await unbroken(transaction.start())
            try:
                yield Connection(connection)
            except BaseException:
                await unbroken(transaction.rollback())
                raise
            await unbroken(transaction.commit())

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A connection for queries. On SQLite each statement sees the latest commit. Raises StoreUnavailable."""
        async with self._connection() as connection:
            yield Connection(connection)

    @contextlib.asynccontextmanager
    async def _connection(self, **options: Any) -> AsyncIterator[AsyncConnection]:
        with translated(self.dsn):
            connection = self.engine.connect()
            try:
                await unbroken(connection.start())
                await connection.execution_options(**options)
                yield connection
            finally:
                if connection.sync_connection is not None:
                    await unbroken(connection.close())

    def insert(self, table: sa.Table) -> Any:
        """An INSERT with this database's `on_conflict_do_nothing`."""
        return sqlite_insert(table) if self.sqlite else postgres_insert(table)

    async def check(self) -> None:
        """Raises StoreUnavailable when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(sa.text("select 1"))

    async def close(self) -> None:
        await self.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


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


def open_database(dsn: str, *, exclusive: bool = True) -> Database:
    """Opens the database; connects at the first use. `exclusive` False: for a look beside a running Flow.

    Raises StoreBusy when another Flow has this SQLite file, StoreUnavailable for a DSN or directory that cannot be.
    """
    parsed = parse_dsn(dsn)
    lock = _lock(parsed) if exclusive and parsed.path is not None else None
    return Database(parsed, create_engine(parsed), lock)


def create_engine(dsn: Dsn) -> AsyncEngine:
    return _sqlite_engine(dsn) if dsn.path is not None else _postgres_engine(dsn)


def _lock(dsn: Dsn) -> IO[bytes]:
    assert dsn.path is not None
    path = dsn.path.with_name(dsn.path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def _sqlite_engine(dsn: Dsn) -> AsyncEngine:
    url = sa.URL.create("sqlite+aiosqlite", database=str(dsn.path))
    engine = create_async_engine(
        url,
        # The driver opens no transactions of its own; ours begin in `_begin`.
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000, "async_creator_fn": sqlite.connect},
        pool_size=4,
        max_overflow=0,
        pool_timeout=30,
        pool_reset_on_return=None,  # each of our transactions ends itself; a reset is one more trip to the thread
    )
    sa.event.listen(engine.sync_engine, "connect", _pragmas)
    sa.event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
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
        connect_args={"timeout": 10, "command_timeout": 30},  # seconds
        pool_size=8,
        max_overflow=8,
        pool_timeout=30,
        pool_pre_ping=True,
    )


@contextlib.contextmanager
def translated(dsn: Dsn) -> Iterator[None]:
    """Driver errors that mean "the database cannot serve now" become StoreUnavailable; the rest are our own bugs."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error, OSError) as error:
        if (sentence := _sentence(error, dsn)) is None:
            raise
        raise StoreUnavailable(f"{sentence} ({dsn})") from error
    except Exception as error:
        # asyncpg refuses a connection with errors of its own that SQLAlchemy does not wrap.
        if not type(error).__module__.startswith("asyncpg"):
            raise
        raise StoreUnavailable(f"PostgreSQL refused: {error}. ({dsn})") from error


_SQLITE = {
    "disk is full": "The disk is full: the database cannot write.",
    "database is locked": "Another program holds the database file locked.",
    "readonly": "The database file is read-only.",
    "unable to open": "The database file cannot be opened.",
    "disk I/O error": "The disk gave an error under the database file.",
    "not a database": "The file is not a SQLite database.",
    "malformed": "The database file is damaged: restore it from a backup.",
    "no such table": "The database has no tables yet: run `flow db upgrade`.",
    "no such column": "The database is of an older Flow: run `flow db upgrade`.",
}
_SQLSTATES = {
    "42P01": "The database has no tables yet: run `flow db upgrade`.",
    "42703": "The database is of an older Flow: run `flow db upgrade`.",
    "53100": "The disk of the database server is full.",
    "53300": "PostgreSQL accepts no more connections.",
    "40001": "PostgreSQL gave up a transaction; it may be tried again.",
    "40P01": "PostgreSQL gave up a transaction; it may be tried again.",
}


def _sentence(error: Exception, dsn: Dsn) -> str | None:
    """None: an error in our own SQL."""
    if isinstance(error, sa.exc.TimeoutError):
        return "All database connections are busy."
    if dsn.path is not None:
        return next((said for sign, said in _SQLITE.items() if sign in str(error)), None)
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state in _SQLSTATES:
        return _SQLSTATES[state]
    if state[:2] in ("28", "3D"):  # password, role, database
        return f"PostgreSQL refused: {getattr(error, 'orig', error)}."
    # 08: connection, 57: shutdown or cancelled by the administrator; no state: the connection was cut or refused.
    gone = isinstance(error, (OSError, sa.exc.InterfaceError)) or getattr(error, "connection_invalidated", False)
    return "PostgreSQL does not answer." if gone or state[:2] in ("08", "57") else None
