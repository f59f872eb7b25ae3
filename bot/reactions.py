"""Reactions on the message that asks: how far its turn is, at a glance and without a notification.

What should stand on each message is known; a task makes it so, one call at a time within Slack's limits for reactions,
which are its own: no answer waits for it. What passes in a moment is not shown at all, and less of it is while the
few removals that Slack allows are used up; what is final comes first. A reaction is noted in the table before it is
added, so that a later Flow takes it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.refusals import Meaning, refusal
from bot.schedule import Allowance, Clock
from bot.store import ReactionStore
from bot.tasks import Tasks
from config.logging import get_logger
from sessions.asks import AskId
from sessions.errors import StoreUnavailable
from sessions.events import (
    AskClosed,
    AskOpened,
    LifeEvent,
    Preparing,
    Queued,
    Released,
    Settled,
    Started,
    WaitingForPlace,
)
from sessions.types import Cut, Done, Failed, Outcome, Session, Turn, TurnId, TurnState
from worklets.events import AgentEvent

log = get_logger(__name__)

RECEIVED, WAITING, WORKING, ASKING = "eyes", "hourglass_flowing_sand", "gear", "raised_hand"
DONE, FAILED = "white_check_mark", "x"
_FINAL = {TurnState.DONE: DONE, TurnState.FAILED: FAILED, TurnState.CUT: FAILED}
_FRESH = 2.0  # seconds: a turn that is so young, and younger than this process, was seen by nobody yet
_TRIES = 6
_SWEEP = 600.0  # seconds


@dataclass(slots=True)
class _Mark:
    """`shown`: what stands there; None: not known. `maybe`: what may, added without an answer or by an earlier process.

    `due`: nothing is added before this, by the clock.
    """

    turn_id: TurnId
    channel: str
    ts: str
    wanted: str  # "" for none
    shown: set[str] | None
    due: float
    kept: bool = False  # the table may have a row
    over: bool = False  # nothing more will be wanted
    gone: bool = False  # the message is, or nothing can be done about it
    tries: int = 0
    retry_at: float = 0.0
    maybe: set[str] = field(default_factory=set)
    asks: set[AskId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Step:
    """`do`: "load", "add", "remove" or "close"."""

    do: str
    name: str = ""


class Reactions:
    """`observe` is an Observer. The calls are made by a task of `tasks`, while there are any to make."""

    def __init__(
        self,
        client: AsyncWebClient,
        tasks: Tasks,
        store: ReactionStore,
        now: Callable[[], float] = time.time,
        *,
        on: bool = True,
        delay: float = 0.7,
        clock: Clock = time.monotonic,
    ) -> None:
        """`on` False: nothing is added, and what an earlier Flow added is taken away.

        `now`: seconds since 1970. `delay`: what passes within so many seconds is not shown.
        """
        self._client = client
        self._tasks = tasks
        self._store = store
        self._now = now
        self._since = now()
        self._on = on
        self._delay = delay
        self._clock = clock
        self._marks: dict[TurnId, _Mark] = {}
        # docs.slack.dev: reactions.add is of tier 3 (50 a minute), reactions.remove of tier 2 (20 a minute).
        self._allowances = {"add": Allowance(50, 10), "remove": Allowance(20, 10)}
        self._held = {"add": 0.0, "remove": 0.0}
        self._bell = asyncio.Event()
        self._working = False

    def __len__(self) -> int:
        """Messages whose reactions are known not to be final."""
        return len(self._marks)

    # ---- what should stand there ----

    def observe(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """Never blocks."""
        match event:
            case Queued(ahead):
                self._begin(session, turn, WAITING if ahead > 0 else RECEIVED)
            case WaitingForPlace():
                self._want(turn.id, WAITING)
            case Preparing():
                self._want(turn.id, RECEIVED)
            case Started():
                self._want(turn.id, WORKING)
            case AskOpened(ask) | AskClosed(ask):
                self._asked(turn.id, ask.id, ask.is_open)
            case Settled(outcome):
                self._want(turn.id, _final(outcome), over=True)
            case Released():  # whoever shows it now sees to it
                self._marks.pop(turn.id, None)

    def _begin(self, session: Session, turn: Turn, wanted: str) -> None:
        channel, _, ts = turn.source_id.partition(":")
        if not self._on or channel != session.thread.channel:  # a command, or a button: there is no message
            return
        fresh = turn.created_at.timestamp() >= max(self._since, self._now() - _FRESH)
        shown: set[str] | None = set() if fresh else None
        self._marks[turn.id] = _Mark(turn.id, channel, ts, wanted, shown, self._clock() + self._delay)
        self._ring()

    def _asked(self, turn_id: TurnId, ask_id: AskId, is_open: bool) -> None:
        if (mark := self._marks.get(turn_id)) is not None:
            (mark.asks.add if is_open else mark.asks.discard)(ask_id)
            self._want(turn_id, ASKING if mark.asks else WORKING)

    def _want(self, turn_id: TurnId, wanted: str, *, over: bool = False) -> None:
        mark = self._marks.get(turn_id)
        if mark is None:
            return
        mark.over = over
        if mark.wanted != wanted:
            mark.wanted = wanted
            mark.due = self._clock() + (0.0 if over else self._delay)
        self._ring()

    async def keep_clean(self) -> None:
        """Now and again: finishes what a process that is gone had begun. Runs until it is cancelled."""
        while True:
            try:
                for left in await self._store.left_over():
                    self._finish(left.turn_id, left.channel, left.ts, set(left.names), left.state)
            except StoreUnavailable as error:
                log.debug("cannot look for reactions that were left over", error=str(error))
            await asyncio.sleep(_SWEEP)

    def _finish(self, turn_id: TurnId, channel: str, ts: str, names: set[str], state: TurnState) -> None:
        if turn_id not in self._marks:
            wanted = _FINAL.get(state, "") if self._on else ""
            self._marks[turn_id] = _Mark(
                turn_id, channel, ts, wanted, set(), self._clock(), kept=True, over=True, maybe=names
            )
            self._ring()

    # ---- making it so ----

    def _ring(self) -> None:
        self._bell.set()
        if not self._working and self._tasks.open:
            self._working = True
            self._tasks.start(self._work(), "reactions")

    async def _work(self) -> None:
        try:
            while (found := self._next()) is not None:
                mark, step, wait = found
                if wait > 0:
                    self._bell.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._bell.wait()
                else:
                    await self._take(mark, step)
        finally:
            self._working = False

    def _next(self) -> tuple[_Mark, _Step, float] | None:
        """What to do first, and the seconds until then. What is as it should be is forgotten."""
        now = self._clock()
        first: tuple[_Mark, _Step, float] | None = None
        for mark in list(self._marks.values()):
            step = _step(mark)
            if step is None:
                if mark.over:
                    del self._marks[mark.turn_id]
                continue
            wait = max(0.0, self._ready(mark, step) - now)
            if first is None or (wait, not mark.over) < (first[2], not first[0].over):
                first = mark, step, wait
        return first

    def _ready(self, mark: _Mark, step: _Step) -> float:
        """When this step may be taken. What only passes is not added unless it can be removed again soon."""
        if step.do in ("load", "close"):
            return mark.retry_at
        ready = max(mark.retry_at, self._held[step.do], self._allowances[step.do].ready_at())
        if step.do == "remove":
            return ready
        return max(ready, mark.due) if mark.over else max(ready, mark.due, self._allowances["remove"].ready_at())

    async def _take(self, mark: _Mark, step: _Step) -> None:
        try:
            await self._do(mark, step)
        except StoreUnavailable as error:
            mark.tries += 1
            mark.retry_at = self._clock() + min(30.0, 0.5 * 2 ** min(mark.tries, 8))
            log.debug("cannot note a reaction; trying again", error=str(error))
        except Exception as error:  # noqa: BLE001 - each is dealt with in one place
            self._failed(mark, step, error)
        else:
            mark.tries, mark.retry_at = 0, 0.0

    async def _do(self, mark: _Mark, step: _Step) -> None:
        if step.do == "load":
            # Noted before they were added, and not when they were taken away: each may stand there, or not.
            mark.maybe |= await self._store.of_turn(mark.turn_id)
            mark.shown, mark.kept = set(), bool(mark.maybe)
        elif step.do == "close":
            await self._store.forget(mark.turn_id)
            mark.kept = False
        elif step.do == "add":
            assert mark.shown is not None
            others = mark.shown | mark.maybe
            if others or not mark.over:  # a final one that is the only one leaves nothing to take away
                mark.kept = True
                await self._store.keep(mark.turn_id, mark.channel, mark.ts, others | {step.name})
            if mark.wanted == step.name:  # else something else has become true meanwhile
                await self._add(mark, step)
                mark.shown.add(step.name)
        else:
            assert mark.shown is not None
            await self._call(mark, step)
            mark.shown.discard(step.name)
            mark.maybe.discard(step.name)

    async def _add(self, mark: _Mark, step: _Step) -> None:
        """What Slack refuses is not there by this call; by an earlier one it may be."""
        before = set(mark.maybe)
        mark.maybe.add(step.name)
        try:
            await self._call(mark, step)
        except Exception as error:
            if refusal(error).meaning is not Meaning.UNKNOWN:
                mark.maybe = before
            raise
        mark.maybe.discard(step.name)

    async def _call(self, mark: _Mark, step: _Step) -> None:
        self._allowances[step.do].spend(self._clock())
        call = self._client.reactions_add if step.do == "add" else self._client.reactions_remove
        try:
            await call(channel=mark.channel, timestamp=mark.ts, name=step.name)
        except SlackApiError as error:
            if error.response.get("error") not in ("already_reacted", "no_reaction"):
                raise

    def _failed(self, mark: _Mark, step: _Step, error: Exception) -> None:
        said = refusal(error)
        if said.meaning is Meaning.LIMITED:
            self._held[step.do] = self._clock() + said.seconds
            return
        mark.tries += 1
        if said.meaning is Meaning.UNKNOWN and mark.tries <= _TRIES:
            mark.retry_at = self._clock() + min(30.0, 0.5 * 2**mark.tries)
            return
        # The message is gone, the channel closed, a scope missing: a reaction is not worth more.
        log.info("cannot set a reaction", do=step.do, name=step.name, error=said.error, ts=mark.ts)
        mark.gone = mark.gone or said.meaning in (Meaning.GONE, Meaning.CHANNEL)
        mark.tries, mark.shown = 0, mark.shown or set()
        (mark.shown.add if step.do == "add" else mark.shown.discard)(step.name)
        mark.maybe.discard(step.name)


def _step(mark: _Mark) -> _Step | None:
    """What differs first between what stands there and what should; None: nothing."""
    if mark.shown is None:
        return _Step("load")
    if mark.gone:
        return _Step("close") if mark.over and mark.kept else None
    if mark.wanted and mark.wanted not in mark.shown:
        return _Step("add", mark.wanted)
    surplus = sorted((mark.shown | mark.maybe) - {mark.wanted})
    if surplus:
        return _Step("remove", surplus[0])
    return _Step("close") if mark.over and mark.kept else None


def _final(outcome: Outcome) -> str:
    match outcome:
        case Done():
            return DONE
        case Failed() | Cut():
            return FAILED
        case _:
            return ""
