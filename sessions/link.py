"""The line between a session and its agent: opened, listened to, its words stored, let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from config.logging import get_logger
from sessions.agents import AgentLike
from sessions.claiming import claim
from sessions.errors import LeaseLost, StoreUnavailable
from sessions.inbox import Batch, Inbox
from sessions.leases import Lease
from sessions.masking import MaskedEvents
from sessions.origin import environment_of, origin_of
from sessions.policy import permissions_of
from sessions.shared import Shared
from sessions.transcript import REMARKS, Entry
from sessions.types import Cut, Failed, Outcome, Session, SessionState, TurnId
from worklets.errors import AgentGone, WorkletError
from worklets.events import PASSING, AgentEvent, Asked, Position, Remark, Restarted, Text, TextDelta
from worklets.git import noreply
from worklets.permissions import Permissions, narrowed
from worklets.profile import Profile

log = get_logger(__name__)


class Link:
    def __init__(self, shared: Shared, lease: Lease, session: Session) -> None:
        self.session = session
        self.lease = lease
        self.inbox = Inbox()
        self.agent: AgentLike | None = None
        self.woken = False  # the agent is a new process: it remembers what its volume holds
        self.untold: tuple[str, ...] = ()  # what a new worklet does not have of what was asked for it
        self._model: str | None = None  # what the process was told to answer with, by us
        self.cli_mode: str | None = None  # the process's permission mode, as far as it is known
        self._permitted: Permissions | None = None  # the rules that it follows, as far as they are known
        self._recorded: Permissions | None = None  # as they were last worked out: what the audit goes by
        self._permitting = asyncio.Lock()  # one after the other, so that the last word is the newest
        self._choosing = asyncio.Lock()  # so too
        self.rested = False  # no process of Claude's is waited for: the worklet is all there is
        self._untouched = session.state is SessionState.NEW  # nothing of its name exists but the row
        self._shared = shared
        self._stored = Position("", 0)  # up to here, lasting events are in the transcript
        self._masker = shared.masker_of(session)
        self._masked = MaskedEvents(self._masker)
        self._preview_at = Position("", 0)

    async def claim(self) -> bool:
        """Takes a worklet that stands ready. False: there is none, or the session needs one of its own making."""
        untouched, self._untouched = self._untouched, False
        claimed = await claim(self._shared, self.lease, self.session) if untouched else None
        if claimed is None:
            return False
        self.session = claimed
        self._masker = self._shared.masker_of(claimed)  # its tokens are made from its name
        self._masked = MaskedEvents(self._masker)
        return True

    async def open(self, on_step: Callable[[str], None], *, prompted: bool = True) -> None:
        """Attaches to the session's agent or starts one; `prompted`: to ask it something.

        Raises WorkletError; LeaseLost where another's worklet would have been ended for it.
        """
        session = self.session
        position = Position(session.epoch, session.seq) if session.epoch else None
        self._stored = await self._stored_until(position)
        self._masked.drop_preview()
        self._model = self.cli_mode = self._permitted = None
        permissions = await self._permissions()
        await self._shared.data.begin(session.id, session.user_id, session.name)
        agent = await self._shared.host.open(
            session.worklet,
            claude_session_id=session.claude_session_id,
            has_history=session.has_history,
            position=position,
            fence=self.lease.fence,
            env=environment_of(session, self._shared.env),
            repository=session.repository,
            branch=session.branch,
            worklet_id=session.id,
            origin=origin_of(session),
            permissions=permissions,
            prompted=prompted,
            still_owned=lambda: self.set_state(self.session.state),
            on_step=on_step,
        )
        self._masker = self._shared.masker_of(session)  # with the secrets that were read for this worklet
        self._masked = MaskedEvents(self._masker)
        self.agent, self.rested = agent, False
        self._recorded = permissions = self._narrowed(permissions)
        self.woken = position is None or position.epoch != agent.epoch
        self.untold = agent.profile.notes if agent.new_volume else ()
        if agent.new_volume or self.woken:
            self.untold += agent.profile.missing
        if self.woken:  # it was started with them, but for what they allow
            self.cli_mode, self._permitted = permissions.cli_mode, None if permissions.allow else permissions
        if agent.new_volume and session.has_history and session.retired_at is None:
            # So it is known also after a restart, until a turn has ended on the new volume.
            await self.set_state(session.state, retired_at=self._shared.store.clock())
        self.inbox.listen(agent)

    async def introduce(self, user_id: str) -> None:
        """Commits are this person's from now on. Never raises, and never waits long: the question matters more."""
        name, email = user_id, noreply(user_id)
        if self._shared.author is not None:
            try:
                async with asyncio.timeout(self._shared.patience.author):
                    name, email = await self._shared.author(user_id)
            except Exception as error:  # noqa: BLE001
                log.warning("git goes by a person's id", user=user_id, error=repr(error))
        await self._shared.host.introduce(self.session.worklet, name, email)

    async def choose_model(self, chosen: str | None = None) -> None:
        """Has the process answer with the session's model, or with what is `chosen` for it just now.

        Raises AgentGone, AgentRefused with the CLI's words.
        """
        async with self._choosing:
            model, agent = chosen or self.session.model, self.agent
            if model is None or (chosen is None and model == self._model) or agent is None:
                return
            self._model = None  # until it has answered, it may be either
            try:
                await agent.request("set_model", model=model)
            except TimeoutError as error:
                raise AgentGone("Claude's process does not answer.") from error
            self._model = model if agent is self.agent else None

    async def _permissions(self) -> Permissions:
        policy, rules = self._shared.policy, self._shared.store.asks.rules
        return await self._shared.stored(lambda: permissions_of(policy, rules, self.session))

    def _narrowed(self, permissions: Permissions) -> Permissions:
        """As the worklet's repository and template leave them."""
        profile = self.agent.profile if self.agent is not None else Profile()
        return narrowed(permissions, profile.allowed, profile.mcp_servers, profile.mcp_aliases, profile.mcp_identities)

    def cli_mode_of(self, mode: str) -> str:
        """The CLI's mode that `mode` of the session is, here."""
        return self._narrowed(Permissions(mode, ask_risk=self._shared.policy.ask_risk)).cli_mode

    async def permit(self, *, mode: bool = False) -> bool:
        """Has the process follow the session's rules as they are now, and its `mode`. Raises AgentGone, AgentRefused.

        A process that is the same as before, and whose rules and mode are known, is asked nothing. True: it was told
        of other rules.
        """
        async with self._permitting:
            agent = self.agent
            if agent is None:
                return False
            self._recorded = wanted = self._narrowed(await self._permissions())
            rules = replace(wanted, mode="auto")
            try:
                if other := self._permitted is None or replace(self._permitted, mode="auto") != rules:
                    self._permitted = None  # until it has answered, it may follow either
                    await agent.request("apply_flag_settings", settings=wanted.settings())
                    self._permitted = wanted
                if mode and self.cli_mode != wanted.cli_mode:
                    await agent.request("set_permission_mode", mode=wanted.cli_mode)
                    self.cli_mode = wanted.cli_mode
            except TimeoutError as error:
                raise AgentGone("Claude's process does not answer.") from error
            return other

    async def permit_now(self, *, mode: bool = False) -> bool:
        """As `permit`, while a turn runs: for this alone a process does not count as lost. It has until the next."""
        try:
            return await self.permit(mode=mode)
        except (WorkletError, StoreUnavailable, LeaseLost) as error:
            log.info("mode and rules count from the next prompt", session=self.session.id, why=repr(error))
            return True

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
            lambda: self._shared.transcript.append(
                self.lease, lasting, at=at, position=position, permissions=self._recorded
            )
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
        at = Position(f"{REMARKS}{turn_id}", number)
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

    async def rest(self) -> None:
        """Lets go and ends Claude's process; its worklet stays, and `open` starts another. Raises LeaseLost."""
        await self.set_state(self.session.state)
        await self.detach()
        self.rested = True
        try:
            if await self._shared.host.rest(self.session.worklet, self.lease.fence):
                log.info("idle for a while: Claude's process has ended, its container stays")
        except WorkletError as error:  # then it sleeps, later, as a whole
            log.warning("Claude's process could not be put to rest", error=error.sentence())

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
        await self._shared.data.end(self.session.id)
        self.session = replace(self.session, container_id=None)
        return ending
