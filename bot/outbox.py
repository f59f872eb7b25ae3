"""Shows turns in Slack: holds what each message *should* say, and makes it so within Slack's limits.

Nothing is queued: an answer that changes ten times between two edits costs one edit. Every call is one job of the
workspace-wide `Schedule`; what it sends is decided when its moment comes. Whoever changes an answer only marks it
(`changed`) and never waits. After a restart the same messages are edited on: their ts is in the table, or they are
found by their metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from bot.answer import HOPELESS, PLAIN, Action, Answer, Message
from bot.delivery import Delivery
from bot.parts import ROOT, Part
from bot.refusals import Meaning, Refusal, place_sentence, refusal
from bot.schedule import Clock, Job, Method, Schedule, Urgency
from bot.store import MessageStore
from bot.tasks import Tasks
from config.logging import bind, get_logger
from sessions.errors import StoreUnavailable
from sessions.types import TurnId

log = get_logger(__name__)

GAP = 3.0  # seconds between two edits of a growing message (docs.slack.dev, chat.update)
FIRST_GAP = 1.0  # until the first words replace "Thinking…"
_PATIENCE = 6  # attempts at something that fails for no known reason


@dataclass(slots=True)
class _Entry:
    answer: Answer
    since: float | None = None  # the oldest change that nobody has seen
    method: Method = Method.POST  # of the next call, as far as known
    urgency: Urgency = Urgency.FIRST
    busy: bool = True  # a call is under way; at first, the table is being read
    tries: int = 0
    retry_at: float = 0.0
    closed: bool = False


class Outbox:
    """An async context manager that owns the tasks of all sending.

    `opened(answer, ts)`: the root message of a thread is posted. `delivered(answer)`: all of a settled turn is shown,
    or can never be. `refused(answer, sentence)`: its channel takes no messages from us. The three are awaited in tasks
    of the outbox; what they raise is logged, and StoreUnavailable is tried again.
    """

    def __init__(
        self,
        delivery: Delivery,
        store: MessageStore,
        *,
        opened: Callable[[Answer, str], Awaitable[None]],
        delivered: Callable[[Answer], Awaitable[None]],
        refused: Callable[[Answer, str], Awaitable[None]],
        clock: Clock = time.monotonic,
    ) -> None:
        self._delivery = delivery
        self._store = store
        self._opened = opened
        self._delivered = delivered
        self._refused = refused
        self._clock = clock
        self._schedule = Schedule(clock)
        self._entries: dict[TurnId, _Entry] = {}
        self._bell = asyncio.Event()
        self._quiet = asyncio.Event()
        self._flushing = False
        self._tasks = Tasks("outbox")
        self._early: list[_Entry] = []  # added before the outbox was entered

    # ---- life ----

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start(self._send_for_ever(), "sender")
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
        entry = self._entries[answer.turn_id] = _Entry(answer, since=self._clock())
        self._quiet.clear()
        if self._tasks.open:
            self._tasks.start(self._load(entry), "load")
        else:
            self._early.append(entry)

    def changed(self, turn_id: TurnId) -> None:
        """The answer looks different now. Cheap, and cheapest when it was marked before."""
        entry = self._entries.get(turn_id)
        if entry is None:
            return
        urgency = self._urgency(entry)
        if entry.since is None:
            entry.since = self._clock()
        elif urgency is entry.urgency:
            return
        entry.urgency = urgency
        self._enqueue(entry)

    def __len__(self) -> int:
        """Turns that are not shown to the end."""
        return len(self._entries)

    # ---- scheduling ----

    def _urgency(self, entry: _Entry) -> Urgency:
        view = entry.answer.view
        if view.settled:
            return Urgency.FINAL
        if entry.method is not Method.EDIT:
            return Urgency.FIRST
        return Urgency.FIRST if view.has_words and not self._last(entry.answer).words else Urgency.GROW

    @staticmethod
    def _last(answer: Answer) -> Message:
        return answer.messages[max(answer.messages)]

    def _enqueue(self, entry: _Entry) -> None:
        if entry.busy or entry.closed or entry.since is None:
            return
        answer, soonest = entry.answer, entry.retry_at
        if entry.method is Method.EDIT and entry.urgency is not Urgency.FINAL and not self._flushing:
            gap = FIRST_GAP if entry.urgency is Urgency.FIRST else GAP
            soonest = max(soonest, self._last(answer).changed_at + gap)
        self._quiet.clear()
        self._schedule.put(Job(answer.turn_id, entry.method, answer.channel, entry.urgency, entry.since, soonest))
        self._bell.set()

    async def _send_for_ever(self) -> None:
        while True:
            self._bell.clear()
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
            self._entries.pop(job.key, None)
            self._note_quiet()

    def _begin(self, job: Job) -> None:
        """The job's moment has come: find out what it is, and do it unless it is a job of another kind by now."""
        entry = self._entries[job.key]
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
            entry.since, entry.busy = None, True
            self._tasks.start(self._attempt(entry, action), action.method.value)

    def _go_on(self, entry: _Entry) -> None:
        """After a call: the next one, if there is something left to do."""
        entry.busy = False
        if entry.closed:
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

    def _next_action(self, entry: _Entry) -> Action | None:
        try:
            return entry.answer.next_action()
        except Exception:  # a look that cannot be made must not keep others from theirs
            log.exception("an answer cannot be rendered; showing what there is of it", turn=entry.answer.turn_id)
            entry.answer.view.give_up()
            return entry.answer.next_action()

    def _rest(self, entry: _Entry) -> None:
        """All is shown as it should be."""
        entry.since = None
        if entry.answer.messages:
            entry.method = Method.EDIT
        if entry.answer.view.settled and entry.answer.thread_ts is not None:
            self._close(entry)
        self._note_quiet()

    def _close(self, entry: _Entry) -> None:
        if not entry.closed:
            entry.closed = entry.busy = True
            self._tasks.start(self._report(entry), "delivered")

    async def _report(self, entry: _Entry) -> None:
        await self._insist(lambda: self._delivered(entry.answer), "a turn's delivery")
        self._entries.pop(entry.answer.turn_id, None)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not len(self._schedule) and not any(entry.busy for entry in self._entries.values()):
            self._quiet.set()

    # ---- one call ----

    async def _load(self, entry: _Entry) -> None:
        answer = entry.answer
        try:
            answer.load(await self._store.of_turn(answer.turn_id))
        except StoreUnavailable as error:
            log.warning("cannot read which messages are posted; looking in Slack", error=str(error))
            answer.assume_posted()
        await self._open_thread(answer)
        self._go_on(entry)

    async def _attempt(self, entry: _Entry, action: Action) -> None:
        answer, message = entry.answer, action.message
        with bind(turn=answer.turn_id, thread=answer.thread_ts, channel=answer.channel):
            try:
                await self._call(answer, action)
            except Exception as error:  # noqa: BLE001 - each is worded and dealt with in one place
                await self._failed(entry, action, refusal(error), error)
            else:
                entry.tries, entry.retry_at = 0, 0.0
                log.debug("message shown", method=action.method.value, part=message.index, ts=message.ts)
        self._go_on(entry)

    async def _call(self, answer: Answer, action: Action) -> None:
        message, part = action.message, action.part
        match action.method:
            case Method.HISTORY | Method.REPLIES:
                thread = None if action.method is Method.HISTORY else answer.thread_ts
                await self._look_up(answer, thread)
            case Method.DELETE:
                assert message.ts is not None
                await self._delivery.delete(answer.channel, message.ts)
                await self._forget(answer, action)
            case Method.POST:
                assert part is not None
                await self._post(answer, action, part)
            case Method.EDIT:
                assert part is not None
                assert message.ts is not None
                await self._delivery.edit(answer.channel, message.ts, part)
                await self._shown(answer, action, part)

    async def _post(self, answer: Answer, action: Action, part: Part) -> None:
        message = action.message
        if not message.intended:
            await self._remember(self._store.intend(answer.turn_id, message.index, answer.channel))
            message.intended = True
        thread = None if message.index == ROOT else answer.thread_ts
        message.ts = await self._delivery.post(answer.channel, thread, answer.turn_id, part)
        await self._open_thread(answer)  # first: from now on people can reply there
        await self._shown(answer, action, part)

    async def _look_up(self, answer: Answer, thread_ts: str | None) -> None:
        answer.adopt(await self._delivery.find(answer.channel, thread_ts, answer.turn_id, answer.asked_ts))
        for message in answer.messages.values():
            if message.ts is not None:
                await self._remember(
                    self._store.shown(answer.turn_id, message.index, message.ts, message.shown, message.final)
                )
        await self._open_thread(answer)

    async def _shown(self, answer: Answer, action: Action, part: Part) -> None:
        message = action.message
        assert message.ts is not None
        first = message.shown is None
        message.shown, message.changed_at, message.words = part.digest, self._clock(), part.words
        if first or part.final != message.final or part.final:
            message.final = part.final
            await self._remember(
                self._store.shown(answer.turn_id, message.index, message.ts, message.shown, part.final)
            )

    async def _forget(self, answer: Answer, action: Action) -> None:
        message = action.message
        message.ts, message.shown, message.intended = None, None, False
        await self._remember(self._store.forget(answer.turn_id, message.index))

    async def _open_thread(self, answer: Answer) -> None:
        root = answer.messages.get(ROOT)
        if answer.thread_ts is None and root is not None and root.ts is not None:
            ts = root.ts
            await self._insist(lambda: self._opened(answer, ts), "a new thread")
            answer.thread_ts = ts

    async def _remember(self, writing: Awaitable[None]) -> None:
        """The table is for restarts only: an answer is shown even if it cannot be noted down."""
        try:
            await writing
        except StoreUnavailable as error:
            log.warning("cannot note which messages are posted", error=str(error))

    async def _insist(self, call: Callable[[], Awaitable[None]], what: str) -> None:
        """Until the database takes it. After a restart whatever was not reported is shown, and reported, again."""
        delay = 0.5
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                log.warning(f"cannot store {what}; trying again", seconds=delay, error=str(error))
            except Exception:
                log.exception(f"cannot report {what}")
                return None
            await asyncio.sleep(delay)
            delay = min(30.0, delay * 2)

    # ---- failures ----

    async def _failed(self, entry: _Entry, action: Action, said: Refusal, error: Exception) -> None:
        answer, message = entry.answer, action.message
        known = {"method": action.method.value, "part": message.index, "error": said.error}
        match said.meaning:
            case Meaning.LIMITED:
                log.info("Slack asks to slow down", seconds=said.seconds, **known)
                self._schedule.hold(action.method, said.seconds)
            case Meaning.UNKNOWN:
                message.unknown = message.unknown or action.method is Method.POST
                self._back_off(entry)
                log.warning("Slack did not answer; trying again", attempt=entry.tries, **known)
            case Meaning.GONE:
                message.lost = message.reposted or action.method is Method.DELETE
                message.reposted = True
                await self._forget(answer, action)
                log.info("a message is gone", again=not message.lost, **known)
            case Meaning.CONTENT if message.form < PLAIN:
                message.form += 1
                log.warning("Slack refused the blocks; sending simpler ones", **known)
            case Meaning.CONTENT:
                message.form, message.lost = HOPELESS, True
                log.error("Slack refuses even plain text; the answer is in the transcript", **known)
            case Meaning.CHANNEL:
                await self._give_up(entry, said, known)
            case Meaning.TOKEN:
                entry.retry_at = self._clock() + 60.0
                log.error("Slack refuses the app's token; run `flow doctor`", **known)
            case Meaning.OTHER:
                self._back_off(entry)
                log.error("showing an answer failed", attempt=entry.tries, exc_info=error, **known)
                if entry.tries >= _PATIENCE:
                    message.lost = True
        if message.lost and message.index == ROOT:
            await self._give_up(entry, said, known)

    def _back_off(self, entry: _Entry) -> None:
        entry.tries += 1
        entry.retry_at = self._clock() + min(30.0, 0.5 * 2 ** min(entry.tries, 8)) * random.uniform(0.6, 1.0)

    async def _give_up(self, entry: _Entry, said: Refusal, known: dict[str, Any]) -> None:
        sentence = place_sentence(said.error)
        log.error("an answer cannot be shown", reason=sentence, **known)
        await self._insist(lambda: self._refused(entry.answer, sentence), "a refusal")
        self._close(entry)
