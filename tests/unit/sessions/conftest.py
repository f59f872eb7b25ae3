"""A whole heart per test: a real SQLite file, a scripted host, and a record of what observers were told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
from heart import QUICK, Heart, Start
from scripted import ScriptedHost

from sessions.db import open_database
from sessions.manager import Sessions
from sessions.poolstore import PoolStore
from sessions.reaper import Reaper
from sessions.store import Store


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()


@pytest.fixture
async def start(tmp_path: Path, host: ScriptedHost) -> AsyncIterator[Start]:
    """Starts the program on the test's database and host; again and again, one at a time."""
    dsn = f"sqlite://{tmp_path}/db.sqlite"

    @asynccontextmanager
    async def run(max_sessions: int = 10, rest_after: timedelta | None = None, **options: Any) -> AsyncIterator[Heart]:
        await schema.migrated(dsn)
        db = open_database(dsn)
        try:
            store = Store(db)
            options = {"patience": QUICK, "pool": PoolStore(db), **options}
            async with Sessions(store, host, max_sessions=max_sessions, **options) as sessions:
                times = {"session_timeout": timedelta(minutes=30), "rest_after": rest_after, "silence": timedelta(0)}
                reaper = Reaper(sessions, store, host, **times)
                heart = Heart(db, host, sessions, reaper)
                sessions.observe(lambda *told: heart.told.append(told))
                yield heart
        finally:
            await db.close()

    async with AsyncExitStack():
        yield run


@pytest.fixture
async def heart(start: Start) -> AsyncIterator[Heart]:
    async with start() as running:
        yield running
