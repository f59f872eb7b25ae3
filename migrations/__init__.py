"""The schema of the app's database. `upgrade(dsn)` brings it to the newest revision; Flow does so at every start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sessions.dsn import Dsn, parse_dsn
from sessions.errors import StoreUnavailable

if TYPE_CHECKING:
    import sqlalchemy as sa
    from alembic.config import Config

#: The newest revision. Named here so that a start with nothing to do imports no Alembic; a test keeps it true.
HEAD = "0022"

_ADVISORY_LOCK = 7_235_407_001  # any number, the same in every Flow: two replicas migrate one after the other


async def upgrade(dsn: str) -> bool:
    """Applies what is missing; True if anything was. One query when the schema is up to date.

    Raises StoreUnavailable when the database does not answer or was made by a newer Flow.
    """
    parsed = parse_dsn(dsn)
    if await revision(dsn) == HEAD:
        return False
    await _apply(parsed)
    return True


async def revision(dsn: str) -> str | None:
    """The schema's revision; None for a database without tables, also for a SQLite file that does not exist."""
    parsed = parse_dsn(dsn)
    if parsed.path is not None:
        return await asyncio.to_thread(_sqlite_revision, parsed, parsed.path)
    return await _postgres_revision(parsed)


def _sqlite_revision(dsn: Dsn, path: Path) -> str | None:
    from sessions.outage import translated

    if not path.exists():
        return None
    with translated(dsn):
        connection = sqlite3.connect(path, timeout=5)
        try:
            row = connection.execute("select version_num from alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        finally:
            connection.close()
    return row and str(row[0])


async def _postgres_revision(dsn: Dsn) -> str | None:
    import asyncpg

    from sessions.outage import translated

    with translated(dsn):
        connection = await asyncpg.connect(dsn.url, timeout=10)
        try:
            value = await connection.fetchval("select version_num from alembic_version")
        except asyncpg.UndefinedTableError:
            return None
        finally:
            await connection.close()
    return value and str(value)


def make_file(path: Path) -> None:
    """A new SQLite file, and the directory that is made for it, are their owner's only: what people wrote is in it.

    SQLite gives its journals the same rights. Idempotent. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


async def _apply(dsn: Dsn) -> None:
    from sessions.engines import create_engine
    from sessions.outage import translated

    config = await asyncio.to_thread(_config)  # importing Alembic takes a while
    if dsn.path is not None:
        make_file(dsn.path)
    engine = create_engine(dsn)
    try:
        with translated(dsn):
            async with engine.connect() as connection:
                await connection.execution_options(flow_writes=True)
                async with connection.begin():
                    await connection.run_sync(_run, config)
    finally:
        await engine.dispose()


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _run(connection: sa.Connection, config: Config) -> None:
    import sqlalchemy as sa
    from alembic import command
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if "locate revision" not in str(error):
            raise
        raise StoreUnavailable(
            "The database was made by a newer Flow.", suggestion="Update Flow, or use another database."
        ) from error
