"""Looking after the worklets of the embedded store, in portions that never hold the writer for long."""

from __future__ import annotations

import sqlite3
from typing import Final

from kvstore.gateway.sqlitetransaction import PORTION, Transaction

TOMBSTONE_SECONDS: Final = 24 * 3600


def register(t: Transaction, worklet_id: str, owner_id: str, name: str, max_keys: int, max_bytes: int) -> None:
    t.release(worklet_id)
    t.execute(
        "insert into worklets (id, owner, name, max_keys, max_bytes) values (?, ?, ?, ?, ?) on conflict (id) do update"
        " set owner = excluded.owner, name = excluded.name,"
        " max_keys = excluded.max_keys, max_bytes = excluded.max_bytes",
        (worklet_id, owner_id, name, max_keys, max_bytes),
    )


def revoke(t: Transaction, worklet_id: str, now: float) -> None:
    t.release(worklet_id)
    t.execute("update worklets set tokens_from = max(tokens_from, ?) where id = ?", (now, worklet_id))


def remove(t: Transaction, worklet_id: str) -> None:
    """Its entries are out of reach at once; `delete_removed` deletes them."""
    t.release(worklet_id)
    t.execute("insert into removed select w from worklets where id = ?", (worklet_id,))
    t.execute("delete from worklets where id = ?", (worklet_id,))


def delete_removed(t: Transaction) -> bool:
    """Deletes a portion of what removed worklets kept. Whether there may be more."""
    row = t.execute("select w from removed limit 1").fetchone()
    if row is None:
        return False
    for table in ("entries", "tombstones"):
        rows = t.execute(f"select w, namespace, key from {table} where w = ? limit ?", (*row, PORTION)).fetchall()  # noqa: S608
        if rows:
            t.executemany(f"delete from {table} where w = ? and namespace = ? and key = ?", rows)  # noqa: S608
            return True
    t.execute("delete from removed where w = ?", row)
    return True


def worklets(connection: sqlite3.Connection) -> list[dict[str, str]]:
    rows = connection.execute("select id, owner, name from worklets order by id")
    return [{"id": worklet_id, "owner_id": owner, "name": name} for worklet_id, owner, name in rows]


def to_sweep(connection: sqlite3.Connection, now: int) -> list[str]:
    """The worklets with something that `sweep` would delete. `now` is in microseconds since 1970."""
    rows = connection.execute(
        "select id from worklets k where exists (select 1 from entries e where e.w = k.w and e.expires_at <= ?)"
        " or (select deleted_at from tombstones t where t.w = k.w order by version limit 1) <= ?",
        (now, now - TOMBSTONE_SECONDS * 1_000_000),
    )
    return [worklet_id for (worklet_id,) in rows]


def sweep(t: Transaction, worklet_id: str) -> int:
    """Deletes a portion of the worklet's expired entries and old tombstones; how many. 0: nothing is left."""
    worklet = t.find(worklet_id)
    if worklet is None:
        return 0
    swept = t.bury_expired(worklet)
    return swept + t.forget(worklet, PORTION, t.now - TOMBSTONE_SECONDS * 1_000_000)
