"""`Sessions`: the only door for change. It puts together what does it, and says what each change promises.

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

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self, TypeAlias

from config.masking import Masker
from config.settings import LimitSettings
from sessions.agents import AgentHost, NoData, WorkletData
from sessions.asking import Asking
from sessions.budgets import Budgets
from sessions.controls import Controls
from sessions.edits import Edited
from sessions.events import Observer
from sessions.filerules import FileRules
from sessions.halting import Halting
from sessions.holdings import Holdings
from sessions.livetasks import Bell, LiveTasks
from sessions.options import Options
from sessions.places import Places
from sessions.policy import Policy
from sessions.poolstore import PoolStore
from sessions.prompts import Prompts
from sessions.shared import Patience, Shared
from sessions.steering import Steering
from sessions.store import Store
from sessions.telling import Telling
from sessions.templatestore import TemplateStore
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
)
from worklets.git import noreply

list_ = list  # `Sessions.list` hides the builtin inside the class


Authors: TypeAlias = Callable[[str], Awaitable[tuple[str, str]]]
Backlog: TypeAlias = Callable[[Session, Turn], Awaitable[None]]


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
        data: WorkletData | None = None,
        turn_timeout: timedelta | None = None,
        pool: PoolStore | None = None,
        session_work: timedelta | None = None,
    ) -> None:
        """`env` goes to every worklet; `max_sessions` have one at the same time.

        `lease_seconds`: after so long another replica on the same PostgreSQL takes a silent one's sessions over.
        `policy`: what Claude may do without asking. `bell` tells other replicas at once, instead of at their reaper's
        next pass. `files`: which are taken. `limits`: what may be spent.
        `masker` takes secrets out of what agents say; `secrets`: those that a session has of its own. `data`: what
        worklets keep beside their volumes. `pool`: worklets that stand ready.
        `turn_timeout`: how long a turn may work, people's own time not counted;
        `session_work`: how long all of a session may.
        """
        self.store = store
        self.options = options or Options(store.db)
        self.transcript = Transcript(store.db, store.clock)
        self.controls = Controls(store.db, store, self.transcript, store.clock)
        self.templates = TemplateStore(store.db, store.clock)
        self.files = files or FileRules()
        self.budgets = Budgets(store.db, limits or LimitSettings(), store.clock)
        self.data = data or NoData()
        self.pool = pool
        self._host = host
        self._telling = Telling(store, self.transcript)
        self._holdings = Holdings(store.leases, lease_seconds, exclusive=store.db.exclusive)
        self._shared = Shared(
            store,
            self.transcript,
            host,
            Places(max_sessions, lambda session_id: self._tasks.give_way(session_id)),
            self._telling.tell,
            dict(env or {}),
            patience or Patience(),
            self._collect,
            files=self.files,
            masker=masker or Masker(),
            secrets=secrets,
            policy=policy or Policy(),
            tell_ask=self._telling.ask,
            budgets=self.budgets,
            data=self.data,
            turn_timeout=turn_timeout,
            pool=pool,
            session_work=session_work,
            author=self._author_of,
        )
        self._authors: Authors | None = None
        self._backlog: Backlog | None = None
        self._tasks = LiveTasks(self._shared, self._holdings, self._telling, bell)
        self._halting = Halting(store, self._telling, self._tasks)
        self._prompts = Prompts(
            store, self.options, self.policy, self._telling, self._tasks, self._halting, owner=self.owner
        )

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

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

    def authors(self, of: Authors) -> None:
        """`of(user id)` gives a person's name and e-mail address, for git; else it goes by the id."""
        self._authors = of

    async def _author_of(self, user_id: str) -> tuple[str, str]:
        return await self._authors(user_id) if self._authors is not None else (user_id, noreply(user_id))

    # -- change: messages ---------------------------------------------------------

    async def submit(self, prompt: Prompt) -> Submitted | None:
        """Stores the prompt and rings its session. None: no session in that thread, and the prompt starts none.

        None too for a message that was deleted before it came. Also while draining: the next start finds it. Raises
        StoreUnavailable.
        """
        return await self._prompts.submit(prompt)

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
        return await self._prompts.amend(team, channel, source_id, Edited(text, edited_ts, files))

    async def withdraw(self, turn_id: TurnId, by: str) -> bool:
        """Takes a waiting turn back. False: it began, or ended, meanwhile. Raises StoreUnavailable."""
        return await self._prompts.withdraw(turn_id, by)

    async def hurry(self, turn_id: TurnId, by: str) -> bool:
        """This turn goes next, and the running one is interrupted. False: it does not wait any more."""
        return await self._prompts.hurry(turn_id, by)

    async def resume(self, turn_id: TurnId, by: str, how: Literal["continue", "again"], ts: str) -> Submitted | None:
        """What a turn that was cut off is to become: a new one, once, whoever asks for it. None: it was not cut."""
        return await self._prompts.resume(turn_id, by, how, ts)

    async def resumed(self, turn: Turn) -> Turn | None:
        """What a turn that was cut off has become, once somebody asked for it."""
        return await self._prompts.resumed(turn)

    async def opened(self, session_id: SessionId, thread_ts: str) -> Session:
        """The door has posted the thread's root message. Raises SessionNotFound, SessionError, StoreUnavailable."""
        session = await self.store.opened(session_id, thread_ts)
        if live := self._tasks.get(session_id):
            live.moved(session)
        return session

    async def delivered(self, turn_id: TurnId) -> None:
        """The door has shown the turn's final state: it is not told again."""
        session_id = await self.store.mark_delivered(turn_id)
        if session_id is not None:
            self._telling.delivered(session_id, turn_id)
            if live := self._tasks.get(session_id):
                live.ring()

    async def show_again(self, turn_id: TurnId) -> bool:
        """The door may have put an older look over the turn's last one: whoever runs its session shows it anew.

        False: it is not shown to the end yet, and will be.
        """
        session_id = await self.store.mark_undelivered(turn_id)
        if session_id is not None:
            await self._tasks.ring_all(session_id)
        return session_id is not None

    # -- change: sessions ---------------------------------------------------------

    def ring(self, session_id: SessionId) -> None:
        """There may be something to do. Harmless at any time."""
        self._tasks.ring(session_id)

    async def wake(self, session_id: SessionId) -> None:
        """Has the session's worklet run, without a prompt. Raises WorkletError, SessionNotFound, StoreUnavailable."""
        await self.get(session_id)
        await self._tasks.wake(session_id)

    async def visited(self, session_id: SessionId) -> None:
        """Somebody looks at what runs in its worklet: it does not sleep yet. Raises StoreUnavailable."""
        await self.store.visited(session_id)

    async def interrupt(self, session_id: SessionId, by: str | None, only: TurnId | None = None) -> bool:
        """Ends the current turn, `only` this one; waiting ones follow. False: there is none, or it is another.

        Returns before the turn is settled.
        """
        return await self._halting.interrupt(session_id, by, only)

    async def halt(self, session_id: SessionId, by: str) -> bool:
        """Ends the current turn and drops those that wait; the session stays as it is. False: there was nothing.

        Returns before the current turn is settled.
        """
        return await self._halting.halt(session_id, by)

    async def stop(self, session_id: SessionId, by: str) -> bool:
        """`halt`, and the session goes to sleep; True when it does.

        False: a new turn came in meanwhile, or another process runs it. Raises SessionNotFound, StoreUnavailable.
        """
        return await self._halting.stop(session_id, by)

    async def sleep(self, session_id: SessionId) -> bool:
        """Ends the session's worklet unless it works; the next turn wakes it. False: it works."""
        return await self._halting.sleep(session_id)

    def rest(self, session_id: SessionId) -> None:
        """Ends the idle session's Claude, if it runs here; its worklet stays. Returns at once."""
        if live := self._tasks.get(session_id):
            live.rest()

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
        return session_id in self._tasks

    def has_agent(self, session_id: SessionId) -> bool:
        """This process talks with its Claude now, or listens to it."""
        live = self._tasks.get(session_id)
        return live is not None and live.epoch is not None

    def remark(self, session_id: SessionId, text: str) -> bool:
        """Tells people of the running turn what happened to its worklet. False: no turn runs here."""
        live = self._tasks.get(session_id)
        return live is not None and live.remark(text)

    def holds(self, session_id: SessionId) -> bool:
        """This process, and no other, runs the session now."""
        return self._holdings.exclusive or self._holdings.valid(session_id)

    def may_show(self, session_id: SessionId) -> bool:
        """This process, and no other, may show the session now: observers have heard all that others left of it."""
        return self._holdings.may_show(session_id)

    # -- start and end ---------------------------------------------------------

    def adopt(self, session: Session) -> None:
        """Runs a session that has a worklet from before, with or without work for it."""
        self._tasks.adopt(session)

    async def drain(self, grace: float) -> None:
        """Begins no further turn, gives running ones `grace` seconds, then lets go: their agents work on.

        Those that wait for people are not waited for.

        What is not finished stays as it is in the table; the next start goes on with it.
        """
        await self._tasks.drain(grace)

    async def _collect(self, session: Session, turn: Turn) -> None:
        if self._backlog is not None:
            await self._backlog(session, turn)
