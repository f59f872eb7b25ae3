"""The part of `Sessions` about what Claude asks, and what it may do without asking."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from config.logging import get_logger
from sessions.asks import Ask, AskClosedAlready, AskId, Decision
from sessions.askstore import Behavior, RuleScope, StoredRule, channel_scope
from sessions.errors import LeaseLost, StoreUnavailable
from sessions.link import Shared
from sessions.policy import Policy, scopes_of
from sessions.store import Store
from sessions.telling import Telling
from sessions.types import Session, SessionId, Turn
from worklets.errors import WorkletError
from worklets.permissions import CLI_MODES

if TYPE_CHECKING:
    from sessions.live import LiveSession

log = get_logger(__name__)


class Asking:
    """Mixed into `Sessions`, which has the attributes."""

    store: Store
    _telling: Telling
    _shared: Shared
    _live: dict[SessionId, LiveSession]
    _group: asyncio.TaskGroup
    _draining: bool

    async def _ring_all(self, session_id: SessionId) -> None:
        raise NotImplementedError

    # -- asks ---------------------------------------------------------

    async def decide(self, ask_id: AskId, decision: Decision, by: str) -> Ask:
        """Stores what somebody decided, with a row in the audit; Claude hears of it afterwards, over any restart.

        Raises AskClosedAlready (with the ask: who decided what), AskNotFound, StoreUnavailable.
        """
        try:
            ask = await self.store.asks.decide(ask_id, decision, by, self.store.clock())
        except AskClosedAlready as late:
            await self._closed(late.ask)  # it may have expired just now
            raise
        log.info("decided", ask=ask.id, session=ask.session_id, tool=ask.tool, state=ask.state.value, by=by)
        await self._closed(ask)
        if decision.behavior == "allow" and decision.scope == "channel":
            session = await self.store.get(ask.session_id)
            self._follow_rules("channel", channel_scope(session.thread.team, session.thread.channel))
        return ask

    async def ask(self, ask_id: AskId) -> Ask | None:
        return await self.store.asks.get(ask_id)

    async def asks(self, *, session_id: SessionId | None = None, user_id: str | None = None) -> list[Ask]:
        """What waits for people, of a session or of the sessions that somebody began; the oldest first."""
        return await self.store.asks.open_ones(session_id=session_id, user_id=user_id)

    async def expire_asks(self) -> list[Ask]:
        """Closes what nobody answered in time. Raises StoreUnavailable."""
        expired = await self.store.asks.expire(self.store.clock())
        for ask in expired:
            log.info("nobody answered in time", ask=ask.id, session=ask.session_id, tool=ask.tool)
            await self._closed(ask)
        return expired

    async def _closed(self, ask: Ask) -> None:
        self._telling.ask(ask)
        await self._ring_all(ask.session_id)

    async def _taken_back(self, turn: Turn) -> None:
        """What was open of a turn that has ended without its runner is closed in the table: people are told."""
        for stored in await self.store.asks.of_turn(turn.id):
            self._telling.ask(stored.ask)

    async def park_waiting(self, before: datetime) -> None:
        """Sessions that run here and have waited for people since then may sleep. Raises StoreUnavailable."""
        for session_id in await self.store.asks.waiting_since(before):
            if live := self._live.get(session_id):
                live.park()

    # -- rules and modes ---------------------------------------------------------

    @property
    def policy(self) -> Policy:
        return self._shared.policy

    async def set_mode(self, session_id: SessionId, mode: str, by: str) -> Session:
        """`mode`: auto, ask or plan; a turn that runs goes on in it at once. Raises SessionNotFound, ValueError."""
        if mode not in CLI_MODES:
            raise ValueError(f"{mode!r} is no permission mode; there are {', '.join(CLI_MODES)}.")
        old = await self.store.get(session_id)
        current = self._shared.policy.mode_of(old)
        before = (old.mode_before if current == "plan" else current) if mode == "plan" else None
        session = await self.store.set_mode(session_id, mode, before)
        log.info("mode", session=session_id, mode=mode, by=by)
        if live := self._live.get(session_id):
            live.configured(session)
            await self._permit(live, mode=True)
        return session

    async def rules(self, session_id: SessionId) -> list[StoredRule]:
        """What people added for the session, its channel and the workspace; the oldest first."""
        return await self.store.asks.rules(scopes_of(await self.store.get(session_id)))

    async def add_rule(self, scope: RuleScope, scope_id: str, behavior: Behavior, rule: str, by: str) -> None:
        """Idempotent. Running sessions follow it at once; those of other processes with their next turn."""
        await self.store.asks.add_rule(scope, scope_id, behavior, rule, by, self.store.clock())
        self._follow_rules(scope, scope_id)

    async def remove_rule(self, rule_id: str, by: str) -> StoredRule | None:
        """The rule that was; None: there is none. Running sessions follow as with `add_rule`."""
        rule = await self.store.asks.remove_rule(rule_id)
        if rule is not None:
            log.info("rule removed", rule=rule.rule, scope=rule.scope, scope_id=rule.scope_id, by=by)
            self._follow_rules(rule.scope, rule.scope_id)
        return rule

    def _follow_rules(self, scope: RuleScope, scope_id: str) -> None:
        """Not waited for: a process may take its time."""
        for live in list(self._live.values()):
            if live.is_in(scope, scope_id) and not self._draining:
                self._group.create_task(self._permit(live, mode=False), name=f"rules {live.id}")

    async def _permit(self, live: LiveSession, *, mode: bool) -> None:
        try:
            await live.permit(mode=mode)
        except (WorkletError, StoreUnavailable, LeaseLost) as error:
            log.info("mode and rules count from the next prompt", session=live.id, why=repr(error))
