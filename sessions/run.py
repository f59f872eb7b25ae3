"""One turn on its way: place → open → judge → begin → send → follow, until it has an outcome.

The steps work on one record, `TurnRun`. When the agent is lost on the way, they are gone through again with a new
worklet, unless something has run that must not run twice: then people decide. The outcome is a value; settling it is
the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from config.logging import get_logger
from sessions import loss
from sessions.context import collect_backlog, context, wants_backlog
from sessions.events import Preparing, Started, Stopping, WaitingForPlace
from sessions.files import Brought, bring
from sessions.inbox import Batch
from sessions.link import Link, Shared
from sessions.places import Ticket
from sessions.purse import Purse, stopped, warning
from sessions.stopping import Escalation, Stopped, unless
from sessions.transcript import Entry
from sessions.turnasks import TurnAsks, is_parked, never_begun
from sessions.types import Cut, Done, Failed, Interrupted, Outcome, SessionState, Turn, TurnId
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletError
from worklets.events import AgentEvent, AgentExited, AgentReady, PromptTaken, Remark, Restarted, Spent, TurnEnded
from worklets.slash import forgets, is_command

log = get_logger(__name__)

_DROPPED = "Claude did not take this message in. Send it again, worded differently."
_STOPPED_SECONDS = 0.5  # for the result of a prompt that the CLI calls cancelled: it comes first, or not at all
_SLEPT = "Claude was put to sleep while it waited for an answer"
_HURRY = 1.0  # seconds that a worklet has which is ended because its turn was stopped


class Settled(Exception):
    """Somebody else has settled the turn: nothing is left to do."""


class Parked(Exception):
    """People are waited for: the session may sleep, or take another turn. This one goes on when they have decided."""


class _Unpaid(Exception):
    """A new process would have to go on with the turn, and a limit is reached: people are asked first."""


class TurnRun:
    def __init__(self, shared: Shared, link: Link, turn: Turn) -> None:
        self.turn = turn
        self.outcome: Outcome | None = None
        self._shared = shared
        self._link = link
        self._stop: Interrupted | None = None
        self._stopped = asyncio.Event()
        self._escalation: Escalation | None = None
        self._deadline: tuple[float, Outcome | None] | None = None  # loop time; the outcome then, None: escalate
        self._backlog: asyncio.Task[None] | None = None
        self._asks = TurnAsks(shared, link, turn)
        self._purse = Purse(shared, link, turn)
        self._over: Failed | None = None  # it went beyond a limit, and was stopped for that
        self._park = ""
        self._opening = False
        self._sent = False  # the agent may be working on the prompt
        self._taken = False  # this process has begun with it
        self._given = False  # the process was given the prompt before: by us, before a restart
        self._heard = False  # the process has said something to it
        self._again = False  # the process goes on in the place of a lost one
        self._epoch = ""  # of the process that is being heard
        self._ending: str | None = None  # why the last process was lost
        self._tries = 0
        self._anew = False  # the process was lost; another goes on

    def interrupt(self, by: str | None) -> None:
        """Idempotent: the first one counts."""
        if self._stop is None:
            self._stop = Interrupted(by)
            self._tell(Stopping(by))
            self._stopped.set()
            self._link.inbox.ring()

    def park(self, *, at_once: bool) -> None:
        """Put the process to sleep if nothing but people is waited for; `at_once`: which a sub-agent may hide."""
        if self.waits_for_people:
            self._park = "at once" if at_once else "in time"
            self._link.inbox.ring()

    @property
    def waits_for_people(self) -> bool:
        """They have to decide; something else may run meanwhile."""
        return self._asks.waits or self._purse.waits

    async def run(self) -> Outcome:
        """Raises Settled, Parked, LeaseLost, and what nobody expects."""
        try:
            return await self._recorded() or await self._attempts()
        except Stopped:
            assert self._stop is not None
            if self._sent or self._opening:  # the CLI would go on with the prompt; a half-open worklet is nobody's
                await self._keep_preview()
                await self._link.end(_HURRY)
            return self._over or self._stop
        except WorkletError as error:
            log.warning("turn failed", error=str(error))
            await self._link.end()
            return Failed(error.sentence())
        finally:
            await self._purse.close()
            if self._escalation is not None:
                await self._escalation.close()
            if self._backlog is not None:
                self._backlog.cancel()
                await asyncio.wait([self._backlog])

    async def _recorded(self) -> Outcome | None:
        """The end that the transcript has already, of a turn that a restart cut off just before it was settled."""
        if self.turn.started_at is None:
            return None
        ended = await self._shared.stored(lambda: self._shared.transcript.ended(self.turn.id))
        return self._outcome_of(ended) if ended else None

    async def _attempts(self) -> Outcome:
        if wants_backlog(self._shared, self._link, self.turn):  # while the worklet starts
            self._backlog = asyncio.create_task(collect_backlog(self._shared, self._link, self.turn), name="backlog")
        while True:
            if self._stop is not None and (self.turn.started_at is None or not self._link.has_worklet):
                raise Stopped
            try:
                for step in (self._afford, self._place, self._open, self._judge, self._begin, self._send, self._follow):
                    await step()
                    if self.outcome is not None:
                        return self.outcome
            except (AgentGone, RuntimeUnavailable) as lost:
                await self._recover(lost)
                if self.outcome is not None:
                    return self.outcome
                self._anew = True
            except _Unpaid:
                await self._link.end()
                self._anew = True

    async def _recover(self, lost: WorkletError) -> None:
        """Makes ready for another try, or raises `lost`; or the turn has its outcome now."""
        if self._stop is not None:
            raise Stopped
        self._deadline = None
        ending = await self._link.end()
        if self._sent:
            self._ending = loss.ending(lost, ending)
        self._sent = self._taken = False
        if self.turn.started_at is not None:
            await self._keep_preview()
            await self._weigh(await self._link.entries(self.turn.id))
            if self.outcome is not None:
                return
        pauses = self._shared.patience.again
        # A runtime that is down before anything began is told at once; under a running turn it may be restarting.
        if self._tries >= len(pauses) or (isinstance(lost, RuntimeUnavailable) and self.turn.started_at is None):
            raise lost
        pause, self._tries = pauses[self._tries], self._tries + 1
        log.warning("agent lost; resuming", error=str(lost), attempt=self._tries)
        self._tell(Preparing("resuming"))
        await unless(self._stopped, asyncio.sleep(pause))

    async def _weigh(self, entries: Sequence[Entry]) -> None:
        """After a loss: sets the outcome when the prompt must not, or not yet again, be given to another process."""
        ending = self._ending or loss.GONE
        asks = await self._asks.look()
        if is_parked(asks):  # it was ended at a moment at which nothing ran
            self._ending = _SLEPT
        elif effect := loss.side_effect([entry.event for entry in entries], never_begun(entries, asks)):
            self.outcome = Cut(f"{ending} {effect}.")
        elif self.turn.attempts >= self._shared.patience.attempts:
            self.outcome = Failed(f"{ending}; {self.turn.attempts} were lost with this message. Word it differently.")

    # -- the steps ---------------------------------------------------------

    async def _afford(self) -> None:
        """Before it begins, and before a new process goes on with it."""
        if self.turn.started_at is None or self._anew or await self._purse.is_asking():
            self.outcome = await unless(self._stopped, self._purse.afford(self._let_go))
        self._anew = False

    async def _let_go(self) -> None:
        """While people think about money: the place is another's if it is wanted, and so is a turn's turn."""
        session_id = self._link.session.id
        if self._link.has_worklet:
            self._shared.places.idle(session_id)  # whoever wants it asks for it now: see `park`
        park, self._park = self._park, ""
        if park and self._link.has_worklet:
            await self._link.end()
            if self.turn.started_at is None:  # else the row goes on naming the container that was given the prompt
                await self._link.set_state(SessionState.ASLEEP, container_id=None)
        if not self._link.has_worklet:
            self._shared.places.free(session_id)
        if self.turn.started_at is None:
            following = await self._shared.stored(lambda: self._shared.store.next_turn(session_id))
            if following is not None and following.id != self.turn.id:
                raise Parked

    async def _place(self) -> None:
        places = self._shared.places
        ticket = places.ask(self._link.session.id)
        if ticket.granted.done():
            return
        await self._link.set_state(SessionState.WAITING)
        await unless(self._stopped, _wait(ticket, lambda: self._tell(WaitingForPlace(places.limit))))

    async def _open(self) -> None:
        if self._link.agent is not None:
            return
        # The row goes on naming the container that was given the last prompt: `_judge` asks for it.
        await self._link.set_state(SessionState.STARTING)
        self._opening = True
        # A worklet that has worked on the turn is asked to end it, rather than ended with what it said last unheard.
        grace = self._shared.patience.attach if self.turn.started_at is not None else 0.0
        await unless(self._stopped, self._link.open(self._on_step), grace)
        assert self._link.agent is not None
        for batch in self._link.agent.earlier:
            await self._take(batch)
        await self._keep_preview()
        await self._link.agent.forget_earlier()
        self._opening = False

    def _on_step(self, step: str) -> None:
        if not self._tries:  # else it was told that the turn is being resumed
            self._tell(Preparing(step))

    async def _judge(self) -> None:
        """Whether the process was given the prompt already; if another was, how to go on."""
        agent, session = self._link.agent, self._link.session
        assert agent is not None
        self._given = self._again = self._heard = False
        if self.turn.started_at is None:
            return
        entries = await self._link.entries(self.turn.id)
        self._heard = any(one.epoch == agent.epoch and not isinstance(one.event, Restarted) for one in entries)
        self._given = session.container_id == agent.worklet_id
        self._again = loss.restarted_in(entries, agent.epoch)
        self._sent = self._given  # it may be working on it: then stopping means to stop it
        if self._stopped.is_set() and not self._given:
            raise Stopped
        if self._given:
            await self._asks.unpark()  # it was decided before the process had been put to sleep
        elif self._again:
            await self._asks.resumed()
        if self._given or self._again:
            return
        self._ending = self._ending or agent.ending
        await self._weigh(entries)
        if self.outcome is not None:
            await self._link.end()
            return
        if not await self._purse.suffices():
            raise _Unpaid
        self._tell(await self._link.restarted(self.turn.id, f"{self._ending or loss.GONE}; a new one goes on."))
        self._again = True
        await self._asks.resumed()

    async def _begin(self) -> None:
        if self._stopped.is_set() and not self._given:
            raise Stopped
        agent = self._link.agent
        assert agent is not None
        first, attempts = self.turn.started_at is None, self.turn.attempts + (not self._given)
        begun = await self._shared.stored(
            lambda: self._shared.store.begin(self._link.lease, self.turn.id, agent.worklet_id, attempts=attempts)
        )
        if begun is None:
            raise Settled
        self._link.session, self.turn = begun
        if first:
            self._tell(Started())

    async def _send(self) -> None:
        agent = self._link.agent
        assert agent is not None
        if self._stopped.is_set() and self._given:
            return
        if self._backlog is not None:
            await unless(self._stopped, asyncio.wait([self._backlog]))
        if not self._given:
            await unless(self._stopped, self._link.choose_model())
            await unless(self._stopped, self._link.permit(mode=True))
        brought = Brought()
        if not self._heard:
            brought = await unless(self._stopped, bring(self._shared, self._link, self.turn, self._tell))
        # A command of the CLI is a line of its own; what is to be told waits for the next prompt. Files cannot wait.
        known: list[str] = []
        if not is_command(self.turn.text) or brought.notes or brought.pictures:
            known = await unless(self._stopped, context(self._shared, self._link, self.turn, again=self._again))
            known += brought.notes
            known += await self._asks.reminder() if self._again else []
        prompt_id = loss.again_id(self.turn.id, agent.epoch) if self._again else self.turn.id
        await unless(self._stopped, self._purse.begin())
        self._sent = True
        try:
            await unless(self._stopped, agent.send(prompt_id, self.turn.text, known, brought.pictures))
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
        if self._given or self._again:
            await self._asks.give()  # what was decided while nobody was here
        while self.outcome is None:
            await self._heed()
            if self._stop is not None and self._escalation is None:
                assert self._link.agent is not None
                self._escalation = Escalation(self._link.agent, self._shared.patience)
                self._time_is_up(None)
            elif self._deadline is not None and self._time_left() == 0:
                self._time_is_up(self._deadline[1])
            elif (batch := await self._link.inbox.get(self._time_left())) is not None:
                await self._take(batch)
            elif self._stop is None and self._asks.waits:
                await self._look_at_asks()

    async def _heed(self) -> None:
        """What the purse has found: the thread is warned, or the turn has to end."""
        while self._purse.warnings:
            remark = Remark(warning(self._purse.warnings.popleft()))
            number = int(self._shared.store.clock().timestamp() * 1000)
            if await self._link.remark(self.turn.id, remark, number):
                self._tell(remark)
        if self._purse.exceeded is not None and self._over is None and self._stop is None:
            self._over = stopped(self._purse.exceeded)
            self.interrupt(None)

    async def _look_at_asks(self) -> None:
        """The bell rang while people are waited for."""
        await self._asks.give()
        park, self._park = self._park, ""
        if park and self._asks.waits:
            entries = await self._link.entries(self.turn.id)
            if await self._asks.park(entries, at_once=park == "at once"):
                raise Parked

    # -- following ---------------------------------------------------------

    async def _take(self, batch: Batch) -> None:
        before = self._link.is_from_before(batch[0])
        owner = self._owner_before if before else self._owner
        self._epoch = batch[0].epoch
        exited: AgentExited | None = None
        for event in await self._link.take(batch, owner, self._asks.store):
            if owner(event) is None:
                continue
            self._tell(event)
            if isinstance(event, TurnEnded):
                self.outcome = self._outcome_of(event)
            elif isinstance(event, AgentExited):
                exited = event
            elif not before:
                self._note(event)
                await self._asks.note(event)
        if self.outcome is not None:
            if forgets(self.turn.text) or not is_command(self.turn.text):
                await self._link.remembered()
        elif exited is not None:
            raise loss.Exited(exited)

    def _note(self, event: AgentEvent) -> None:
        match event:
            case Spent():
                self._purse.spent()
            case AgentReady() | PromptTaken(_, "started"):
                self._taken = True
            case PromptTaken(prompt_id, "cancelled" | "discarded" | "refused") if self._is_mine(prompt_id):
                if self._stop is not None:
                    end = self._over or self._stop
                    self._set_deadline(min(_STOPPED_SECONDS, self._shared.patience.verdict), end)
                elif self._deadline is None:
                    self._set_deadline(self._shared.patience.verdict, Failed(_DROPPED))
            case PromptTaken(prompt_id, "completed") if self._is_mine(prompt_id):
                # A process that has not begun with it and does not mean to: it thinks that it knows the prompt.
                if not self._taken and not self._given and self._deadline is None:
                    self._set_deadline(self._shared.patience.verdict, Failed(_DROPPED))

    def _is_mine(self, prompt_id: str) -> bool:
        return prompt_id == self.turn.id or prompt_id == loss.again_id(self.turn.id, self._epoch)

    def _owner(self, event: AgentEvent) -> TurnId | None:
        """This turn; None for the end of another, which the agent began unasked (a background task had finished)."""
        if not isinstance(event, TurnEnded) or any(self._is_mine(prompt_id) for prompt_id in event.prompt_ids):
            return self.turn.id
        # An interrupt may hit before the CLI has noted whose turn it is.
        return self.turn.id if self._stop is not None and not event.prompt_ids else None

    def _owner_before(self, event: AgentEvent) -> TurnId | None:
        """Of what a lost process said last. Its exit is no news: this is why there is a new one."""
        started = self.turn.started_at is not None
        return self._owner(event) if started and not isinstance(event, AgentExited) else None

    def _outcome_of(self, ended: TurnEnded) -> Outcome:
        match ended.outcome:
            case "done":
                return Done()
            case "failed":
                return Failed(ended.error or "Claude could not finish. Write again to go on.")
            case "interrupted":
                return self._over or self._stop or Interrupted()

    async def _keep_preview(self) -> None:
        if self.turn.started_at is not None and (text := await self._link.keep_preview(self.turn.id)):
            self._tell(text)

    # -- time ---------------------------------------------------------

    def _set_deadline(self, seconds: float, outcome: Outcome | None) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds, outcome

    def _time_left(self) -> float | None:
        return max(0.0, self._deadline[0] - asyncio.get_running_loop().time()) if self._deadline else None

    def _time_is_up(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.outcome = outcome
            return
        assert self._escalation is not None
        seconds = self._escalation.next()
        if seconds is None:
            raise Stopped
        self._set_deadline(seconds, None)

    def _tell(self, event: Any) -> None:
        self._shared.tell(self._link.session, self.turn, event)


async def _wait(ticket: Ticket, on_blocked: Callable[[], None]) -> None:
    # `wait` cancels nothing: when this is cancelled, the place may be granted in that very moment.
    await asyncio.wait([ticket.granted, ticket.blocked], return_when=asyncio.FIRST_COMPLETED)
    if not ticket.granted.done():
        on_blocked()
        await asyncio.wait([ticket.granted])
