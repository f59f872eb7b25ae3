"""A database of a private cluster with the store's schema in it, as `flow db upgrade --kv` would make it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from kvserving import Source

import migrations

_SQL = Path(migrations.__file__).parent


async def postgres_source(address: str, dsn: str, key: str) -> Source:
    """`address`: the cluster's; `dsn`: of an empty database in it, as its owner; `key`: where the signing key lies.

    The gateway logs in as `authenticator`, as it would at Supabase.
    """
    connection = await asyncpg.connect(dsn)
    try:
        for file in [_SQL / "plain_postgres.sql", *sorted(_SQL.glob("[0-9][0-9][0-9]_*.sql"))]:
            await connection.execute(file.read_text())
    finally:
        await connection.close()
    login = dsn.replace("://flow@", "://authenticator@")
    assert login != dsn
    return Source("postgres", login, key, admin_place=dsn)


@contextlib.contextmanager
def made_source(address: str) -> Iterator[Source]:
    """In a new database of a running cluster, for as long as the block lasts."""

    async def make(key: str) -> Source:
        connection = await asyncpg.connect(f"{address}/postgres")
        name = Path(key).parent.name.replace("-", "_")
        try:
            await connection.execute(f'create database "{name}"')
        finally:
            await connection.close()
        return await postgres_source(address, f"{address}/{name}", key)

    async def drop(source: Source) -> None:
        connection = await asyncpg.connect(f"{address}/postgres")
        try:
            await connection.execute(f'drop database "{source.admin_place.rpartition("/")[2]}" with (force)')
        finally:
            await connection.close()

    with tempfile.TemporaryDirectory(prefix="flow-kv-") as home:
        source = asyncio.run(make(f"{home}/signing-key.pem"))
        try:
            yield source
        finally:
            asyncio.run(drop(source))
