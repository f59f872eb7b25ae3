"""What Claude asks people: permissions, questions, plans; and what is decided. Values only; `askstore.py` keeps them.

An ask is stored before anybody is told of it, and it outlives the program and Claude's process. Its decision is
stored before Claude hears of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NewType, TypeAlias
from uuid import UUID, uuid5

from sessions.errors import SessionError
from sessions.types import SessionId, TurnId

AskId = NewType("AskId", str)  # uuid5 of the session and the tool call
Scope: TypeAlias = Literal["once", "session", "channel"]


#: Under these names Flow itself asks about pushes and pull requests, and rules name them; no tool is called so.
PUSH, PULL_REQUEST = "mcp__flow__git_push", "mcp__flow__git_pull_request"


class AskKind(StrEnum):
    PERMISSION = "permission"  # Claude wants to use a tool
    QUESTION = "question"  # AskUserQuestion: input as in the CLI, {"questions": [{"question", "header", "options"…}]}
    PLAN = "plan"  # ExitPlanMode: input {"plan": "<markdown>", …}
    BUDGET = "budget"  # Flow itself asks whether to go on
    EGRESS = "egress"  # Flow itself asks whether the worklet may reach a host: {"host": "a.example", "port": 443}


class AskState(StrEnum):
    OPEN = "open"
    ALLOWED = "allowed"
    DENIED = "denied"
    ANSWERED = "answered"  # of a question
    WITHDRAWN = "withdrawn"  # nobody waits for the answer any more: the turn was stopped, or has ended
    EXPIRED = "expired"  # nobody answered in time


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided.

    `message`: why not, what to change in a plan. `answers`: by a question's text, labels joined with ", " or free text.
    `mode`: the permission mode to go on in ("acceptEdits" for an approved plan whose edits need no further yes).
    `scope`: "session" and "channel" add the ask's `suggestions` as rules.
    """

    behavior: Literal["allow", "deny"]
    scope: Scope = "once"
    message: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    id: AskId
    session_id: SessionId
    turn_id: TurnId
    kind: AskKind
    tool: str
    tool_id: str  # the tool call's id
    input: dict[str, Any]
    suggestions: tuple[str, ...]  # rules in Claude Code's syntax that "for this session" and "always" would add
    state: AskState
    asked_at: datetime
    expires_at: datetime | None
    decided_by: str | None = None  # user id; None: nobody (withdrawn, expired)
    decided_at: datetime | None = None
    decision: Decision | None = None
    #: Of suggestions about an MCP server, by rule: its identity in the worklet that asks (worklets/mcpidentity.py).
    servers: dict[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state is AskState.OPEN

    @property
    def is_own(self) -> bool:
        """Flow itself asks: no event of Claude's stands for it."""
        return self.kind in (AskKind.BUDGET, AskKind.EGRESS) or self.tool in (PUSH, PULL_REQUEST)

    @property
    def is_silent(self) -> bool:
        """Flow itself decided at once: people are neither asked nor told."""
        return self.decision is not None and self.decided_by is None

    def decided_by_policy(self, decision: Decision) -> Ask:
        """Nobody need be asked."""
        state = decided(self.kind, decision)
        return replace(self, state=state, decision=decision, decided_at=self.asked_at)


class AskNotFound(SessionError):
    """There is no such question any more."""


class AskClosedAlready(SessionError):
    """Somebody was quicker, or nobody waits for the answer any more."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(_CLOSED[ask.state])
        self.ask = ask


_CLOSED = {
    AskState.OPEN: "This is being decided right now.",
    AskState.ALLOWED: "This has been allowed already.",
    AskState.DENIED: "This has been denied already.",
    AskState.ANSWERED: "This has been answered already.",
    AskState.WITHDRAWN: "Claude does not wait for this answer any more.",
    AskState.EXPIRED: "Nobody answered this in time, so it has expired.",
}


def ask_id(session_id: SessionId, tool_id: str) -> AskId:
    """The same for each delivery of one tool call."""
    return AskId(str(uuid5(UUID(session_id), f"ask {tool_id}")))


def own_ask_id(session_id: SessionId, about: str) -> AskId:
    """Of what Flow itself asks. No tool call can have it: its id comes out of the worklet, and may be anything."""
    return AskId(str(uuid5(UUID(session_id), f"own {about}")))


def kind_of(tool: str) -> AskKind:
    return {"AskUserQuestion": AskKind.QUESTION, "ExitPlanMode": AskKind.PLAN}.get(tool, AskKind.PERMISSION)


def decided(kind: AskKind, decision: Decision) -> AskState:
    """The state that a decision brings an open ask of that kind to."""
    if decision.behavior == "deny":
        return AskState.DENIED
    return AskState.ANSWERED if kind is AskKind.QUESTION else AskState.ALLOWED
