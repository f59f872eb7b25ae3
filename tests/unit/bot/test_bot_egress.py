"""Questions for hosts, and what people granted, as messages that Slack takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
from bot_asks import closed, make_ask, settle

from bot.answerers import Answerers
from bot.asking import ask_messages
from bot.askoutcome import outcome
from bot.egress import _revoke, grants_blocks
from bot.inbound import Identity, Subcommand, read_command
from bot.threadwords import read_word
from sessions.asks import Ask, AskKind, AskState
from sessions.egressstore import StoredGrant
from sessions.types import SessionId, Turn, TurnId, TurnState
from simulator.text import visible_text
from simulator.validation import check_content

if TYPE_CHECKING:
    from bot.door import Door

LONG = ".".join(["x" * 60] * 4) + ".test"


def wanted(host: str = "registry.example.org") -> Ask:
    return make_ask("egress", {"host": host, "port": 443}, kind=AskKind.EGRESS)


def grant(number: int, scope: Any = "session", *, allowed: bool = True) -> StoredGrant:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return StoredGrant(f"g{number}", scope, "x", (f"h{number}.test", 443), allowed, f"U{number}", at)


@pytest.mark.parametrize("host", ["registry.example.org", LONG])
def test_a_host_is_asked_for_with_four_answers(host: str) -> None:
    (message,) = ask_messages(wanted(host))
    content = {"blocks": list(message.blocks), "text": message.text}
    check_content(content)
    assert f"🌐 *Claude wants to reach* `{host}:443`" in visible_text(content)
    assert message.text.startswith(f"🌐 Claude wants to reach `{host}:443`"[:200])
    buttons = [element for block in message.blocks if block["type"] == "actions" for element in block["elements"]]
    assert [one["text"]["text"] for one in buttons] == ["Once", "For this session", "Always here", "No"]
    assert {one["value"] for one in buttons} == {wanted().id}


def test_it_says_what_became_of_it() -> None:
    ask = wanted()
    assert outcome(settle(ask)) == "✓ <@U1> lets Claude reach `registry.example.org:443` until this answer is finished."
    assert "lets this session reach" in outcome(settle(ask, scope="session"))
    assert "lets every session in this channel reach" in outcome(settle(ask, scope="channel"))
    assert outcome(settle(ask, "deny")) == "✗ <@U1> does not let this session reach `registry.example.org:443`."
    assert "Withdrawn" in outcome(closed(ask, AskState.WITHDRAWN))
    (message,) = ask_messages(settle(ask))
    assert not [block for block in message.blocks if block["type"] == "actions"]


def test_what_was_granted_is_listed_with_a_button_each() -> None:
    blocks = grants_blocks([grant(1), grant(2, "channel"), grant(3, allowed=False)], "in this thread", "the-session")
    check_content({"blocks": blocks, "text": "x"})
    said = visible_text({"blocks": blocks, "text": ""})
    assert said.index("h3.test") < said.index("h2.test") < said.index("h1.test")
    assert "`h1.test:443`: allowed by" in said
    assert "for all sessions of the channel" in said
    buttons = [block["elements"][0] for block in blocks if block["type"] == "actions"]
    assert [one["text"]["text"] for one in buttons] == ["Ask again", "Revoke", "Revoke"]
    assert [one["value"] for one in buttons] == [f"g{number} the-session" for number in (3, 2, 1)]
    assert len({one["action_id"] for one in buttons}) == 3


def test_a_long_list_is_cut_and_an_empty_one_says_so() -> None:
    blocks = grants_blocks([grant(number) for number in range(100)], "in this channel")
    check_content({"blocks": blocks, "text": "x"})
    assert "80 older ones" in visible_text({"blocks": blocks, "text": ""})
    assert "Nobody has decided in this channel" in str(grants_blocks([], "in this channel"))


def test_the_word_and_the_command() -> None:
    body = {"text": "egress", "user_id": "U1", "channel_id": "C1", "trigger_id": "t"}
    assert read_command(body, Identity("T1", "UB", "BB"), "1.0") == Subcommand("egress", "U1", "C1")
    assert read_word("Egress") == ("egress", "")
    assert read_word("egress to example.org") is None


def asked_by(user_id: str) -> Turn:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    state = TurnState.DONE
    return Turn(TurnId("t"), SessionId("s"), "C1:1", "1.0", user_id, "hello", state, None, now, now, now, True)


class Decided:
    """A thread of U1's in which people decided about one host, as far as taking that back goes."""

    def __init__(self, kept: StoredGrant, answerers: Answerers) -> None:
        self.egress = self.sessions = self
        self.kept: StoredGrant | None = kept
        self.answerers, self.asked, self.told = answerers, True, ""

    async def turns(self, _session_id: str) -> list[Turn]:
        return [asked_by("U1")]

    async def granted(self, _grant_id: str) -> StoredGrant | None:
        return self.kept

    async def revoke(self, _grant_id: str, _by: str) -> None:
        self.kept = None

    async def of_session(self, _session_id: str) -> list[StoredGrant]:
        return [self.kept] if self.kept is not None else []

    async def respond(self, text: str, **_more: Any) -> None:
        self.told = text


@pytest.mark.parametrize(
    ("allowed", "answerers", "user_id", "may"),
    [
        (True, Answerers("approvers", ("UAPP",)), "U9", True),  # to tighten is everybody's
        (False, Answerers("approvers", ("UAPP",)), "U1", False),
        (False, Answerers("approvers", ("UAPP",)), "UAPP", True),
        (False, Answerers(), "U9", False),
        (False, Answerers(), "U1", True),
    ],
)
async def test_a_no_is_taken_back_by_those_who_may_answer(
    allowed: bool, answerers: Answerers, user_id: str, may: bool
) -> None:
    """Where the channel allows the host, nobody would be asked: it would just be reachable."""
    decided = Decided(grant(1, allowed=allowed), answerers)
    await _revoke(cast("Door", decided), "g1", "s", "C1", user_id, decided.respond)
    assert (decided.kept is None) is may
    assert ("Only" in decided.told) is not may
