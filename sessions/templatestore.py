"""The tables of templates, and the queries on them.

A name is unique among its owner's templates, and among the public ones; both by unique keys, so that it stays so
whoever writes at the same time. A session keeps what its template said when it began (`session_templates`): what
somebody edits or deletes later counts for what is started later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import sqlalchemy as sa

from config.logging import get_logger
from sessions.db import Connection, Database
from sessions.tables import Moment, metadata
from sessions.templates import (
    Draft,
    Template,
    TemplateChanged,
    TemplateConfig,
    TemplateError,
    TemplateId,
    TemplateInvalid,
    TemplateNotFound,
    TemplateTaken,
    checked_config,
    matching,
)
from sessions.types import SessionId

log = get_logger(__name__)
list_ = list  # `TemplateStore.list` hides the builtin inside the class
Put: TypeAlias = Literal["made", "changed", "unchanged"]

_MOST = 1_000  # templates in one list
_MOST_OF_ONE = 200  # of one owner, give or take those that come in the same moment
_AT_ONCE = 20  # configurations read before others have a turn
_KEPT = 2_000  # configurations in memory, of some kilobytes each
PUBLIC = sa.text("is_public")

templates = sa.Table(
    "templates",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),  # JSON: TemplateConfig.stored
    sa.Column("user_id", sa.Text, nullable=False),  # its owner; "": the administrators
    sa.Column("is_public", sa.Boolean, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.UniqueConstraint("user_id", "name", name="uq_templates_owner"),
    sa.Index("uq_templates_public", "name", unique=True, sqlite_where=PUBLIC, postgresql_where=PUBLIC),
)

session_templates = sa.Table(
    "session_templates",
    metadata,
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
)


class TemplateStore:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._clock = clock
        self._configs: dict[str, tuple[str, TemplateConfig]] = {}  # as stored and as read, used last last

    async def add(self, draft: Draft, owner: str) -> Template:
        """Raises TemplateTaken, TemplateError for one too many."""
        now = self._clock()
        values = {"id": str(uuid4()), **_columns(draft), "user_id": owner, "created_at": now, "updated_at": now}
        insert = self._db.insert(templates).on_conflict_do_nothing().returning(*templates.c)
        async with self._db.transaction(fast=True) as connection:
            count = sa.select(sa.func.count()).select_from(templates).where(templates.c.user_id == owner)
            if owner and (await connection.execute(count)).scalar_one() >= _MOST_OF_ONE:
                raise _too_many()
            row = (await connection.execute(insert, values)).one_or_none()
        if row is None:
            raise _taken(draft)
        return self._template(row)

    async def change(self, template_id: TemplateId, draft: Draft, seen: datetime | None = None) -> Template:
        """`seen`: the `updated_at` of what was edited. Raises TemplateNotFound, TemplateChanged, TemplateTaken."""
        update = sa.update(templates).where(templates.c.id == template_id)
        if seen is not None:
            update = update.where(templates.c.updated_at == seen)
        changed = update.values(**_columns(draft), updated_at=self._clock()).returning(*templates.c)
        try:
            async with self._db.transaction(fast=True) as connection:
                row = (await connection.execute(changed)).one_or_none()
        except sa.exc.IntegrityError as error:
            raise _taken(draft) from error
        if row is None:
            await self.get(template_id)
            raise TemplateChanged
        return self._template(row)

    async def put(self, drafts: Sequence[tuple[Draft, str]]) -> list_[Put]:
        """Makes them, or changes their owners' ones of those names: all of them, or none. What became of each.

        What is as it should be is not touched: whoever edits it is not in its way. Raises TemplateTaken, TemplateError
        for one too many.
        """
        found: dict[int, Put] = {}
        moments = [self._clock() for _ in drafts]  # so that lists have them in their order
        # Those that become private go first: another may take their public name.
        order = sorted(range(len(drafts)), key=lambda index: drafts[index][0].is_public)
        async with self._db.transaction() as connection:
            for index in order:
                found[index] = await self._put(connection, *drafts[index], moments[index])
            for owner in {owner for _, owner in drafts if owner}:
                count = sa.select(sa.func.count()).select_from(templates).where(templates.c.user_id == owner)
                if "made" in found.values() and (await connection.execute(count)).scalar_one() > _MOST_OF_ONE:
                    raise _too_many()
        return [found[index] for index in range(len(drafts))]

    async def _put(self, connection: Connection, draft: Draft, owner: str, now: datetime) -> Put:
        columns = _columns(draft)
        values = {"id": str(uuid4()), **columns, "user_id": owner, "created_at": now, "updated_at": now}
        insert = self._db.insert(templates).on_conflict_do_nothing().returning(templates.c.id)
        if (await connection.execute(insert, values)).one_or_none() is not None:
            return "made"
        query = sa.select(templates).where(templates.c.user_id == owner, templates.c.name == draft.name)
        row = (await connection.execute(query)).one_or_none()
        if row is None:  # the name is somebody else's public one
            raise _taken(draft)
        if all(getattr(row, name) == value for name, value in columns.items()):
            return "unchanged"
        update = sa.update(templates).where(templates.c.id == row.id).values(**columns, updated_at=now)
        try:
            await connection.execute(update)
        except sa.exc.IntegrityError as error:
            raise _taken(draft) from error
        return "changed"

    async def remove(self, template_id: TemplateId) -> bool:
        """False: it was gone. Sessions that were started from it keep what it said."""
        async with self._db.transaction(fast=True) as connection:
            statement = sa.delete(templates).where(templates.c.id == template_id).returning(templates.c.name)
            row = (await connection.execute(statement)).one_or_none()
        return row is not None

    async def get(self, template_id: TemplateId) -> Template:
        """Raises TemplateNotFound."""
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(templates).where(templates.c.id == template_id))).one_or_none()
        if row is None:
            raise TemplateNotFound
        return self._template(row)

    async def find(self, name: str, user_id: str) -> Template | None:
        """What that name, or id, means to that person: an own template, else the public one."""
        name = name.strip().lower()
        whose = sa.or_(templates.c.user_id == user_id, PUBLIC)
        query = sa.select(templates).where(sa.or_(templates.c.id == name, templates.c.name == name), whose)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        found = sorted(rows, key=lambda row: (row.id != name, row.user_id != user_id))
        return self._template(found[0]) if found else None

    async def list(self, user_id: str | None = None, words: str = "", *, most: int | None = _MOST) -> list_[Template]:
        """What that person may use, own ones first, by name; None: all. One that cannot be read is left out.

        `words`: only those that have every one of them in name or description. `most`: None for no limit.
        """
        query = sa.select(templates)
        if user_id is not None:
            query = query.where(sa.or_(templates.c.user_id == user_id, PUBLIC)).order_by(templates.c.user_id != user_id)
        said = sa.func.lower(templates.c.name + " " + templates.c.description)
        for word in filter(str.isascii, words.casefold().split()):  # SQLite knows the case of ASCII only
            query = query.where(said.contains(word, autoescape=True))
        query = query.order_by(templates.c.name, templates.c.created_at)
        async with self._db.read() as connection:
            rows = (await connection.execute(query if most is None else query.limit(most))).all()
        found, checked = [], 0
        for row in rows:
            if (known := self._configs.get(row.id)) is None or known[0] != row.config:
                checked += 1
                if checked % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # each takes a tenth of a millisecond or more: others go on meanwhile
            try:
                found.append(self._template(row))
            except TemplateInvalid as error:
                log.warning("a stored template is wrong", template=row.id, error=str(error))
        return matching(found, words)

    def _template(self, row: sa.Row[Any]) -> Template:
        """What its configuration says is read once for as long as it says the same. Raises TemplateInvalid."""
        known = self._configs.pop(row.id, None)
        if known is None or known[0] != row.config:
            known = row.config, checked_config(json.loads(row.config), stored=True)
        self._configs[row.id] = known  # the last one again
        if len(self._configs) > _KEPT:
            del self._configs[next(iter(self._configs))]
        return Template(
            TemplateId(row.id), row.name, row.description, known[1], row.user_id, row.is_public, row.created_at,
            row.updated_at,
        )  # fmt: skip

    # ---- of sessions ----

    async def config_of(self, session_id: SessionId) -> TemplateConfig | None:
        """What the session's template said when the session began; None: it was started from none.

        Raises TemplateInvalid: a later Flow stored what this one does not know.
        """
        query = sa.select(session_templates.c.config).where(session_templates.c.session_id == session_id)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return checked_config(json.loads(row.config), stored=True) if row is not None else None


async def what_it_says(connection: Connection, template_id: str) -> sa.Row[Any]:
    """Its name, owner and configuration now. Raises TemplateNotFound."""
    query = sa.select(templates.c.name, templates.c.user_id, templates.c.config).where(templates.c.id == template_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise TemplateNotFound
    return row


async def keep(connection: Connection, db: Database, session_id: str, said: sa.Row[Any]) -> None:
    """The new session has that."""
    values = {"session_id": session_id, "name": said.name, "user_id": said.user_id, "config": said.config}
    await connection.execute(db.insert(session_templates).on_conflict_do_nothing(), values)


async def keep_of(connection: Connection, db: Database, session_id: str, origin: str) -> None:
    """The new session has what that other one has."""
    query = sa.select(session_templates).where(session_templates.c.session_id == origin)
    said = (await connection.execute(query)).one_or_none()
    if said is not None:
        await keep(connection, db, session_id, said)


def _columns(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "description": draft.description,
        "config": json.dumps(draft.config.stored(), ensure_ascii=False),
        "is_public": draft.is_public,
    }


def _too_many() -> TemplateError:
    return TemplateError(f"{_MOST_OF_ONE} templates are the most that one person has. Delete some first.")


def _taken(draft: Draft) -> TemplateTaken:
    public = " or a public one" if draft.is_public else ""
    return TemplateTaken(f'A template of yours{public} is called "{draft.name}" already.')
