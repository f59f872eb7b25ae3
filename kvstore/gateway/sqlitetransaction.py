"""What operations write through: the worklets' counters, kept in memory within a transaction, and rows.

A worklet's version counter, its number of keys and bytes change with its rows in the same transaction, or not at all.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import forbidden, quota_bytes, quota_keys, revoked

PORTION: Final = 1000  # rows that one operation deletes at most where it can go on later: some 20 ms
LEAST_TOMBSTONES: Final = 10_000
TOMBSTONE_BYTES: Final = 2048  # of disk that one takes at most: namespace and key, in the table and in an index

WORKLET_BY_ID: Final = (
    "select w, id, owner, tokens_from, max_keys, max_bytes, version, horizon, keys, bytes, tombstones, changed_at"
    " from worklets where id = ?"
)
_ENTRY: Final = (
    "select version, created_at, expires_at, size, value from entries where w = ? and namespace = ? and key = ?"
)
_ENTRY_WITHOUT_VALUE: Final = _ENTRY.replace("size, value", "size, null")


@dataclass(slots=True)
class Worklet:
    """A row of `worklets`. Times are in microseconds since 1970."""

    w: int
    id: str
    owner: str
    tokens_from: float
    max_keys: int
    max_bytes: int
    version: int
    horizon: int
    keys: int
    bytes: int
    tombstones: int
    changed_at: int | None

    @property
    def counters(self) -> tuple[int, int, int, int, int, int | None]:
        """What changes with the worklet's rows."""
        return self.version, self.horizon, self.keys, self.bytes, self.tombstones, self.changed_at

    @counters.setter
    def counters(self, counters: tuple[int, int, int, int, int, int | None]) -> None:
        self.version, self.horizon, self.keys, self.bytes, self.tombstones, self.changed_at = counters

    def admit(self, caller: Caller) -> None:
        """Raises Refusal unless the caller may use this worklet's store."""
        admit(caller, self.id, self.owner, self.tokens_from)


def admit(caller: Caller, worklet_id: str, owner: str, tokens_from: float) -> None:
    """Raises Refusal unless the caller may use the store of the worklet, which `owner` owns."""
    if caller.role == "worklet":
        if caller.worklet_id != worklet_id:
            raise forbidden()
        if caller.issued_at is not None and caller.issued_at < tokens_from:
            raise revoked()
    elif caller.owner_id is None or caller.owner_id != owner:
        raise forbidden()


@dataclass(slots=True)
class Existing:
    """A row of `entries`; `size` is in bytes."""

    version: int
    created_at: int
    expires_at: int | None
    size: int
    value: str
    expired: bool


class Transaction:
    """The writer's transaction, in which operations take their turns."""

    def __init__(self, connection: sqlite3.Connection, now: Callable[[], float]) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._now = now
        self.now = 0  # of the step that runs, in microseconds since 1970
        self.handled = 0  # bytes of values that it read and wrote, one by one
        self._worklets: dict[str, Worklet] = {}
        self._last: Worklet | None = None
        self._guarded = self._wrote = False
        self._before: tuple[int, int, int, int, int, int | None] = (0, 0, 0, 0, 0, None)

    # Steps

    def begin_step(self) -> None:
        self.now = int(self._now() * 1e6)
        self._last, self._guarded, self._wrote, self.handled = None, False, False, 0

    def guard(self) -> None:
        """Before a step that may be refused after it wrote. One write needs none: it is refused before, or not at all.

        A savepoint is two statements more, and each is a turn at Python's global lock.
        """
        if not self._guarded:
            self.execute("savepoint step")
            self._guarded = True

    def end_step(self) -> None:
        """Raises Refusal when the step made the worklet larger than its quotas allow."""
        if self._guarded:
            if (last := self._last) is not None:
                self._check_quotas(last, last.keys, last.bytes)
            self.execute("release step")

    def undo_step(self) -> None:
        assert self._guarded or not self._wrote, "a step without a guard was refused after it wrote"
        if self._guarded:
            self.execute("rollback to step")
            self.execute("release step")
        if (last := self._last) is not None:
            last.counters = self._before

    def _check_quotas(self, worklet: Worklet, keys: int, size: int) -> None:
        """What makes the worklet smaller is let through, also where it is over a quota."""
        _, _, keys_before, size_before, _, _ = self._before
        if keys > max(keys_before, worklet.max_keys):
            raise quota_keys(worklet.max_keys)
        if size > max(size_before, worklet.max_bytes):
            raise quota_bytes(worklet.max_bytes)

    def flush(self) -> None:
        """Writes the counters. The last thing before a commit."""
        for worklet in self._worklets.values():
            self._write(worklet)  # where nothing changed too: rare, and SQLite writes no page for it twice

    def _write(self, k: Worklet) -> None:
        self.execute(
            "update worklets set version = ?, horizon = ?, keys = ?, bytes = ?, tombstones = ?, changed_at = ?"
            " where w = ?",
            (*k.counters, k.w),
        )

    # Worklets: one a step

    def worklet(self, worklet_id: str, caller: Caller) -> Worklet:
        """The worklet that the step changes. Raises Refusal where the caller may not."""
        worklet = self.find(worklet_id)
        if worklet is None:
            raise forbidden()
        worklet.admit(caller)
        return worklet

    def find(self, worklet_id: str) -> Worklet | None:
        worklet = self._worklets.get(worklet_id)
        if worklet is None:
            row = self.execute(WORKLET_BY_ID, (worklet_id,)).fetchone()
            if row is None:
                return None
            worklet = self._worklets[worklet_id] = Worklet(*row)
        if self._last is not worklet:
            self._last = worklet
            self._before = worklet.counters
        return worklet

    def release(self, worklet_id: str) -> None:
        """Writes the worklet's counters now, because its row is about to be written. Nothing may be refused after."""
        if (worklet := self._worklets.pop(worklet_id, None)) is not None:
            self._write(worklet)

    # Entries

    def existing(self, worklet: Worklet, namespace: str, key: str, *, value: bool = False) -> Existing | None:
        """The row, also an expired one; its value only where asked for."""
        row = self.execute(_ENTRY if value else _ENTRY_WITHOUT_VALUE, (worklet.w, namespace, key)).fetchone()
        if row is None:
            return None
        version, created_at, expires_at, size, text = row
        self.handled += size if value else 0
        return Existing(version, created_at, expires_at, size, text, expires_at is not None and expires_at <= self.now)

    def put(
        self, worklet: Worklet, namespace: str, key: str, text: str, expires_at: int | None, old: Existing | None
    ) -> int:
        """Writes the entry and returns its version. `old` is what `existing` gave."""
        size = len(namespace.encode()) + len(key.encode()) + len(text.encode())
        self.handled += size
        self._count(worklet, 0 if old else 1, size - (old.size if old else 0))
        version = worklet.version
        if old is None:
            if worklet.tombstones:
                worklet.tombstones -= self.execute(
                    "delete from tombstones where w = ? and namespace = ? and key = ?", (worklet.w, namespace, key)
                ).rowcount
            self.execute(
                "insert into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (worklet.w, namespace, key, version, self.now, self.now, expires_at, size, text),
            )
        else:
            created_at = self.now if old.expired else old.created_at
            self.execute(
                "update entries set version = ?, created_at = ?, updated_at = ?, expires_at = ?, size = ?, value = ?"
                " where w = ? and namespace = ? and key = ?",
                (version, created_at, self.now, expires_at, size, text, worklet.w, namespace, key),
            )
        return version

    def put_many(
        self, worklet: Worklet, namespace: str, pairs: Sequence[tuple[str, str]], expires_at: int | None
    ) -> None:
        """Writes the entries, whatever was there."""
        keys = json.dumps([key for key, _ in pairs], ensure_ascii=False)
        here = "w = ? and namespace = ? and key in (select value from json_each(?))"
        at = (worklet.w, namespace, keys)
        old = {
            key: (size, created_at if expiry is None or expiry > self.now else self.now)
            for key, size, created_at, expiry in self.execute(
                f"select key, size, created_at, expires_at from entries where {here}",  # noqa: S608
                at,
            )
        }
        if worklet.tombstones:
            worklet.tombstones -= self.execute(f"delete from tombstones where {here}", at).rowcount  # noqa: S608
        prefix = len(namespace.encode())
        rows = []
        for key, text in pairs:
            size = prefix + len(key.encode()) + len(text.encode())
            old_size, created_at = old.get(key, (0, self.now))
            self._count(worklet, 0 if key in old else 1, size - old_size)
            rows.append((worklet.w, namespace, key, worklet.version, created_at, self.now, expires_at, size, text))
        self.executemany("replace into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def bury(self, worklet: Worklet, namespace: str, key: str, old_size: int) -> None:
        """Deletes an entry that is there, and leaves its tombstone."""
        self._count(worklet, -1, -old_size)
        self.execute("delete from entries where w = ? and namespace = ? and key = ?", (worklet.w, namespace, key))
        self.execute(
            "insert into tombstones values (?, ?, ?, ?, ?)", (worklet.w, namespace, key, worklet.version, self.now)
        )
        self._forget_some(worklet, 1)

    def bury_expired(self, worklet: Worklet) -> int:
        """Some PORTION of the worklet's expired entries; how many."""
        row = self.execute(
            "select expires_at from entries where w = ? and expires_at <= ? order by expires_at limit 1 offset ?",
            (worklet.w, self.now, PORTION),
        ).fetchone()
        return self.bury_where(worklet, "expires_at <= ?", (self.now if row is None else row[0],))[0]

    def bury_where(self, worklet: Worklet, where: str, parameters: tuple[Any, ...]) -> tuple[int, int]:
        """Deletes entries, and leaves their tombstones: how many there were, and how many had not expired."""
        those = f"from entries where w = ? and {where}"
        at = (worklet.w, *parameters)
        count, size, live = self.execute(
            f"select count(*), ifnull(sum(size), 0), ifnull(sum(ifnull(expires_at > ?, 1)), 0) {those}",
            (self.now, *at),
        ).fetchone()
        if count:
            first = worklet.version
            self._count(worklet, -count, -size, versions=count)
            self.execute(
                "insert into tombstones"
                f" select w, namespace, key, ? + row_number() over (order by namespace, key), ? {those}",
                (first, self.now, *at),
            )
            self.execute(f"delete {those}", at)
            self._forget_some(worklet, count)
        return count, live

    def _forget_some(self, worklet: Worklet, buried: int) -> None:
        """After a burial: tombstones take no more room than the entries may, or 20 MB.

        Whoever deletes without end would fill the disk otherwise. Watchers from before the forgotten ones begin anew.
        """
        worklet.tombstones += buried
        excess = worklet.tombstones - max(LEAST_TOMBSTONES, worklet.bytes // TOMBSTONE_BYTES)
        if excess > 0:
            self.forget(worklet, excess + PORTION)  # some more, so that it is not the work of each deletion

    def forget(self, worklet: Worklet, limit: int, until: int | None = None) -> int:
        """Deletes the oldest tombstones, those of `until` (in microseconds) and before if given; how many."""
        oldest = self.execute(
            "select namespace, key, version, deleted_at from tombstones where w = ? order by version limit ?",
            (worklet.w, limit),
        ).fetchall()
        those = [row for row in oldest if until is None or row[3] <= until]
        if those:
            self.executemany(
                "delete from tombstones where w = ? and namespace = ? and key = ?",
                [(worklet.w, namespace, key) for namespace, key, _, _ in those],
            )
            worklet.horizon = those[-1][2]
            worklet.tombstones -= len(those)
        return len(those)

    def bury_expired_of_last(self) -> int:
        """For the worklet of the step that was refused."""
        worklet = self._last
        if worklet is None:
            return 0
        self.begin_step()
        buried = self.bury_expired(worklet)
        self.end_step()
        return buried

    def _count(self, worklet: Worklet, keys: int, size: int, versions: int = 1) -> None:
        """A change of the worklet: its next version, and its counters. Raises Refusal where nothing guards the step."""
        if not self._guarded:
            self._check_quotas(worklet, worklet.keys + keys, worklet.bytes + size)
        self._wrote = True
        worklet.version += versions
        worklet.keys += keys
        worklet.bytes += size
        worklet.changed_at = self.now
