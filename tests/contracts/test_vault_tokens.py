"""What the table of sessions' Vault tokens promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sessions.db import Database
from sessions.store import Store
from sessions.types import Prompt, SessionId, SessionState, ThreadId
from sessions.vaulttokens import VaultTokens
from worklets.secretstokens import Issued

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def _session(store: Store, number: int, state: SessionState) -> SessionId:
    ts = f"{number}.0"
    stored = await store.submit(Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "help me"))
    assert stored is not None
    session_id = stored.submitted.session.id
    if state is not SessionState.NEW:
        acquired = await store.leases.acquire(session_id, "me", 60)
        assert acquired is not None
        await store.set_state(acquired[0], state)
    return session_id


async def test_a_token_is_of_use_while_its_session_is_awake_and_it_lasts(db: Database) -> None:
    store, tokens = Store(db), VaultTokens(db)
    states = (SessionState.IDLE, SessionState.STARTING, SessionState.ASLEEP, SessionState.NEW)
    ids = [await _session(store, number, state) for number, state in enumerate(states, 1)]
    for session_id in ids:
        await tokens.add(Issued(f"of {session_id}", session_id, NOW + timedelta(hours=1)))
    await tokens.add(Issued("of nobody", "gone", NOW + timedelta(hours=1)))
    assert {one.session_id for one in await tokens.useless(NOW)} == {ids[2], ids[3], "gone"}
    later = NOW + timedelta(hours=2)
    assert len(await tokens.useless(later)) == 5
    await tokens.renewed(f"of {ids[0]}", later + timedelta(seconds=1))
    (kept,) = {f"of {one}" for one in ids} - {one.accessor for one in await tokens.useless(later)}
    assert kept == f"of {ids[0]}"


async def test_tokens_of_a_session_are_found_and_forgotten(db: Database) -> None:
    tokens = VaultTokens(db)
    for accessor, session_id in (("a", "one"), ("b", "one"), ("c", "other")):
        await tokens.add(Issued(accessor, session_id, NOW))
    assert sorted(await tokens.of("one")) == ["a", "b"]
    await tokens.remove("a")
    await tokens.remove("a")
    assert await tokens.of("one") == ["b"]
    found = {one.accessor: one for one in await tokens.useless(NOW)}
    assert found == {"b": Issued("b", "one", NOW), "c": Issued("c", "other", NOW)}


async def test_what_ends_soon_is_found_where_its_session_is_awake(db: Database) -> None:
    store, tokens = Store(db), VaultTokens(db)
    states = (SessionState.IDLE, SessionState.IDLE, SessionState.IDLE, SessionState.ASLEEP)
    hours = (1, 3, -1, 1)
    for number, (state, end) in enumerate(zip(states, hours, strict=True), 1):
        session_id = await _session(store, number, state)
        await tokens.add(Issued(str(number), session_id, NOW + timedelta(hours=end)))
    assert [one.accessor for one in await tokens.due(NOW, NOW + timedelta(hours=2))] == ["1"]
