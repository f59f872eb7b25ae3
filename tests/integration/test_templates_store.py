"""Templates in the database: SQLite and PostgreSQL, several writers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import schema
import sqlalchemy as sa
from postgres import postgres_dsn, postgres_server  # noqa: F401 - fixtures

from sessions.controls import Controls
from sessions.db import Database, open_database
from sessions.store import Store
from sessions.templates import (
    TemplateChanged,
    TemplateConfig,
    TemplateError,
    TemplateInvalid,
    TemplateNotFound,
    TemplateTaken,
    drafted,
)
from sessions.templatestore import TemplateStore, templates
from sessions.transcript import Transcript
from sessions.types import Prompt, ThreadId

SOME = drafted("review", "looks at code", {"mode": "plan", "instructions": "be brief"})
PUBLIC = replace(SOME, is_public=True)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def dsn(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_dsn"))
    return f"sqlite://{tmp_path}/db.sqlite"


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    await schema.migrated(dsn)
    database = open_database(dsn)
    yield database
    await database.close()


async def test_made_found_changed_and_deleted(db: Database) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    store = TemplateStore(db, lambda: now)
    made = await store.add(SOME, "U1")
    assert (made.config, made.user_id, made.is_public) == (SOME.config, "U1", False)
    assert await store.get(made.id) == made
    assert await store.find("REVIEW", "U1") == made
    assert await store.find("review", "U2") is None, "it is private"
    assert await store.list("U2") == []
    assert await store.list("U1") == await store.list() == [made]
    seen, now = made.updated_at, now + timedelta(minutes=1)
    changed = await store.change(made.id, PUBLIC, seen)
    assert (changed.is_public, changed.created_at, changed.updated_at) == (True, seen, now)
    with pytest.raises(TemplateChanged):
        await store.change(made.id, SOME, seen)
    assert (await store.find("review", "U2")) == changed
    assert await store.remove(made.id)
    assert not await store.remove(made.id)
    with pytest.raises(TemplateNotFound):
        await store.get(made.id)
    with pytest.raises(TemplateNotFound):
        await store.change(made.id, SOME, now)


async def test_names_are_an_owners_own_and_one_among_the_public(db: Database) -> None:
    store = TemplateStore(db)
    results = await asyncio.gather(*(store.add(PUBLIC, f"U{n}") for n in range(6)), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in results) == 1, "one public template of a name"
    assert {type(one) for one in results if isinstance(one, BaseException)} == {TemplateTaken}
    mine = await store.add(SOME, "U9")
    assert await store.find("review", "U9") == mine, "an own one goes before the public one"
    with pytest.raises(TemplateTaken):
        await store.add(SOME, "U9")
    with pytest.raises(TemplateTaken, match="public"):
        await store.change(mine.id, PUBLIC)
    assert next(one.user_id for one in await store.list("U9")) == "U9"


async def test_an_import_is_the_same_again(db: Database) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    store = TemplateStore(db, lambda: now)
    assert await store.put([(PUBLIC, ""), (SOME, "U1")]) == ["made", "made"]
    first = await store.list()
    now += timedelta(minutes=1)
    other = replace(PUBLIC, description="other words")
    assert await store.put([(other, ""), (SOME, "U1")]) == ["changed", "unchanged"]
    found = {one.user_id: one for one in await store.list()}
    assert {one.id for one in found.values()} == {one.id for one in first}
    assert (found[""].description, found[""].updated_at) == ("other words", now)
    assert found["U1"].updated_at < now, "who edits it meanwhile is not told that somebody changed it"
    many = await asyncio.gather(*(store.put([(SOME, "U3")]) for _ in range(5)))
    assert sorted(one for (one,) in many) == ["made", *["unchanged"] * 4]


async def test_an_import_is_stored_as_a_whole_or_not_at_all(db: Database) -> None:
    store = TemplateStore(db)
    await store.add(PUBLIC, "U1")
    with pytest.raises(TemplateTaken):
        await store.put([(drafted("new", "", {}), ""), (PUBLIC, "U2")])
    with pytest.raises(TemplateTaken):
        await store.put([(drafted("new", "", {}), ""), (SOME, "U2"), (PUBLIC, "U2")])
    assert [one.name for one in await store.list()] == ["review"]
    swapped = [(PUBLIC, "U2"), (SOME, "U1")]
    assert await store.put(swapped) == ["made", "changed"], "a public name that becomes free is free"
    with pytest.raises(TemplateError, match="200 templates are the most"):
        await store.put([(drafted(f"n{number}", "", {}), "U5") for number in range(201)])
    assert len(await store.list()) == 2


async def test_what_lies_beyond_a_list_is_found_by_its_words(db: Database) -> None:
    store = TemplateStore(db)
    many = [(drafted(f"n{number:04}", "100% of it", {}), "") for number in range(1_100)]
    await store.put([*many, (drafted("z_last", "Größe and CODE", {}, is_public=True), "")])
    assert len(await store.list()) == 1_000
    assert len(await store.list(most=None)) == 1_101
    for words in ("z_last", "code LAST", "0% n1099"):
        assert len(await store.list(words=words)) == 1, words
    assert await store.list(words="1_0") == [], "an underscore stands for itself"
    assert [one.name for one in await store.list("U1", "code GRÖSSE".replace("SS", "ß"))] == ["z_last"]


async def test_what_is_read_once_is_read_anew_where_it_changed(db: Database) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    store, other = TemplateStore(db, lambda: now), TemplateStore(db, lambda: now)
    made = await store.add(SOME, "U1")
    (first,) = await store.list()
    (again,) = await store.list()
    assert again.config is first.config
    await other.change(made.id, drafted("review", "", {"mode": "ask"}))
    assert (await store.list())[0].config.mode == "ask", "whoever wrote it, and in the same moment"


async def test_a_session_keeps_what_its_template_said(db: Database) -> None:
    store, sessions = TemplateStore(db), Store(db)
    made = await store.add(SOME, "U1")

    def prompt(number: int, template: str | None) -> Prompt:
        thread = ThreadId("T1", "C1", f"{number}.000000")
        return Prompt(thread, f"C1:{number}", f"{number}.000000", "U1", "hello", template=template)

    stored = await sessions.submit(prompt(1, made.id))
    assert stored is not None
    session = stored.submitted.session
    assert (session.template, session.template_name) == (made.id, "review")
    plain = await sessions.submit(prompt(2, None))
    assert plain is not None
    assert await store.config_of(plain.submitted.session.id) is None
    transcript = Transcript(db, sessions.clock)
    forked = await Controls(db, sessions, transcript, sessions.clock).fork(session, "C1:fork", "U2")
    await store.change(made.id, replace(SOME, config=TemplateConfig()))
    assert await store.config_of(session.id) == SOME.config
    await store.remove(made.id)
    assert await store.config_of(session.id) == SOME.config
    assert await store.config_of(forked.id) == SOME.config, "a fork is as narrow as what it goes on from"
    assert (forked.template, forked.template_name) == (made.id, "review")
    with pytest.raises(TemplateNotFound):
        await sessions.submit(prompt(3, made.id))
    assert await sessions.find(ThreadId("T1", "C1", "3.000000")) is None, "nothing is left of it"


async def test_nobody_has_too_many(db: Database) -> None:
    store = TemplateStore(db)
    row = {"description": "", "config": "{}", "user_id": "U1", "is_public": False}
    row |= {"created_at": datetime.now(UTC), "updated_at": datetime.now(UTC)}
    async with db.transaction() as connection:
        await connection.execute(sa.insert(templates), [{**row, "id": f"i{n}", "name": f"n{n}"} for n in range(200)])
    with pytest.raises(TemplateError, match="200 templates are the most"):
        await store.add(SOME, "U1")
    assert await store.add(SOME, "U2")


async def test_one_that_a_later_flow_stored_is_left_out(db: Database) -> None:
    store = TemplateStore(db)
    made = await store.add(SOME, "U1")
    async with db.transaction() as connection:
        await connection.execute(sa.update(templates).values(config='{"later": 1}'))
    assert await store.list("U1") == []
    with pytest.raises(TemplateInvalid):
        await store.get(made.id)
    assert await store.remove(made.id)
