"""How long things are kept: the workspace of a session that sleeps, and the transcript of one that nobody writes to.

A workspace (the volume) goes first; the thread can be continued from the transcript. Then the transcript leaves the
database, into a file, and its summary stays. Each session is done by itself, under its lease; whatever is cut off on
the way is done again by the next pass: the file is complete before the first event goes, and then has them all.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from config.errors import FlowError
from config.logging import get_logger
from sessions.agents import AgentHost, NoData, WorkletData
from sessions.archive import ArchiveWriter, Line, archive_path
from sessions.errors import StoreUnavailable
from sessions.housekeeping import Housekeeping, Kept
from sessions.recap import recap
from sessions.store import Store
from sessions.transcript import Entry, Transcript
from sessions.types import Session, SessionId, SessionState, Turn, TurnId
from worklets.errors import RuntimeUnavailable
from worklets.events import AgentEvent, dump
from worklets.git import without_password

log = get_logger(__name__)

SUMMARY = 4_000  # characters
_ORPHANS = timedelta(hours=1)  # between two looks for them
_BATCH = 200  # sessions done in one pass
_EVENTS = 2_000  # removed in one transaction
_TURNS = 40  # the newest are what a summary has room for


_Page: TypeAlias = Callable[[datetime, Session | None, int], Awaitable[list[Session]]]


class ArchiveFailed(FlowError):
    """The archive cannot be written."""

    suggestion = "Make room in FLOW_SHARE_DIR, or set FLOW_ARCHIVE_TRANSCRIPTS=false. Until then transcripts stay."


class Retention:
    def __init__(
        self,
        store: Store,
        host: AgentHost,
        housekeeping: Housekeeping,
        *,
        workspace: timedelta | None,
        transcript: timedelta | None,
        archive: Path | None,
        page: int = 50,
        data: WorkletData | None = None,
    ) -> None:
        """None for a time: it is kept for good. `archive`: the directory of the files; None: there are none.

        `page`: sessions that are looked up together. `data`: what worklets keep beside their volumes; it goes with the
        volume or with the transcript.
        """
        self._page = page
        self._store = store
        self._transcript = Transcript(store.db, store.clock)
        self._host = host
        self._data = data or NoData()
        self.housekeeping = housekeeping
        self._workspace_time = workspace
        self._transcript_time = transcript
        self._archive = archive
        self.orphans = set[str]()  # worklets of which a volume is left, and no session
        self._orphans_at: datetime | None = None  # when they were looked for
        self._troubles: dict[SessionId, str] = {}  # why a session could not be done last time

    async def sweep(self) -> None:
        """One pass over what is due; a long list is left to the next ones.

        One session that cannot be done keeps no other waiting. Raises StoreUnavailable, RuntimeUnavailable and
        ArchiveFailed, which concern them all.
        """
        now = self._store.clock()
        await self._mind_orphans(now)
        if self._workspace_time is not None:
            done = await self._each(self.housekeeping.asleep_since, now - self._workspace_time, self._retire)
            _say("workspaces removed", done)
        if self._transcript_time is not None:
            done = await self._each(self.housekeeping.retired_since, now - self._transcript_time, self._put_away)
            _say("transcripts put away", done)

    async def _mind_orphans(self, now: datetime) -> None:
        """Volumes and directories of worklets that no session has: told of, and removed like those of sessions.

        Without a row nobody knows whose they are: an older database may have been put back.
        """
        if self._orphans_at is not None and now < self._orphans_at + _ORPHANS:
            return
        self._orphans_at, kept = now, await self._host.kept()
        pooled = await self.housekeeping.pooled()  # before the sessions, since those take them
        rows = await self.housekeeping.named(kept)
        orphans = {name: used for name, used in kept.items() if name not in rows and name not in pooled}
        before = now - self._workspace_time if self._workspace_time is not None else None
        for name, used in list(orphans.items()):
            if before is not None and used is not None and used < before:
                log.warning("removing the workspace of a worklet that no session claims", worklet=name)
                try:
                    await self._host.destroy(name)
                    del orphans[name]
                except RuntimeUnavailable:
                    raise
                except FlowError as error:
                    log.warning("the workspace stays", worklet=name, error=error.sentence())
                except Exception:
                    log.exception("the workspace stays", worklet=name)
        if orphans and self.orphans != set(orphans):
            log.warning("workspaces that no session claims", count=len(orphans), worklets=sorted(orphans)[:5])
        self.orphans = set(orphans)

    async def _each(self, page: _Page, before: datetime, do: Callable[[Kept], Awaitable[None]]) -> int:
        """How many it was done with."""
        done, last = 0, None
        while done < _BATCH and (found := await page(before, last, self._page)):
            for session in found:
                if session.state is SessionState.ASLEEP:
                    done += await self._one(session, do)
            last = found[-1]
        return done

    async def _one(self, session: Session, do: Callable[[Kept], Awaitable[None]]) -> bool:
        try:
            async with self.housekeeping.keeping(session) as kept:
                if kept is None:
                    return False
                await do(kept)
        except (StoreUnavailable, RuntimeUnavailable, ArchiveFailed):
            raise
        except (FlowError, OSError) as error:
            trouble = error.sentence() if isinstance(error, FlowError) else str(error)
            if self._is_news(session, trouble):
                log.warning("a session stays as it is", session=session.id, error=trouble)
            return False
        except Exception as error:
            if self._is_news(session, repr(error)):
                log.exception("a session stays as it is", session=session.id)
            return False
        self._troubles.pop(session.id, None)
        return True

    def _is_news(self, session: Session, trouble: str) -> bool:
        """It is tried again in each pass, and told once."""
        known, self._troubles[session.id] = self._troubles.get(session.id), trouble
        return known != trouble

    async def _retire(self, kept: Kept) -> None:
        await self._host.destroy(kept.session.worklet)
        await self._data.retire(kept.session.id)
        kept.changes |= {"retired_at": self._store.clock(), "archived_at": None}

    async def _put_away(self, kept: Kept) -> None:
        session, turns = kept.session, await self._store.turns(kept.session.id)
        await self._host.destroy(session.worklet)  # a volume that was begun after the first one went, and never used
        await self._data.remove(session.id)
        newest = _Newest()
        if self._archive is None:
            async for page in self._pages(session):
                newest.take(page)
        else:
            await self._write(session, turns, archive_path(self._archive, session), newest)
        if said := newest.summary(turns):
            await self.housekeeping.summarize(kept.lease, _joined(session.summary, said))
        while await self.housekeeping.forget(kept.lease, _EVENTS):
            pass
        kept.changes |= {"archived_at": self._store.clock()}

    async def _pages(self, session: Session) -> AsyncIterator[list[Entry]]:
        cursor = 0
        while page := await self._transcript.read(session.id, after=cursor):
            yield page
            cursor = page[-1].cursor

    async def _write(self, session: Session, turns: Sequence[Turn], path: Path, newest: _Newest) -> None:
        oldest = await self._transcript.read(session.id, limit=1)
        asides = await self.housekeeping.asides(session.id)
        if not oldest and not asides:
            return
        sources = {str(aside["source_id"]) for aside in asides}
        first = oldest[0].cursor if oldest else sys.maxsize
        try:
            writer = await asyncio.to_thread(ArchiveWriter, path, first, sources)
            try:
                await asyncio.to_thread(writer.begin, [_session(session), *({"turn": asdict(turn)} for turn in turns)])
                async for page in self._pages(session):
                    newest.take(page)
                    await asyncio.to_thread(writer.add, [_event(entry) for entry in page])
                await asyncio.to_thread(writer.add, [{"aside": aside} for aside in asides])
                await asyncio.to_thread(writer.commit)
            except BaseException:
                writer.abort()
                raise
        except OSError as error:
            if _only_here(path, error):
                raise
            raise ArchiveFailed(f"The archive {path.parent} cannot be written: {error.strerror or error}.") from error


def _only_here(path: Path, error: OSError) -> bool:
    """Nothing but this one file is in the way: there is room, and others can be written beside it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return not full and path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)


class _Newest:
    """What the newest turns said: a summary has no room for more."""

    def __init__(self) -> None:
        self._events: dict[TurnId, list[AgentEvent]] = {}

    def take(self, page: Sequence[Entry]) -> None:
        for entry in page:
            if entry.turn_id is not None:
                self._events.setdefault(entry.turn_id, []).append(entry.event)
        while len(self._events) > _TURNS:
            del self._events[next(iter(self._events))]

    def summary(self, turns: Sequence[Turn]) -> str:
        return recap([turn for turn in turns if turn.id in self._events], self._events, SUMMARY)


def _joined(before: str | None, said: str) -> str:
    """Of a thread that was put away before, and went on: the older part in a quarter of the room."""
    if not before or before == said:
        return said
    older = before[: SUMMARY // 4]
    return f"{older}\n\n{said[-(SUMMARY - len(older) - 2) :]}"


def _session(session: Session) -> Line:
    shown = {"id", "name", "user_id", "thread", "branch", "created_at", "last_activity_at"}
    values = {name: value for name, value in asdict(session).items() if name in shown}
    repository = without_password(session.repository) if session.repository else None
    return {"session": {**values, "repository": repository}}


def _event(entry: Entry) -> Line:
    return {"event": dump(entry.event), "turn": entry.turn_id, "cursor": entry.cursor, "at": entry.created_at}


def _say(what: str, done: int) -> None:
    if done:
        log.info(what, sessions=done)
