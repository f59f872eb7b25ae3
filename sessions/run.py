"""One turn on its way: place → open → begin → send → follow, until it has an outcome.

The steps work on one record, `TurnRun`. When the agent is lost on the way, they are gone through again with a new
worklet: the prompt keeps its uuid, so the CLI runs it once. The outcome is a value; settling it is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from config.logging import get_logger
from sessions.events import Preparing, Started, WaitingForPlace
from sessions.inbox import Batch
from sessions.link import Link, Shared
from sessions.types import Done, Failed, Interrupted, Outcome, SessionState, Turn, TurnId
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletError
from worklets.events import AgentEvent, AgentExited, AgentReady, PromptTaken, Text, TurnEnded

log = get_logger(__name__)
T = TypeVar("T")

_ANSWER_LOST = "Claude answered, but its container ended before the answer was read. Ask it to repeat its last answer."
_DROPPED = "Claude did not take this message in. Send it again, worded differently."


class Settled(Exception):
    """Somebody else has settled the turn: nothing is left to do."""


class _Stopped(Exception):
    """The turn was stopped before the CLI could end it."""


class TurnRun:
    def __init__(self, shared: Shared, link: Link, turn: Turn) -> None:
        self.turn = turn
        self.outcome: Outcome | None = None
        self._shared = shared
        self._link = link
        self._stop: Interrupted | None = None
        self._stopped = asyncio.Event()
        self._interrupting: asyncio.Task[None] | None = None
        self._deadline: tuple[float, Outcome] | None = None  # loop time, and the outcome then
        self._opening = False
        self._resumes = False  # what a lost process said last is about this turn
        self._sent = False  # the agent may be working on the prompt
        self._taken = False  # this process has begun with it
        self._tries = 0

    def interrupt(self, by: str | None) -> None:
        """Idempotent: the first one counts."""
        if self._stop is None:
            self._stop = Interrupted(by)
            self._stopped.set()
            self._link.inbox.ring()

    async def run(self) -> Outcome:
        """Raises Settled, and what nobody expects."""
        try:
            return await self._recorded() or await self._attempts()
        except _Stopped:
            assert self._stop is not None
            if self._sent or self._opening:  # the CLI would go on with the prompt; a half-open worklet is nobody's
                await self._link.end()
            return self._stop
        except WorkletError as error:
            log.warning("turn failed", error=str(error))
            await self._link.end()
            return Failed(error.sentence())
        finally:
            await self._end_interrupting()

    async def _recorded(self) -> Outcome | None:
        """The end that the transcript has already, of a turn that a restart cut off just before it was settled."""
        if self.turn.started_at is None:
            return None
        ended = await self._shared.stored(lambda: self._shared.transcript.ended(self.turn.id))
        return self._outcome_of(ended) if ended else None

    async def _attempts(self) -> Outcome:
        while True:
            try:
                for step in (self._place, self._open, self._begin, self._send, self._follow):
                    await step()
                assert self.outcome is not None
                return self.outcome
            except (AgentGone, RuntimeUnavailable) as lost:
                await self._recover(lost)

    async def _recover(self, lost: WorkletError) -> None:
        """Makes ready for another try, or raises `lost`."""
        pauses = self._shared.patience.again
        # A runtime that is down before anything began is told at once; under a running turn it may be restarting.
        if self._tries >= len(pauses) or (isinstance(lost, RuntimeUnavailable) and self.turn.started_at is None):
            raise lost
        pause, self._tries = pauses[self._tries], self._tries + 1
        log.warning("agent lost; resuming", error=str(lost), attempt=self._tries)
        self._sent = self._taken = False
        self._deadline = None
        await self._link.end()
        self._tell(Preparing("resuming"))
        await self._unless_stopped(asyncio.sleep(pause))

    # -- the steps ---------------------------------------------------------

    async def _place(self) -> None:
        places = self._shared.places
        ticket = places.ask(self._link.session.id)
        if ticket.granted.done():
            return
        await self._link.set_state(SessionState.WAITING)
        if ticket.blocked and not ticket.granted.done():
            self._tell(WaitingForPlace(places.limit))
        await self._unless_stopped(_wait(ticket.granted))

    async def _open(self) -> None:
        if self._link.agent is None:
            self._resumes = self.turn.started_at is not None
            await self._link.set_state(SessionState.STARTING, container_id=None)
            self._opening = True
            await self._unless_stopped(self._link.open(self._on_step))
            self._opening = False

    def _on_step(self, step: str) -> None:
        if not self._tries:  # else it was told that the turn is being resumed
            self._tell(Preparing(step))

    async def _begin(self) -> None:
        if self._stopped.is_set():
            raise _Stopped
        agent = self._link.agent
        assert agent is not None
        first = self.turn.started_at is None
        begun = await self._shared.stored(
            lambda: self._shared.store.begin(self._link.lease, self.turn.id, agent.worklet_id)
        )
        if begun is None:
            raise Settled
        self._link.session, self.turn = begun
        if first:
            self._tell(Started())

    async def _send(self) -> None:
        assert self._link.agent is not None
        self._sent = True
        try:
            await self._unless_stopped(self._link.agent.send(self.turn.id, self.turn.text))
        except AgentGone as gone:
            await self._last_words(gone)

    async def _last_words(self, gone: AgentGone) -> None:
        """Why a process is gone stands in what it said last. Raises AgentGone, or returns with an outcome."""
        self._set_deadline(self._shared.patience.verdict, Failed(gone.sentence()))
        while self.outcome is None and self._time_left():
            batch = await self._link.inbox.get(self._time_left())
            if batch is not None:
                await self._take(batch)
        if self.outcome is None:
            raise gone

    async def _follow(self) -> None:
        while self.outcome is None:
            if self._deadline is not None and self._time_left() == 0:
                self._time_is_up(self._deadline[1])
                continue
            batch = await self._link.inbox.get(self._time_left())
            if batch is not None:
                await self._take(batch)
            elif self._stop is not None and self._interrupting is None:
                self._ask_to_end(self._stop)

    # -- following ---------------------------------------------------------

    async def _take(self, batch: Batch) -> None:
        before = self._link.is_from_before(batch[0])
        owner = self._owner_before if before else self._owner
        exited: AgentExited | None = None
        for event in await self._link.take(batch, owner):
            if owner(event) is None:
                continue
            self._tell(event)
            if isinstance(event, TurnEnded):
                self.outcome = self._outcome_of(event)
            elif isinstance(event, AgentExited):
                exited = event
            elif not before:
                await self._note(event)
        if exited is not None and self.outcome is None:
            raise _gone(exited)

    async def _note(self, event: AgentEvent) -> None:
        match event:
            case AgentReady() | PromptTaken(_, "started"):
                self._taken = True
            case PromptTaken(prompt_id, "completed") if prompt_id == self.turn.id:
                # A new process that calls the prompt completed without having begun found it in its history.
                # (A process that we left says so of a prompt it is working on: its end is still to come.)
                if self._link.fresh and not self._taken:
                    self.outcome = await self._answered_before()
            case PromptTaken(prompt_id, "cancelled" | "discarded" | "refused") if prompt_id == self.turn.id:
                if self._deadline is None:
                    self._set_deadline(self._shared.patience.verdict, self._stop or Failed(_DROPPED))

    def _owner(self, event: AgentEvent) -> TurnId | None:
        """This turn; None for the end of another, which the agent began unasked (a background task had finished)."""
        if not isinstance(event, TurnEnded) or self.turn.id in event.prompt_ids:
            return self.turn.id
        # An interrupt may hit before the CLI has noted whose turn it is.
        return self.turn.id if self._stop is not None and not event.prompt_ids else None

    def _owner_before(self, event: AgentEvent) -> TurnId | None:
        """Of what a lost process said last. Its exit is no news: this is why there is a new one."""
        return self._owner(event) if self._resumes and not isinstance(event, AgentExited) else None

    def _outcome_of(self, ended: TurnEnded) -> Outcome:
        match ended.outcome:
            case "done":
                return Done()
            case "failed":
                return Failed(ended.error or "Claude could not finish. Write again to go on.")
            case "interrupted":
                return self._stop or Interrupted()

    async def _answered_before(self) -> Outcome:
        entries = await self._shared.stored(
            lambda: self._shared.transcript.read(self._link.session.id, turn_id=self.turn.id)
        )
        return Done() if any(isinstance(entry.event, Text) for entry in entries) else Failed(_ANSWER_LOST)

    # -- stopping ---------------------------------------------------------

    def _ask_to_end(self, stop: Interrupted) -> None:
        agent, patience = self._link.agent, self._shared.patience.interrupt
        assert agent is not None
        self._set_deadline(patience, stop)
        # In a task of its own: the answer may come through the very stream that this loop reads.
        self._interrupting = asyncio.create_task(agent.interrupt(timeout=patience), name="interrupt")

    async def _end_interrupting(self) -> None:
        if self._interrupting is None:
            return
        self._interrupting.cancel()
        await asyncio.wait([self._interrupting])
        if not self._interrupting.cancelled() and (error := self._interrupting.exception()):
            log.warning("the interrupt was not answered", error=repr(error))

    def _set_deadline(self, seconds: float, outcome: Outcome) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds, outcome

    def _time_left(self) -> float | None:
        return max(0.0, self._deadline[0] - asyncio.get_running_loop().time()) if self._deadline else None

    def _time_is_up(self, outcome: Outcome) -> None:
        if self._interrupting is not None:
            raise _Stopped
        self.outcome = outcome

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; cancels it and raises _Stopped when the turn is stopped meanwhile."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise _Stopped
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.wait([task, stopped])

    def _tell(self, event: Any) -> None:
        self._shared.tell(self._link.session, self.turn, event)


async def _wait(future: asyncio.Future[None]) -> None:
    # Whoever stops waiting must not cancel the future: the place may be granted in that very moment.
    await asyncio.shield(future)


def _gone(exited: AgentExited) -> AgentGone:
    last = exited.stderr.strip().rpartition("\n")[2][:200]
    return AgentGone(f"Claude's process ended with code {exited.code}{f' ({last})' if last else ''}.")
