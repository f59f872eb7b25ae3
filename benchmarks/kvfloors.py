"""What the key-value figures stand beside: raw sqlite3, asyncpg without a gateway, and Redis."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.kvload import BlockingCall, Call
from benchmarks.kvredis import Connection

#: The value of every set: about 100 bytes, as small values of programs are.
VALUE = json.dumps({"name": "Ada Lovelace", "visits": 12, "theme": "dark", "tags": ["a", "b"], "note": "x" * 24})
BATCH = 1000
PAGE = 100
#: Keys that get and set take in turn.
SPREAD = 1000


def key(turn: int) -> str:
    return f"k{turn * 37 % SPREAD:04}"


def row(number: int) -> str:
    """The key of one of the many rows that are listed."""
    return f"row{number:07}"


def batch(turn: int) -> str:
    """Entries of one mset as JSON, written out before the clock runs: two sets of keys take turns."""
    return _BATCHES[turn % 2]


_KEYS = [[f"m{half}-{number:04}" for number in range(BATCH)] for half in (0, 1)]
_BATCHES = ["{" + ",".join(f'"{name}":{VALUE}' for name in names) + "}" for names in _KEYS]


@contextmanager
def sqlite_floor(path: Path, rows: int) -> Iterator[dict[str, BlockingCall]]:
    """One thread, one connection, the gateway's pragmas, a commit for each call: no HTTP, no group commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute(
        "create table kv (worklet text, namespace text, key text, value text, version integer, "
        "primary key (worklet, namespace, key)) without rowid"
    )
    try:
        connection.execute("begin")
        fill = ((f"w{i // BATCH % max(1, rows // BATCH)}", "rows", row(i % BATCH), VALUE, i) for i in range(rows))
        connection.executemany("insert into kv values (?, ?, ?, ?, ?)", fill)
        connection.execute("commit")
        yield _sqlite_calls(connection)
    finally:
        connection.close()


def _sqlite_calls(connection: sqlite3.Connection) -> dict[str, BlockingCall]:
    put = (
        "insert into kv values ('w', 'default', ?, ?, 1) on conflict (worklet, namespace, key) "
        "do update set value = excluded.value, version = version + 1"
    )
    add = (
        "insert into kv values ('w', 'default', 'counter', '1', 1) on conflict (worklet, namespace, key) "
        "do update set value = value + 1, version = version + 1"
    )
    listing = "select key, version from kv where worklet = 'w0' and namespace = 'rows' and key > ? order by key limit ?"

    def get(_number: int, turn: int) -> object:
        found = "select value, version from kv where worklet = 'w' and namespace = 'default' and key = ?"
        return connection.execute(found, (key(turn),)).fetchone()

    def mset(_number: int, turn: int) -> object:
        connection.execute("begin immediate")
        connection.executemany(put, ((name, VALUE) for name in _KEYS[turn % 2]))
        return connection.execute("commit")

    return {
        "get": get,
        "set": lambda _number, turn: connection.execute(put, (key(turn), VALUE)),
        "mset": mset,
        "list": lambda _number, turn: connection.execute(listing, (row(turn % 800), PAGE)).fetchall(),
        "increment": lambda _number, _turn: connection.execute(add),
    }


@asynccontextmanager
async def postgres_floor(dsn: str, rows: int, clients: int) -> AsyncIterator[dict[str, Call]]:
    """Single statements of asyncpg on a plain table: no gateway, no roles, no policies, no triggers."""
    pool = await asyncpg.create_pool(dsn, min_size=clients, max_size=clients)
    try:
        await pool.execute(
            'create table floor_kv (worklet text, namespace text collate "C", key text collate "C", value jsonb, '
            "version bigint not null default 1, primary key (worklet, namespace, key))"
        )
        await pool.execute(
            "insert into floor_kv select 'w' || (i / 1000), 'rows', 'row' || to_char(i % 1000, 'fm0000000'), $2::jsonb "
            "from generate_series(0, $1::integer - 1) i",
            rows, VALUE,
        )  # fmt: skip
        await pool.execute("analyze floor_kv")
        yield _postgres_calls(pool)
    finally:
        await pool.close()


def _postgres_calls(pool: asyncpg.Pool) -> dict[str, Call]:
    conflict = "on conflict (worklet, namespace, key) do update set version = floor_kv.version + 1, value ="
    put = f"insert into floor_kv values ($1, 'default', $2, $3::jsonb) {conflict} excluded.value returning version"
    add = (
        f"insert into floor_kv values ('w0', 'default', 'counter', '1') {conflict} "
        "to_jsonb((floor_kv.value #>> '{}')::numeric + 1) returning value, version"
    )
    many = (
        "insert into floor_kv select $1, 'default', e.key, e.value from jsonb_each($2::jsonb) e order by e.key "
        f"{conflict} excluded.value"
    )
    found = "select value, version from floor_kv where worklet = $1 and namespace = 'default' and key = $2"
    listing = (
        "select key, version from floor_kv where worklet = $1 and namespace = 'rows' and key > $2 order by key limit $3"
    )
    return {
        "get": lambda number, turn: pool.fetchrow(found, f"w{number}", key(turn)),
        "set": lambda number, turn: pool.fetchval(put, f"w{number}", key(turn), VALUE),
        "mset": lambda number, turn: pool.execute(many, f"w{number}", batch(turn)),
        "list": lambda number, turn: pool.fetch(listing, f"w{number}", row(turn % 800), PAGE),
        "increment": lambda _number, _turn: pool.fetchrow(add),
    }


@asynccontextmanager
async def redis_floor(port: int, clients: int) -> AsyncIterator[dict[str, Call]]:
    """A connection for each client. Redis keeps no order of keys: there is no list to stand beside."""
    connections = [await Connection.open(port) for _ in range(clients)]
    try:
        yield _redis_calls(connections)
    finally:
        for connection in connections:
            await connection.close()


def _redis_calls(connections: list[Connection]) -> dict[str, Call]:
    def named(number: int, name: str) -> bytes:
        return f"w{number}:{name}".encode()

    value = VALUE.encode()

    def mset(number: int, turn: int) -> Any:
        words = (word for name in _KEYS[turn % 2] for word in (named(number, name), value))
        return connections[number].do(b"MSET", *words)

    return {
        "get": lambda number, turn: connections[number].do(b"GET", named(number, key(turn))),
        "set": lambda number, turn: connections[number].do(b"SET", named(number, key(turn)), value),
        "mset": mset,
        "increment": lambda number, _turn: connections[number].do(b"INCR", b"counter"),
    }
