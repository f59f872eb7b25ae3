"""What was written while Slack could not be heard: read from the conversations afterwards, and taken as heard.

Slack redelivers most events, but not for ever and not all (docs.slack.dev, Events API). Reading again what is known
does no harm: a message's source id makes it one turn. Until when all has been read is kept in the database, and moves
on only after a whole pass: whatever ends one in the middle, the next begins where the last whole one did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Door
from bot.inbound import read_message
from bot.messages import take
from bot.reading import Read, Reader
from bot.refusals import Meaning, refusal
from bot.store import CaughtUp
from bot.threadwords import as_asked
from config.errors import FlowError
from config.logging import get_logger
from sessions.errors import ShuttingDown, StoreUnavailable
from sessions.types import Prompt, Session, Turn, TurnState

log = get_logger(__name__)

_WITHIN = timedelta(hours=24)  # threads that were active so lately are read, and direct messages so far back
_ALL = 1_000_000  # sessions: as many as there are
_MARGIN = 300.0  # seconds: an event may have come out of order
_YOUNG = 10.0  # seconds: a message so young may not be readable yet
_TOGETHER = 0.5  # seconds: several connections come up together
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


def register(_app: AsyncApp, door: Door) -> None:
    catch_up = CatchUp(door, Reader(door.client))
    door.when_connected(catch_up.start)
    # What could not be stored was not acknowledged; Slack sends it again three times, within six minutes.
    door.sessions.store.db.outage.when_over(catch_up.start)


class _Later(Exception):
    """Slack or the database does not serve now."""


class CatchUp:
    """Runs in a task of the door, one at a time; nothing waits for it."""

    def __init__(self, door: Door, reader: Reader, *, pause: float = _FIRST_PAUSE, young: float = _YOUNG) -> None:
        self._door = door
        self._reader = reader
        self._pause = pause
        self._young = young
        self._store = CaughtUp(door.sessions.store.db)
        self._heard: datetime | None = None  # when Slack could be heard again; None: all is caught up
        self._read: set[str] = set()  # conversations that were read since then
        self._running = False

    def start(self) -> None:
        """Slack can be heard again."""
        if self._heard is None:
            self._heard = datetime.fromtimestamp(self._door.now(), UTC)
        self._read = set()
        if not self._running and self._door.after.open:
            self._running = True
            self._door.after.start(self._run(), "catching up")

    async def _run(self) -> None:
        pause = self._pause
        try:
            while (heard := self._heard) is not None:
                await asyncio.sleep(_TOGETHER)
                self._heard = None
                try:
                    await self._catch_up(heard)
                except _Later as error:
                    self._heard = heard
                    log.warning("cannot catch up yet; trying again", seconds=pause, error=str(error))
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_PAUSE, pause * 2)
        finally:
            self._running = False

    async def _catch_up(self, heard: datetime) -> None:
        """Reads every conversation that was not read since `heard`, the latest first."""
        team, read = self._door.me.team_id, self._read
        try:
            earliest = heard - _WITHIN
            since = max(await self._store.until(team) or earliest, earliest)
            recent = await self._recent()
            for session in recent:
                await self._once(read, str(session.id), self._thread(session, since))
                if (channel := session.thread.channel).startswith("D"):
                    await self._once(read, channel, self._direct(channel, since))
            await self._store.caught_up(team, heard)
        except FlowError as error:
            raise _Later(error.sentence()) from error
        log.info("caught up with Slack", threads=len(recent))

    async def _once(self, read: set[str], name: str, reading: Coroutine[Any, Any, None]) -> None:
        """A pass that begins again after a refusal goes on with the conversation that was refused."""
        if name in read:
            reading.close()
            return
        await reading
        read.add(name)

    async def _recent(self) -> list[Session]:
        """Those that are awake or were active lately and whose thread is open, the latest first."""
        since = datetime.fromtimestamp(self._door.now(), UTC) - _WITHIN
        return [one for one in await self._door.sessions.recent(since, _ALL) if one.thread.thread_ts is not None]

    async def _thread(self, session: Session, since: datetime) -> None:
        channel, root = session.thread.channel, session.thread.thread_ts
        turns = await self._door.sessions.turns(session.id)
        if root is None or not turns:
            return
        waiting = {turn.source_id: turn for turn in turns if turn.state is TurnState.QUEUED}
        newest = min(float(max(turn.ts for turn in turns)), since.timestamp())
        oldest = min([newest - _MARGIN, *(float(turn.ts) - 1.0 for turn in waiting.values())])
        try:
            read = await self._reader.replies(channel, root, oldest=_ts(oldest))
        except Exception as error:  # noqa: BLE001 - read in one place
            self._unreadable(channel, error)
            return
        _note_cut(channel, read)
        there = {f"{channel}:{m['ts']}": m for m in read.messages if m.get("subtype") != "tombstone"}
        await self._follow(session, waiting, there, complete=read.complete)
        first = min(turn.ts for turn in turns)  # what stands before it was not said to Claude
        await self._take(channel, (message for message in there.values() if str(message["ts"]) > first))

    async def _direct(self, channel: str, since: datetime) -> None:
        """Whatever is known of it was heard before or after the outage: only `since` says where to begin."""
        try:
            read = await self._reader.history(channel, oldest=_ts(since.timestamp() - _MARGIN))
        except Exception as error:  # noqa: BLE001 - read in one place
            self._unreadable(channel, error)
        else:
            _note_cut(channel, read)
            await self._take(channel, read.messages)

    def _unreadable(self, channel: str, error: Exception) -> None:
        said = refusal(error)
        if said.meaning in (Meaning.LIMITED, Meaning.UNKNOWN):
            raise _Later(f"Slack does not let me read ({said.error}).") from error
        log.warning("cannot catch up with a conversation", channel=channel, error=said.error)

    async def _take(self, channel: str, messages: Iterable[dict[str, Any]]) -> None:
        for message in messages:
            with _alone(f"{channel}:{message.get('ts')}"):
                await take(self._door, {**message, "channel": channel}, late=True)

    async def _follow(
        self, session: Session, waiting: dict[str, Turn], there: dict[str, dict[str, Any]], *, complete: bool
    ) -> None:
        """Edits and deletions of messages that wait."""
        for source_id, turn in waiting.items():
            if not source_id.startswith(f"{session.thread.channel}:"):
                continue
            with _alone(source_id):
                await self._follow_one(session, turn, there.get(source_id), complete=complete)

    async def _follow_one(
        self, session: Session, turn: Turn, message: dict[str, Any] | None, *, complete: bool
    ) -> None:
        thread, door = session.thread, self._door
        if message is None:
            if complete and door.now() - float(turn.ts) > self._young:
                await door.sessions.amend(thread.team, thread.channel, turn.source_id, None, door.ts())
            return
        asked = read_message({**message, "channel": thread.channel}, door.me, late=True)
        text, files = (asked.text, asked.files) if isinstance(asked, Prompt) else (None, ())
        text = as_asked(text, thread.channel) if text and isinstance(asked, Prompt) and asked.starts else text
        edited_ts = (message.get("edited") or {}).get("ts")
        # No text, but a prompt: it names a template, whose own it is.
        if edited_ts is not None and text not in ("", turn.text):
            await door.sessions.amend(thread.team, thread.channel, turn.source_id, text, str(edited_ts), files)


@contextmanager
def _alone(source_id: str) -> Iterator[None]:
    """A message that cannot be taken keeps no other away, unless none could be taken now."""
    try:
        yield
    except (StoreUnavailable, ShuttingDown):
        raise
    except Exception:
        log.exception("cannot take a message that was read", source=source_id)


def _note_cut(channel: str, read: Read) -> None:
    if not read.complete:
        log.warning("a conversation was too long to catch up with all of it", channel=channel, read=len(read.messages))


def _ts(seconds: float) -> str:
    """In the form of a message's ts."""
    return f"{max(0.0, seconds):.6f}"
