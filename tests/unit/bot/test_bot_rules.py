"""Permission rules by people's word, as they are listed and taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from bot.inbound import Identity, Subcommand, read_command
from bot.rules import _Listing, _revoke, register, rules_blocks
from bot.threadwords import read_word
from sessions.rulestore import StoredRule
from simulator.text import visible_text
from simulator.validation import check_content

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from slack_bolt.async_app import AsyncApp

    from bot.door import Door
    from bot.parts import Block


def rule(number: int) -> StoredRule:
    at = datetime(2026, 1, 1, 0, 0, number % 60, tzinfo=UTC)
    return StoredRule(f"r{number}", "channel", "T1/C1", "allow", f"Bash(make {number})", "U1", at)


def test_a_rule_is_listed_with_its_reach_and_a_button() -> None:
    one = replace(rule(2), scope="session", scope_id="s", rule="Bash(echo `id` <b>)")
    blocks = rules_blocks([rule(1), one], "in this thread", "s")
    content = {"blocks": blocks, "text": "x"}
    check_content(content)
    text = visible_text(content)
    assert "Bash(make 1)" in text
    assert "in all threads of the channel" in text
    assert "`Bash(echo 'id' &lt;b&gt;)`: allowed without asking in this thread, by <@U1>" in str(blocks)
    buttons = [block["elements"][0] for block in blocks if block["type"] == "actions"]
    assert [each["value"] for each in buttons] == ["r2 s", "r1 s"]
    assert len({each["action_id"] for each in buttons}) == 2


def test_a_long_list_is_cut_and_an_empty_one_says_so() -> None:
    blocks = rules_blocks([rule(number) for number in range(100)], "in this channel")
    check_content({"blocks": blocks, "text": "x"})
    assert "1 to 20 of 100" in visible_text({"blocks": blocks, "text": ""})
    assert "Nobody has decided in this channel" in str(rules_blocks([], "in this channel"))


def buttons(blocks: list[Block]) -> dict[str, str]:
    """The value of each, by its action."""
    return {
        one["action_id"]: one["value"] for block in blocks if block["type"] == "actions" for one in block["elements"]
    }


def test_every_rule_of_a_long_list_can_be_reached_and_taken_back() -> None:
    rules = [rule(number) for number in range(45)]
    rules[0] = replace(rules[0], scope="session", scope_id="s")
    seen, first, pages = [], 0, 0
    while True:
        blocks = rules_blocks(rules, "in this thread", "s", first)
        check_content({"blocks": blocks, "text": "x"})
        pages += 1
        found = buttons(blocks)
        seen += [value.split(" ")[0] for name, value in found.items() if name.startswith("rule_revoke")]
        assert [name for name in found if name == "rule_page_back"] == ["rule_page_back"] * (pages > 1)
        if "rule_page_on" not in found:
            break
        first = int(found["rule_page_on"].split(" ")[0])
    assert pages == 3
    assert seen == ["r0", *(f"r{number}" for number in range(44, 0, -1))], "the thread's own is the first"
    assert "41 to 45 of 45." in str(blocks)
    assert found["rule_page_back"] == "20 s"
    assert found["rule_revoke_1"] == "r5 s 40", "the list stays where it was"
    fewer = rules_blocks(rules[:40], "in this thread", "s", 40)
    assert "21 to 40 of 40." in str(fewer), "the last one of a page was taken back"
    assert buttons(rules_blocks(rules, "in this channel", first=40))["rule_revoke_1"].split(" ") == ["r5", "", "40"]


def test_rules_that_look_alike_are_told_apart() -> None:
    def shown(one: StoredRule) -> str:
        return str(rules_blocks([one], "in this thread", "s")[1]["text"]["text"])

    tool = replace(rule(1), rule="mcp__db__query")
    own = [replace(tool, server="own:" + letter * 64) for letter in "ab"]
    assert len({shown(one) for one in own}) == 2
    assert "for the repository's own server as it was then (`aaaaaaaa`), by" in shown(own[0])
    assert "for the built-in server `postgres`" in shown(replace(tool, server="builtin:postgres"))
    assert "for the built-in server `db`" in shown(tool), "stored when a server's name was all that was"
    assert "for a server that there was not" in shown(replace(tool, server="unknown"))
    assert "server" not in shown(replace(tool, behavior="deny"))
    assert "server" not in shown(rule(1))
    long = [replace(rule(1), rule=f"Bash(cat <{'x' * 2_000}> {end})") for end in ("one", "two")]
    assert len({shown(one) for one in long}) == 2
    hard = replace(tool, rule="mcp__" + "<&`" * 900, server="builtin:" + "&" * 900)
    check_content({"blocks": rules_blocks([hard] * 50, "in this thread", "s" * 36, 20), "text": "x"})


async def test_the_next_page_and_a_revoke_on_it() -> None:
    decided = Decided(rule(1))
    decided.more = [rule(number) for number in range(2, 30)]
    await _Listing(cast("Door", decided), "s", 20, "C1", decided.respond).show()
    assert "21 to 29 of 29." in decided.told
    await _revoke(_Listing(cast("Door", decided), "s", 20, "C1", decided.respond), "r1", "U9")
    assert "21 to 28 of 28." in decided.told


class App:
    """Listeners as they are registered."""

    def __init__(self) -> None:
        self.listeners: list[tuple[re.Pattern[str], Any]] = []

    def action(self, pattern: re.Pattern[str]) -> Any:
        return lambda listener: self.listeners.append((pattern, listener))


@pytest.mark.parametrize("session_id", ["s", ""])
async def test_the_buttons_of_a_list_lead_on_and_back(session_id: str) -> None:
    decided, app = Decided(rule(1)), App()
    decided.more = [rule(number) for number in range(2, 46)]
    register(cast("AsyncApp", app), cast("Door", decided))

    async def press(blocks: list[Block], name: str) -> None:
        (listener,) = (listener for pattern, listener in app.listeners if pattern.fullmatch(name))
        body, action = {"channel": {"id": "C1"}, "user": {"id": "U9"}}, {"value": buttons(blocks)[name]}
        await listener(decided.ack, body, action, decided.respond)
        await decided.begun.pop()

    await press(rules_blocks([rule(1), *decided.more], "there", session_id), "rule_page_on")
    assert "21 to 40 of 45." in decided.told
    await press(decided.blocks, "rule_page_on")
    assert "41 to 45 of 45." in decided.told
    await press(decided.blocks, "rule_revoke_9")
    assert (decided.kept, "41 to 44 of 44." in decided.told) == (None, True)
    await press(decided.blocks, "rule_page_back")
    assert "21 to 40 of 44." in decided.told


def test_the_word_and_the_command() -> None:
    body = {"text": "rules", "user_id": "U1", "channel_id": "C1", "trigger_id": "t"}
    assert read_command(body, Identity("T1", "UB", "BB"), "1.0") == Subcommand("rules", "U1", "C1")
    assert read_word("Rules") == ("rules", "")
    assert read_word("rules of the game") is None


class Decided:
    """A thread in which one rule counts, as far as taking it back goes. UADM is an admin."""

    def __init__(self, kept: StoredRule) -> None:
        self.sessions = self.access = self.me = self.after = self
        self.team_id = "T1"
        self.begun: list[Coroutine[Any, Any, None]] = []
        self.blocks: list[Block] = []
        self.kept: StoredRule | None = kept
        self.told = ""
        self.more: list[StoredRule] = []

    def is_admin(self, user_id: str) -> bool:
        return user_id == "UADM"

    def whom_to_ask(self) -> str:
        return "Ask an admin."

    async def rule(self, _rule_id: str) -> StoredRule | None:
        return self.kept

    async def remove_rule(self, _rule_id: str, _by: str) -> None:
        self.kept = None

    async def rules(self, _session_id: str) -> list[StoredRule]:
        return [*([self.kept] if self.kept is not None else []), *self.more]

    async def channel_rules(self, _team: str, _channel: str) -> list[StoredRule]:
        return await self.rules("")

    def start(self, work: Coroutine[Any, Any, None], _name: str) -> None:
        self.begun.append(work)

    async def ack(self) -> None:
        pass

    async def respond(self, text: str, blocks: Sequence[Block] = (), **_more: Any) -> None:
        self.told, self.blocks = text, list(blocks)


@pytest.mark.parametrize(
    ("changed", "user_id", "may"),
    [
        ({}, "U9", True),
        ({"scope": "workspace"}, "U9", False),
        ({"scope": "workspace"}, "UADM", True),
        ({"behavior": "deny"}, "U9", False),
        ({"behavior": "ask"}, "U9", False),
        ({"behavior": "deny"}, "UADM", True),
    ],
)
async def test_anybody_has_claude_ask_again_and_only_admins_have_it_ask_less(
    changed: dict[str, Any], user_id: str, may: bool
) -> None:
    decided = Decided(replace(rule(1), **changed))
    await _revoke(_Listing(cast("Door", decided), "s", 0, "C1", decided.respond), "r1", user_id)
    assert (decided.kept is None) is may
    assert ("Only admins" in decided.told) is not may
