"""What Claude asks in one turn, on its way: stored, told, decided in the table, given to Claude.

The table is the truth: the bell says "look", and what is decided there is given to the process that waits for it. A
process that took a lost one's place asks again, and in the same words it gets the same answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from config.logging import get_logger
from sessions.asks import PULL_REQUEST, PUSH, Ask, AskKind, AskState, Decision, ask_id, kind_of
from sessions.askstore import StoredAsk
from sessions.askwords import refusal, reminder
from sessions.atwork import PARENTS
from sessions.link import Link
from sessions.policy import allowed_before, scopes_of
from sessions.shared import Shared
from sessions.transcript import Entry
from sessions.types import Turn
from worklets.events import AgentEvent, Asked, AskWithdrawn, ModeChanged, ToolFinished, ToolStarted
from worklets.mcpidentity import UNKNOWN, identity_of, server_of
from worklets.permissions import flow_mode

log = get_logger(__name__)

_PLANNING = (
    "Flow is in plan mode: nothing may be changed yet. Look around with what only reads, write the plan to the plan "
    "file, then call ExitPlanMode; people read the plan and decide."
)
_NO_PLAN = "There is no plan yet: write it to the plan file first, then call ExitPlanMode."


class TurnAsks:
    """One per turn that is run. All methods raise what the link raises."""

    def __init__(self, shared: Shared, link: Link, turn: Turn) -> None:
        self._shared, self._link, self._turn = shared, link, turn
        self._store = shared.store.asks
        self._handed: set[str] = set()  # requests that got their answer from us
        self.waits = False  # something is open, or decided and not handed on

    async def look(self) -> list[StoredAsk]:
        """The turn's asks as the table has them; observers are told what is new."""
        found = await self._shared.stored(lambda: self._store.of_turn(self._turn.id))
        for one in found:
            self._shared.tell_ask(one.ask)
        return found

    async def store(self, asked: Asked, epoch: str) -> None:
        """Before anybody is told of it. Harmless when repeated."""
        ask = self._ask(asked)
        ask = await self._settled_by_policy(ask, asked)
        lease = self._link.lease
        await self._shared.stored(lambda: self._store.open(lease, ask, request_id=asked.request_id, epoch=epoch))
        self.waits = True

    def _ask(self, asked: Asked) -> Ask:
        # A yes to something else must not become one to pushing: a process may suggest what it likes.
        rules = tuple(rule for rule in asked.suggestions if not rule.startswith((PUSH, PULL_REQUEST)))
        now, expires = self._shared.store.clock(), self._shared.policy.expires
        known = self._link.agent.profile.mcp_identities if self._link.agent is not None else {}
        rules = tuple(rule for rule in rules if identity_of(rule, known) != UNKNOWN)  # it would never count
        return Ask(
            id=ask_id(self._turn.session_id, asked.tool_id or asked.request_id),
            session_id=self._turn.session_id,
            turn_id=self._turn.id,
            kind=kind_of(asked.tool),
            tool=asked.tool,
            tool_id=asked.tool_id or asked.request_id,
            input=asked.input,
            suggestions=rules,
            state=AskState.OPEN,
            asked_at=now,
            expires_at=now + expires if expires is not None else None,
            servers={rule: identity_of(rule, known) for rule in rules if server_of(rule) is not None},
        )

    async def _settled_by_policy(self, ask: Ask, asked: Asked) -> Ask:
        """Decided already where nobody need be asked."""
        decision = None
        if ask.kind is AskKind.PLAN and not str(ask.input.get("plan", "")).strip():
            decision = Decision("deny", message=_NO_PLAN)
        elif ask.kind is AskKind.PERMISSION and self._shared.policy.mode_of(self._link.session) == "plan":
            decision = Decision("deny", message=_PLANNING)
        elif ask.kind is AskKind.PERMISSION and asked.by_rule:
            scopes = scopes_of(self._link.session)
            rules = await self._shared.stored(lambda: self._store.rules.of(scopes))
            if rule := allowed_before(ask, rules):
                decision = Decision("allow", message=rule)
        return ask.decided_by_policy(decision) if decision is not None else ask

    async def note(self, event: AgentEvent) -> None:
        """What the running process says, as far as it matters here; it has been told. Raises AgentGone."""
        match event:
            case Asked():
                await self.give()
            case AskWithdrawn(request_id):
                await self.cancel(request_id)
            case ModeChanged():
                await self.changed(event)
            case ToolFinished() if self.waits:  # it may have been all that hindered the process from sleeping
                self._shared.places.idle(self._turn.session_id)

    async def cancel(self, request_id: str) -> None:
        """The CLI does not wait for that answer any more."""
        now = self._shared.store.clock()
        await self._shared.stored(lambda: self._store.cancel(self._turn.id, request_id, now))
        await self.look()

    async def changed(self, mode: ModeChanged) -> None:
        """Claude, or an approved plan, has changed the mode: so it stays, over restarts too."""
        new, old = flow_mode(mode.mode), self._shared.policy.mode_of(self._link.session)
        self._link.cli_mode = mode.mode
        if (new == "plan") is not (old == "plan"):
            before = old if new == "plan" else None
            state = self._link.session.state
            await self._link.set_state(state, mode=new, mode_before=before)

    async def give(self) -> None:
        """What is decided goes to the process that waits for it. Raises AgentGone."""
        agent = self._link.agent
        assert agent is not None
        found = await self.look()
        mine = [one for one in found if one.epoch == agent.epoch and one.request_id]
        ready = [one for one in mine if one.ask.decision is not None or one.ask.state is AskState.EXPIRED]
        ready = [one for one in ready if one.request_id not in self._handed]
        if any(one.ask.decision and one.ask.decision.scope != "once" for one in ready):
            await self._link.permit()
        if ready:
            lease, ids = self._link.lease, [one.ask.id for one in ready]
            await self._shared.stored(lambda: self._store.give(lease, ids))
        for one in ready:
            await self._answer(one)
            self._handed.add(one.request_id)
        self.waits = any(one.ask.is_open for one in mine)
        places = self._shared.places
        (places.waits if self.waits else places.works)(self._turn.session_id)

    async def _answer(self, one: StoredAsk) -> None:
        agent, ask, decision = self._link.agent, one.ask, one.ask.decision
        assert agent is not None
        if decision is None or decision.behavior == "deny":
            await agent.deny(one.request_id, refusal(ask))
        elif ask.kind is AskKind.QUESTION:
            await agent.allow(one.request_id, {**ask.input, "answers": dict(decision.answers)})
        elif ask.kind is AskKind.PLAN:
            await agent.allow(one.request_id, mode=self._mode_after(decision))
        else:
            await agent.allow(one.request_id)

    def _mode_after(self, decision: Decision) -> str:
        """In auto mode edits need no yes anyway."""
        after = self._shared.policy.mode_after_plan(self._link.session)
        return decision.mode if decision.mode == "acceptEdits" and after == "ask" else self._link.cli_mode_of(after)

    # -- the end of a process ---------------------------------------------------------

    async def park(self, entries: Sequence[Entry], *, at_once: bool) -> bool:
        """Nothing but people is waited for, and the table says so: the process may be put to sleep.

        `at_once`: its place is wanted; a sub-agent that runs may be about to say something.
        """
        found = await self.look()
        waiting = {one.ask.tool_id for one in found if one.ask.is_open}
        finished = {entry.event.tool_id for entry in entries if isinstance(entry.event, ToolFinished)}
        tools = [entry.event for entry in entries if isinstance(entry.event, ToolStarted)]
        waited = {tool.tool_id for tool in tools if tool.name in PARENTS and not at_once} | finished | waiting
        if any(tool.tool_id not in waited for tool in tools):
            self._shared.places.stays(self._turn.session_id)
            return False
        lease = self._link.lease
        return bool(waiting) and await self._shared.stored(lambda: self._store.park(lease, self._turn.id))

    async def unpark(self) -> None:
        """Its process does not sleep: what it does from now on counts."""
        if is_parked(await self.look()):
            await self._shared.stored(lambda: self._store.unpark(self._turn.id))

    async def resumed(self) -> None:
        """Another process goes on with the turn. A plan that people approved meanwhile is carried out by it."""
        await self.unpark()
        session, policy = self._link.session, self._shared.policy
        approved = [one for one in await self.look() if one.ask.kind is AskKind.PLAN and not one.given]
        if policy.mode_of(session) == "plan" and any(one.ask.state is AskState.ALLOWED for one in approved):
            await self._link.set_state(session.state, mode=policy.mode_after_plan(session), mode_before=None)

    async def reminder(self) -> list[str]:
        """What the new process should know of what was asked before it."""
        assert self._link.agent is not None
        epoch = self._link.agent.epoch
        told = reminder([one for one in await self.look() if one.epoch != epoch])
        return [told] if told else []


def never_begun(entries: Sequence[Entry], asks: Collection[StoredAsk]) -> set[str]:
    """The tool calls that Claude asked for and got no yes to, as far as it can have heard."""
    allowed = {one.ask.tool_id for one in asks if one.given and one.ask.state is AskState.ALLOWED}
    return {entry.event.tool_id for entry in entries if isinstance(entry.event, Asked)} - allowed


def is_parked(asks: Collection[StoredAsk]) -> bool:
    return any(one.parked for one in asks)
