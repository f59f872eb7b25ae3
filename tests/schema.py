"""Databases of the newest schema: made once by the real migrations, then copied."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

import migrations
from sessions.dsn import parse_dsn

_POSTGRES_TEMPLATE = "flow_newest_schema"


@functools.cache
def template() -> bytes:
    """An empty SQLite database of the newest schema, as a file's content."""
    with tempfile.TemporaryDirectory() as home, concurrent.futures.ThreadPoolExecutor(1) as thread:
        path = Path(home) / "db.sqlite"
        # In a thread of its own: whoever asks may be inside an event loop.
        thread.submit(asyncio.run, migrations.upgrade(f"sqlite://{path}")).result()
        return path.read_bytes()


async def migrated(dsn: str) -> None:
    """As `migrations.upgrade`, but a database with nothing in it is replaced by a copy."""
    path = parse_dsn(dsn).path
    if path is None:
        if await migrations.revision(dsn) is None:
            await _replace(dsn)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(template())
    await migrations.upgrade(dsn)


@contextlib.asynccontextmanager
async def newest_postgres(server: str) -> AsyncIterator[str]:
    """The DSN of a copy in that cluster; it goes again."""
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await _copy(connection, f"{server}/", name)
        yield f"{server}/{name}"
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()


async def _replace(dsn: str) -> None:
    name = urlsplit(dsn).path.lstrip("/")
    server = dsn.removesuffix(name)
    connection = await asyncpg.connect(f"{server}postgres")
    try:
        await connection.execute(f"drop database {name}")
        await _copy(connection, server, name)
    finally:
        await connection.close()


async def _copy(connection: Any, server: str, name: str) -> None:
    known = "select 1 from pg_database where datname = $1"
    if not await connection.fetchval(known, _POSTGRES_TEMPLATE):
        await connection.execute(f"create database {_POSTGRES_TEMPLATE}")
        await migrations.upgrade(f"{server}{_POSTGRES_TEMPLATE}")
    await connection.execute(f"create database {name} template {_POSTGRES_TEMPLATE}")
