"""The table of messages, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import schema

from bot.store import MessageStore, Posted
from sessions.db import Database, open_database
from sessions.store import Store
from sessions.types import Prompt, ThreadId, TurnId


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    database = open_database(dsn)
    yield database
    await database.close()


async def test_a_message_from_intent_to_end(database: Database) -> None:
    stored = await Store(database).submit(Prompt(ThreadId("T1", "C1", "1.1"), "C1:1.1", "1.1", "U1", "hi"))
    assert stored is not None
    turn = stored.submitted.turn.id
    store = MessageStore(database)
    assert await store.intend(turn, 0, "C1")
    assert not await store.intend(turn, 0, "C1")
    assert await store.intend(turn, 1, "C1")
    assert await store.of_turn(turn) == [Posted(0, None, None, False), Posted(1, None, None, False)]
    await store.shown(turn, 0, "1.2", "d", True)
    await store.posted(turn, 0, "1.9")  # what is known stays
    await store.posted(turn, 1, "1.3")
    assert (await store.of_turn(turn))[1] == Posted(1, "1.3", None, False)
    await store.forget(turn, 1, "1.2")
    await store.shown(turn, 1, "1.4", "d", True, was="1.2")
    assert (await store.of_turn(turn))[1] == Posted(1, "1.3", None, False), "the row is about another message"
    await store.shown(turn, 1, "1.4", "d", True, was="1.3")
    assert (await store.of_turn(turn))[1] == Posted(1, "1.4", "d", True)
    await store.forget(turn, 1, "1.4")
    assert await store.of_turn(turn) == [Posted(0, "1.2", "d", True)]
    assert await store.of_turn(TurnId("other")) == []
