"""The home tab's blocks: what they say, and that they stay within Slack's bounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bot.homeview import MOST, Costs, Home, Part, home_blocks
from bot.inbound import Identity
from config.settings import LimitSettings
from sessions.costs import Spending
from sessions.types import Session, SessionId, SessionState, ThreadId
from simulator.validation import check_view

ME = Identity("T1", "UBOT", "B1", url="https://example.slack.com/")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
NOTHING = Costs(Spending(), Spending())


def session(number: int, state: SessionState, **changes: Any) -> Session:
    values: dict[str, Any] = {
        "id": SessionId(f"s{number}"),
        "user_id": "U1",
        "name": f"task {number}",
        "state": state,
        "thread": ThreadId("T1", "C1", f"17000000{number:02}.000100"),
        "worklet": f"w{number}",
        "container_id": None,
        "claude_session_id": f"c{number}",
        "has_history": True,
        "repository": None,
        "branch": None,
        "startup_script": None,
        "epoch": None,
        "seq": 0,
        "created_at": NOW,
        "updated_at": NOW,
        "last_activity_at": NOW,
    }
    return Session(**{**values, **changes})


def said(home: Home) -> str:
    blocks = home_blocks(home)
    check_view({"type": "home", "blocks": blocks}, "home")
    return "\n".join(str(block) for block in blocks)


def test_an_empty_home() -> None:
    text = said(Home(ME, [], [], NOTHING))
    assert "You have no session yet." in text
    assert "Today $0.00" in text
    assert "no limits" in text
    assert "Set-up" not in text


def test_who_is_waited_for_comes_first_and_has_its_buttons() -> None:
    sessions = [
        session(1, SessionState.ASLEEP),
        session(2, SessionState.WORKING),
        session(3, SessionState.IDLE),
    ]
    blocks = home_blocks(Home(ME, sessions, [SessionId("s3")], NOTHING))
    lines = [str(block) for block in blocks[1:4]]
    assert ["task 3" in lines[0], "task 2" in lines[1], "task 1" in lines[2]] == [True] * 3
    assert "waiting for you" in lines[0]
    assert [block.get("accessory", {}).get("action_id") for block in blocks[1:4]] == ["sleep", "stop", None]
    assert "https://example.slack.com/archives/C1/p170000000300" in lines[0]


def test_unknown_prices_are_tokens() -> None:
    unpriced = Spending(turns=1, input_tokens=1_000, output_tokens=200, unpriced=1_200)
    text = said(Home(ME, [], [], Costs(unpriced, replace(unpriced, cost=4.8))))
    assert "Today 1,200 tokens of unknown price · this month $4.80 and 1,200 tokens of unknown price" in text


def test_preferences_limits_and_set_up() -> None:
    home = Home(
        ME,
        [],
        [],
        Costs(Spending(), Spending(), Spending(cost=7.0), Spending(cost=70.0)),
        preferences={"level": "quiet", "mention": "yes"},
        runtime="docker",
        mode="ask",
        limits=LimitSettings(session=5.0, month=100.0),
        setup=[Part("slack", True, "connected"), Part("gateway", False, "down"), Part("image", None, "not needed")],
    )
    text = said(home)
    for words in (
        "Everybody: today $7.00 · this month $70.00",
        "asking before it changes anything",
        "docker containers",
        "$5.00 for a thread, $100.00 for everybody's month",
        "✓ slack: connected",
        "✗ gateway: down",
        "– image: not needed",
    ):
        assert words.replace("'", "\\'") in text or words in text
    selects = next(block for block in home_blocks(home) if block["type"] == "actions")["elements"]
    chosen = {one["action_id"]: one["initial_option"]["value"] for one in selects}
    assert chosen == {
        "preference_level": "quiet",
        "preference_mention": "yes",
        "preference_model": "usual",
        "preference_mode": "usual",
    }


def test_no_mode_is_offered_that_asks_less_than_the_settings_want() -> None:
    blocks = home_blocks(Home(ME, [], [], NOTHING, mode="ask"))
    selects = next(block for block in blocks if block["type"] == "actions")["elements"]
    modes = next(one for one in selects if one["action_id"] == "preference_mode")["options"]
    assert [mode["value"] for mode in modes] == ["usual", "ask", "plan"]


def test_it_stays_bounded() -> None:
    many = [session(n % 100, state) for n, state in enumerate([*SessionState] * 100)]
    setup = [Part(f"part {n}", False, "x" * 5_000) for n in range(50)]
    home = Home(ME, many, {one.id for one in many[:300]}, NOTHING, setup=setup)
    blocks = home_blocks(home)
    check_view({"type": "home", "blocks": blocks}, "home")
    assert len(blocks) <= MOST
    assert len(str(blocks)) < 50_000
