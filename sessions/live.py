"""A session while it has work or a worklet: takes its turns from the table one by one, and sleeps when told to.

The table is the mailbox, the bell only says "look". Whatever ends this task (a restart, a crash, a lost lease) leaves
the table as the truth from which the next one goes on. What an agent says unasked between two turns is kept in the
transcript, without a turn, and not shown: by then its turn is settled, and nothing follows a settled turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from config.logging import bind, get_logger
from sessions.errors import LeaseLost, StoreUnavailable
from sessions.events import Settled
from sessions.holdings import Holdings
from sessions.link import Link
from sessions.policy import scopes_of
from sessions.rulestore import RuleScope
from sessions.run import Parked, TurnRun
from sessions.run import Settled as AlreadySettled
from sessions.shared import Shared
from sessions.telling import Telling
from sessions.types import Failed, Outcome, Session, SessionId, SessionState, Turn, outcome_of
from sessions.visiting import open_for_visit, refusal_of_parked
from worklets.errors import AgentGone, WorkletError
from worklets.events import AgentExited, Asked

log = get_logger(__name__)
_LAST_WRITE = 5.0  # seconds for it when the program ends

_NOBODY_TO_ASK = "People have not asked for anything just now, so nobody can be asked. Go on without this."
_CRASHED = "Something went wrong inside Flow; the log has the details. Send the message again to go on."


class LiveSession:
    """Owned by `Sessions`, which runs each as one task."""

    def __init__(self, shared: Shared, holdings: Holdings, telling: Telling, session_id: SessionId) -> None:
        self.id = session_id
        self._shared = shared
        self._holdings = holdings
        self._telling = telling
        self._link: Link | None = None
        self._run: TurnRun | None = None
        self._draining = False
        self._sleep: asyncio.Future[bool] | None = None
        self._asleep = False
        self._over = False
        self._drowsy = False  # Claude's process may end
        self._visits: list[asyncio.Future[bool]] = []
        self.refused = False  # another process holds the session
        self.missed = False  # it was rung before it was known whether it is

    # -- from outside: none of these waits ---------------------------------------------------------

    @property
    def turn(self) -> Turn | None:
        """The turn that it is about."""
        return self._run.turn if self._run else None

    @property
    def epoch(self) -> str | None:
        """Of the process that runs; None: none does."""
        return self._link.agent.epoch if self._link is not None and self._link.agent is not None else None

    @property
    def may_be_left(self) -> bool:
        """Nothing is lost by letting go of it now: no turn runs, or one that waits for people."""
        run = self._run
        return run is None or run.turn.started_at is None or run.waits_for_people

    def ring(self) -> None:
        """There may be a turn in the table."""
        self.missed = self.missed or self._link is None
        self._wake()

    def _wake(self) -> None:
        """It was asked for something, and looks before it waits."""
        if self._link is not None:
            self._link.inbox.ring()

    def interrupt(self, by: str | None) -> bool:
        """Ends the current turn. False: there is none."""
        if self._run is None:
            return False
        self._run.interrupt(by)
        return True

    def blocked(self, host: str, reason: str) -> None:
        """Its worklet may not reach it."""
        if self._run is not None:
            self._run.blocked(host, reason)

    def park(self) -> None:
        """Its process may sleep if nothing but people is waited for."""
        if self._run is not None:
            self._run.park(at_once=False)

    def give_way(self) -> None:
        """Another session wants its place. It may have got something to do by now."""
        if self._run is not None:
            self._run.park(at_once=True)
        else:
            self.sleep()

    def remark(self, text: str) -> bool:
        """Tells it in the thread, where a turn runs. False: none does."""
        if self._run is None:
            return False
        self._run.remark(text)
        return True

    def configured(self, session: Session) -> None:
        """Its model or mode has been set in the table."""
        if self._link is not None:
            self._link.session = replace(
                self._link.session, model=session.model, mode=session.mode, mode_before=session.mode_before
            )

    async def choose_model(self, chosen: str | None = None) -> None:
        """The process, if there is one, is to answer with the session's model, or with what is `chosen` just now.

        Raises AgentGone, AgentRefused.
        """
        if self._link is not None:
            await self._link.choose_model(chosen)

    async def permit(self, *, mode: bool) -> bool:
        """The running process is to follow the session's rules, and its `mode`, as they are now, if it can.

        True: the rules are others than it had.
        """
        return self._link is not None and await self._link.permit_now(mode=mode)

    def is_in(self, scope: RuleScope, scope_id: str) -> bool:
        """Rules of that scope are this session's too."""
        return self._link is not None and (scope, scope_id) in scopes_of(self._link.session)

    def sleep(self) -> asyncio.Future[bool]:
        """Asks it to sleep when it has nothing to do; the future tells whether it did, False if a turn came first."""
        sleep = self._sleep = self._sleep or asyncio.get_running_loop().create_future()
        if self._over:
            self._answer_sleep(self._asleep)
        self._wake()
        return asyncio.shield(sleep)  # whoever gives up must not end the wait of others

    def rest(self) -> None:
        """Asks it to end Claude's process when it has nothing to do; its worklet stays."""
        if self._run is None and self._link is not None and not self._link.rested and self._link.has_worklet:
            self._drowsy = True
            self._wake()

    def visit(self) -> asyncio.Future[bool]:
        """Wakes it without a prompt; True when the worklet runs, False when this task ended before that.

        Its exception is the WorkletError why the worklet does not run.
        """
        visit: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._visits.append(visit)
        if self._over:
            self._welcome(False)
        self._wake()
        return visit

    def drain(self) -> None:
        """Begin no further turn: end after the current one; the worklet stays."""
        self._draining = True
        self._wake()

    def ended(self) -> None:
        """Its task is over, however it ended. Whoever comes to it late is answered all the same."""
        self._over = True
        self._answer_sleep(self._asleep)
        self._welcome(False)

    async def ask(self, subtype: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """A control request to the agent. None: there is no agent now. Raises AgentGone, AgentRefused, TimeoutError."""
        agent = self._link.agent if self._link is not None else None
        return await agent.request(subtype, **fields) if agent is not None else None

    async def caught_up(self) -> None:
        """Returns when what the agent has said until now is stored and told, or nobody listens to it any more."""
        if self._link is not None:
            await self._link.inbox.caught_up()

    def moved(self, session: Session) -> None:
        """The thread was opened."""
        if self._link is not None:
            self._link.session = replace(self._link.session, thread=session.thread)

    # -- the task ---------------------------------------------------------

    async def run(self) -> bool:
        """Until the session sleeps or the program drains. False: there is no use in starting it again right away.

        Beside other processes it stays until all that it has told is delivered: who holds the lease shows the turns.
        """
        acquired = await self._shared.stored(lambda: self._holdings.acquire(self.id))
        if acquired is None:
            self._telling.release(self.id)
            self.refused = True
            return False
        lease, session = acquired
        self._link = link = Link(self._shared, lease, session)
        with bind(session=session.id, thread=session.thread.thread_ts):
            try:
                await self._shared.stored(lambda: self._telling.catch_up(self.id))
                self._holdings.told(lease)
                await self._loop(link)
            except LeaseLost:
                log.warning("another process has taken the session over")
                return False
            except Exception:
                log.exception("the session crashed")
                return False
            finally:
                await self._leave(link)
        return True

    async def _loop(self, link: Link) -> None:
        while not self._draining:
            turn, parked = await self._shared.stored(lambda: self._shared.store.next_work(self.id))
            if turn is not None:
                await self._work(link, turn)
            elif self._visits:
                await self._receive(link, parked)
            elif self._drowsy and self._sleep is None and not parked and link.has_worklet:
                self._drowsy = False
                await link.rest()
            elif parked or self._sleep is not None or not link.has_worklet or not await self._idle(link):
                await self._fall_asleep(link)
                if self._holdings.exclusive or not self._telling.shows(self.id):
                    return
                await link.inbox.get()

    async def _work(self, link: Link, turn: Turn) -> None:
        self._answer_sleep(False)
        self._asleep = self._drowsy = False
        self._telling.announce(link.session, turn, 0)  # it may have come in at another process
        self._run = run = TurnRun(self._shared, link, turn)
        with bind(turn=turn.id):
            try:
                await self._look(run)
                outcome = link.masked(await run.run())
                await _finish(self._settle(link, run.turn, outcome))
            except Parked:
                log.info("people are waited for: the session may sleep")
            except AlreadySettled:
                await self._shared.stored(lambda: self._telling.catch_up(self.id))  # in case nobody has told
                if link.agent is not None:
                    await self._rest(link)
            except LeaseLost:
                raise
            except Exception:
                log.exception("the turn crashed")
                await link.end()
                await _finish(self._settle(link, run.turn, Failed(_CRASHED)))
            finally:
                self._run = None
        self._note_place(link)

    async def _look(self, run: TurnRun) -> None:
        """What became of the turn while it was being taken up: whoever wanted its end then found nobody running it.

        From now on they find the run. Raises AlreadySettled.
        """
        turn = await self._shared.stored(lambda: self._shared.store.turn(run.turn.id))
        if turn.state.settled:
            raise AlreadySettled
        if turn.stop_asked is not None:
            run.interrupt(turn.stop_asked or None)

    async def _settle(self, link: Link, turn: Turn, outcome: Outcome) -> None:
        container_id = link.agent.worklet_id if link.agent else link.session.container_id
        state = SessionState.IDLE if container_id else SessionState.ASLEEP
        store, lease = self._shared.store, link.lease
        link.session, turn = await self._shared.stored(
            lambda: store.settle(lease, turn.id, outcome, state=state, container_id=container_id)
        )
        self._run = None  # before anybody hears of it: whoever does may put the session to sleep
        for one in await self._shared.stored(lambda: store.asks.of_turn(turn.id)):
            self._telling.ask(one.ask)  # what was open has been taken back
        outcome = outcome_of(turn) or outcome  # it may have been taken back before it began
        log.info("turn settled", outcome=type(outcome).__name__.lower(), seconds=turn.seconds)
        self._shared.tell(link.session, turn, Settled(outcome, turn.seconds))

    async def _rest(self, link: Link) -> None:
        """The turn was dropped while its worklet started: there is nothing to settle, but the worklet is idle now."""
        assert link.agent is not None
        await link.set_state(SessionState.IDLE, container_id=link.agent.worklet_id)

    def _note_place(self, link: Link) -> None:
        if link.has_worklet:
            self._shared.places.idle(self.id)
        else:
            self._shared.places.free(self.id)

    async def _idle(self, link: Link) -> bool:
        """Waits for the bell, keeping what the agent says unasked. False: the agent has ended."""
        try:
            batch = await link.inbox.get()
            if batch is None:
                return True
            events = await link.take(batch, lambda _event: None)
            for event in events:
                if isinstance(event, Asked) and link.agent is not None and not link.is_from_before(batch[0]):
                    await link.agent.deny(event.request_id, _NOBODY_TO_ASK)
        except AgentGone as gone:
            log.info("the idle agent is gone", error=str(gone))
            return False
        # The exit of a predecessor, told first by a new worklet, is not this agent's.
        return link.is_from_before(batch[0]) or not any(isinstance(event, AgentExited) for event in events)

    async def _receive(self, link: Link, parked: bool) -> None:
        if parked and link.agent is None:
            self._welcome(refusal_of_parked())
            return
        self._answer_sleep(False)
        try:
            await open_for_visit(self._shared, link)
        except WorkletError as error:
            log.warning("the session could not be woken for a visit", error=str(error))
            await link.end()
            self._welcome(error)
        else:
            self._welcome(True)
        self._note_place(link)

    def _welcome(self, answer: bool | WorkletError) -> None:
        visits, self._visits = self._visits, []
        for visit in visits:
            if not visit.done():
                if isinstance(answer, bool):
                    visit.set_result(answer)
                else:
                    visit.set_exception(answer)

    async def _fall_asleep(self, link: Link) -> None:
        if link.session.state not in (SessionState.NEW, SessionState.ASLEEP) or link.has_worklet:
            ending = await link.end()
            await link.set_state(SessionState.ASLEEP, container_id=None)
            if ending is None:
                log.info("the session sleeps")
            else:
                log.warning("the session sleeps, since its worklet ended by itself", reason=ending)
        self._asleep = True
        self._shared.places.free(self.id)
        self._answer_sleep(True)

    def _answer_sleep(self, asleep: bool) -> None:
        future, self._sleep = self._sleep, None
        if future is not None and not future.done():
            future.set_result(asleep)

    async def _leave(self, link: Link) -> None:
        await link.detach()
        if not self._holdings.exclusive:
            if self._draining:  # what it has told is still being shown: the lease goes with the program
                return
            self._telling.release(self.id)
        try:
            await self._holdings.release(link.lease)
        except StoreUnavailable as error:  # it runs out by itself
            log.debug("the lease was not given back", error=error.sentence())


async def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Runs the last write of a turn to its end, also when the task is cancelled meanwhile."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_LAST_WRITE)
        task.cancel()
        raise
