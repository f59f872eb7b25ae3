"""Previews: which servers in worklets people may open, and the signed links with which they do.

A link is for one person and one preview. It opens for a few minutes; who came by it has a cookie, signed alike, that
lasts longer. Neither is stored: both are void when the preview's row is gone.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from config.errors import FlowError
from sessions.db import Database
from sessions.tables import Moment, metadata
from sessions.types import SessionId
from worklets.identity import Identity

previews = sa.Table(
    "previews",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("command", sa.Text),  # starts the server anew when the worklet was asleep
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("message_ts", sa.Text),  # of the message in the thread that offers it
    sa.Column("owner", sa.Text),  # who posts that message, or did
    sa.Column("until", Moment),  # nobody else posts it until then; null: nobody has tried
    sa.Column("failed", sa.Text),  # Slack's word why it will never be posted
    sa.UniqueConstraint("session_id", "port", name="uq_previews_port"),
)

#: Uses of the tool that were heeded. Turns are told again after a restart: what people closed stays closed.
preview_uses = sa.Table(
    "preview_uses",
    metadata,
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tool_id", sa.Text, primary_key=True),
)

OPEN_SECONDS = 300  # from a link's making to its opening
MOST = 10  # previews of one session
_CLAIM = timedelta(minutes=2)  # longer than posting takes, also where the thread is looked through first
_TITLE, _PATH, _COMMAND = 120, 500, 4_000  # characters

Kind: TypeAlias = Literal["link", "cookie"]


@dataclass(frozen=True, slots=True)
class Preview:
    """`id` is a label of a host name. `path` begins with a slash. `command` starts the server anew."""

    id: str
    session_id: SessionId
    port: int
    title: str
    path: str
    command: str | None
    created_at: datetime
    message_ts: str | None


def wanted(given: Any) -> dict[str, Any] | str:
    """What Claude gave the tool, as fields of a `Preview`; or what is wrong with it, for Claude."""
    if not isinstance(given, dict):
        return "Give a port."
    port = given.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        return "`port` is a number from 1 to 65535."
    path = str(given.get("path") or "/")
    if not re.fullmatch(r"/[\x21-\x7e]*", path) or path.startswith(("//", "/\\")) or len(path) > _PATH:
        return "`path` begins with one slash and has no spaces."
    command = given.get("command")
    return {
        "port": port,
        "path": path,
        "title": " ".join(str(given.get("title") or "").split())[:_TITLE],
        "command": str(command)[:_COMMAND] if isinstance(command, str) and command.strip() else None,
    }


class TooManyPreviews(FlowError):
    """The session has as many as it may."""


class Previews:
    """All methods raise StoreUnavailable when the database does not serve. `owner` names this process."""

    def __init__(self, db: Database, clock: Callable[[], datetime], owner: str = "") -> None:
        self._db, self._clock, self._owner = db, clock, owner

    async def announce(
        self, session_id: SessionId, port: int, *, title: str, path: str, command: str | None, tool_id: str = ""
    ) -> Preview | None:
        """The preview of that port; one that is known keeps its id, so that links to it go on.

        None: that use of the tool was heeded before. Raises TooManyPreviews.
        """
        values = {
            "id": secrets.token_hex(8), "session_id": session_id, "port": port, "title": title, "path": path,
            "command": command, "created_at": self._clock(),
        }  # fmt: skip
        statement = self._db.insert(previews)
        changed: dict[str, Any] = {name: statement.excluded[name] for name in ("title", "path", "command")}
        changed["failed"] = None
        statement = statement.on_conflict_do_update(index_elements=["session_id", "port"], set_=changed)
        use = self._db.insert(preview_uses).on_conflict_do_nothing().returning(preview_uses.c.tool_id)
        others = sa.select(sa.func.count()).where(previews.c.session_id == session_id, previews.c.port != port)
        async with self._db.transaction() as connection:
            if tool_id:
                noted = await connection.execute(use, {"session_id": session_id, "tool_id": tool_id})
                if noted.one_or_none() is None:
                    return None
            if (await connection.execute(others)).scalar_one() >= MOST:
                raise TooManyPreviews(f"A thread may have {MOST} previews.", suggestion="Close one of them first.")
            return _preview((await connection.execute(statement.returning(*previews.c), values)).one())

    async def get(self, preview_id: str) -> Preview | None:
        return await self._one(previews.c.id == preview_id)

    async def unposted(self) -> list[Preview]:
        """Those that no message offers yet, and nobody else is about to offer; the oldest first."""
        query = sa.select(previews).where(*self._to_post()).order_by(previews.c.created_at).limit(100)
        async with self._db.read() as connection:
            return [_preview(row) for row in await connection.execute(query)]

    def _to_post(self) -> tuple[sa.ColumnElement[bool], ...]:
        own, until = previews.c.owner == self._owner, previews.c.until
        free = sa.or_(until.is_(None), own, until < self._clock())
        return previews.c.message_ts.is_(None), previews.c.failed.is_(None), free

    async def claim(self, preview_id: str) -> tuple[Preview, bool] | None:
        """Nobody else posts its message for some time. True: somebody tried before, and may have succeeded.

        None: there is nothing to post, or somebody else is about it.
        """
        mine = sa.select(previews).where(previews.c.id == preview_id, *self._to_post()).with_for_update()
        claim = sa.update(previews).where(previews.c.id == preview_id, *self._to_post())
        async with self._db.transaction() as connection:
            row = (await connection.execute(mine)).one_or_none()
            if row is None:
                return None
            await connection.execute(claim.values(owner=self._owner, until=self._clock() + _CLAIM))
        return _preview(row), row.until is not None

    async def unclaim(self, preview_id: str, failed: str | None = None) -> None:
        """Nothing was posted. `failed`: nor will be."""
        values = {"owner": None, "until": None, "failed": failed}
        async with self._db.transaction() as connection:
            await connection.execute(sa.update(previews).where(previews.c.id == preview_id).values(**values))

    async def standing(self, ids: Sequence[str]) -> set[str]:
        """Those among them that are not closed."""
        async with self._db.read() as connection:
            rows = await connection.execute(sa.select(previews.c.id).where(previews.c.id.in_(ids)))
            return set(rows.scalars())

    async def posted(self, preview_id: str, ts: str) -> None:
        async with self._db.transaction() as connection:
            await connection.execute(sa.update(previews).where(previews.c.id == preview_id).values(message_ts=ts))

    async def close(self, preview_id: str) -> Preview | None:
        """Its links are void. None: it was closed already."""
        async with self._db.transaction() as connection:
            gone = sa.delete(previews).where(previews.c.id == preview_id).returning(*previews.c)
            row = (await connection.execute(gone)).one_or_none()
        return _preview(row) if row is not None else None

    async def _one(self, condition: sa.ColumnElement[bool]) -> Preview | None:
        async with self._db.read() as connection:
            row = (await connection.execute(sa.select(previews).where(condition))).one_or_none()
        return _preview(row) if row is not None else None


def _preview(row: sa.Row[Any]) -> Preview:
    return Preview(
        row.id, SessionId(row.session_id), row.port, row.title, row.path, row.command, row.created_at, row.message_ts
    )


class Links:
    """Signs and checks. `now` gives seconds since 1970."""

    def __init__(self, identity: Identity, url: str, now: Callable[[], float]) -> None:
        """`url` with * in the place of a preview's id; it may be set later."""
        self.url = url
        self._identity, self._now = identity, now

    def address(self, preview: Preview) -> str:
        return self.url.replace("*", preview.id, 1)

    def link(self, preview: Preview, user_id: str) -> str:
        """For that person, for OPEN_SECONDS."""
        token = self.sign("link", preview.id, user_id, OPEN_SECONDS)
        before, hash_, after = preview.path.partition("#")
        joint = "&" if "?" in before else "?"
        return f"{self.address(preview)}{before}{joint}{PARAMETER}={token}{hash_}{after}"

    def sign(self, kind: Kind, preview_id: str, user_id: str, seconds: float) -> str:
        until = int(self._now() + seconds)
        return f"{user_id}.{until}.{self._mac(kind, preview_id, user_id, until)}"

    def user(self, kind: Kind, preview_id: str, token: str) -> str | None:
        """Whom it was signed for; None: it is none of ours, of another preview or kind, or too old."""
        found = self._read(kind, preview_id, token)
        return found[0] if found is not None else None

    def until(self, kind: Kind, preview_id: str, token: str) -> float | None:
        """Seconds since 1970 to which it holds; None as `user` says it."""
        found = self._read(kind, preview_id, token)
        return found[1] if found is not None else None

    def _read(self, kind: Kind, preview_id: str, token: str) -> tuple[str, int] | None:
        found = re.fullmatch(r"([A-Za-z0-9]{1,40})\.(\d{1,12})\.([0-9a-f]{64})", token)
        if found is None:
            return None
        user_id, until, mac = found[1], int(found[2]), found[3]
        if not hmac.compare_digest(mac, self._mac(kind, preview_id, user_id, until)) or until < self._now():
            return None
        return user_id, until

    def _mac(self, kind: Kind, preview_id: str, user_id: str, until: int) -> str:
        return self._identity.token(f"preview-{kind}", f"{preview_id}.{user_id}.{until}")


PARAMETER = "flow_preview"  # of a link
