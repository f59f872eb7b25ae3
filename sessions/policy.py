"""What Claude may do in a session without asking: the settings, and the rules that people added.

Rules are Claude Code's own, and the CLI itself applies them (worklets/permissions.py). The very call that a person
allowed goes before an ask rule of the settings, which the CLI would not let it: that alone is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from config.masking import MASK
from sessions.asks import Ask
from sessions.askstore import AskStore, RuleScope, StoredRule, channel_scope
from sessions.types import Session
from worklets.permissions import CLI_MODES, Permissions, exact


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say. `expires`: how long an ask waits for people; None: for good."""

    mode: str = "auto"
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    expires: timedelta | None = timedelta(days=1)

    def mode_of(self, session: Session) -> str:
        return session.mode if session.mode in CLI_MODES else self.mode

    def mode_after_plan(self, session: Session) -> str:
        """The mode in which an approved plan is carried out."""
        if self.mode_of(session) != "plan":
            return self.mode_of(session)
        before = session.mode_before or self.mode
        return before if before in CLI_MODES and before != "plan" else "auto"


def scopes_of(session: Session) -> list[tuple[RuleScope, str]]:
    """Where rules for the session are found."""
    thread = session.thread
    channel = channel_scope(thread.team, thread.channel)
    return [("workspace", thread.team), ("channel", channel), ("session", session.id)]


async def permissions_of(policy: Policy, store: AskStore, session: Session) -> Permissions:
    """For the session's process. Raises StoreUnavailable."""
    rules = await store.rules(scopes_of(session))

    def merged(behavior: str, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*given, *(one.rule for one in rules if one.behavior == behavior))))

    return Permissions(
        policy.mode_of(session),
        merged("allow", policy.allow),
        merged("ask", policy.ask),
        merged("deny", policy.deny),
    )


def allowed_before(ask: Ask, rules: list[StoredRule]) -> str | None:
    """The rule by which people have allowed this very call, which an ask rule made the CLI ask again.

    A rule for more, such as a tool's bare name, does not go before an ask rule. Nor does one in which a secret was
    masked: it may have been another.
    """
    known = {one.rule for one in rules if one.behavior == "allow"}
    return next((rule for rule in exact(ask.tool, ask.input) if rule in known and MASK not in rule), None)
