"""Asks for tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sessions.asks import Ask, AskId, AskKind, AskState, Decision, decided, kind_of
from sessions.types import SessionId, TurnId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OPTIONS = [{"label": "Redis", "description": "fast, one more server"}, {"label": "PostgreSQL", "description": "ours"}]
CACHE = {"question": "Which cache?", "header": "Cache", "options": OPTIONS, "multiSelect": False}
PARTS = {"question": "Which parts?", "header": "Parts", "options": OPTIONS, "multiSelect": True}


def make_ask(tool: str, given: dict[str, Any], *rules: str, number: int = 1, kind: AskKind | None = None) -> Ask:
    return Ask(
        id=AskId(f"00000000-0000-4000-8000-{number:012}"),
        session_id=SessionId("s"),
        turn_id=TurnId("t"),
        kind=kind or kind_of(tool),
        tool=tool,
        tool_id=f"toolu_{number}",
        input=given,
        suggestions=rules,
        state=AskState.OPEN,
        asked_at=NOW,
        expires_at=None,
    )


def bash(command: str = "touch x", *rules: str, number: int = 1) -> Ask:
    return make_ask("Bash", {"command": command, "description": "Make it"}, *rules, number=number)


def question(*questions: dict[str, Any], number: int = 1) -> Ask:
    return make_ask("AskUserQuestion", {"questions": list(questions)}, number=number)


def plan(text: str) -> Ask:
    return make_ask("ExitPlanMode", {"plan": text})


def budget(text: str = "$4.80 of $5.00", more: Any = 5) -> Ask:
    return make_ask("", {"text": text, "more": more}, kind=AskKind.BUDGET)


def settle(ask: Ask, behavior: Any = "allow", by: str | None = "U1", **decision: Any) -> Ask:
    made = Decision(behavior, **decision)
    return replace(ask, state=decided(ask.kind, made), decided_by=by, decided_at=NOW, decision=made)


def closed(ask: Ask, state: AskState) -> Ask:
    return replace(ask, state=state, decided_at=NOW)
