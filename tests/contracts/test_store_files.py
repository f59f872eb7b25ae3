"""Files in the table, both ways: the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import schema
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bot.filestore import SentFiles, files
from sessions.db import Database, open_database
from sessions.edits import Edited
from sessions.filestore import attachments
from sessions.store import Store
from sessions.tables import metadata
from sessions.types import Attached, Prompt, ThreadId, TurnId
from worklets.files import HandedOver

THREAD = ThreadId("T1", "C1", "1700000000.000100")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHART = HandedOver("chart.png", 7, "A chart", "Look")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    db = open_database(dsn, exclusive=False)
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
def store(db: Database) -> Store:
    return Store(db, lambda: NOW)


async def asked(store: Store, *files: Attached, ts: str = "1700000001.000000") -> TurnId:
    stored = await store.submit(Prompt(THREAD, f"C1:{ts}", ts, "U1", "hello", files=files))
    assert stored is not None
    return stored.submitted.turn.id


async def test_the_schema_is_what_the_tables_say(db: Database) -> None:
    def ours(_item: object, name: str | None, kind: str, _reflected: bool, _compared: object) -> bool:
        return kind != "table" or name in (files.name, attachments.name)

    def differences(connection: object) -> object:
        context = MigrationContext.configure(connection, opts={"include_object": ours})  # type: ignore[arg-type]
        return compare_metadata(context, metadata)

    async with db.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_files_are_stored_with_their_turn(store: Store) -> None:
    photo = Attached("F1", "a\ud83d.png", "image/png", 3_000_000_000, "https://files.slack.com/a")
    turn_id = await asked(store, photo, Attached("F2", "b"))
    first, second = await store.files.of_turn(turn_id)
    assert (first.file.id, first.file.name, first.file.size) == ("F1", "a\ufffd.png", 3_000_000_000)
    assert (second.position, second.path, second.state, second.reason) == (1, None, "new", None)
    session_id = (await store.turn(turn_id)).session_id
    await store.files.choose(turn_id, {0: "attachments/a.png", 1: "attachments/b"})
    await store.files.settle(turn_id, 0, None)
    await store.files.settle(turn_id, 1, "it was deleted")
    assert [(one.state, one.reason) for one in await store.files.of_turn(turn_id)] == [
        ("placed", None),
        ("refused", "it was deleted"),
    ]
    assert await store.files.paths(session_id) == {"attachments/a.png": "F1", "attachments/b": "F2"}
    assert [file.id for file in await store.files.attached(turn_id)] == ["F1", "F2"]


async def test_an_edit_replaces_the_files_of_a_turn_that_waits(store: Store) -> None:
    turn_id = await asked(store, Attached("F1", "a"), Attached("F2", "b"))
    source = ("T1", "C1", "C1:1700000001.000000")
    kept = Edited("hello", "1700000002.000000", (Attached("F2", "b"),))
    await store.edits.amend(*source, kept, by=None, now=NOW)
    assert [one.file.id for one in await store.files.of_turn(turn_id)] == ["F2"]
    await store.edits.amend(*source, Edited("words", "1700000003.000000"), by=None, now=NOW)
    assert [one.file.id for one in await store.files.of_turn(turn_id)] == ["F2"]
    older = Edited("old", "1700000002.500000", ())
    await store.edits.amend(*source, older, by=None, now=NOW)
    assert [one.file.id for one in await store.files.of_turn(turn_id)] == ["F2"]


async def test_one_process_at_a_time_carries_a_file(db: Database, store: Store) -> None:
    turn_id, clock = await asked(store), Clock()
    one, other = SentFiles(db, "one", clock), SentFiles(db, "other", clock)
    assert await one.claim(turn_id, "t1") is None
    mine = await one.claim(turn_id, "t1", CHART)
    theirs = await other.claim(turn_id, "t1", CHART)
    assert mine is not None
    assert theirs is not None
    assert (mine.mine, theirs.mine, mine.name, mine.title, mine.comment) == (
        True, False, "chart.png", "A chart", "Look",
    )  # fmt: skip
    await one.uploaded(mine, "F1")
    clock.now += timedelta(seconds=15)
    await one.renew(mine)
    clock.now += timedelta(seconds=15)
    assert await other.abandoned() == []
    clock.now += timedelta(seconds=15)  # it died
    assert await other.abandoned() == [(turn_id, "t1")]
    taken = await other.claim(turn_id, "t1")
    assert taken is not None
    assert (taken.mine, taken.file_id, taken.settled) == (True, "F1", False)
    await other.settle(taken, None)
    ended = await one.claim(turn_id, "t1", CHART)
    assert ended is not None
    assert (ended.mine, ended.settled, ended.error) == (False, True, None)
    clock.now += timedelta(days=1)
    assert await one.abandoned() == []


async def test_a_process_that_stood_still_does_not_take_its_file_back(db: Database, store: Store) -> None:
    turn_id, clock = await asked(store), Clock()
    one, other = SentFiles(db, "one", clock), SentFiles(db, "other", clock)
    mine = await one.claim(turn_id, "t1", CHART)
    assert mine is not None
    clock.now += timedelta(seconds=30)  # its content reaches Slack meanwhile
    theirs = await other.claim(turn_id, "t1")
    assert theirs is not None
    assert theirs.mine
    assert await other.uploaded(theirs, "F2")
    assert not await one.uploaded(mine, "F1")
    known = await one.claim(turn_id, "t1")
    assert known is not None
    assert (known.mine, known.file_id) == (False, "F2")
    await other.settle(theirs, None)
    assert not await one.uploaded(mine, "F1")
    known = await one.claim(turn_id, "t1")
    assert known is not None
    assert (known.state, known.file_id) == ("shared", "F2")


async def test_where_one_process_has_the_database_a_dead_ones_claim_counts_for_nothing(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    db = open_database(dsn)
    try:
        turn_id = await asked(Store(db, lambda: NOW))
        await SentFiles(db, "dead").claim(turn_id, "t1", CHART)
        mine = await SentFiles(db, "new").claim(turn_id, "t1")
        assert mine is not None
        assert mine.mine
    finally:
        await db.close()
