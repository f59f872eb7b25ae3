"""How long a turn, and all turns of a session, may work.

Time counts while a process of Flow runs the turn and anything works in it: what people take to decide while nothing
else does (atwork.py), a turn that sleeps until they have, and the time in which Flow itself is away are no work. What
has been counted is kept in the database, so a restart neither adds to it nor forgives it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from config.logging import get_logger
from config.units import format_duration
from sessions.asks import Ask, AskKind
from sessions.atwork import Calls, length
from sessions.link import Link
from sessions.shared import Shared
from sessions.types import Failed, Turn
from sessions.worktimes import WorkTimes

log = get_logger(__name__)

_LOOK = 1.0  # seconds between two looks while people are waited for, or when looking failed
_KEEP = 15.0  # seconds of work that may be lost with the process
_TRIES = 10  # looks that may fail in a row, before it counts as if nobody were asked
_LAST = 2.0  # seconds for the last counting to be kept
_MOMENT = timedelta(milliseconds=1)


class TurnClock:
    """One for each turn that is run; `close` it."""

    def __init__(self, shared: Shared, link: Link, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.exceeded: Failed | None = None  # the turn has to end
        self._shared, self._link, self._monotonic = shared, link, monotonic
        self._times = WorkTimes(shared.store.db)
        self._turn_limit, self._session_limit = _seconds(shared.turn_timeout), _seconds(shared.session_work)
        self._watching: asyncio.Task[None] | None = None
        self._turn: Turn | None = None
        self._calls = Calls()
        self._worked, self._others = 0.0, 0.0  # seconds: of this turn, of the session's others
        self._failures = 0  # looks in a row
        self._at, self._ticked = shared.store.clock(), monotonic()  # when it was counted last
        self._kept, self._is_read = 0.0, False  # of this turn, in the database

    @property
    def _is_limited(self) -> bool:
        return min(self._turn_limit, self._session_limit) < float("inf")

    async def refusal(self, turn: Turn) -> Failed | None:
        """Why the turn need not begin: its session has worked for as long as it may."""
        if self._session_limit == float("inf"):
            return None
        spent = await self._shared.stored(lambda: self._times.of(turn.session_id, turn.id))
        return _session_over(self._session_limit) if spent.turn + spent.others >= self._session_limit else None

    def begin(self, turn: Turn) -> None:
        """The turn is under way. Idempotent."""
        if (agent := self._link.agent) is not None and agent.profile.turn_timeout is not None:
            self._turn_limit = min(self._turn_limit, agent.profile.turn_timeout)
        if self._is_limited and self._watching is None:
            self._turn, self._at, self._ticked = turn, self._shared.store.clock(), self._monotonic()
            self._watching = asyncio.create_task(self._watch(turn), name="turn clock")

    async def close(self) -> None:
        if self._watching is None or self._turn is None:
            return
        self._watching.cancel()
        await asyncio.wait([self._watching])
        try:
            async with asyncio.timeout(_LAST):
                self._add(await self._look(self._turn))
                await self._keep(self._turn)
        except Exception as error:  # noqa: BLE001 - the turn has its outcome, which this must not change
            log.warning("the last seconds of a turn's work are not counted", error=repr(error))

    async def _watch(self, turn: Turn) -> None:
        await self._count(turn)
        log.info("a turn took too long", worked=self._worked, of_session=self._worked + self._others)
        turn_over = self._worked >= self._turn_limit
        own = self._turn_limit < _seconds(self._shared.turn_timeout)
        self.exceeded = _turn_over(self._turn_limit, own) if turn_over else _session_over(self._session_limit)
        self._link.inbox.ring()

    async def _count(self, turn: Turn) -> None:
        """Until it has worked for too long, and people are not waited for."""
        while True:
            if self._is_read:
                left = self._left()
                await asyncio.sleep(min(left if left > 0 and not self._failures else _LOOK, _KEEP))
            elif self._failures:
                await asyncio.sleep(_LOOK)
            try:
                asks = await self._look(turn)
                self._failures = 0
            except Exception as error:  # noqa: BLE001 - a limit that an error turns off is none
                log.warning("a turn's time could not be looked at, trying again", error=repr(error))
                self._failures += 1
                if self._failures < _TRIES:
                    continue  # what passed meanwhile is counted with the next look
                asks = []
            self._add(asks)
            if self._left() <= 0 and not self._waits(asks):
                return

    def _add(self, asks: Iterable[Ask]) -> None:
        """What passed since the last time.

        A clock that was set may leap; the other does not, but knows nothing of when people were asked.
        """
        now, ticked, asks = self._shared.store.clock(), self._monotonic(), list(asks)
        self._worked += min(worked(self._at, now, asks, self._calls).total_seconds(), ticked - self._ticked)
        self._at, self._ticked = now, ticked

    def _waits(self, asks: Iterable[Ask]) -> bool:
        """Nothing worked when it was counted last, for people are asked."""
        return not worked(self._at - _MOMENT, self._at, list(asks), self._calls)

    async def _look(self, turn: Turn) -> list[Ask]:
        """What people are, and were, asked. Reads at first what had been counted, and keeps what has been since."""
        if not self._is_read:
            spent = await self._times.of(turn.session_id, turn.id)
            self._worked, self._others, self._kept = self._worked + spent.turn, spent.others, spent.turn
            self._is_read = True
        if self._worked - self._kept >= _KEEP:
            await self._keep(turn)
        found = await self._shared.store.asks.of_turn(turn.id)
        # While a host or a push is asked for, Claude works on: who wants one must not stop the clock by it.
        asks = [one.ask for one in found if one.request_id or one.ask.kind is AskKind.BUDGET]
        if any(ask.is_open or (ask.decided_at is not None and ask.decided_at > self._at) for ask in asks):
            await self._hear(turn)
        return asks

    async def _hear(self, turn: Turn) -> None:
        """What has begun and ended in the turn since it was heard last."""
        read = self._shared.transcript.read
        while entries := await read(turn.session_id, turn_id=turn.id, after=self._calls.cursor):
            self._calls.note(entries, self._at - _MOMENT)

    def _left(self) -> float:
        return min(self._turn_limit - self._worked, self._session_limit - self._worked - self._others)

    async def _keep(self, turn: Turn) -> None:
        if self._is_read and self._worked > self._kept:
            await self._times.keep(turn.session_id, turn.id, self._worked)
            self._kept = self._worked


def _seconds(limit: timedelta | None) -> float:
    return float("inf") if limit is None else limit.total_seconds()


def _turn_over(limit: float, of_repository: bool) -> Failed:
    more = (
        "the repository's .claude/container.yaml says how much time I have"
        if of_repository
        else "an administrator can give me more time (FLOW_TURN_TIMEOUT)"
    )
    took = f"This took longer than {format_duration(limit)}, so I had to stop here"
    return Failed(f"{took}. Write again to go on; {more}.")


def _session_over(limit: float) -> Failed:
    return Failed(
        f"I have worked in this thread for {format_duration(limit)}, which is all that a thread may have. Start a new "
        "thread with what is left to do; an administrator can allow more (FLOW_SESSION_WORK)."
    )


def worked(since: datetime, now: datetime, asks: Sequence[Ask], calls: Calls) -> timedelta:
    """The time from `since` to `now`, without that in which nothing but people was waited for."""
    return max(now - since - length(calls.waited(since, now, asks)), timedelta())
