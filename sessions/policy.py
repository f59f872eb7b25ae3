"""What Claude may do in a session without asking: the settings, and the rules that people added.

Rules are Claude Code's own, and the CLI itself applies them (worklets/permissions.py). The very call that a person
allowed goes before an ask rule of the settings, which the CLI would not let it: that alone is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from config.masking import MASK
from sessions.asks import Ask
from sessions.rulestore import RuleScope, RuleStore, StoredRule, channel_scope
from sessions.types import Session
from worklets.mcpidentity import builtin, server_of
from worklets.permissions import CLI_MODES, Permissions, exact
from worklets.toolrisk import Risk


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say. `expires`: how long an ask waits for people; None: for good.

    `ask_risk`: see `worklets.permissions.Permissions`.
    """

    mode: str = "auto"
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    expires: timedelta | None = timedelta(days=1)
    ask_risk: Risk | None = None

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


async def permissions_of(policy: Policy, store: RuleStore, session: Session) -> Permissions:
    """For the session's process. Raises StoreUnavailable."""
    rules = await store.of(scopes_of(session))
    scoped = [(one, server) for one in rules if (server := server_meant(one)) is not None]
    plain = [one for one in rules if server_meant(one) is None]

    def merged(behavior: str, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*given, *(one.rule for one in plain if one.behavior == behavior))))

    return Permissions(
        policy.mode_of(session),
        merged("allow", policy.allow),
        merged("ask", policy.ask),
        merged("deny", policy.deny),
        policy.ask_risk,
        scoped=tuple(dict.fromkeys((one.rule, server) for one, server in scoped)),
    )


def server_meant(rule: StoredRule) -> str | None:
    """The identity of the MCP server for which the rule allows something. None: it counts whatever there is.

    One that was stored when a server's name was all that was stored counts for the thread that it was given in, whose
    servers are the same still, and elsewhere for the built-in server of that name, which no other can have.
    """
    name = server_of(rule.rule)
    if rule.behavior != "allow" or name is None or (not rule.server and rule.scope == "session"):
        return None
    return rule.server or builtin(name)


def allowed_before(ask: Ask, rules: list[StoredRule]) -> str | None:
    """The rule by which people have allowed this very call, which an ask rule made the CLI ask again.

    A rule for more, such as a tool's bare name, does not go before an ask rule. Nor does one in which a secret was
    masked: it may have been another.
    """
    known = {one.rule for one in rules if one.behavior == "allow"}
    return next((rule for rule in exact(ask.tool, ask.input) if rule in known and MASK not in rule), None)
