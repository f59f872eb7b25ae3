"""A database of the newest schema, in both kinds; a module with more to say of its own has fixtures of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import schema
from postgres import postgres_server  # noqa: F401 - a fixture

from sessions.db import Database, open_database


@pytest.fixture
async def newest_postgres(postgres_server: str) -> AsyncIterator[str]:  # noqa: F811
    async with schema.newest_postgres(postgres_server) as dsn:
        yield dsn


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of the newest schema."""
    if request.param == "postgres":
        return str(request.getfixturevalue("newest_postgres"))
    path = tmp_path / "db.sqlite"
    path.write_bytes(schema.template())
    return f"sqlite://{path}"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    database = open_database(dsn)
    try:
        yield database
    finally:
        await database.close()
