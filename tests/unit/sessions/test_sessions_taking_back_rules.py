"""Rules that are taken back count for the process that works, whatever happens to Flow in that moment."""

from __future__ import annotations

from heart import Heart, Start
from scripted import Process
from waiting import until

from sessions.rulestore import StoredRule
from sessions.types import Done, Submitted
from worklets.errors import AgentRefused

RULE = "Bash(rm *)"


def allowed(process: Process) -> list[list[str]]:
    """What the process was told that it may do, each time."""
    found = [fields["settings"]["permissions"] for name, fields in process.asked if name == "apply_flag_settings"]
    return [permissions["allow"] for permissions in found]


async def working(heart: Heart) -> tuple[Submitted, Process, StoredRule]:
    """A turn that goes on, whose process follows a rule that was added."""
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    await heart.sessions.add_rule("session", asked.session.id, "allow", RULE, "U1")
    await until(lambda: allowed(process) == [[RULE]])
    (rule,) = await heart.sessions.rules(asked.session.id)
    return asked, process, rule


async def test_one_that_was_taken_back_while_nobody_was_here_counts_at_once(start: Start) -> None:
    async with start() as before:
        asked, process, rule = await working(before)
        await before.sessions.store.asks.rules.remove(rule.id)  # killed before the process was told
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: allowed(process) == [[RULE], []])
        process.answer("done")
        assert await after.settled(asked) == Done()


async def test_one_that_is_taken_back_while_the_process_is_attached_to_counts_at_once(start: Start) -> None:
    async with start() as before:
        asked, process, rule = await working(before)
    async with start() as after:
        after.host.gate.clear()
        await after.reaper.sweep()
        await until(lambda: len(after.host.opened) == 2)
        await after.sessions.remove_rule(rule.id, "U1")
        after.host.gate.set()
        await until(lambda: allowed(process) == [[RULE], []])
        process.answer("done")
        assert await after.settled(asked) == Done()


async def test_a_process_that_does_not_follow_is_listened_to_all_the_same(start: Start) -> None:
    async with start() as before:
        asked, process, _ = await working(before)
    process.answering.clear()
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: len(allowed(process)) == 2)
        process.answer("done")
        assert await after.settled(asked) == Done()
    process.answering.set()


async def test_a_process_that_refuses_works_on(start: Start) -> None:
    async with start() as before:
        asked, process, _ = await working(before)
    process.replies["apply_flag_settings"] = AgentRefused("Claude refused: no.")
    async with start() as after:
        await after.reaper.sweep()
        await until(lambda: len(allowed(process)) == 2)
        process.answer("done")
        assert await after.settled(asked) == Done()
        assert len(after.host.opened) == 2, "it is the same process still"


async def test_one_that_is_taken_back_while_the_process_is_told_of_it_does_not_stay(heart: Heart) -> None:
    asked = await heart.ask("HOLD")
    process = await heart.process(asked)
    await heart.sessions.add_rule("session", asked.session.id, "deny", "WebFetch", "U1")
    await until(lambda: allowed(process) == [[]])
    process.answering.clear()
    await heart.sessions.add_rule("session", asked.session.id, "allow", RULE, "U1")
    await until(lambda: allowed(process) == [[], [RULE]])
    rule = next(one for one in await heart.sessions.rules(asked.session.id) if one.rule == RULE)
    await heart.sessions.remove_rule(rule.id, "U1")
    for _ in range(20):  # it is told by somebody else meanwhile, who must not find that there is nothing to tell
        await heart.sessions.turns(asked.session.id)
    process.answering.set()
    await until(lambda: allowed(process) == [[], [RULE], []])
    process.answer("done")
    assert await heart.settled(asked) == Done()
