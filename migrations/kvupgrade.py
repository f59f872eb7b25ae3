"""Brings the key-value store's schema in PostgreSQL up to date: the files `NNN_name.sql` beside this one.

What was applied is noted as the Supabase CLI does, in `supabase_migrations.schema_migrations`, so that it and
`flow db upgrade --kv` may take turns on one database.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from config.errors import FlowError

if TYPE_CHECKING:
    import asyncpg

HERE: Final = Path(__file__).parent
_FILE: Final = re.compile(r"([0-9]+)_(.+)\.sql")
_ADVISORY_LOCK: Final = 7_235_407_002
_SECONDS: Final = 20.0

_HISTORY: Final = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
"""


class KVUpgradeFailed(FlowError):
    """The key-value store's schema could not be brought up to date; nothing of the failed file is left."""


def files(folder: Path = HERE) -> list[tuple[str, str, Path]]:
    """`(version, name, path)` of each migration, in order."""
    found = [(match[1], match[2], path) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]
    return sorted(found, key=lambda migration: int(migration[0]))


async def upgrade_kv(dsn: str, *, patience: float = 60.0) -> list[str]:
    """Applies what is missing; the names of the files. Two at once do it one after the other.

    `dsn` is the owner's of the tables; `patience` the seconds to wait for another upgrade, or for whoever holds a
    table. Raises KVUpgradeFailed.
    """
    import asyncpg

    try:
        connection = await asyncpg.connect(dsn, timeout=_SECONDS, server_settings={"application_name": "flow-kv"})
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, TimeoutError) as error:
        raise KVUpgradeFailed(
            f"The key-value store's database cannot be reached: {error or 'no answer in time'}.",
            suggestion="Look at FLOW_KV_ADMIN_DSN, and whether PostgreSQL runs there.",
        ) from error
    try:
        # NOTICEs about what is there already are no news.
        await connection.execute("set client_min_messages = warning")
        await connection.execute(f"set lock_timeout = {max(1, int(patience * 1000))}")
        await _lock(connection, patience)
        return await _apply(connection)
    finally:
        # Ends the lock too.
        await connection.close(timeout=_SECONDS)


async def _lock(connection: asyncpg.Connection, patience: float) -> None:
    import asyncpg

    try:
        await connection.execute("select pg_catalog.pg_advisory_lock($1)", _ADVISORY_LOCK)
    except asyncpg.LockNotAvailableError as error:
        raise KVUpgradeFailed(
            f"Another upgrade of the key-value store's schema has run for over {patience:.0f} s.",
            suggestion="Wait for its end, then run `flow db upgrade --kv` again; pg_stat_activity shows it.",
        ) from error


async def _apply(connection: asyncpg.Connection) -> list[str]:
    applied: list[str] = []
    if not await connection.fetchval("select exists (select from pg_catalog.pg_namespace where nspname = 'auth')"):
        await _run(connection, HERE / "plain_postgres.sql")
        applied.append("plain_postgres.sql")
    for version, name, path in await _pending(connection):
        await _run(connection, path, version, name)
        applied.append(path.name)
    return applied


async def _pending(connection: asyncpg.Connection) -> list[tuple[str, str, Path]]:
    known: set[str] = set()
    if await connection.fetchval("select pg_catalog.to_regclass('supabase_migrations.schema_migrations') is not null"):
        rows: list[Any] = await _asked(
            "supabase_migrations.schema_migrations",
            connection.fetch("select version from supabase_migrations.schema_migrations"),
        )
        known = {row["version"] for row in rows}
    return [migration for migration in files() if migration[0] not in known]


async def _run(connection: asyncpg.Connection, path: Path, version: str | None = None, name: str = "") -> None:
    """One file in one transaction, with its line in the history."""
    text = await asyncio.to_thread(path.read_text, "utf-8")
    async with connection.transaction():
        await _asked(path.name, connection.execute(text))
        if version is None:
            return
        await _asked(path.name, connection.execute(_HISTORY))
        insert = "insert into supabase_migrations.schema_migrations (version, name, statements) values ($1, $2, $3)"
        await _asked(path.name, connection.execute(insert, version, name, [text]))


async def _asked(what: str, statement: Any) -> Any:
    import asyncpg

    try:
        return await statement
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        suggestion = "Mend what it names, then run `flow db upgrade --kv` again."
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            suggestion = "Use the login that owns the database (FLOW_KV_ADMIN_DSN); it needs CREATEROLE."
        raise KVUpgradeFailed(f"{what} could not be applied: {error}.", suggestion=suggestion) from error
