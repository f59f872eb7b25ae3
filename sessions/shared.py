"""What all live sessions of a process work with, and how long they wait for what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from config.logging import get_logger
from config.masking import Masker
from config.secretpatterns import passwords_in
from sessions.agents import AgentHost, NoData, WorkletData
from sessions.asks import Ask
from sessions.budgets import Budgets
from sessions.errors import StoreUnavailable
from sessions.events import LifeEvent
from sessions.filerules import FileRules
from sessions.places import Places
from sessions.policy import Policy
from sessions.poolstore import PoolStore
from sessions.store import Store
from sessions.transcript import Transcript
from sessions.types import Session, Turn
from worklets.events import AgentEvent

log = get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a live session waits for what, in seconds."""

    attach: float = 1.0  # for a worklet to be reached after its turn was stopped, before its container goes
    interrupt: float = 3.0  # for the CLI to end an interrupted turn, before it is told to end itself
    terminate: float = 3.0  # for the CLI to do that, before its container goes
    verdict: float = 5.0  # for a result after the CLI dropped a prompt
    again: tuple[float, ...] = (0.5, 2.0, 5.0, 15.0)  # before each further try; an engine needs a while to restart
    store: float = 5.0  # at most between two tries on a database that does not serve
    backlog: float = 5.0  # for the door to read what was said before Flow was called into a thread
    author: float = 2.0  # for the door to say who asks
    attempts: int = 4  # processes that are given one prompt, restarts of the program included


@dataclass(frozen=True, slots=True)
class Shared:
    """What all live sessions of a process work with."""

    store: Store
    transcript: Transcript
    host: AgentHost
    places: Places
    tell: Callable[[Session, Turn, LifeEvent | AgentEvent], None]
    env: Mapping[str, str] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    #: Awaited before the first turn of a session: what was said in the thread before it becomes asides.
    backlog: Callable[[Session, Turn], Awaitable[None]] | None = None
    #: A person's name and e-mail address, for git. None: by the id.
    author: Callable[[str], Awaitable[tuple[str, str]]] | None = None
    files: FileRules = field(default_factory=FileRules)
    masker: Masker = field(default_factory=Masker)
    #: Secrets of this session alone: the tokens that its worklet holds.
    secrets: Callable[[Session], Sequence[str]] = lambda _: ()
    policy: Policy = field(default_factory=Policy)
    tell_ask: Callable[[Ask], None] = lambda _ask: None
    budgets: Budgets | None = None
    data: WorkletData = field(default_factory=NoData)
    turn_timeout: timedelta | None = None  # how long a turn may work
    session_work: timedelta | None = None  # how long all turns of a session may
    pool: PoolStore | None = None  # worklets that stand ready

    def masker_of(self, session: Session) -> Masker:
        """Knows the session's own secrets too: its worklet's tokens, and the password in its repository's address."""
        in_address = passwords_in([session.repository] if session.repository else [])
        return self.masker.extended([*in_address, *self.secrets(session)])

    async def stored(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call on the store, repeated until the database serves.

        Nothing is lost meanwhile: the agent's journal holds what it says.
        """
        delay = 0.1
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                log.debug("the database does not serve; waiting", error=error.sentence())
                delay = min(delay * 2, self.patience.store)
                await asyncio.sleep(delay)
