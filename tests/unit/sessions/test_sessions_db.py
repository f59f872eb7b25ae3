"""The database's door: addresses, the lock, and errors in one sentence."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures

import migrations
from sessions.db import open_database
from sessions.dsn import parse_dsn
from sessions.errors import StoreBusy, StoreUnavailable
from sessions.store import Store
from sessions.types import Prompt, ThreadId

PROMPT = Prompt(ThreadId("T", "C", "1.0"), "C:1", "1.0", "U", "x")


@pytest.mark.parametrize(
    ("dsn", "path"),
    [("sqlite://data/db.sqlite", "data/db.sqlite"), ("sqlite:///var/lib/flow/db.sqlite", "/var/lib/flow/db.sqlite")],
)
def test_sqlite_addresses(dsn: str, path: str) -> None:
    assert parse_dsn(dsn).path == Path(path)


def test_a_password_is_not_shown() -> None:
    dsn = parse_dsn("postgresql://flow:hunter2@db.example:6432/flow?sslmode=require")
    assert str(dsn) == repr(dsn) == "postgresql://db.example:6432/flow"


@pytest.mark.parametrize("dsn", ["mysql://x", "sqlite://", "sqlite:///", "sqlite://:memory:", "data/db.sqlite"])
def test_other_addresses_are_refused_with_an_example(dsn: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        parse_dsn(dsn)
    assert "sqlite://data/db.sqlite" in caught.value.sentence()


async def test_a_second_program_on_the_same_file_is_refused(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/deep/db.sqlite"
    first = open_database(dsn)
    with pytest.raises(StoreBusy, match="Another Flow is running"):
        open_database(dsn)
    assert await migrations.upgrade(dsn)
    beside = open_database(dsn, exclusive=False)
    assert await Store(beside).list() == []
    await beside.close()
    await first.close()
    await open_database(dsn).close()


async def test_a_database_without_tables_says_what_to_do(tmp_path: Path) -> None:
    db = open_database(f"sqlite://{tmp_path}/db.sqlite")
    with pytest.raises(StoreUnavailable, match="flow db upgrade"):
        await Store(db).submit(PROMPT)
    await db.close()


async def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_text("certainly not a database file, but long enough to be looked at" * 20)
    db = open_database(f"sqlite://{tmp_path}/db.sqlite")
    with pytest.raises(StoreUnavailable, match="not a SQLite database"):
        await Store(db).list()
    with pytest.raises(StoreUnavailable, match="not a SQLite database"):
        await migrations.upgrade(f"sqlite://{tmp_path}/db.sqlite")
    await db.close()


async def test_a_full_disk_says_so_and_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await migrations.upgrade(dsn)
    db = open_database(dsn)
    store = Store(db)
    await store.submit(PROMPT)
    async with db.read() as connection:  # SQLite's own limit gives the error of a full disk
        pages = (await connection.exec_driver_sql("pragma page_count")).scalar_one()
        await connection.exec_driver_sql(f"pragma max_page_count={pages}")
    big = Prompt(ThreadId("T", "C", "2.0"), "C:2", "2.0", "U", "x" * 200_000)
    with pytest.raises(StoreUnavailable, match="The disk is full") as told:
        await store.submit(big)
    full = f"The disk is full: the database cannot write ({dsn})."
    assert told.value.sentence() == f"{full} Make room there, then write again: what came before is kept."
    assert len(await store.list()) == 1
    await db.close()


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/file"):
        open_database(f"sqlite://{tmp_path}/file/db.sqlite")


async def test_a_database_of_a_newer_flow_is_refused(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await migrations.upgrade(dsn)
    connection = sqlite3.connect(tmp_path / "db.sqlite")
    connection.execute("update alembic_version set version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnavailable, match="newer Flow"):
        await migrations.upgrade(dsn)


def test_the_named_head_is_alembics() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def test_every_revision_can_be_taken_back(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        tables = connection.exec_driver_sql("select sql from sqlite_master order by name").all()
        command.downgrade(config, "base")
        left = connection.exec_driver_sql("select name from sqlite_master where name not like 'sqlite_%'").all()
        assert {row.name for row in left} == {"alembic_version"}
        command.upgrade(config, "head")
        assert connection.exec_driver_sql("select sql from sqlite_master order by name").all() == tables
    engine.dispose()


async def test_sqlite_is_durable_and_does_not_wait_for_readers(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await migrations.upgrade(dsn)
    db = open_database(dsn)
    async with db.read() as connection:
        pragmas = [(await connection.exec_driver_sql(f"pragma {name}")).scalar_one() for name in
                   ("journal_mode", "synchronous", "foreign_keys")]  # fmt: skip
    assert pragmas == ["wal", 2, 1]
    await db.close()


async def test_a_postgres_that_is_not_there_says_so() -> None:
    dsn = f"postgresql://flow:hunter2@127.0.0.1:1/{os.getpid()}"
    db = open_database(dsn)
    with pytest.raises(StoreUnavailable, match="PostgreSQL does not answer") as caught:
        await db.check()
    assert "hunter2" not in caught.value.sentence()
    with pytest.raises(StoreUnavailable, match="PostgreSQL does not answer"):
        await migrations.upgrade(dsn)
    await db.close()


@pytest.mark.postgres
async def test_a_postgres_database_that_does_not_exist_says_so(postgres_server: str) -> None:  # noqa: F811
    db = open_database(f"{postgres_server}/nowhere")
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await db.check()
    await db.close()


@pytest.mark.postgres
async def test_two_replicas_may_start_at_the_same_time(postgres_dsn: str) -> None:  # noqa: F811
    await asyncio.gather(*(migrations.upgrade(postgres_dsn) for _ in range(3)))
    assert await migrations.revision(postgres_dsn) == migrations.HEAD
