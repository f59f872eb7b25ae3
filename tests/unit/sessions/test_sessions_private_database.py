"""What people wrote lies in the database: nobody else on the machine reads it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import migrations
from bot.core import make_share_dir


async def test_a_new_database_and_its_directory_are_their_owners_only(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        make_share_dir(tmp_path / "share")
        path = tmp_path / "elsewhere" / "db.sqlite"
        await migrations.upgrade(f"sqlite://{path}")
        with sqlite3.connect(path) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table said (text)")
            modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
    finally:
        os.umask(before)
    connection.close()
    assert (tmp_path / "share").stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}, modes


async def test_one_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    """Whoever gave a group the right to read it meant it."""
    path = tmp_path / "db.sqlite"
    path.touch()
    path.chmod(0o640)
    await migrations.upgrade(f"sqlite://{path}")
    assert path.stat().st_mode & 0o777 == 0o640
