"""What `flow doctor` says of the database: whether it answers, and whether its schema is the newest."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from bot.core import make_share_dir
from bot.doctorfinding import Finding

if TYPE_CHECKING:
    from config.settings import Settings


async def database(settings: Settings) -> Finding:
    from migrations import HEAD, revision
    from sessions.db import open_database
    from sessions.dsn import parse_dsn

    dsn = parse_dsn(settings.sessions.dsn)
    if dsn.path is not None and not dsn.path.exists():
        make_share_dir(settings.share_dir)
        return Finding("ok", f"SQLite {sqlite3.sqlite_version}, made at the first start")
    database = open_database(settings.sessions.dsn, exclusive=False)
    try:
        now = await revision(settings.sessions.dsn)
        if now is not None:
            await database.check()
    finally:
        await database.close()
    kind = "SQLite" if dsn.path is not None else "PostgreSQL"
    if now != HEAD:
        return Finding(
            "warn", f"{kind}, schema at {now or 'nothing'}, {HEAD} is the newest", "`flow db upgrade`, or just start."
        )
    return Finding("ok", f"{kind}, schema at {HEAD}")
