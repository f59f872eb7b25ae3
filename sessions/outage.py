"""When the database does not serve: driver errors in one sentence, and what is said of it, once an outage."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from config.logging import get_logger
from sessions.dsn import Dsn
from sessions.errors import StoreUnavailable

log = get_logger(__name__)

_AGAIN = 60.0  # seconds: the same trouble so soon after it passed is no news


class Outage:
    """Told of every failure and every success; logs the first of each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.sentence = ""  # what is wrong; empty while the database serves
        self._clock = clock
        self._since = 0.0
        self._news = True
        self._said: dict[str, float] = {}  # when each sentence was last logged
        self._when_over: list[Callable[[], None]] = []

    def when_over(self, callback: Callable[[], None]) -> None:
        """Called on the event loop when the database serves again."""
        self._when_over.append(callback)

    def failed(self, sentence: str) -> None:
        now = self._clock()
        if not self.sentence:
            self._since = now
            self._news = now - self._said.get(sentence, -_AGAIN) >= _AGAIN
            (log.warning if self._news else log.debug)("the database does not serve", error=sentence)
            self._said = {sentence: now}
        self.sentence = sentence

    def served(self) -> None:
        if not self.sentence:
            return
        self.sentence = ""
        seconds = round(self._clock() - self._since, 1)
        (log.info if self._news else log.debug)("the database serves again", seconds=seconds)
        for callback in self._when_over:
            callback()


@contextlib.contextmanager
def translated(dsn: Dsn) -> Iterator[None]:
    """Driver errors that mean "the database cannot serve now" become StoreUnavailable; the rest are our own bugs."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error, OSError) as error:
        if (sentence := hindrance(error, dsn)) is None:
            raise
        told = f"{sentence.removesuffix('.')} ({dsn})."
        raise StoreUnavailable(told, suggestion=_MAKE_ROOM if sentence in _FULL else None) from error
    except Exception as error:
        # asyncpg refuses a connection with errors of its own that SQLAlchemy does not wrap.
        if not type(error).__module__.startswith("asyncpg"):
            raise
        raise StoreUnavailable(f"PostgreSQL refused: {error} ({dsn}).") from error


def is_locked(error: BaseException) -> bool:
    """SQLite: another connection writes."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)


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
_MAKE_ROOM = "Make room there, then write again: what came before is kept."
_SQLSTATES = {
    "42P01": "The database has no tables yet: run `flow db upgrade`.",
    "42703": "The database is of an older Flow: run `flow db upgrade`.",
    "25006": "PostgreSQL is read-only here.",
    "53100": "The disk of the database server is full.",
    "53300": "PostgreSQL accepts no more connections.",
    "40001": "PostgreSQL gave up a transaction; it may be tried again.",
    "40P01": "PostgreSQL gave up a transaction; it may be tried again.",
}
_FULL = (_SQLITE["disk is full"], _SQLSTATES["53100"])


def hindrance(error: Exception, dsn: Dsn) -> str | None:
    """What is wrong with the database, as a sentence. None: an error in our own SQL."""
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
