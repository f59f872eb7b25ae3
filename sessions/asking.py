"""The part of `Sessions` about what Claude asks, and what it may do without asking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from config.logging import get_logger
from sessions.asks import Ask, AskClosedAlready, AskId, AskKind, AskState, Decision, own_ask_id
from sessions.errors import StoreUnavailable
from sessions.livetasks import LiveTasks
from sessions.policy import Policy, permissions_of, scopes_of
from sessions.rulestore import Behavior, RuleScope, StoredRule, channel_scope
from sessions.shared import Shared
from sessions.store import Store
from sessions.telling import Telling
from sessions.types import Session, SessionId, Turn
from worklets.permissions import CLI_MODES, Permissions

log = get_logger(__name__)


class Asking:
    """Mixed into `Sessions`, which has the attributes."""

    store: Store
    _telling: Telling
    _shared: Shared
    _tasks: LiveTasks

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

    async def ask_people(
        self,
        session_id: SessionId,
        about: str,
        tool: str,
        given: dict[str, Any],
        rules: tuple[str, ...] = (),
        kind: AskKind = AskKind.PERMISSION,
    ) -> Ask | None:
        """Flow itself asks in the turn that runs here, once for each `about`; None: none does, so nobody can be asked.

        `rules` are what "for this session" and "always" would add. Wait for `caught_up` before, and before anything is
        read that decides whether to ask. The ask as it stands. Raises StoreUnavailable.
        """
        live = self._tasks.get(session_id)
        turn, epoch = (live.turn, live.epoch) if live is not None else (None, None)
        if turn is None or turn.started_at is None or epoch is None:
            return None
        now, expires = self.store.clock(), self.policy.expires
        ask = Ask(
            id=own_ask_id(session_id, about),
            session_id=session_id,
            turn_id=turn.id,
            kind=kind,
            tool=tool,
            tool_id=about,
            input=given,
            suggestions=rules,
            state=AskState.OPEN,
            asked_at=now,
            expires_at=now + expires if expires is not None else None,
        )
        stored, _ = await self.store.asks.open(None, ask, epoch=epoch)
        if (await self.store.turn(turn.id)).ended_at is not None:  # just now: its end did not take this ask back
            await self.store.asks.take_back(turn.id, kind, now)
            return None
        self._telling.ask(stored.ask)
        return stored.ask

    async def caught_up(self, session_id: SessionId) -> None:
        """Returns when what the session's process has said until now is told: it stands above a question then."""
        if (live := self._tasks.get(session_id)) is not None:
            await live.caught_up()

    def running(self, session_id: SessionId) -> Turn | None:
        """The turn that the session is about, where it runs here."""
        live = self._tasks.get(session_id)
        return live.turn if live is not None else None

    async def take_back_asks(self, ids: Sequence[AskId]) -> None:
        """Questions of Flow's own that nobody need answer any more. Raises StoreUnavailable."""
        for ask in await self.store.asks.withdraw(ids, self.store.clock()):
            await self._closed(ask)

    def blocked(self, session_id: SessionId, host: str, reason: str) -> None:
        """The session's worklet wanted a host that it may not reach. Its turn tells so, where one runs here."""
        if (live := self._tasks.get(session_id)) is not None:
            live.blocked(host, reason)

    async def permissions(self, session: Session) -> Permissions:
        """What it may do without asking, by the settings and people's rules. Raises StoreUnavailable."""
        return await permissions_of(self.policy, self.store.asks.rules, session)

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
        await self._tasks.ring_all(ask.session_id)

    async def park_waiting(self, before: datetime) -> None:
        """Sessions that run here and have waited for people since then may sleep. Raises StoreUnavailable."""
        for session_id in await self.store.asks.waiting_since(before):
            if live := self._tasks.get(session_id):
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
        if live := self._tasks.get(session_id):
            live.configured(session)
            await live.permit(mode=True)
        return session

    async def rules(self, session_id: SessionId) -> list[StoredRule]:
        """What people added for the session, its channel and the workspace; the oldest first."""
        return await self.store.asks.rules.of(scopes_of(await self.store.get(session_id)))

    async def channel_rules(self, team: str, channel: str) -> list[StoredRule]:
        """What people added for all threads of the channel, and for the workspace; the oldest first."""
        return await self.store.asks.rules.of([("workspace", team), ("channel", channel_scope(team, channel))])

    async def rule(self, rule_id: str) -> StoredRule | None:
        return await self.store.asks.rules.get(rule_id)

    async def add_rule(self, scope: RuleScope, scope_id: str, behavior: Behavior, rule: str, by: str) -> None:
        """Idempotent. Running sessions follow it at once, in other processes too."""
        await self.store.asks.rules.add(scope, scope_id, behavior, rule, by, self.store.clock())
        self._follow_rules(scope, scope_id)

    async def remove_rule(self, rule_id: str, by: str) -> StoredRule | None:
        """The rule that was; None: there is none. Running sessions follow as with `add_rule`."""
        rule = await self.store.asks.rules.remove(rule_id)
        if rule is not None:
            log.info("rule removed", rule=rule.rule, scope=rule.scope, scope_id=rule.scope_id, by=by)
            self._follow_rules(rule.scope, rule.scope_id)
        return rule

    def on_rules(self, heard: Callable[[SessionId], None]) -> None:
        """`heard` is told which sessions that run here have other rules now."""
        self._tasks.rules_heard.append(heard)

    def _follow_rules(self, scope: RuleScope, scope_id: str) -> None:
        """Not waited for: a process may take its time."""
        if self._tasks.draining:
            return
        self._tasks.beside(self._ring_holders(scope, scope_id), f"rules of {scope} {scope_id}")
        for live in list(self._tasks.live.values()):
            if live.is_in(scope, scope_id):
                for heard in self._tasks.rules_heard:
                    heard(live.id)
                self._tasks.beside(live.permit(mode=False), f"rules {live.id}")

    async def _ring_holders(self, scope: RuleScope, scope_id: str) -> None:
        """Other processes look at the sessions of the scope that they run."""
        try:
            held = [SessionId(scope_id)] if scope == "session" else await self.store.held_in(*scope_id.split("/", 1))
        except StoreUnavailable as error:
            log.warning("rules count from the next prompt where others run sessions", error=error.sentence())
            return
        for session_id in held:
            if session_id not in self._tasks:
                await self._tasks.ring_elsewhere(session_id)
