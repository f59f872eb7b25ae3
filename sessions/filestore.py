"""What people attached, in the database: stored with the turn, with what became of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from config.text import well_formed
from sessions.db import Connection, Database
from sessions.tables import metadata, turns
from sessions.types import Attached, SessionId, TurnId

attachments = sa.Table(
    "attachments",
    metadata,
    sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("file_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("mimetype", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("path", sa.Text),  # in the workspace
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """The `position`th file of a turn. `path` in the workspace, once it is chosen; `reason` why it was refused."""

    position: int
    file: Attached
    path: str | None
    state: Literal["new", "placed", "refused"]
    reason: str | None


class FileStore:
    """All methods raise StoreUnavailable when the database does not serve."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_turn(self, turn_id: TurnId) -> list[Attachment]:
        query = sa.select(attachments).where(attachments.c.turn_id == turn_id).order_by(attachments.c.position)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Attachment(
                row.position,
                Attached(row.file_id, row.name, row.mimetype, row.size, row.url),
                row.path,
                row.state,
                row.reason,
            )
            for row in rows
        ]

    async def attached(self, turn_id: TurnId) -> tuple[Attached, ...]:
        """The files of a turn, for one that asks the same again."""
        return tuple(attachment.file for attachment in await self.of_turn(turn_id))

    async def paths(self, session_id: SessionId) -> dict[str, str]:
        """Where the session's files lie, or will: path → id of the file."""
        query = (
            sa.select(attachments.c.path, attachments.c.file_id)
            .join(turns, turns.c.id == attachments.c.turn_id)
            .where(turns.c.session_id == session_id, attachments.c.path.is_not(None))
        )
        async with self._db.read() as connection:
            return {row.path: row.file_id for row in (await connection.execute(query)).all()}

    async def choose(self, turn_id: TurnId, paths: Mapping[int, str]) -> None:
        """Where files are to lie, by their position."""
        async with self._db.transaction() as connection:
            for position, path in paths.items():
                await connection.execute(sa.update(attachments).where(*_is(turn_id, position)).values(path=path))

    async def settle(self, turn_id: TurnId, position: int, reason: str | None) -> None:
        """The file lies in the workspace, or, with a reason, is refused."""
        values = {"state": "refused" if reason else "placed", "reason": reason}
        async with self._db.transaction() as connection:
            await connection.execute(sa.update(attachments).where(*_is(turn_id, position)).values(**values))


async def attach(connection: Connection, turn_id: str, files: Sequence[Attached]) -> None:
    """These are the files of a turn that has not begun; those it had are forgotten."""
    await connection.execute(sa.delete(attachments).where(attachments.c.turn_id == turn_id))
    rows = [
        {
            "turn_id": turn_id,
            "position": position,
            "file_id": file.id,
            "name": well_formed(file.name),
            "mimetype": well_formed(file.mimetype),
            "size": file.size,
            "url": well_formed(file.url),
            "state": "new",
        }
        for position, file in enumerate(files)
    ]
    if rows:
        await connection.execute(sa.insert(attachments), rows)


def _is(turn_id: TurnId, position: int) -> tuple[sa.ColumnElement[bool], ...]:
    return attachments.c.turn_id == turn_id, attachments.c.position == position
