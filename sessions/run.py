"""One turn on its way: place → open → judge → begin → send → follow, until it has an outcome.

The steps work on one record, `TurnRun`. When the agent is lost on the way, they are gone through again with a new
worklet, unless something has run that must not run twice: then people decide. The outcome is a value; settling it is
the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from config.logging import get_logger
from sessions import loss
from sessions.context import collect_backlog, context, wants_backlog
from sessions.events import Preparing, Started, WaitingForPlace
from sessions.files import Brought, bring
from sessions.hearing import Hearing
from sessions.inbox import Batch
from sessions.link import Link
from sessions.places import granted
from sessions.purse import Purse, stopped
from sessions.remarks import Remarks
from sessions.shared import Shared
from sessions.stopping import Stopped, cancelled, unless
from sessions.transcript import Entry
from sessions.turnasks import TurnAsks, is_parked, never_begun
from sessions.turnclock import TurnClock
from sessions.turnend import TurnEnd
from sessions.types import Cut, Failed, Outcome, SessionState, Turn
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletError
from worklets.events import Restarted
from worklets.slash import forgets, is_command

log = get_logger(__name__)

_SLEPT = "Claude was put to sleep while it waited for an answer"
_HURRY = 1.0  # seconds that a worklet has which is ended because its turn was stopped


class Settled(Exception):
    """Somebody else has settled the turn: nothing is left to do."""


class Parked(Exception):
    """People are waited for: the session may sleep, or take another turn. This one goes on when they have decided."""


class _Unpaid(Exception):
    """A new process would have to go on with the turn, and a limit is reached: people are asked first."""


class _Unready(AgentGone):
    """The process was started for nobody, and could not be made this session's: it was given no prompt."""


class TurnRun:
    def __init__(self, shared: Shared, link: Link, turn: Turn) -> None:
        self.turn = turn
        self._shared = shared
        self._link = link
        self._end = TurnEnd(shared.patience, link.inbox, self._tell)
        self._stopped = self._end.stopped
        self._backlog: asyncio.Task[None] | None = None
        self._permitting: asyncio.Task[bool] | None = None
        self._asks = TurnAsks(shared, link, turn)
        self._purse = Purse(shared, link, turn)
        self._clock = TurnClock(shared, link)
        self._remarks = Remarks(shared, link, turn, self._purse)
        self._hearing = Hearing(shared.patience, link, turn.id, self._asks, self._purse, self._end, self._tell)
        self._park = ""
        self._opening = False
        self._sent = False  # the agent may be working on the prompt
        self._given = False  # the process was given the prompt before: by us, before a restart
        self._heard = False  # the process has said something to it
        self._again = False  # the process goes on in the place of a lost one
        self._tries = 0
        self._anew = False  # the process was lost; another goes on
        self._excused = False  # one that was not ready was replaced without a word; the next counts as lost
        self._passed = False  # that has just been

    def interrupt(self, by: str | None) -> None:
        """Idempotent: the first one counts."""
        self._end.interrupt(by)

    def remark(self, text: str) -> None:
        """Something that the thread should know happened to the worklet; each text is told once in a turn."""
        self._remarks.add(text)

    def blocked(self, host: str, reason: str) -> None:
        """The worklet may not reach it: the thread is told of all such hosts together, at the turn's end."""
        self._remarks.blocked(host, reason)

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
            outcome = await self._ended()
            await self._remarks.end()
            return outcome
        finally:
            await self._purse.close()
            await self._clock.close()
            await self._end.close()
            await cancelled(self._backlog)
            await cancelled(self._permitting)

    async def _ended(self) -> Outcome:
        try:
            return await self._recorded() or await self._attempts()
        except Stopped:
            if self._sent or self._opening:  # the CLI would go on with the prompt; a half-open worklet is nobody's
                await self._keep_preview()
                await self._link.end(_HURRY)
            return self._end.of_stopped()
        except WorkletError as error:
            log.warning("turn failed", error=str(error))
            await self._link.end()
            return Failed(error.sentence())

    async def _recorded(self) -> Outcome | None:
        """The end that the transcript has already, of a turn that a restart cut off just before it was settled."""
        if self.turn.started_at is None:
            return None
        ended = await self._shared.stored(lambda: self._shared.transcript.ended(self.turn.id))
        return self._end.outcome_of(ended) if ended else None

    async def _attempts(self) -> Outcome:
        if wants_backlog(self._shared, self._link, self.turn):  # while the worklet starts
            self._backlog = asyncio.create_task(collect_backlog(self._shared, self._link, self.turn), name="backlog")
        while True:
            if self._end.asked and (self.turn.started_at is None or not self._link.has_worklet):
                raise Stopped
            try:
                for step in (self._afford, self._place, self._open, self._judge, self._begin, self._send, self._follow):
                    await step()
                    if self._end.outcome is not None:
                        return self._end.outcome
            except (AgentGone, RuntimeUnavailable) as lost:
                await self._recover(lost)
                if self._end.outcome is not None:
                    return self._end.outcome
                self._anew = True
            except _Unpaid:
                await self._link.end()
                self._anew = True

    async def _recover(self, lost: WorkletError) -> None:
        """Makes ready for another try, or raises `lost`; or the turn has its outcome now."""
        if self._end.asked:
            raise Stopped
        self._end.forget_deadline()
        ending = await self._link.end()
        if isinstance(lost, _Unready) and not self._excused:
            self._excused = self._passed = True
            return
        if self._sent:
            self._hearing.ending = loss.ending(lost, ending)
        self._sent = self._hearing.taken = False
        if self.turn.started_at is not None:
            await self._keep_preview()
            await self._weigh(await self._link.entries(self.turn.id))
            if self._end.outcome is not None:
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
        ending = self._hearing.ending or loss.GONE
        asks = await self._asks.look()
        if is_parked(asks):  # it was ended at a moment at which nothing ran
            self._hearing.ending = _SLEPT
        elif effect := loss.side_effect([entry.event for entry in entries], never_begun(entries, asks)):
            self._end.outcome = Cut(f"{ending} {effect}.")
        elif self.turn.attempts >= self._shared.patience.attempts:
            lost = f"{ending}; {self.turn.attempts} were lost with this message."
            self._end.outcome = Failed(f"{lost} Word it differently.")

    # -- the steps ---------------------------------------------------------

    async def _afford(self) -> None:
        """Before it begins, and before a new process goes on with it."""
        if self.turn.started_at is None:
            self._end.outcome = await unless(self._stopped, self._clock.refusal(self.turn))
        if self._end.outcome is None and (self.turn.started_at is None or self._anew or await self._purse.is_asking()):
            self._end.outcome = await unless(self._stopped, self._purse.afford(self._let_go))
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
        await unless(self._stopped, granted(ticket, lambda: self._tell(WaitingForPlace(places.limit))))

    async def _open(self) -> None:
        if self._link.agent is not None:
            return
        if not await self._link.claim():
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
        self._given = self._heard = False
        if self._passed:  # nobody was given the prompt since it was judged last
            return
        self._again = False
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
        self._hearing.ending = self._hearing.ending or agent.ending
        await self._weigh(entries)
        if self._end.outcome is not None:
            await self._link.end()
            return
        if not await self._purse.suffices():
            raise _Unpaid
        self._tell(await self._link.restarted(self.turn.id, f"{self._hearing.ending or loss.GONE}; a new one goes on."))
        self._again = True
        await self._asks.resumed()

    async def _begin(self) -> None:
        if self._stopped.is_set() and not self._given:
            raise Stopped
        agent = self._link.agent
        assert agent is not None
        first = self.turn.started_at is None
        attempts = self.turn.attempts + (not self._given and not self._passed)
        begun = await self._shared.stored(
            lambda: self._shared.store.begin(self._link.lease, self.turn.id, agent.worklet_id, attempts=attempts)
        )
        if begun is None:
            raise Settled
        self._passed = False
        self._link.session, self.turn = begun
        self._clock.begin(self.turn)
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
            await unless(self._stopped, self._link.introduce(self.turn.user_id))
            await unless(self._stopped, self._link.choose_model())
            await unless(self._stopped, self._link.permit(mode=True))
            await unless(self._stopped, self._remarks.mention())
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
        try:
            await unless(self._stopped, agent.ready())
        except WorkletError as error:
            raise _Unready(str(error)) from error
        self._sent = True
        try:
            await unless(self._stopped, agent.send(prompt_id, self.turn.text, known, brought.pictures))
        except AgentGone as gone:
            await self._last_words(gone)

    async def _last_words(self, gone: AgentGone) -> None:
        """Why a process is gone stands in what it said last. Raises AgentGone, or returns with an outcome."""
        self._end.set_deadline(self._shared.patience.verdict, Failed(gone.sentence()))
        while self._end.outcome is None and self._end.time_left():
            batch = await self._link.inbox.get(self._end.time_left())
            if batch is not None:
                await self._take(batch)
        if self._end.outcome is None:
            raise gone

    async def _follow(self) -> None:
        if self._given or self._again:
            await self._asks.give()  # what was decided while nobody was here
        if self._given:
            await cancelled(self._permitting)
            # Rules may have been taken back meanwhile. Not waited for: its reply may stand behind much that it said.
            self._permitting = asyncio.create_task(self._link.permit_now(), name="rules")
        while self._end.outcome is None:
            await self._heed()
            if self._end.asked and not self._end.escalating:
                assert self._link.agent is not None
                self._end.escalate(self._link.agent)
            elif self._end.time_left() == 0:
                self._end.time_is_up()
            elif (batch := await self._link.inbox.get(self._end.time_left())) is not None:
                await self._take(batch)
            elif not self._end.asked and self._asks.waits:
                await self._look_at_asks()
            elif not self._end.asked:
                await self._asks.look()  # what Flow itself asks may have been decided in another process

    async def _heed(self) -> None:
        """What purse and clock have found: the thread is warned, or the turn has to end."""
        await self._remarks.tell()
        if self._purse.exceeded is not None:
            self._end.exceed(stopped(self._purse.exceeded))
        if self._clock.exceeded is not None:
            self._end.exceed(self._clock.exceeded)

    async def _look_at_asks(self) -> None:
        """The bell rang while people are waited for."""
        await self._asks.give()
        park, self._park = self._park, ""
        if park and self._asks.waits:
            entries = await self._link.entries(self.turn.id)
            if await self._asks.park(entries, at_once=park == "at once"):
                raise Parked

    async def _take(self, batch: Batch) -> None:
        exited = await self._hearing.take(batch, started=self.turn.started_at is not None, given=self._given)
        if self._end.outcome is not None:
            if forgets(self.turn.text) or not is_command(self.turn.text):
                await self._link.remembered()
        elif exited is not None:
            raise loss.Exited(exited)

    async def _keep_preview(self) -> None:
        if self.turn.started_at is not None and (text := await self._link.keep_preview(self.turn.id)):
            self._tell(text)

    def _tell(self, event: Any) -> None:
        self._shared.tell(self._link.session, self.turn, event)
