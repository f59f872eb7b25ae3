"""Which reactions may stand on asking messages, on SQLite and on a real PostgreSQL; and that the schema is as coded."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from bot.store import Reacted, ReactionStore, reactions
from sessions.db import Database
from sessions.options import options
from sessions.store import Store
from sessions.tables import metadata
from sessions.types import Done, Prompt, ThreadId, Turn, TurnState


async def a_turn(store: Store) -> Turn:
    stored = await store.submit(Prompt(ThreadId("T1", "C1", "1.0"), "C1:1.0", "1.0", "U1", "help me"))
    assert stored is not None
    return stored.submitted.turn


async def test_the_tables_are_those_of_the_migration(db: Database) -> None:
    mine = {options.name, reactions.name}

    def ours(_object: Any, name: str | None, kind: str, *_rest: Any) -> bool:
        return kind != "table" or name in mine

    def differences(connection: sa.Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"include_object": ours}), metadata)

    async with db.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_what_may_stand_there_is_kept_until_it_is_final(db: Database) -> None:
    store, kept = Store(db), ReactionStore(db)
    turn = await a_turn(store)
    assert await kept.of_turn(turn.id) == frozenset()
    await kept.keep(turn.id, "C1", "1.0", {"eyes"})
    await kept.keep(turn.id, "C1", "1.0", {"gear", "eyes"})
    assert await kept.of_turn(turn.id) == {"eyes", "gear"}
    assert await kept.left_over() == [], "it is still being told"
    acquired = await store.leases.acquire(turn.session_id, "me", 30)
    assert acquired is not None
    session, lease_of = await store.get(turn.session_id), acquired[0]
    await store.begin(lease_of, turn.id, "c")
    await store.settle(lease_of, turn.id, Done(), state=session.state, container_id=None)
    await store.mark_delivered(turn.id)
    assert await kept.left_over() == [Reacted(turn.id, "C1", "1.0", frozenset({"eyes", "gear"}), TurnState.DONE)]
    await kept.forget(turn.id)
    assert await kept.left_over() == []
