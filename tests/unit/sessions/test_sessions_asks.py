"""What Claude asks people: stored, told, decided, given, and carried over every loss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from heart import Heart
from scripted import Process, ScriptedHost
from waiting import until

from config.masking import Masker
from sessions.asks import Ask, AskClosedAlready, AskKind, AskNotFound, AskState, Decision
from sessions.askstore import asks as asks_table
from sessions.askstore import audit
from sessions.events import AskClosed, AskOpened
from sessions.policy import Policy
from sessions.types import Cut, Done, Interrupted, SessionState, Submitted
from worklets.events import Asked, AskWithdrawn, ModeChanged, ToolFinished, ToolStarted
from worklets.profile import Profile

BASH = {"command": "touch x"}
QUESTION = {"questions": [{"question": "Which?", "header": "Which", "options": [{"label": "a"}, {"label": "b"}]}]}
PLAN = {"plan": "# Plan", "planFilePath": "/work/home/.claude/plans/fox.md"}
YES, NO = Decision("allow"), Decision("deny", message="not on a Friday")


def told(heart: Heart, asked: Submitted, kind: type = AskOpened) -> list[Ask]:
    return [event.ask for event in heart.events(asked.turn.id) if isinstance(event, kind)]


async def opened(heart: Heart, asked: Submitted, number: int = 1) -> Ask:
    """The `number`th ask that people see."""
    return (await until(lambda: found if len(found := told(heart, asked)) >= number else None))[number - 1]


async def asking(
    heart: Heart, tool: str = "Bash", given: dict[str, Any] = BASH, **more: Any
) -> tuple[Submitted, Process, str, Ask]:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    request = process.ask(tool, given, **more)
    return asked, process, request, await opened(heart, asked)


async def heard(process: Process, request: str) -> dict[str, Any]:
    return await until(lambda: process.heard.get(request), 10, "the answer to reach Claude")


async def records(heart: Heart) -> list[Any]:
    async with heart.db.read() as connection:
        return list((await connection.execute(sa.select(audit).order_by(audit.c.id))).all())


async def test_what_is_asked_is_stored_told_decided_and_given(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart, suggestions=("Bash(touch *)",))
    assert (ask.kind, ask.tool, ask.input, ask.suggestions) == (AskKind.PERMISSION, "Bash", BASH, ("Bash(touch *)",))
    assert ask.state is AskState.OPEN
    assert ask.expires_at == ask.asked_at + timedelta(days=1)
    assert await heart.sessions.ask(ask.id) == ask
    assert await heart.sessions.asks(session_id=asked.session.id) == [ask]
    assert await heart.sessions.asks(user_id="U1") == [ask]
    assert await heart.sessions.asks(user_id="U2") == []
    assert not process.heard, "nobody has decided"
    decided = await heart.sessions.decide(ask.id, YES, "U2")
    assert (decided.state, decided.decided_by, decided.decision) == (AskState.ALLOWED, "U2", YES)
    assert await heard(process, request) == {"behavior": "allow", "input": None, "mode": None}
    assert told(heart, asked, AskClosed) == [decided]
    process.answer("done")
    assert await heart.settled(asked) == Done()
    kinds = heart.kinds(asked.turn.id)
    assert kinds.index("AskOpened") < kinds.index("AskClosed") < kinds.index("Settled")
    (record,) = await records(heart)
    assert (record.by, record.tool, record.behavior, record.scope) == ("U2", "Bash", "allow", "once")
    assert (record.ask_id, record.turn_id, record.session_id) == (ask.id, asked.turn.id, asked.session.id)


async def test_claude_reads_why_it_was_refused(heart: Heart) -> None:
    _, process, request, ask = await asking(heart)
    await heart.sessions.decide(ask.id, NO, "U2")
    answer = await heard(process, request)
    assert answer["behavior"] == "deny"
    assert "not on a Friday" in answer["message"]
    process.answer("then not")


async def test_only_the_first_decision_counts(heart: Heart) -> None:
    _, process, _, ask = await asking(heart)
    await heart.sessions.decide(ask.id, NO, "U2")
    with pytest.raises(AskClosedAlready) as refused:
        await heart.sessions.decide(ask.id, YES, "U3")
    assert (refused.value.ask.decided_by, refused.value.ask.state) == ("U2", AskState.DENIED)
    assert len(await records(heart)) == 1
    with pytest.raises(AskNotFound):
        await heart.sessions.decide(type(ask.id)("nothing"), YES, "U3")
    process.answer("done")


async def test_a_question_gets_its_answers(heart: Heart) -> None:
    _, process, request, ask = await asking(heart, "AskUserQuestion", QUESTION)
    assert ask.kind is AskKind.QUESTION
    decided = await heart.sessions.decide(ask.id, Decision("allow", answers={"Which?": "b"}), "U1")
    assert decided.state is AskState.ANSWERED
    assert (await heard(process, request))["input"] == {**QUESTION, "answers": {"Which?": "b"}}
    process.answer("b it is")


# -- plans and modes


async def test_plan_mode_lets_nothing_be_changed_and_asks_nobody(heart: Heart) -> None:
    asked = await heart.ask("HOLD", mode="plan")
    process = await heart.process(asked)
    assert heart.host.opened[-1]["permissions"].mode == "plan"
    answer = await heard(process, process.ask("Write", {"file_path": "a"}))
    assert answer["behavior"] == "deny"
    assert "plan mode" in answer["message"]
    assert (await heard(process, process.ask("ExitPlanMode", {})))["behavior"] == "deny", "there is no plan"
    process.answer("done")
    await heart.settled(asked)
    assert told(heart, asked) == []
    assert [(one.by, one.behavior) for one in await records(heart)] == [(None, "deny"), (None, "deny")]


async def test_an_approved_plan_leaves_plan_mode_for_good(start: Any, host: ScriptedHost) -> None:
    async with start(policy=Policy(mode="ask")) as heart:
        asked, process, request, ask = await asking(heart, "AskUserQuestion", QUESTION)
        await heart.sessions.decide(ask.id, Decision("deny"), "U1")
        process.say(ModeChanged("plan"))
        request = process.ask("ExitPlanMode", PLAN)
        ask = await opened(heart, asked, 2)
        assert ask.kind is AskKind.PLAN
        assert (await heart.sessions.get(asked.session.id)).mode == "plan"
        await heart.sessions.decide(ask.id, Decision("allow", mode="acceptEdits"), "U1")
        assert (await heard(process, request))["mode"] == "acceptEdits"
        process.say(ModeChanged("acceptEdits"))
        process.answer("done")
        await heart.settled(asked)
        session = await heart.sessions.get(asked.session.id)
        assert (session.mode, session.mode_before) == ("ask", None)
        assert [rule.rule for rule in await heart.sessions.rules(session.id)] == ["Edit", "Write"]


async def test_a_plan_that_is_sent_back_stays_in_plan_mode(heart: Heart) -> None:
    asked = await heart.ask("HOLD", mode="plan")
    process = await heart.process(asked)
    request = process.ask("ExitPlanMode", PLAN)
    ask = await opened(heart, asked)
    await heart.sessions.decide(ask.id, Decision("deny", message="add tests"), "U1")
    answer = await heard(process, request)
    assert "keep planning" in answer["message"]
    assert "add tests" in answer["message"]
    process.answer("done")
    await heart.settled(asked)
    assert (await heart.sessions.get(asked.session.id)).mode == "plan"


async def test_the_mode_is_set_on_the_row_and_on_the_running_process(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    session = await heart.sessions.set_mode(asked.session.id, "plan", "U1")
    assert (session.mode, session.mode_before) == ("plan", "auto")
    assert ("set_permission_mode", {"mode": "plan"}) in process.asked
    assert (await heard(process, process.ask("Write", {"file_path": "a"})))["behavior"] == "deny"
    session = await heart.sessions.set_mode(asked.session.id, "auto", "U1")
    assert (session.mode, session.mode_before) == ("auto", None)
    assert process.asked[-1] == ("set_permission_mode", {"mode": "bypassPermissions"})
    process.answer("done")
    with pytest.raises(ValueError, match="no permission mode"):
        await heart.sessions.set_mode(asked.session.id, "yolo", "U1")


# -- rules


async def test_rules_of_settings_go_to_each_new_process(start: Any, host: ScriptedHost) -> None:
    policy = Policy("ask", allow=("WebFetch",), ask=("Bash(git push *)",), deny=("Bash(rm *)",))
    async with start(policy=policy) as heart:
        await heart.settled(await heart.ask("one"))
        given = host.opened[-1]["permissions"]
        assert (given.mode, given.allow, given.ask, given.deny) == ("ask", policy.allow, policy.ask, policy.deny)


async def test_for_this_session_adds_a_rule_before_claude_goes_on(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart, suggestions=("Bash(touch *)",))
    await heart.sessions.decide(ask.id, Decision("allow", scope="session"), "U2")
    await heard(process, request)
    (applied,) = [fields for subtype, fields in process.asked if subtype == "apply_flag_settings"]
    assert applied["settings"]["permissions"]["allow"] == ["Bash(touch *)"]
    process.answer("done")
    await heart.settled(asked)
    (rule,) = await heart.sessions.rules(asked.session.id)
    assert (rule.scope, rule.scope_id, rule.behavior, rule.by) == ("session", asked.session.id, "allow", "U2")
    assert (await records(heart))[0].rule == '["Bash(touch *)"]'
    other = await heart.ask("two", "1700000009.000000")
    await heart.settled(other)
    assert heart.host.opened[-1]["permissions"].allow == ()


async def test_always_for_this_channel_counts_in_every_later_session_there(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart, suggestions=("Bash(touch *)",))
    await heart.sessions.decide(ask.id, Decision("allow", scope="channel"), "U2")
    await heard(process, request)
    process.answer("done")
    await heart.settled(asked)
    await heart.settled(await heart.ask("two", "1700000009.000000"))
    assert heart.host.opened[-1]["permissions"].allow == ("Bash(touch *)",)
    (rule,) = await heart.sessions.rules(asked.session.id)
    assert await heart.sessions.remove_rule(rule.id, "U3") == rule
    assert await heart.sessions.remove_rule(rule.id, "U3") is None
    again = await heart.ask("three")
    await heart.settled(again)
    assert process.asked[-1][1]["settings"]["permissions"]["allow"] == [], "the running process follows"


async def test_a_lasting_yes_is_offered_to_servers_only_that_are_there(heart: Heart) -> None:
    heart.host.profile = Profile(mcp_servers={"tracker": {}}, mcp_identities={"tracker": "own:mine"})
    wanted = ("mcp__*", "mcp__gone__x", "mcp__tracker__file", "Bash(ls)")
    _, _, _, ask = await asking(heart, "mcp__tracker__file", {}, suggestions=wanted)
    assert ask.suggestions == wanted[2:]
    assert ask.servers == {"mcp__tracker__file": "own:mine"}


async def test_a_yes_to_an_mcp_server_is_none_to_another_of_its_name(heart: Heart) -> None:
    rule = "mcp__tracker__file"
    heart.host.profile = Profile(mcp_servers={"tracker": {}}, mcp_identities={"tracker": "own:mine"})
    asked, process, request, ask = await asking(heart, rule, {}, suggestions=(rule,))
    await heart.sessions.decide(ask.id, Decision("allow", scope="channel"), "U2")
    await heard(process, request)
    (applied,) = [fields["settings"]["permissions"] for name, fields in process.asked if name == "apply_flag_settings"]
    assert applied["allow"] == [rule]
    process.answer("done")
    await heart.settled(asked)
    # One that an earlier Flow stored knows the name only; so does one that a hostile process suggests.
    await heart.sessions.add_rule("channel", "T1/C1", "allow", "mcp__tracker__drop", "U1")
    await heart.sessions.add_rule("channel", "T1/C1", "allow", "mcp__github__search", "U1")
    await heart.sessions.add_rule("channel", "T1/C1", "deny", "mcp__tracker__read", "U1")

    async def follows(ts: str, profile: Profile) -> dict[str, list[str]]:
        heart.host.profile = profile
        other = await heart.ask("HOLD", ts)
        process = await heart.process(other)
        process.answer("done")
        await heart.settled(other)
        applied = [fields["settings"]["permissions"] for name, fields in process.asked if name == "apply_flag_settings"]
        return dict(applied[-1]) if applied else {}

    theirs = Profile(
        mcp_servers={"tracker": {}, "github": {}}, mcp_identities={"tracker": "own:x", "github": "builtin:github"}
    )
    found = await follows("1700000009.000000", theirs)
    assert (found["allow"], found["deny"]) == (["mcp__github__search"], ["mcp__tracker__read"])
    same = Profile(mcp_servers={"tracker": {}}, mcp_identities={"tracker": "own:mine"})
    assert sorted((await follows("1700000010.000000", same))["allow"]) == ["mcp__github__search", rule]


async def test_rules_reach_turns_that_run(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)

    def applied() -> list[list[str]]:
        found = [fields["settings"]["permissions"] for name, fields in process.asked if name == "apply_flag_settings"]
        return [permissions["deny"] for permissions in found]

    await heart.sessions.add_rule("channel", "T1/C2", "deny", "WebFetch", "U1")
    await heart.sessions.add_rule("channel", "T1/C1", "deny", "Bash(rm *)", "U1")
    await until(lambda: applied() == [["Bash(rm *)"]])
    (rule,) = await heart.sessions.rules(asked.session.id)
    await heart.sessions.remove_rule(rule.id, "U1")
    await until(lambda: applied() == [["Bash(rm *)"], []])
    process.answer("done")
    assert await heart.settled(asked) == Done()


async def test_what_was_allowed_is_not_asked_again_although_an_ask_rule_would(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart, suggestions=("Bash(touch x)",), by_rule=True)
    await heart.sessions.decide(ask.id, Decision("allow", scope="session"), "U2")
    await heard(process, request)
    assert (await heard(process, process.ask("Bash", BASH, by_rule=True)))["behavior"] == "allow"
    process.ask("Bash", {"command": "touch x && rm y"}, suggestions=("Bash(touch x)",), by_rule=True)
    assert (await opened(heart, asked, 2)).input == {"command": "touch x && rm y"}
    assert len(told(heart, asked)) == 2
    process.answer("done")


async def test_a_rule_for_more_does_not_go_before_an_ask_rule(heart: Heart) -> None:
    edit = {"file_path": "/work/workspace/README.md", "old_string": "a", "new_string": "b"}
    asked, process, request, ask = await asking(heart, "Edit", edit, suggestions=("Edit", "Write"))
    await heart.sessions.decide(ask.id, Decision("allow", scope="session"), "U2")
    await heard(process, request)
    workflow = edit | {"file_path": "/work/workspace/.github/workflows/x.yml"}
    rule = "Edit(//work/workspace/.github/workflows/x.yml)"
    request = process.ask("Edit", workflow, suggestions=(rule,), by_rule=True)
    ask = await opened(heart, asked, 2)
    await heart.sessions.decide(ask.id, Decision("allow", scope="session"), "U2")
    await heard(process, request)
    again = process.ask("Write", {"file_path": workflow["file_path"], "content": "c"}, by_rule=True)
    assert (await heard(process, again))["behavior"] == "allow", "this very file was allowed"
    process.answer("done")


async def test_a_rule_with_a_masked_secret_allows_nothing(start: Any) -> None:
    async with start(masker=Masker(["first-secret", "other-secret"])) as heart:
        given = {"command": "deploy --token first-secret"}
        asked, process, request, ask = await asking(
            heart, given=given, suggestions=("Bash(deploy --token first-secret)",), by_rule=True
        )
        assert ask.suggestions == ()
        masked = "Bash(deploy --token ‹masked›)"  # as an earlier version has kept it
        await heart.sessions.add_rule("session", asked.session.id, "allow", masked, "U2")
        await heart.sessions.decide(ask.id, YES, "U2")
        await heard(process, request)
        process.ask("Bash", {"command": "deploy --token other-secret"}, by_rule=True)
        assert (await opened(heart, asked, 2)).is_open
        process.answer("done")


# -- losses


async def test_an_ask_outlives_the_program(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked, process, request, ask = await asking(before)
    async with start() as after:
        await after.reaper.recover()
        assert await opened(after, asked) == ask
        assert told(after, asked, AskClosed) == []
        await after.sessions.decide(ask.id, YES, "U2")
        assert (await heard(process, request))["behavior"] == "allow"
        process.answer("done")
        assert await after.settled(asked.turn.id) == Done()
        assert len(told(after, asked)) == len(told(after, asked, AskClosed)) == 1


async def test_a_decision_that_claude_has_not_heard_is_given_after_a_restart(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked, process, request, ask = await asking(before)
        await before.sessions.drain(0)  # nobody runs the session any more
        await before.sessions.decide(ask.id, YES, "U2")
    assert not process.heard
    async with start() as after:
        await after.reaper.recover()
        assert (await heard(process, request))["behavior"] == "allow"
        process.answer("done")
        assert await after.settled(asked.turn.id) == Done()
        assert told(after, asked, AskClosed)[0].decided_by == "U2"


async def test_a_decision_may_be_given_twice(start: Any, host: ScriptedHost) -> None:
    """The program died right after it had given it."""
    async with start() as before:
        asked, process, request, ask = await asking(before)
        await before.sessions.decide(ask.id, YES, "U2")
        await heard(process, request)
    async with start() as after:
        await after.reaper.recover()
        process.answer("done")
        assert await after.settled(asked.turn.id) == Done()
        assert list(process.heard) == [request]


async def test_a_container_that_is_lost_while_people_are_asked_is_no_side_effect(heart: Heart) -> None:
    asked, process, _, ask = await asking(heart)
    process.die("Claude's container was killed")
    again = await heart.process(asked)
    request = again.ask("Bash", BASH)
    assert any("Bash" in block and "not answered yet" in block for block in again.contexts[0])
    await heart.sessions.decide(ask.id, YES, "U2")
    assert (await heard(again, request))["behavior"] == "allow"
    again.answer("done")
    assert await heart.settled(asked) == Done()
    assert [one.id for one in told(heart, asked)] == [ask.id], "people are asked once"


async def test_another_question_of_the_new_process_takes_the_old_ones_place(heart: Heart) -> None:
    asked, process, _, ask = await asking(heart)
    process.die()
    again = await heart.process(asked)
    again.ask("Bash", {"command": "touch y"})
    new = await opened(heart, asked, 2)
    (closed,) = await until(lambda: told(heart, asked, AskClosed))
    assert (closed.id, closed.state) == (ask.id, AskState.WITHDRAWN)
    assert (await heart.sessions.ask(new.id) or ask).state is AskState.OPEN
    again.answer("done")


async def test_what_was_allowed_and_heard_may_have_run(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart)
    await heart.sessions.decide(ask.id, YES, "U2")
    await heard(process, request)
    process.die("Claude's container was killed")
    outcome = await heart.settled(asked)
    assert isinstance(outcome, Cut)
    assert "touch x" in outcome.reason


async def test_what_was_refused_never_ran(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart)
    await heart.sessions.decide(ask.id, NO, "U2")
    await heard(process, request)
    process.die("Claude's container was killed")
    again = await heart.process(asked)
    again.answer("done")
    assert await heart.settled(asked) == Done()


# -- the end of waiting


async def test_a_stop_takes_the_ask_back(heart: Heart) -> None:
    asked, process, _, ask = await asking(heart)
    assert await heart.sessions.interrupt(asked.session.id, "U2")
    assert await heart.settled(asked) == Interrupted("U2")
    (closed,) = told(heart, asked, AskClosed)
    assert (closed.id, closed.state, closed.decided_by) == (ask.id, AskState.WITHDRAWN, None)
    with pytest.raises(AskClosedAlready):
        await heart.sessions.decide(ask.id, YES, "U2")
    assert await heart.settled(await heart.ask("usable")) == Done()
    assert not process.heard


async def test_what_the_cli_takes_back_is_closed(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart)
    process.say(AskWithdrawn(request))
    (closed,) = await until(lambda: told(heart, asked, AskClosed))
    assert (closed.id, closed.state) == (ask.id, AskState.WITHDRAWN)
    process.answer("done")
    assert await heart.settled(asked) == Done()


async def test_what_was_withdrawn_is_open_again_when_claude_asks_for_it_again(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart)
    process.say(AskWithdrawn(request))
    await until(lambda: told(heart, asked, AskClosed))
    process.asks = {"again": ask.tool_id}
    process.say(Asked("again", "Bash", BASH, ask.tool_id))
    again = await opened(heart, asked, 2)
    assert (again.id, again.state) == (ask.id, AskState.OPEN)
    assert again.asked_at > ask.asked_at
    decided = await heart.sessions.decide(ask.id, YES, "U2")
    assert (await heard(process, "again"))["behavior"] == "allow"
    assert told(heart, asked, AskClosed)[1:] == [decided]
    process.answer("done")
    assert await heart.settled(asked) == Done()


async def test_a_turn_that_ends_takes_its_asks_with_it(heart: Heart) -> None:
    asked, process, _, _ = await asking(heart)
    process.answer("done after all")
    assert await heart.settled(asked) == Done()
    assert [one.state for one in told(heart, asked, AskClosed)] == [AskState.WITHDRAWN]
    assert heart.kinds(asked.turn.id)[-1] == "Settled"


async def test_an_ask_expires_and_nobody_has_denied_it(start: Any, host: ScriptedHost) -> None:
    async with start(policy=Policy(expires=timedelta(0))) as heart:
        asked, process, request, ask = await asking(heart)
        with pytest.raises(AskClosedAlready) as refused:
            await heart.sessions.decide(ask.id, YES, "U2")
        assert refused.value.ask.state is AskState.EXPIRED
        answer = await heard(process, request)
        assert answer["behavior"] == "deny"
        assert "expired" in answer["message"]
        assert "Nobody refused" in answer["message"]
        process.answer("pity")
        await heart.settled(asked)
        assert [one.state for one in told(heart, asked, AskClosed)] == [AskState.EXPIRED]
        assert [(one.by, one.behavior) for one in await records(heart)] == [(None, "expired")]


# -- hibernation


async def asleep(heart: Heart, asked: Submitted) -> None:
    """As if the session timeout had passed. The reaper asks at each pass: who refuses just then is asked again."""

    async def parked() -> bool:
        await heart.sessions.park_waiting(datetime.now(UTC) + timedelta(hours=1))
        return (await heart.sessions.get(asked.session.id)).state is SessionState.ASLEEP

    await until(parked)
    await until(lambda: not heart.sessions.is_live(asked.session.id))


async def test_who_waits_too_long_sleeps_and_is_woken_by_the_decision(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    process.say(ToolStarted("t0", "Bash", {"command": "make"}))
    process.say(ToolFinished("t0", True, "made"))
    process.ask("Bash", BASH)
    ask = await opened(heart, asked)
    await asleep(heart, asked)
    assert process.dead
    await heart.reaper.sweep()
    await until(lambda: not heart.sessions.is_live(asked.session.id), what="it to sleep on until somebody decides")
    assert heart.outcomes(asked.turn.id) == []
    assert len(heart.host.opened) == 1
    await heart.sessions.decide(ask.id, YES, "U2")
    again = await heart.process(asked)
    assert again is not process
    assert any("touch x" in block and "allowed; it has not run" in block for block in again.contexts[0])
    assert (await heard(again, again.ask("Bash", BASH)))["behavior"] == "allow"
    again.answer("done")
    assert await heart.settled(asked) == Done(), "make had run before, and was not cut off"
    assert "Restarted" in heart.kinds(asked.turn.id)
    assert [one.id for one in told(heart, asked)] == [ask.id]


async def test_who_sleeps_is_told_of_a_decision_made_while_the_program_was_away(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked, _, _, ask = await asking(before, "AskUserQuestion", QUESTION)
        await asleep(before, asked)
        await before.sessions.drain(0)
        await before.sessions.decide(ask.id, Decision("allow", answers={"Which?": "b"}), "U2")
    async with start() as after:
        await after.reaper.sweep()
        again = await after.process(asked)
        assert any("Which? → b" in block for block in again.contexts[0])
        again.answer("b")
        assert await after.settled(asked.turn.id) == Done()


async def test_who_sleeps_can_be_stopped(heart: Heart) -> None:
    asked, _, _, _ = await asking(heart)
    await asleep(heart, asked)
    assert await heart.sessions.interrupt(asked.session.id, "U3")
    assert await heart.settled(asked) == Interrupted("U3")
    assert len(heart.host.opened) == 1, "nothing was woken for it"
    assert [one.state for one in told(heart, asked, AskClosed)] == [AskState.WITHDRAWN]


async def test_who_sleeps_is_woken_when_the_ask_expires(start: Any, host: ScriptedHost) -> None:
    async with start(policy=Policy(expires=timedelta(seconds=1))) as heart:
        asked, _, _, _ = await asking(heart)
        await asleep(heart, asked)
        await until(heart.sessions.expire_asks)
        again = await heart.process(asked)
        assert any("expired" in block for block in again.contexts[0])
        again.answer("pity")
        assert await heart.settled(asked) == Done()


async def test_an_approved_plan_is_carried_out_by_who_is_woken(heart: Heart) -> None:
    asked = await heart.ask("HOLD", mode="plan")
    process = await heart.process(asked)
    process.ask("ExitPlanMode", PLAN)
    ask = await opened(heart, asked)
    await asleep(heart, asked)
    await heart.sessions.decide(ask.id, YES, "U2")
    again = await heart.process(asked)
    assert ("set_permission_mode", {"mode": "bypassPermissions"}) in again.asked
    again.answer("done")
    assert await heart.settled(asked) == Done()


async def test_who_waits_for_people_gives_way_to_who_waits_for_a_place(start: Any, host: ScriptedHost) -> None:
    async with start(max_sessions=1) as heart:
        asked, process, _, ask = await asking(heart)
        other = await heart.ask("two", "1700000009.000000")
        assert await heart.settled(other) == Done()
        assert process.dead
        await heart.sessions.decide(ask.id, YES, "U2")
        again = await heart.process(asked)
        again.answer("done")
        assert await heart.settled(asked) == Done()


async def test_who_has_got_the_answer_keeps_the_place(start: Any, host: ScriptedHost) -> None:
    async with start(max_sessions=1) as heart:
        asked, process, request, ask = await asking(heart)
        await heart.sessions.decide(ask.id, YES, "U2")
        await heard(process, request)
        other = await heart.ask("two", "1700000009.000000")
        await until(lambda: "WaitingForPlace" in heart.kinds(other.turn.id))
        assert not process.dead
        process.answer("done")
        assert await heart.settled(asked) == await heart.settled(other) == Done()


async def test_a_sub_agent_that_asks_does_not_give_way_at_once(start: Any, host: ScriptedHost) -> None:
    async with start(max_sessions=1) as heart:
        asked = await heart.ask("HOLD")
        process = await heart.process(asked)
        process.say(ToolStarted("agent", "Agent", {}))
        process.ask("Bash", BASH)
        await opened(heart, asked)
        other = await heart.ask("two", "1700000009.000000")
        await until(lambda: heart.kinds(other.turn.id) == ["Queued"] and heart.sessions.is_live(other.session.id))
        assert not process.dead
        await asleep(heart, asked)
        assert await heart.settled(other) == Done()


async def test_who_works_beside_is_not_put_to_sleep(heart: Heart) -> None:
    asked, process, request, ask = await asking(heart)
    process.say(ToolStarted("t9", "Bash", {"command": "make"}, "agent"))
    await until(lambda: heart.kinds(asked.turn.id).count("ToolStarted") == 2)
    await heart.sessions.park_waiting(datetime.now(UTC) + timedelta(hours=1))
    await heart.sessions.decide(ask.id, YES, "U2")
    await heard(process, request)
    assert not process.dead
    process.answer("done")
    assert await heart.settled(asked) == Done()


async def test_a_program_that_dies_while_it_puts_to_sleep_goes_on_with_it(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked, process, _, _ = await asking(before)
        await before.sessions.drain(0)
        async with before.db.transaction() as connection:
            await connection.execute(sa.update(asks_table).values(parked=True))
    async with start() as after:
        await after.reaper.recover()
        await after.in_state(asked, SessionState.ASLEEP)
        assert process.dead
        assert after.outcomes(asked.turn.id) == []


async def test_what_was_decided_before_it_slept_counts_when_it_is_lost(start: Any, host: ScriptedHost) -> None:
    async with start() as before:
        asked, process, request, ask = await asking(before)
        await before.sessions.drain(0)
        async with before.db.transaction() as connection:
            await connection.execute(sa.update(asks_table).values(parked=True))
        await before.sessions.decide(ask.id, YES, "U2")
    async with start() as after:
        await after.reaper.recover()
        assert (await heard(process, request))["behavior"] == "allow"
        process.die("Claude's container was killed")
        assert isinstance(await after.settled(asked.turn.id), Cut), "the tool may have run"
