"""The line between a session and its agent: opened, listened to, its words stored, let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from config.logging import get_logger
from config.masking import Masker
from config.secretpatterns import passwords_in
from sessions.agents import AgentHost, AgentLike
from sessions.asks import Ask
from sessions.budgets import Budgets
from sessions.errors import StoreUnavailable
from sessions.events import LifeEvent
from sessions.filerules import FileRules
from sessions.inbox import Batch, Inbox
from sessions.leases import Lease
from sessions.masking import MaskedEvents
from sessions.places import Places
from sessions.policy import Policy, permissions_of
from sessions.store import Store
from sessions.transcript import Entry, Transcript
from sessions.types import Cut, Failed, Outcome, Session, SessionState, Turn, TurnId
from worklets.claude import FORK_OF
from worklets.clone import without_password
from worklets.errors import AgentGone, WorkletError
from worklets.events import PASSING, AgentEvent, Asked, Position, Remark, Restarted, Text, TextDelta
from worklets.permissions import Permissions

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
    files: FileRules = field(default_factory=FileRules)
    masker: Masker = field(default_factory=Masker)
    #: Secrets of this session alone: the tokens that its worklet holds.
    secrets: Callable[[Session], Sequence[str]] = lambda _: ()
    policy: Policy = field(default_factory=Policy)
    tell_ask: Callable[[Ask], None] = lambda _ask: None
    budgets: Budgets | None = None

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


class Link:
    def __init__(self, shared: Shared, lease: Lease, session: Session) -> None:
        self.session = session
        self.lease = lease
        self.inbox = Inbox()
        self.agent: AgentLike | None = None
        self.woken = False  # the agent is a new process: it remembers what its volume holds
        self._model: str | None = None  # what the process was told to answer with, by us
        self.cli_mode: str | None = None  # the process's permission mode, as far as it is known
        self._permitted: Permissions | None = None  # the rules that it follows, as far as they are known
        self._shared = shared
        self._stored = Position("", 0)  # up to here, lasting events are in the transcript
        self._masker = shared.masker_of(session)
        self._masked = MaskedEvents(self._masker)
        self._preview_at = Position("", 0)

    async def open(self, on_step: Callable[[str], None]) -> None:
        """Attaches to the session's agent or starts one. Raises WorkletError."""
        session = self.session
        position = Position(session.epoch, session.seq) if session.epoch else None
        self._stored = await self._stored_until(position)
        self._masked.drop_preview()
        self._model = self.cli_mode = self._permitted = None
        permissions = await self._permissions()
        agent = await self._shared.host.open(
            session.worklet,
            claude_session_id=session.claude_session_id,
            has_history=session.has_history,
            position=position,
            fence=self.lease.fence,
            env=_environment(session, self._shared.env),
            repository=session.repository,
            branch=session.branch,
            permissions=permissions,
            on_step=on_step,
        )
        self.agent = agent
        self.woken = position is None or position.epoch != agent.epoch
        if self.woken:  # it was started with them
            self.cli_mode, self._permitted = permissions.cli_mode, permissions
        if agent.new_volume and session.has_history and session.retired_at is None:
            # So it is known also after a restart, until a turn has ended on the new volume.
            await self.set_state(session.state, retired_at=self._shared.store.clock())
        self.inbox.listen(agent)

    async def choose_model(self) -> None:
        """Has the process answer with the session's model. Raises AgentGone, AgentRefused with the CLI's words."""
        model, agent = self.session.model, self.agent
        if model is None or model == self._model or agent is None:
            return
        try:
            await agent.request("set_model", model=model)
        except TimeoutError as error:
            raise AgentGone("Claude's process does not answer.") from error
        self._model = model

    async def _permissions(self) -> Permissions:
        policy, asks = self._shared.policy, self._shared.store.asks
        return await self._shared.stored(lambda: permissions_of(policy, asks, self.session))

    async def permit(self, *, mode: bool = False) -> None:
        """Has the process follow the session's rules as they are now, and its `mode`. Raises AgentGone, AgentRefused.

        A process that is the same as before, and whose rules and mode are known, is asked nothing.
        """
        agent, wanted = self.agent, await self._permissions()
        if agent is None:
            return
        rules = replace(wanted, mode="auto")
        try:
            if self._permitted is None or replace(self._permitted, mode="auto") != rules:
                await agent.request("apply_flag_settings", settings=wanted.settings())
                self._permitted = wanted
            if mode and self.cli_mode != wanted.cli_mode:
                await agent.request("set_permission_mode", mode=wanted.cli_mode)
                self.cli_mode = wanted.cli_mode
        except TimeoutError as error:
            raise AgentGone("Claude's process does not answer.") from error

    @property
    def has_worklet(self) -> bool:
        """As far as it is known here."""
        return self.agent is not None or self.session.container_id is not None

    @property
    def forgotten(self) -> bool:
        """The conversation so far is not on the volume."""
        return self.session.retired_at is not None

    async def _stored_until(self, position: Position | None) -> Position:
        if position is None:
            return Position("", 0)
        transcript, id_, epoch = self._shared.transcript, self.session.id, position.epoch
        return Position(epoch, await self._shared.stored(lambda: transcript.stored_until(id_, epoch)))

    def is_from_before(self, at: Position) -> bool:
        """What a lost predecessor of the agent had still written to its journal; it is told first."""
        return self.agent is not None and at.epoch != self.agent.epoch

    async def take(
        self,
        batch: Batch,
        owner: Callable[[AgentEvent], TurnId | None],
        asked: Callable[[Asked, str], Awaitable[None]] | None = None,
    ) -> list[AgentEvent]:
        """Takes secrets out of a batch, stores its lasting events, then returns what is news to observers.

        After an attach the journal gives again what lies behind the position, also events that are stored: they are
        left out, previews are not. `asked` stores an ask of an epoch before its event is stored: no event without it.
        """
        at, events = batch
        if at.epoch != self._stored.epoch:
            self._stored = Position(at.epoch, 0)
            self._masked.drop_preview()
        if any(isinstance(event, TextDelta) for event in events):
            self._preview_at = at
        events = self._masked.take(events)
        news = [event for event in events if isinstance(event, PASSING) or at.seq > self._stored.seq]
        if lasting := [(owner(event), event) for event in news if not isinstance(event, PASSING)]:
            for turn_id, event in lasting:
                if isinstance(event, Asked) and turn_id is not None and asked is not None:
                    await asked(event, at.epoch)
            await self._store(at, lasting)
        return news

    async def _store(self, at: Position, lasting: Sequence[tuple[TurnId | None, AgentEvent]]) -> None:
        position = None if self._masked.has_preview else at
        session = await self._shared.stored(
            lambda: self._shared.transcript.append(self.lease, lasting, at=at, position=position)
        )
        self.session, self._stored = session, at
        if position is not None and self.agent is not None:
            try:
                await self.agent.ack(position)
            except WorkletError as error:  # an ack only frees memory; the loss arrives in the inbox, in its place
                log.debug("not acknowledged", error=str(error))

    async def keep_preview(self, turn_id: TurnId) -> Text | None:
        """What a lost process had streamed and will never commit: people have seen it, so it is kept."""
        text = self._masked.end_preview()
        if not text:
            return None
        await self._store(self._preview_at, [(turn_id, Text(text))])
        return Text(text)

    async def restarted(self, turn_id: TurnId, reason: str) -> Restarted:
        """Notes that this process goes on with the turn, before the first line of its journal."""
        assert self.agent is not None
        event, at = Restarted(self._masker.text(reason)), Position(self.agent.epoch, 0)
        self.session = await self._shared.stored(
            lambda: self._shared.transcript.append(self.lease, [(turn_id, event)], at=at, position=None)
        )
        return event

    async def remark(self, turn_id: TurnId, remark: Remark, number: int) -> bool:
        """Stores what people are told, the `number`th of the turn. False: it was stored, and told, before."""
        remark = Remark(self._masker.text(remark.text))
        if any(entry.event == remark for entry in await self.entries(turn_id)):
            return False
        at = Position(f"remarks-{turn_id}", number)
        self.session = await self._shared.stored(
            lambda: self._shared.transcript.append(self.lease, [(turn_id, remark)], at=at, position=None)
        )
        return True

    async def entries(self, turn_id: TurnId) -> list[Entry]:
        """All that the transcript has of a turn."""
        transcript, found = self._shared.transcript, list[Entry]()
        while True:
            after = found[-1].cursor if found else 0
            page = await self._shared.stored(
                lambda after=after: transcript.read(self.session.id, turn_id=turn_id, after=after)  # type: ignore[misc]
            )
            if not page:
                return found
            found += page

    async def remembered(self) -> None:
        """A turn has ended on this volume: the conversation goes on there."""
        if self.forgotten:
            await self.set_state(self.session.state, retired_at=None, archived_at=None)

    def masked(self, outcome: Outcome) -> Outcome:
        """Without secrets: a reason may quote what a process said last."""
        if isinstance(outcome, Failed | Cut):
            return replace(outcome, reason=self._masker.text(outcome.reason))
        return outcome

    async def set_state(self, state: SessionState, **columns: object) -> None:
        self.session = await self._shared.stored(lambda: self._shared.store.set_state(self.lease, state, **columns))

    async def detach(self) -> None:
        """Lets go; the agent works on."""
        agent, self.agent = self.agent, None
        await self.inbox.mute()
        if agent is not None:
            await agent.close()

    async def end(self, grace: float = 5.0) -> str | None:
        """Lets go and ends the worklet within `grace` seconds. What the runtime cannot do now is left to the reaper.

        Returns why it had ended already, as the beginning of a sentence. Raises LeaseLost: it is another's then.
        """
        await self.set_state(self.session.state)
        await self.detach()
        ending = None
        try:
            ending = await self._shared.host.close(self.session.worklet, grace)
        except WorkletError as error:
            log.warning("the worklet could not be ended", worklet=self.session.worklet, error=error.sentence())
        self.session = replace(self.session, container_id=None)
        return ending


def _environment(session: Session, env: Mapping[str, str]) -> dict[str, str]:
    repository = without_password(session.repository) if session.repository else None
    # A fork that was begun anew has another conversation than its first, and nothing of its origin's.
    origin = session.fork_of if session.claude_session_id == session.id else None
    given = {"GIT_REPO": repository, "GIT_BRANCH": session.branch, FORK_OF: origin}
    return {**env, **{name: value for name, value in given.items() if value}}
