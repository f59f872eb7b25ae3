"""Shows turns in Slack: holds what each message *should* say, and makes it so within Slack's limits.

Nothing is queued: an answer that changes ten times between two edits costs one edit, and one that changes while Slack
is away is shown as it is then. Every call is one job of the workspace-wide `Schedule`; what it sends is decided when
its moment comes. Whoever changes an answer only marks it (`changed`) and never waits. After a restart the same
messages are edited on: their ts is in the table, or they are found by their metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from bot.answer import Action, Answer, Message
from bot.covered import watch_covered
from bot.delivery import Delivery
from bot.late import LateCalls
from bot.order import Order
from bot.outage import Outage
from bot.reports import UNHELD, Reports
from bot.schedule import Clock, Job, Method, Schedule, Urgency
from bot.sending import NotHeld, PostedLate, Sender
from bot.setbacks import Entry, Setbacks
from bot.store import MessageStore
from bot.tasks import Tasks
from config.logging import bind, get_logger
from sessions.errors import StoreUnavailable
from sessions.types import SessionId, TurnId

log = get_logger(__name__)

GAP = 3.0  # seconds between two edits of a growing message (docs.slack.dev, chat.update)
GROWING = (Method.EDIT, Method.APPEND)  # what changes a message that is there, and may change again
FIRST_GAP = 1.0  # until the first words replace "Thinking…"
_WORDLESS = 3.0  # seconds that a message of a dead process keeps its looks, unless its words come earlier
_REPLAYED = 0.15  # seconds in which the journal tells again what that process had shown


async def alone(_: TurnId) -> bool:
    """There is no other process."""
    return True


class Outbox:
    """An async context manager that owns the tasks of all sending.

    `opened(answer, ts)`: the root message of a thread is posted. `delivered(answer)`: all of a settled turn is shown,
    or can never be. `refused(answer, sentence)`: its channel takes no messages from us. The three are awaited in tasks
    of the outbox; what they raise is logged, and StoreUnavailable is tried again. `may_show`: whether this process may
    show a session now; while it may not, nothing is sent. `again(turn_id)` as `LateCalls` has it.
    `pace`: how many times Slack's documented limits.
    """

    def __init__(
        self,
        delivery: Delivery,
        store: MessageStore,
        *,
        opened: Callable[[Answer, str], Awaitable[None]],
        delivered: Callable[[Answer], Awaitable[None]],
        refused: Callable[[Answer, str], Awaitable[None]],
        may_show: Callable[[SessionId], bool] = lambda _: True,
        again: Callable[[TurnId], Awaitable[bool]] = alone,
        clock: Clock = time.monotonic,
        pace: float = 1.0,
    ) -> None:
        self._store = store
        self._reports = Reports(opened=opened, delivered=delivered, refused=refused, may_show=may_show)
        self._sender = Sender(delivery, store, may_show=may_show, opened=self._reports.opened, clock=clock)
        self._may_show = may_show
        self._clock = clock
        self._schedule = Schedule(clock, pace)
        self._outage = Outage(clock)
        self._setbacks = Setbacks(
            self._schedule, self._outage, self._sender, clock, again=self._try_again, give_up=self._give_up
        )
        self._order = Order()
        self._entries: dict[TurnId, Entry] = {}
        self._leaving: dict[TurnId, Entry] = {}  # dropped with a call under way
        self._bell = asyncio.Event()
        self._quiet = asyncio.Event()
        self._flushing = False
        self._tasks = Tasks("outbox")
        self._late = LateCalls(delivery, store, again, self._tasks)
        self._early: list[Entry] = []  # added before the outbox was entered

    # ---- life ----

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start(self._send_for_ever(), "sender")
        self._tasks.start(watch_covered(self._store, self._entries, self._uncover), "covered messages")
        for entry in self._early:
            self._tasks.start(self._load(entry), "load")
        self._early.clear()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

    async def flush(self, timeout: float) -> bool:
        """Shows the newest state of everything, without the usual gaps. False: not all in `timeout` seconds."""
        self._flushing = True
        for entry in self._entries.values():
            self._enqueue(entry)
        self._note_quiet()
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            return False
        finally:
            self._flushing = False
        return True

    # ---- what observers call ----

    def add(self, answer: Answer) -> None:
        """A turn to show. Its messages, if it has any yet, are looked up first."""
        entry = self._entries[answer.turn_id] = Entry(answer, since=self._clock())
        self._order.add(answer)
        self._quiet.clear()
        if self._tasks.open:
            self._tasks.start(self._load(entry), "load")
        else:
            self._early.append(entry)

    def heard(self, turn_id: TurnId) -> None:
        """Claude's words come live: after a take-over those before them are there, or will be in a moment."""
        entry = self._entries.get(turn_id)
        if entry is not None and entry.wordless_until > (soon := self._clock() + _REPLAYED):
            entry.wordless_until = soon
            self._enqueue(entry)

    def changed(self, turn_id: TurnId) -> None:
        """The answer looks different now. Cheap, and cheapest when it was marked before."""
        entry = self._entries.get(turn_id)
        if entry is None:
            return
        urgency = self._urgency(entry)
        if entry.since is None:
            entry.since = self._clock()
        elif urgency is entry.urgency and not entry.answer.hurried:
            return
        entry.urgency = urgency
        self._enqueue(entry)

    def drop(self, turn_id: TurnId) -> None:
        """Forgets a turn: another process shows it. A call that is under way ends, and changes nothing any more."""
        entry = self._entries.pop(turn_id, None)
        if entry is None:
            return
        if entry.busy and not entry.closed and entry not in self._early:
            self._leaving[turn_id] = entry
        entry.closed = entry.answer.released = True
        self._early = [early for early in self._early if early is not entry]
        self._schedule.drop(turn_id)
        self._leave_order(entry)

    def __len__(self) -> int:
        """Turns that are not shown to the end."""
        return len(self._entries)

    @property
    def delay(self) -> float:
        """Seconds since the oldest change that nobody has seen; 0 when all is shown."""
        since = min((entry.since for entry in self._entries.values() if entry.since is not None), default=None)
        return 0.0 if since is None else max(0.0, self._clock() - since)

    # ---- scheduling ----

    def _urgency(self, entry: Entry) -> Urgency:
        view = entry.answer.view
        if view.settled:
            return Urgency.FINAL
        if entry.method not in GROWING or entry.answer.hurried:
            return Urgency.FIRST
        return Urgency.FIRST if view.has_words and not self._last(entry.answer).words else Urgency.GROW

    @staticmethod
    def _last(answer: Answer) -> Message:
        return answer.messages[max(answer.messages)]

    def _enqueue(self, entry: Entry) -> None:
        if entry.busy or entry.closed or entry.since is None:
            return
        answer, soonest = entry.answer, entry.retry_at
        hurried = entry.urgency is Urgency.FINAL or self._flushing or answer.hurried
        if entry.method in GROWING and not hurried:
            gap = FIRST_GAP if entry.urgency is Urgency.FIRST or entry.method is Method.APPEND else GAP
            soonest = max(soonest, self._last(answer).changed_at + gap, entry.wordless_until)
        self._quiet.clear()
        self._schedule.put(Job(answer.turn_id, entry.method, answer.channel, entry.urgency, entry.since, soonest))
        self._bell.set()

    async def _send_for_ever(self) -> None:
        while True:
            self._bell.clear()
            wait = self._outage.wait()
            if wait == 0.0:
                job, wait = self._schedule.next()
                if job is not None:
                    self._begin_safely(job)
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._bell.wait()

    def _begin_safely(self, job: Job) -> None:
        """Whatever is wrong with one answer, the others are shown."""
        try:
            self._begin(job)
        except Exception:
            log.exception("an answer cannot be shown before a restart", turn=job.key)
            self._schedule.drop(job.key)
            if (entry := self._entries.pop(job.key, None)) is not None:
                entry.closed = True
                self._leave_order(entry)

    def _begin(self, job: Job) -> None:
        """The job's moment has come: find out what it is, and do it unless it is a job of another kind by now."""
        entry = self._entries[job.key]
        if not self._may_show(entry.answer.session_id):
            entry.retry_at = self._clock() + UNHELD
            self._enqueue(entry)
            return
        action = self._next_action(entry)
        if action is None:
            self._schedule.drop(job.key)
            self._rest(entry)
        elif action.method is not job.method:
            entry.method = action.method
            entry.urgency = self._urgency(entry)
            self._enqueue(entry)
        else:
            self._schedule.take(job)
            since, entry.since, entry.busy = entry.since, None, True
            self._tasks.start(self._attempt(entry, action, since, self._outage.begin()), action.method.value)

    def _go_on(self, entry: Entry) -> None:
        """After a call: the next one, if there is something left to do; others of the thread may have waited for it."""
        self._bell.set()
        if entry.answer.released:
            entry.idle.set()
            if self._leaving.get(entry.answer.turn_id) is entry:
                del self._leaving[entry.answer.turn_id]
            return
        entry.busy = False
        self._step(entry)
        self._wake_others(entry)

    def _step(self, entry: Entry) -> None:
        if entry.busy or entry.closed:
            self._note_quiet()
            return
        action = self._next_action(entry)
        if action is None:
            self._rest(entry)
            return
        entry.method = action.method
        entry.since = self._clock() if entry.since is None else entry.since
        entry.urgency = self._urgency(entry)
        self._enqueue(entry)

    def _wake_others(self, entry: Entry) -> None:
        for answer in self._order.others(entry.answer):
            if (other := self._entries.get(answer.turn_id)) is not None:
                self._step(other)

    def _leave_order(self, entry: Entry) -> None:
        self._order.remove(entry.answer)
        self._wake_others(entry)
        self._note_quiet()

    def _next_action(self, entry: Entry) -> Action | None:
        """None: nothing to do, or not yet."""
        misplaced = self._order.misplaced(entry.answer)
        if misplaced is not None:
            return Action(Method.DELETE, misplaced, None, move=True)
        action = entry.answer.next_action()
        posts = action is not None and action.method in (Method.POST, Method.START)
        return None if posts and not self._order.may_post(entry.answer) else action

    def _rest(self, entry: Entry) -> None:
        """All is shown as it should be, or waits for another answer."""
        entry.since = None
        answer = entry.answer
        self._schedule.drop(answer.turn_id)
        if answer.messages:
            entry.method = Method.APPEND if self._last(answer).stream is not None else Method.EDIT
        done = answer.view.settled and answer.thread_ts is not None and answer.next_action() is None
        if done and self._order.may_close(answer):
            self._close(entry)
        self._note_quiet()

    def _close(self, entry: Entry) -> None:
        if not entry.closed:
            entry.closed = entry.busy = True
            self._schedule.drop(entry.answer.turn_id)
            self._tasks.start(self._report(entry), "delivered")

    async def _report(self, entry: Entry) -> None:
        answer = entry.answer
        if not await self._reports.delivered(answer):
            return
        if self._entries.get(answer.turn_id) is entry:
            del self._entries[answer.turn_id]
        self._leave_order(entry)

    def _note_quiet(self) -> None:
        if not len(self._schedule) and not any(entry.busy for entry in self._entries.values()):
            self._quiet.set()

    def _try_again(self) -> None:
        """Slack answers again."""
        for entry in self._entries.values():
            if entry.unanswered:
                entry.unanswered, entry.retry_at = False, 0.0
                self._enqueue(entry)

    # ---- what a late call of another process has covered ----

    def _uncover(self, turn_id: TurnId, part: int) -> None:
        """The message is shown anew, and noted down so."""
        entry = self._entries.get(turn_id)
        message = entry.answer.messages.get(part) if entry is not None else None
        if entry is None or entry.busy or message is None or message.ts is None or message.stream is not None:
            return
        message.shown, message.final = None, False
        self._step(entry)

    # ---- one call ----

    async def _load(self, entry: Entry) -> None:
        if (before := self._leaving.get(entry.answer.turn_id)) is not None:
            await before.idle.wait()  # what it is posting has to be found
        await self._sender.load(entry.answer)
        if any(message.ts is not None for message in entry.answer.messages.values()):
            entry.wordless_until = self._clock() + _WORDLESS
        self._go_on(entry)

    async def _attempt(self, entry: Entry, action: Action, since: float | None, era: int) -> None:
        answer, message = entry.answer, action.message
        with bind(turn=answer.turn_id, thread=answer.thread_ts, channel=answer.channel):
            try:
                await self._sender.do(answer, action)
            except NotHeld:
                self._outage.gave_up(era)
                entry.retry_at = self._clock() + UNHELD
            except StoreUnavailable as error:
                self._outage.gave_up(era)
                entry.back_off(self._clock())
                log.debug("cannot note down what is to be posted; trying again", error=str(error))
            except PostedLate as late:
                self._setbacks.answered(era)
                self._late.posted(answer, action, late.ts)
            except Exception as error:  # noqa: BLE001 - each is worded and dealt with in one place
                await self._setbacks.failed(entry, action, error, era)
                if not self._sender.holds(answer):
                    self._late.changed(answer, action)
            else:
                self._setbacks.answered(era)
                entry.tries, entry.misses, entry.retry_at = 0, 0, 0.0
                message.moves += action.move
                since = None
                log.debug("message shown", method=action.method.value, part=message.index, ts=message.ts)
                if not self._sender.holds(answer):
                    self._late.changed(answer, action)
            if since is not None:  # still unseen: it keeps its place among those who wait
                entry.since = since
        self._go_on(entry)

    async def _give_up(self, entry: Entry, sentence: str) -> None:
        if not entry.answer.released:
            await self._reports.refused(entry.answer, sentence)
            self._close(entry)
