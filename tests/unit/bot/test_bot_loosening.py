"""Who may change the permission mode so that Claude asks less."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bot.answerers import Answerers
from sessions.types import SessionId, Turn, TurnId, TurnState

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def asked_by(user_id: str) -> Turn:
    return Turn(
        TurnId("t"),
        SessionId("s"),
        "C1:1",
        "1.0",
        user_id,
        "hello",
        TurnState.DONE,
        None,
        NOW,
        NOW,
        NOW,
        True,
    )


@pytest.mark.parametrize(
    ("who", "user", "before", "mode", "may"),
    [
        ("participants", "U1", "ask", "auto", True),
        ("participants", "U2", "ask", "auto", False),
        ("participants", "U2", "plan", "ask", False),
        ("participants", "U2", "auto", "plan", True),
        ("participants", "U2", "ask", "ask", True),
        ("participants", "UAPP", "plan", "auto", True),
        ("asker", "U1", "ask", "auto", True),
        ("asker", "U2", "ask", "auto", False),
        ("approvers", "U1", "ask", "auto", False),
        ("approvers", "U1", "auto", "ask", True),
        ("approvers", "UAPP", "ask", "auto", True),
    ],
)
def test_who_may(who: str, user: str, before: str, mode: str, may: bool) -> None:
    answerers = Answerers(who, ("UAPP",))  # type: ignore[arg-type]
    refusal = answerers.loosening_refusal(before, mode, [asked_by("U1")], user)
    assert (refusal is None) is may
    assert refusal is None or "<@UAPP>" in refusal


def test_a_new_session_is_its_beginners() -> None:
    assert Answerers("participants", ("UAPP",)).loosening_refusal("ask", "auto", [], "U1") is None
    assert Answerers("approvers", ("UAPP",)).loosening_refusal("ask", "auto", [], "U1") is not None
