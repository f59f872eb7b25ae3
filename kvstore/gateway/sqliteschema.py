"""The embedded store's file: how it is opened, its schema, and its faults in words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kvstore.gateway.errors import Refusal, unavailable

BUSY_SECONDS: Final = 10.0  # other processes write for some milliseconds at a time

#: Applied in order; `PRAGMA user_version` counts those that were. Never change one that was released: add another.
#: Values stand last, so that reading a row's times does not walk through the pages of its value.
_STEPS: Final[Sequence[str]] = (
    """
    create table worklets (
        w integer primary key autoincrement,
        id text not null unique,
        owner text not null,
        name text not null,
        max_keys integer not null,
        max_bytes integer not null,
        tokens_from real not null default 0,
        version integer not null default 0,
        horizon integer not null default 0,
        keys integer not null default 0,
        bytes integer not null default 0,
        changed_at integer
    ) strict;
    create table entries (
        w integer not null,
        namespace text not null,
        key text not null,
        version integer not null,
        created_at integer not null,
        updated_at integer not null,
        expires_at integer,
        size integer not null,
        value text not null,
        primary key (w, namespace, key)
    ) strict, without rowid;
    create unique index entries_by_version on entries (w, version);
    create index entries_by_expiry on entries (w, expires_at) where expires_at is not null;
    create table tombstones (
        w integer not null,
        namespace text not null,
        key text not null,
        version integer not null,
        deleted_at integer not null,
        primary key (w, namespace, key)
    ) strict, without rowid;
    create unique index tombstones_by_version on tombstones (w, version);
    create table removed (w integer primary key) strict;
    """,
    """
    alter table worklets add column tombstones integer not null default 0;
    update worklets set tombstones = (select count(*) from tombstones t where t.w = worklets.w)
    """,
)


def prepare(path: Path) -> None:
    """Makes the file, readable by its owner only, and brings its schema up to date. Raises Refusal."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # Only a new file: to close a descriptor drops the locks that the whole process has on the file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as e:
        raise unavailable(f"The key-value store cannot be opened at {path}: {e.strerror}.") from e
    try:
        connection = connect(path)
        try:
            _use_wal(connection)
            _migrate(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as e:
        raise explained(e, path) from e


def _use_wal(connection: sqlite3.Connection, within: float = BUSY_SECONDS) -> None:
    """Raises sqlite3.Error. Where two switch a new file at once SQLite waits for neither: it calls one of them busy."""
    end = time.monotonic() + within
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)


def connect(path: Path, *, read_only: bool = False, busy: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection without transactions of Python's own, for one thread at a time. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=busy, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("pragma synchronous = full")
        connection.execute("pragma cache_size = -16384")  # KiB
        connection.execute("pragma journal_size_limit = 67108864")  # of a log that a large clearing made long
        connection.execute(f"pragma query_only = {int(read_only)}")
        connection.execute("select count(*) from sqlite_schema").fetchone()  # opens the file: its faults show here
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def place(path: Path) -> tuple[int, int] | None:
    """Which file stands at the path now; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def gone(path: Path) -> Refusal:
    return unavailable(
        f"The key-value store {path} was moved or deleted. Put it back, or start Flow again to begin anew."
    )


def explained(error: sqlite3.Error, path: Path) -> Refusal:
    """The fault as a sentence that says what to do. SQLite's own words hold no values, but are for developers."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            words = f"The disk under the key-value store {path} is full. Nothing was written; free some space."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            words = f"The key-value store {path} is locked by another program. Try again, or end that program."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            words = f"The key-value store {path} is damaged. Restore it from a backup."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            words = (
                f"The key-value store {path} cannot be written. Give Flow's user the right to write it and its folder."
            )
        case sqlite3.SQLITE_CANTOPEN:
            words = f"The key-value store {path} cannot be opened. Check that it and its folder are there, and Flow's."
        case sqlite3.SQLITE_IOERR:
            words = f"The disk under the key-value store {path} does not read or write. Check it."
        case _:
            words = f"The key-value store {path} failed ({type(error).__name__} {code})."
    return unavailable(words)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("begin immediate")  # another process may do the same
    try:
        version = int(connection.execute("pragma user_version").fetchone()[0])
        if version > len(_STEPS):
            raise unavailable(f"The key-value store {path} was made by a newer Flow. Update Flow.")
        for number, step in enumerate(_STEPS[version:], version + 1):
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {number}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
