"""The audit of tools: one row for each call, whatever is told again, with what let it through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from heart import Heart, Start
from waiting import until

from sessions.asks import Decision
from sessions.events import AskOpened
from sessions.policy import Policy
from sessions.tooluse import ToolUse, ToolUses, digest
from sessions.types import Done, Failed
from worklets.events import Asked, Remark, ToolFinished, ToolStarted, TurnEnded, Usage
from worklets.permissions import Permissions
from worklets.profile import Profile
from worklets.toolrisk import RISKS, SERVERS, TOOLS, is_tool, risk_of


def ended(turn_id: str) -> TurnEnded:
    return TurnEnded("done", (turn_id,), Usage(), 0.5)


async def uses(heart: Heart, **where: object) -> list[ToolUse]:
    return await ToolUses(heart.db).list(**where)  # type: ignore[arg-type]


async def test_a_row_for_each_call_with_its_risk_and_no_input(heart: Heart) -> None:
    asked = await heart.ask("HOLD on", user_id="U7")
    process = await heart.process(asked)
    process.say(ToolStarted("t1", "Bash", {"command": "echo s3cret"}))
    process.say(ToolFinished("t1", True, "s3cret"))
    process.say(ToolStarted("t2", "mcp__github__create_issue", {"b": 1, "a": 2}))
    process.say(ToolStarted("t3", "x" * 5000 + "\ud800"))
    process.say(ended(asked.turn.id))
    assert await heart.settled(asked) == Done()
    bash, issue, odd = await uses(heart)
    assert (bash.session_id, bash.turn_id, bash.user_id) == (asked.session.id, asked.turn.id, "U7")
    assert [(use.tool[:25], use.risk, use.decision, use.by) for use in (bash, issue, odd)] == [
        ("Bash", "high", "mode", None),
        ("mcp__github__create_issue", "critical", "mode", None),
        ("x" * 25, "high", "mode", None),
    ]
    assert len(odd.tool) == 200
    assert issue.digest == digest({"a": 2, "b": 1}) != bash.digest
    assert "s3cret" not in repr(bash)
    assert [use.tool for use in await uses(heart, risks=("critical",))] == ["mcp__github__create_issue"]
    assert [use.tool[0] for use in await uses(heart, limit=1)] == ["x"]
    assert await uses(heart, since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert len(await uses(heart, since=datetime(2020, 1, 1, tzinfo=UTC), session_id=asked.session.id)) == 3


async def test_a_call_that_is_told_again_after_a_restart_counts_once(start: Start) -> None:
    async with start() as heart:
        asked = await heart.ask("HOLD on")
        process = await heart.process(asked)
        process.say(ToolStarted("t1", "Read", {"file_path": "/x"}))
        await until(lambda: "ToolStarted" in heart.kinds(asked.turn.id), 10, "the call to be told")
        await heart.sessions.drain(0)
    process.say(ended(asked.turn.id))
    async with start() as heart:
        heart.sessions.ring(asked.session.id)
        await heart.settled(asked)
        assert [use.tool for use in await uses(heart)] == ["Read"]


async def test_a_rule_is_named_after_a_restart_in_the_middle_of_a_turn_too(start: Start) -> None:
    policy = Policy(mode="ask", allow=("Read",))
    async with start(policy=policy) as heart:
        asked = await heart.ask("HOLD on")
        process = await heart.process(asked)
        await heart.sessions.drain(0)
    async with start(policy=policy) as heart:
        heart.sessions.ring(asked.session.id)
        process.say(ToolStarted("t1", "Read", {"file_path": "/x"}))
        process.say(ended(asked.turn.id))
        await heart.settled(asked)
        assert [(use.tool, use.decision) for use in await uses(heart)] == [("Read", "rule")]


async def test_the_name_that_a_repository_gives_a_server_makes_it_no_less_risky(heart: Heart) -> None:
    heart.host.profile = Profile(mcp_servers={"gh": {}}, mcp_aliases={"gh": "github"})
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(ToolStarted("t1", "mcp__gh__push", {}))
    process.say(ended(asked.turn.id))
    await heart.settled(asked)
    assert [use.risk for use in await uses(heart)] == ["critical"]


async def test_people_who_decided_are_named(heart: Heart) -> None:
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    for number, (behavior, decision) in enumerate([("allow", "person"), ("deny", "denied")]):
        process.say(ToolStarted(f"t{number}", "Bash", {"command": "x"}))
        process.say(Asked(f"r{number}", "Bash", {"command": "x"}, f"t{number}"))

        def opened(number: int = number) -> list[AskOpened]:
            return [event for event in heart.events(asked.turn.id) if isinstance(event, AskOpened)][number:]

        ask = (await until(opened, 10, "an ask"))[0].ask
        assert (await uses(heart))[-1].decision == "waiting"
        await heart.sessions.decide(ask.id, Decision(behavior), "U9")  # type: ignore[arg-type]
        assert ((await uses(heart))[-1].decision, (await uses(heart))[-1].by) == (decision, "U9")
    process.say(ended(asked.turn.id))
    await heart.settled(asked)


def test_the_table_of_risks() -> None:
    assert set(TOOLS.values()) | set(SERVERS.values()) <= set(RISKS)
    assert risk_of("mcp__nobody__knows") == risk_of("NewTool") == "high"
    assert risk_of("mcp__flow__send_file") == "low"
    assert is_tool("mcp__github")
    assert not is_tool("mcp__")
    assert not is_tool("bash")


@pytest.mark.parametrize("rules", [("Bash",), ("Bash(git *)",)])
def test_a_rule_is_what_let_it_through_where_one_names_the_tool(rules: tuple[str, ...]) -> None:
    assert Permissions(allow=rules).names("Bash")
    assert not Permissions(allow=rules).names("BashOutput")


async def test_what_a_repository_does_not_get_is_told_once_where_it_is_new(heart: Heart) -> None:
    heart.host.profile = Profile(notes=("memory is 1 GiB.", "No github."))
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(ended(asked.turn.id))
    await heart.settled(asked)
    again = await heart.ask("HOLD on")
    (await heart.process(again)).say(ended(again.turn.id))
    await heart.settled(again)
    assert [event for event in heart.events(asked.turn.id) if isinstance(event, Remark)] == [
        Remark("memory is 1 GiB."),
        Remark("No github."),
    ]
    assert not [event for event in heart.events(again.turn.id) if isinstance(event, Remark)]


async def test_a_repository_can_give_a_turn_less_time(heart: Heart) -> None:
    heart.host.profile = Profile(turn_timeout=0.05)
    asked = await heart.ask("HOLD on")
    outcome = await heart.settled(asked)
    assert isinstance(outcome, Failed)
    assert "longer than 0.1s" in outcome.reason
    assert ".claude/container.yaml says how much time I have" in outcome.reason


async def test_tools_that_a_repository_does_not_name_are_denied_to_the_process(heart: Heart) -> None:
    heart.host.profile = Profile(allowed=("Read", "Bash(git *)"))
    asked = await heart.ask("HOLD on")
    process = await heart.process(asked)
    process.say(ToolStarted("t1", "Bash", {"command": "git log"}))
    process.say(ended(asked.turn.id))
    await heart.settled(asked)
    assert [use.decision for use in await uses(heart)] == ["rule"]
