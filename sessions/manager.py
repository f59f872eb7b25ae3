"""`Sessions`: the only door for change. Owns the tasks of live sessions, and tells observers what happens.

    async with Sessions(store, host, max_sessions=10) as sessions:
        sessions.observe(outbox.observe)
        await reaper.recover()      # takes over what ran before
        ...
        await sessions.drain(grace=20)

`submit` only stores: the turn is safe before anything slow begins, and the bell that follows carries nothing.
With PostgreSQL there may be several processes. Each session is run and shown by the one that holds its lease; what
another one is asked to do with it goes through the table, and a bell tells the holder to look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

from config.logging import get_logger
from config.masking import Masker
from config.settings import LimitSettings
from sessions.agents import AgentHost
from sessions.asking import Asking
from sessions.budgets import Budgets
from sessions.controls import Controls, at_least
from sessions.edits import Edited
from sessions.errors import LeaseLost, StoreUnavailable
from sessions.events import Observer
from sessions.filerules import FileRules
from sessions.holdings import Holdings
from sessions.link import Patience, Shared
from sessions.live import LiveSession
from sessions.options import Options
from sessions.places import Places
from sessions.policy import Policy
from sessions.steering import Steering
from sessions.store import Store
from sessions.telling import Telling
from sessions.transcript import Transcript
from sessions.types import (
    Aside,
    Attached,
    Prompt,
    Session,
    SessionId,
    SessionState,
    Submitted,
    ThreadId,
    Turn,
    TurnId,
    TurnState,
)

log = get_logger(__name__)
list_ = list  # `Sessions.list` hides the builtin inside the class


Backlog: TypeAlias = Callable[[Session, Turn], Awaitable[None]]


class Bell(Protocol):
    """Tells other processes to look at a session (sessions/bell.py). A hint: it may be lost."""

    def listen(self, on_ring: Callable[[SessionId], None]) -> None: ...

    async def ring(self, session_id: SessionId) -> None: ...


class Sessions(Asking, Steering):
    def __init__(
        self,
        store: Store,
        host: AgentHost,
        *,
        max_sessions: int,
        env: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        lease_seconds: float = 15.0,
        bell: Bell | None = None,
        policy: Policy | None = None,
        options: Options | None = None,
        files: FileRules | None = None,
        masker: Masker | None = None,
        limits: LimitSettings | None = None,
        secrets: Callable[[Session], Sequence[str]] = lambda _: (),
    ) -> None:
        """`env` goes to every worklet; `max_sessions` have one at the same time.

        `lease_seconds`: after so long another replica on the same PostgreSQL takes a silent one's sessions over.
        `policy`: what Claude may do without asking. `bell` tells other replicas at once, instead of at their reaper's
        next pass. `files`: which are taken. `limits`: what may be spent.
        `masker` takes secrets out of what agents say; `secrets`: those that a session has of its own.
        """
        self.store = store
        self.options = options or Options(store.db)
        self.transcript = Transcript(store.db, store.clock)
        self.controls = Controls(store.db, store, self.transcript, store.clock)
        self.files = files or FileRules()
        self.budgets = Budgets(store.db, limits or LimitSettings(), store.clock)
        self._host = host
        self._bell = bell
        self._telling = Telling(store, self.transcript)
        self._holdings = Holdings(store.leases, lease_seconds, exclusive=store.db.exclusive)
        self._places = Places(max_sessions, self._evict)
        self._shared = Shared(
            store,
            self.transcript,
            host,
            self._places,
            self._telling.tell,
            dict(env or {}),
            patience or Patience(),
            self._collect,
            self.files,
            masker=masker or Masker(),
            secrets=secrets,
            policy=policy or Policy(),
            tell_ask=self._telling.ask,
            budgets=self.budgets,
        )
        self._backlog: Backlog | None = None
        self._live: dict[SessionId, LiveSession] = {}
        self._tasks: dict[SessionId, asyncio.Task[bool]] = {}
        self._group = asyncio.TaskGroup()
        self._keeping: asyncio.Task[None] | None = None
        self._called: set[SessionId] = set()  # started by the bell of another process
        self._draining = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._keeping = self._group.create_task(self._holdings.keep(self._lost), name="leases")
        if self._bell is not None:
            self._bell.listen(self._heard)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.drain(0)
        if self._keeping is not None:
            self._keeping.cancel()
        await self._holdings.release_all()
        # All tasks have ended. The body's own error is not the group's: it goes on as it is, not wrapped.
        await self._group.__aexit__(None, None, None)

    @property
    def owner(self) -> str:
        """Names this process in leases."""
        return self._holdings.owner

    def observe(self, observer: Observer) -> None:
        self._telling.observe(observer)

    def backlog(self, collect: Backlog) -> None:
        """`collect(session, turn)` is awaited before the first turn of a session that was called into a thread.

        It hands what was said there before to `overheard`.
        """
        self._backlog = collect

    # -- change: messages ---------------------------------------------------------

    async def submit(self, prompt: Prompt) -> Submitted | None:
        """Stores the prompt and rings its session. None: no session in that thread, and the prompt starts none.

        None too for a message that was deleted before it came. Also while draining: the next start finds it. Raises
        StoreUnavailable.
        """
        stored = await self.store.submit(self._preferred(prompt), self._look)
        if stored is None:
            return None
        submitted = stored.submitted
        if submitted.fresh:
            session, turn = submitted.session, submitted.turn
            log.info("turn stored", session=session.id, turn=turn.id, ahead=stored.ahead)
            if stored.holder in (None, self.owner):
                self._telling.stored(session, turn, stored.ahead, new_session=submitted.new_session)
                self._ring_here(session.id)
            elif self._bell is not None:
                await self._bell.ring(session.id)
        return submitted

    def _preferred(self, prompt: Prompt) -> Prompt:
        """With the model and the mode that the channel or the person prefers for what is started.

        Not with a mode in which Claude would ask less than the settings want.
        """
        channel, user, mode = prompt.thread.channel, prompt.user_id, prompt.mode
        if mode is None:
            preferred = self.options.get("mode", channel=channel, user=user)
            mode = preferred if preferred in at_least(self.policy.mode) else None
        model = prompt.model or self.options.get("model", channel=channel, user=user)
        return replace(prompt, model=model, mode=mode)

    def _look(self, session: Session, user_id: str) -> tuple[str, bool]:
        return self.options.level(session, user_id).value, self.options.mention(session, user_id)

    async def overheard(self, asides: Sequence[Aside]) -> None:
        """Keeps what was said in threads that have a session. Idempotent. Raises StoreUnavailable."""
        await self.store.asides.add(asides, self.store.clock())

    async def amend(
        self,
        team: str,
        channel: str,
        source_id: str,
        text: str | None,
        edited_ts: str,
        files: Sequence[Attached] | None = None,
    ) -> Turn | None:
        """A message was edited, or deleted (`text` None): the turn that waits for it follows. `files` None: as before.

        None: no turn waits for it. It is remembered for a message that is still to come. Raises StoreUnavailable.
        """
        edited, now = Edited(text, edited_ts, files), self.store.clock()
        turn = await self.store.edits.amend(team, channel, source_id, edited, by=None, now=now)
        if turn is not None and turn.state.settled:
            await self._settled_elsewhere(turn)
        return turn

    async def withdraw(self, turn_id: TurnId, by: str) -> bool:
        """Takes a waiting turn back. False: it began, or ended, meanwhile. Raises StoreUnavailable."""
        turn = await self.store.edits.withdraw(turn_id, by, self.store.clock())
        if turn is not None:
            await self._settled_elsewhere(turn)
        return turn is not None

    async def hurry(self, turn_id: TurnId, by: str) -> bool:
        """This turn goes next, and the running one is interrupted. False: it does not wait any more."""
        turn = await self.store.edits.hurry(turn_id)
        if turn is None:
            return False
        running = await self.store.next_turn(turn.session_id)
        if running is not None and running.started_at is not None:
            await self.interrupt(turn.session_id, by, only=running.id)
        await self._ring_all(turn.session_id)
        return True

    async def resume(self, turn_id: TurnId, by: str, how: Literal["continue", "again"], ts: str) -> Submitted | None:
        """What a turn that was cut off is to become: a new one, once, whoever asks for it. None: it was not cut."""
        turn = await self.store.turn(turn_id)
        if turn.state is not TurnState.CUT:
            return None
        session = await self.store.get(turn.session_id)
        text, files = _CONTINUE, tuple[Attached, ...]()
        if how == "again":
            text, files = turn.text, await self.store.files.attached(turn.id)
        prompt = Prompt(session.thread, f"resume:{turn.id}", ts, by, text, starts=False, files=files)
        return await self.submit(prompt)

    async def opened(self, session_id: SessionId, thread_ts: str) -> Session:
        """The door has posted the thread's root message. Raises SessionNotFound, SessionError, StoreUnavailable."""
        session = await self.store.opened(session_id, thread_ts)
        if live := self._live.get(session_id):
            live.moved(session)
        return session

    async def delivered(self, turn_id: TurnId) -> None:
        """The door has shown the turn's final state: it is not told again."""
        session_id = await self.store.mark_delivered(turn_id)
        if session_id is not None:
            self._telling.delivered(session_id, turn_id)
            if live := self._live.get(session_id):
                live.ring()

    # -- change: sessions ---------------------------------------------------------

    def ring(self, session_id: SessionId) -> None:
        """There may be something to do. Harmless at any time."""
        if live := self._live.get(session_id):
            live.ring()
            self._heard(session_id)
        elif not self._draining:
            self._start(session_id)

    async def interrupt(self, session_id: SessionId, by: str | None, only: TurnId | None = None) -> bool:
        """Ends the current turn, `only` this one; waiting ones follow. False: there is none, or it is another.

        Returns before the turn is settled.
        """
        live = self._live.get(session_id)
        if live is not None and live.turn is not None:
            return (only is None or live.turn.id == only) and live.interrupt(by)
        # Another process runs it, or nobody yet: whoever does finds it in the table.
        asked = await self.store.edits.ask_stop(session_id, by or "", only)
        if asked is None:
            return False
        live = self._live.get(session_id)
        if live is not None and live.turn is not None and live.turn.id == asked.id:
            live.interrupt(by)
        await self._ring_all(session_id)
        return True

    async def halt(self, session_id: SessionId, by: str) -> bool:
        """Ends the current turn and drops those that wait; the session stays as it is. False: there was nothing.

        Returns before the current turn is settled.
        """
        running = await self.store.next_turn(session_id)
        if running is None:
            return False
        live = self._live.get(session_id)
        current = live.turn if live and live.turn else running if running.started_at is not None else None
        dropped = await self.store.interrupt_queued(session_id, by, sparing=current.id if current else None)
        for turn in dropped:
            await self._settled_elsewhere(turn)
        ended = current is not None and await self.interrupt(session_id, by, only=current.id)
        return ended or bool(dropped)

    async def stop(self, session_id: SessionId, by: str) -> bool:
        """`halt`, and the session goes to sleep; True when it does.

        False: a new turn came in meanwhile, or another process runs it. Raises SessionNotFound, StoreUnavailable.
        """
        session = await self.store.get(session_id)
        live = self._live.get(session_id)
        asleep = live.sleep() if live else None
        await self.halt(session_id, by)
        if asleep is not None:
            return await asleep
        return await self._sleep_dead(session)

    async def sleep(self, session_id: SessionId) -> bool:
        """Ends the session's worklet unless it works; the next turn wakes it. False: it works."""
        live = self._live.get(session_id)
        if live is None:
            return await self._sleep_dead(await self.store.get(session_id))
        return live.turn is None and await live.sleep()

    async def _sleep_dead(self, session: Session) -> bool:
        """Of a session that nobody runs here."""
        if session.state in (SessionState.NEW, SessionState.ASLEEP):
            return True
        acquired = await self._holdings.acquire(session.id)
        if acquired is None or session.id in self._live:
            return False
        try:
            await self._host.close(session.worklet)
            await self.store.set_state(acquired[0], SessionState.ASLEEP, container_id=None)
        except LeaseLost:
            return False
        finally:
            await self._holdings.release(acquired[0])
        return True

    async def _settled_elsewhere(self, turn: Turn) -> None:
        """The table has the turn's end already: its runner, if it was about it, and observers are told."""
        await self._taken_back(turn)
        self._telling.settled(turn)
        live = self._live.get(turn.session_id)
        if live is not None and live.turn is not None and live.turn.id == turn.id:
            live.interrupt(turn.stopped_by)
        await self._ring_all(turn.session_id)

    def masker(self, session: Session) -> Masker:
        """Takes secrets out of what leaves a session by another way than its agent's words."""
        return self._shared.masker_of(session)

    # -- questions ---------------------------------------------------------

    async def get(self, session_id: SessionId) -> Session:
        """Raises SessionNotFound."""
        return await self.store.get(session_id)

    async def find(self, thread: ThreadId) -> Session | None:
        return await self.store.find(thread)

    async def list(
        self, *, user_id: str | None = None, states: Iterable[SessionState] | None = None, limit: int = 100
    ) -> list[Session]:
        """Newest first."""
        return await self.store.list(user_id=user_id, states=states, limit=limit)

    async def recent(self, since: datetime, limit: int) -> list_[Session]:
        """Those that are awake or were active since then, the latest first."""
        return await self.store.recent(since, limit)

    async def turns(self, session_id: SessionId) -> list_[Turn]:
        return await self.store.turns(session_id)

    async def turn(self, turn_id: TurnId) -> Turn:
        """Raises SessionNotFound."""
        return await self.store.turn(turn_id)

    def is_live(self, session_id: SessionId) -> bool:
        """A task of this process runs the session."""
        return session_id in self._live

    def holds(self, session_id: SessionId) -> bool:
        """This process, and no other, may show the session now."""
        return self._holdings.exclusive or self._holdings.valid(session_id)

    # -- start and end ---------------------------------------------------------

    def adopt(self, session: Session) -> None:
        """Runs a session that has a worklet from before, with or without work for it."""
        if session.id not in self._live and not self._draining:
            self._places.adopt(session.id)
            self._start(session.id)

    async def drain(self, grace: float) -> None:
        """Begins no further turn, gives running ones `grace` seconds, then lets go: their agents work on.

        Those that wait for people are not waited for.

        What is not finished stays as it is in the table; the next start goes on with it.
        """
        self._draining = True
        for session_id, live in self._live.items():
            live.drain()
            if live.may_be_left:
                self._tasks[session_id].cancel()
        await self._wait(grace)
        for session_id, task in self._tasks.items():
            if not task.cancelling():
                log.info("letting go of a running turn; its agent works on", session=session_id)
                task.cancel()
        await self._wait(None)

    async def _wait(self, seconds: float | None) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)

    # -- tasks ---------------------------------------------------------

    def _start(self, session_id: SessionId) -> None:
        live = LiveSession(self._shared, self._holdings, self._telling, session_id)
        task = self._group.create_task(self._run(live), name=f"session {session_id}")
        self._live[session_id], self._tasks[session_id] = live, task
        # A callback, because a task that is cancelled before its first step runs no `finally`.
        task.add_done_callback(lambda task: self._ended(live, task))

    async def _run(self, live: LiveSession) -> bool:
        """Wraps a live session once: nothing that happens in it reaches another."""
        try:
            return await live.run()
        except Exception:
            log.exception("a session's task failed", session=live.id)
            return False

    def _ended(self, live: LiveSession, task: asyncio.Task[bool]) -> None:
        del self._live[live.id], self._tasks[live.id]
        live.ended()
        self._telling.ended(live.id)
        self._places.free(live.id)
        if live.refused and self._bell is not None and live.id not in self._called:
            self._group.create_task(self._bell.ring(live.id), name=f"ring {live.id}")  # the holder is to look
        self._called.discard(live.id)
        if not self._draining and not task.cancelled() and task.result():
            self._group.create_task(self._look_again(live.id), name=f"look again {live.id}")

    async def _look_again(self, session_id: SessionId) -> None:
        """A turn may have come in while the session fell asleep."""
        try:
            if (await self.store.next_work(session_id))[0] is not None:
                self.ring(session_id)
        except StoreUnavailable as error:
            log.warning("left to the reaper", session=session_id, error=error.sentence())
        except Exception:
            log.exception("left to the reaper", session=session_id)

    def _evict(self, session_id: SessionId) -> None:
        if live := self._live.get(session_id):
            live.give_way()

    def _lost(self, session_id: SessionId) -> None:
        """The lease is another's: nothing more is done in its name. Releasing is told at the end of the task."""
        if task := self._tasks.get(session_id):
            task.cancel()
        else:
            self._telling.release(session_id)

    async def _collect(self, session: Session, turn: Turn) -> None:
        if self._backlog is not None:
            await self._backlog(session, turn)

    # -- other processes ---------------------------------------------------------

    async def _ring_all(self, session_id: SessionId) -> None:
        """Here, and wherever else the session may be run."""
        self._ring_here(session_id)
        if self._bell is not None:
            await self._bell.ring(session_id)

    def _ring_here(self, session_id: SessionId) -> None:
        if live := self._live.get(session_id):
            live.ring()
        elif not self._draining:
            self._start(session_id)

    def _heard(self, session_id: SessionId) -> None:
        """Something may have changed in the table behind a live session's back."""
        if session_id not in self._live:
            self._called.add(session_id)  # so that a refusal rings nobody in turn
            self._ring_here(session_id)
        else:
            self._group.create_task(self._look_behind(session_id), name=f"look behind {session_id}")

    async def _look_behind(self, session_id: SessionId) -> None:
        try:
            if self._holdings.valid(session_id):
                await self._telling.catch_up(session_id, lambda: self._holdings.valid(session_id))
            live = self._live.get(session_id)
            if live is not None and (turn := live.turn) is not None:
                by = await self.store.edits.stop_asked(turn.id)
                if by is not None and live.turn is not None and live.turn.id == turn.id:
                    live.interrupt(by or None)
            if live := self._live.get(session_id):
                live.ring()
        except StoreUnavailable as error:
            log.warning("left to the reaper", session=session_id, error=error.sentence())
        except Exception:
            log.exception("left to the reaper", session=session_id)


_CONTINUE = (
    "Your work on the last message was cut off: the process was lost while a tool ran. Look at what took effect and "
    "what did not, then go on from there. Do not repeat what is done, nor what you have written already."
)
