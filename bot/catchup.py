"""What was written while Slack could not be heard: read from the conversations after each connect, and taken as heard.

Slack redelivers most events, but not for ever and not all (docs.slack.dev, Events API). Reading again what is known
does no harm: a message's source id makes it one turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.door import Door
from bot.inbound import read_message
from bot.messages import take
from bot.reading import Reader
from bot.refusals import Meaning, refusal
from config.errors import FlowError
from config.logging import get_logger
from sessions.types import Prompt, Session, Turn, TurnState

log = get_logger(__name__)

_WITHIN = timedelta(hours=24)  # threads that were active so lately are read
_MOST = 50
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
        self._heard: datetime | None = None  # when Slack could be heard again; None: all is caught up
        self._running = False

    def start(self) -> None:
        """Slack can be heard again."""
        if self._heard is None:
            self._heard = datetime.fromtimestamp(self._door.now(), UTC)
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
        try:
            recent = await self._recent()
            for session in recent:
                await self._thread(session, heard)
            for channel in dict.fromkeys(one.thread.channel for one in recent if one.thread.channel.startswith("D")):
                await self._direct(channel, [one for one in recent if one.thread.channel == channel])
        except FlowError as error:
            raise _Later(error.sentence()) from error
        log.info("caught up with Slack", threads=len(recent))

    async def _recent(self) -> list[Session]:
        """Those that are awake or were active lately and whose thread is open, the latest first."""
        since = datetime.fromtimestamp(self._door.now(), UTC) - _WITHIN
        return [one for one in await self._door.sessions.recent(since, _MOST) if one.thread.thread_ts is not None]

    async def _thread(self, session: Session, heard: datetime) -> None:
        channel, root = session.thread.channel, session.thread.thread_ts
        turns = await self._door.sessions.turns(session.id)
        known = [turn.ts for turn in turns if turn.created_at <= heard]
        if root is None or not known:
            return
        waiting = {turn.source_id: turn for turn in turns if turn.state is TurnState.QUEUED}
        oldest = min([_before(max(known), _MARGIN), *(_before(turn.ts, 1.0) for turn in waiting.values())])
        try:
            read = await self._reader.replies(channel, root, oldest=oldest)
        except Exception as error:  # noqa: BLE001 - read in one place
            self._unreadable(channel, error)
            return
        there = {f"{channel}:{m['ts']}": m for m in read.messages if m.get("subtype") != "tombstone"}
        await self._follow(session, waiting, there, complete=read.complete)
        first = min(turn.ts for turn in turns)  # what stands before it was not said to Claude
        await self._take(channel, (message for message in there.values() if str(message["ts"]) > first))

    async def _direct(self, channel: str, sessions: Sequence[Session]) -> None:
        newest = max(str(session.thread.thread_ts) for session in sessions)
        try:
            read = await self._reader.history(channel, oldest=_before(newest, _MARGIN))
        except Exception as error:  # noqa: BLE001 - read in one place
            self._unreadable(channel, error)
        else:
            await self._take(channel, read.messages)

    def _unreadable(self, channel: str, error: Exception) -> None:
        said = refusal(error)
        if said.meaning in (Meaning.LIMITED, Meaning.UNKNOWN):
            raise _Later(f"Slack does not let me read ({said.error}).") from error
        log.warning("cannot catch up with a conversation", channel=channel, error=said.error)

    async def _take(self, channel: str, messages: Iterable[dict[str, Any]]) -> None:
        for message in messages:
            await take(self._door, {**message, "channel": channel}, late=True)

    async def _follow(
        self, session: Session, waiting: dict[str, Turn], there: dict[str, dict[str, Any]], *, complete: bool
    ) -> None:
        """Edits and deletions of messages that wait."""
        thread, door = session.thread, self._door
        for source_id, turn in waiting.items():
            if not source_id.startswith(f"{thread.channel}:"):
                continue
            message = there.get(source_id)
            if message is None:
                if complete and door.now() - float(turn.ts) > self._young:
                    await door.sessions.amend(thread.team, thread.channel, source_id, None, door.ts())
                continue
            asked = read_message({**message, "channel": thread.channel}, door.me, late=True)
            text = asked.text if isinstance(asked, Prompt) else None
            edited_ts = (message.get("edited") or {}).get("ts")
            if edited_ts is not None and text != turn.text:
                await door.sessions.amend(thread.team, thread.channel, source_id, text, str(edited_ts))


def _before(ts: str, seconds: float) -> str:
    """A moment before a message, in the form of a ts."""
    return f"{max(0.0, float(ts) - seconds):.6f}"
