"""One thread that writes, and commits for many at once: `synchronous = FULL` then costs about a tenth under load.

It takes what has gathered (256 operations at most, and no more after 20 ms), runs each within a savepoint of one
transaction, commits, and only then tells those who wait. Whoever got an answer can rely on it.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kvstore.gateway import sqliteschema
from kvstore.gateway.errors import KV_QUOTA_BYTES, KV_QUOTA_KEYS, Refusal, unavailable
from kvstore.gateway.sqlitetransaction import Transaction

_BATCH: Final = 256
_BATCH_SECONDS: Final = 0.02  # other programs write to the file too

Work = Callable[[Transaction], Any]
_Job = tuple[Work, "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Writer:
    """Runs from `start` to `close`. Opens the file at its first work, and again after a fault."""

    def __init__(self, path: Path, now: Callable[[], float], busy: float) -> None:
        self._path, self._now, self._busy = path, now, busy
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="kv-writer", daemon=True)
        self._thread.start()

    async def do(self, work: Work) -> Any:
        """What `work` returns, once it is on the disk. Raises Refusal.

        Cancelling the wait does not undo the work.
        """
        if self._thread is None:
            raise unavailable("The key-value store is closed.")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((work, future))
        return await future

    async def close(self) -> None:
        """Finishes what is queued. Idempotent."""
        if (thread := self._thread) is not None:
            self._thread = None
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    # The thread

    def _run(self) -> None:
        ended = False
        jobs: list[_Job] = []
        while jobs or not ended:
            if not jobs:
                job = self._queue.get()
                jobs, ended = ([job], False) if job is not None else ([], True)
            while not ended and len(jobs) < _BATCH:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    ended = True
                else:
                    jobs.append(job)
            if jobs:
                outcomes = self._attempt(jobs)
                self._loop.call_soon_threadsafe(_resolve, outcomes)
                jobs = jobs[len(outcomes) :]
        self._disconnect()

    def _attempt(self, jobs: list[_Job]) -> list[_Outcome]:
        """What became of those jobs that there was time for, the first at least."""
        try:
            return self._commit(self._connected(), jobs)
        except sqlite3.Error as e:
            self._roll_back()
            refusal = sqliteschema.explained(e, self._path)
            return [(future, None, refusal) for _, future in jobs]
        except Refusal as refusal:
            return [(future, None, refusal) for _, future in jobs]
        except BaseException as e:  # noqa: BLE001 - goes to those who wait
            self._roll_back()
            return [(future, None, e) for _, future in jobs]

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
        connection.execute("begin immediate")
        transaction = Transaction(connection, self._now)
        outcomes: list[_Outcome] = []
        end = time.monotonic() + _BATCH_SECONDS
        for work, future in jobs:
            if outcomes and time.monotonic() > end:
                break
            try:
                outcomes.append((future, _step(transaction, work), None))
            except Refusal as e:
                outcomes.append((future, None, e))
        transaction.flush()
        connection.execute("commit")
        return outcomes

    def _connected(self) -> sqlite3.Connection:
        place = sqliteschema.place(self._path)
        if self._connection is not None and place != self._place:
            self._disconnect()
        if place is None:
            raise sqliteschema.gone(self._path)
        if self._connection is None:
            self._connection, self._place = sqliteschema.connect(self._path, busy=self._busy), place
        return self._connection

    def _roll_back(self) -> None:
        """A connection that cannot roll back is given up: closing it does."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("rollback")
        except sqlite3.Error:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _step(transaction: Transaction, work: Work) -> Any:
    """Runs one operation; undoes what a refused one did. One over its quota is tried again without what has expired."""
    try:
        return _in_savepoint(transaction, work)
    except Refusal as e:
        if e.hint not in (KV_QUOTA_KEYS, KV_QUOTA_BYTES) or not transaction.bury_expired_of_last():
            raise
        return _in_savepoint(transaction, work)


def _in_savepoint(transaction: Transaction, work: Work) -> Any:
    transaction.begin_step()
    try:
        result = work(transaction)
        transaction.end_step()
    except Refusal:
        transaction.undo_step()
        raise
    return result


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
