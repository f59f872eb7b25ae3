"""The hourglass on messages that wait: a reaction, taken away when their turn begins or ends.

What is wanted is kept for each message, and what Slack was told; whoever changes its mind in between costs no call.
A process that died may have left an hourglass: a turn that is no longer new when it is first heard of is taken to have
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.refusals import Meaning, refusal
from bot.schedule import Allowance, Clock
from bot.tasks import Tasks
from config.logging import get_logger
from sessions.events import LifeEvent, Preparing, Queued, Released, Settled, Started, WaitingForPlace
from sessions.types import Session, Turn, TurnId
from worklets.events import AgentEvent

log = get_logger(__name__)

EMOJI = "hourglass_flowing_sand"
_FRESH = 2.0  # seconds: a turn that is so young, and younger than this process, was marked by nobody yet
_TRIES = 6


@dataclass(slots=True)
class _Mark:
    """`shown` None: not known. `due`: no call before this, by the clock."""

    channel: str
    ts: str
    wanted: bool
    shown: bool | None
    due: float
    over: bool = False  # nothing more will be wanted
    tries: int = 0


class Marks:
    """`observe` is an Observer. The calls are made by a task of `tasks`, one at a time, while there are any to make."""

    def __init__(
        self,
        client: AsyncWebClient,
        tasks: Tasks,
        now: Callable[[], float] = time.time,
        *,
        delay: float = 0.7,
        clock: Clock = time.monotonic,
    ) -> None:
        """`now`: seconds since 1970. `delay`: who waits no longer than this is not marked."""
        self._client = client
        self._tasks = tasks
        self._now = now
        self._since = now()
        self._delay = delay
        self._clock = clock
        self._marks: dict[TurnId, _Mark] = {}
        # docs.slack.dev: reactions.add is of tier 3 (50 a minute), reactions.remove of tier 2 (20 a minute).
        self._allowances = {True: Allowance(50, 10), False: Allowance(20, 10)}
        self._held = {True: 0.0, False: 0.0}
        self._bell = asyncio.Event()
        self._working = False

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """Never blocks."""
        match event:
            case Queued(ahead):
                self._begin(session, turn, wanted=ahead > 0)
            case WaitingForPlace():
                self._want(turn.id, True)
            case Preparing() | Started():
                self._want(turn.id, False)
            case Settled():
                self._want(turn.id, False, over=True)
            case Released():  # whoever shows it now sees to it
                self._marks.pop(turn.id, None)

    def _begin(self, session: Session, turn: Turn, *, wanted: bool) -> None:
        channel, _, ts = turn.source_id.partition(":")
        if channel != session.thread.channel:  # a command, or a button: there is no message
            return
        fresh = turn.created_at.timestamp() >= max(self._since, self._now() - _FRESH)
        self._marks[turn.id] = _Mark(channel, ts, wanted, False if fresh else None, self._clock() + self._delay)
        self._ring()

    def _want(self, turn_id: TurnId, wanted: bool, *, over: bool = False) -> None:
        mark = self._marks.get(turn_id)
        if mark is None:
            return
        mark.over = over
        if mark.wanted is not wanted:
            mark.wanted = wanted
            mark.due = self._clock() + (self._delay if wanted else 0.0)
        self._ring()

    def _ring(self) -> None:
        self._bell.set()
        if not self._working and self._tasks.open:
            self._working = True
            self._tasks.start(self._work(), "hourglasses")

    async def _work(self) -> None:
        try:
            while (found := self._next()) is not None:
                mark, wait = found
                if wait > 0:
                    self._bell.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._bell.wait()
                else:
                    await self._call(mark)
        finally:
            self._working = False

    def _next(self) -> tuple[_Mark, float] | None:
        """The mark to see to first, and the seconds until then. What is as it should be is forgotten."""
        now = self._clock()
        first: tuple[_Mark, float] | None = None
        for turn_id, mark in list(self._marks.items()):
            if mark.wanted is mark.shown:
                if mark.over:
                    del self._marks[turn_id]
                continue
            ready = max(mark.due, self._held[mark.wanted], self._allowances[mark.wanted].ready_at())
            if first is None or ready - now < first[1]:
                first = mark, ready - now
        return first

    async def _call(self, mark: _Mark) -> None:
        wanted = mark.wanted
        self._allowances[wanted].spend(self._clock())
        call = self._client.reactions_add if wanted else self._client.reactions_remove
        try:
            await call(channel=mark.channel, timestamp=mark.ts, name=EMOJI)
        except Exception as error:  # noqa: BLE001 - each is dealt with in one place
            self._failed(mark, wanted, error)
        else:
            mark.shown, mark.tries = wanted, 0

    def _failed(self, mark: _Mark, wanted: bool, error: Exception) -> None:
        if isinstance(error, SlackApiError) and error.response.get("error") in ("already_reacted", "no_reaction"):
            mark.shown = wanted
            return
        said = refusal(error)
        if said.meaning is Meaning.LIMITED:
            self._held[wanted] = self._clock() + said.seconds
        elif said.meaning is Meaning.UNKNOWN and mark.tries < _TRIES:
            mark.shown, mark.tries = None, mark.tries + 1
            mark.due = self._clock() + min(30.0, 0.5 * 2**mark.tries)
        else:  # the message is gone, the channel closed, a scope missing: an hourglass is not worth more
            log.info("cannot mark a waiting message", wanted=wanted, error=said.error, ts=mark.ts)
            mark.shown = wanted
