"""What is said about a session without asking Claude anything: model, fork, feedback; and Claude's commands."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from heart import THREAD, Heart, Start
from scripted import Process

from sessions.errors import SessionBusy, SessionNotFound
from sessions.tables import sessions
from sessions.types import Aside, Done, Failed, SessionState, TurnId
from worklets.claude import FORK_OF
from worklets.errors import AgentGone, AgentRefused


def models(process: Process) -> list[str]:
    """Those that the process was told to answer with."""
    return [fields["model"] for subtype, fields in process.asked if subtype == "set_model"]


async def test_a_model_is_chosen_at_once_and_kept_for_the_next_process(heart: Heart) -> None:
    asked = await heart.ask("HOLD it")
    process = await heart.process(asked)
    await heart.sessions.choose_model(asked.session.id, "opus")
    assert models(process) == ["opus"]
    process.answer("done")
    await heart.settled(asked)
    await heart.sessions.sleep(asked.session.id)
    await heart.settled(await heart.ask("again"))
    woken = heart.host.processes[asked.session.worklet]
    assert woken is not process
    assert models(woken) == ["opus"]
    await heart.settled(await heart.ask("and again"))
    assert models(woken) == ["opus"], "a process is told once"


async def test_a_sleeping_session_keeps_the_model_for_its_next_start(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.sleep(asked.session.id)
    assert await heart.sessions.ask_agent(asked.session.id, "get_usage") is None
    assert (await heart.sessions.choose_model(asked.session.id, "haiku")).model == "haiku"
    await heart.settled(await heart.ask("two"))
    assert models(heart.host.processes[asked.session.worklet]) == ["haiku"]


async def test_a_model_that_the_cli_refuses_changes_nothing(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    process = heart.host.processes[asked.session.worklet]
    process.replies["set_model"] = AgentRefused("Claude refused: no such model")
    with pytest.raises(AgentRefused):
        await heart.sessions.choose_model(asked.session.id, "opus")
    assert (await heart.sessions.get(asked.session.id)).model is None


async def test_a_model_that_cannot_be_had_at_the_start_fails_the_turn_with_the_reason(heart: Heart) -> None:
    def refuses(process: Process) -> None:
        process.replies["set_model"] = AgentRefused("Claude refused: no such model")

    heart.host.on_start = refuses
    asked = await heart.ask("one", model="opus")
    outcome = await heart.settled(asked)
    assert outcome == Failed("Claude refused: no such model")
    assert heart.host.processes[asked.session.worklet].prompts == []


async def test_an_agent_that_is_gone_leaves_the_model_to_the_next_one(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    heart.host.processes[asked.session.worklet].replies["set_model"] = AgentGone()
    assert (await heart.sessions.choose_model(asked.session.id, "opus")).model == "opus"


async def test_what_people_prefer_counts_for_new_sessions_that_name_nothing_else(heart: Heart) -> None:
    options = heart.sessions.options
    await options.set("user", "U1", "model", "haiku", "U1")
    await options.set("channel", "C1", "mode", "plan", "U1")
    session = (await heart.ask("one")).session
    assert (session.model, session.mode) == ("haiku", "plan")
    named = (await heart.ask("two", "1700000002.000000", model="opus", mode="auto")).session
    assert (named.model, named.mode) == ("opus", "auto")


async def test_a_command_of_the_cli_goes_alone_and_what_was_said_waits(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.overheard([Aside(THREAD, "C1:x", "1700000150.000000", "U2", "jonas", "the blue one")])
    first = await heart.ask("/compact focus", ts="1700000160.000000")
    assert await heart.settled(first) == Done()
    await heart.settled(await heart.ask("two", ts="1700000170.000000"))
    process = heart.host.processes[asked.session.worklet]
    assert [text for _, text in process.prompts] == ["one", "/compact focus", "two"]
    assert process.contexts[1] == ()
    assert "jonas: the blue one" in process.contexts[2][0]


async def test_after_a_new_beginning_its_own_conversation_is_resumed(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.settled(await heart.ask("/clear"))
    session = await heart.sessions.get(asked.session.id)
    assert session.claude_session_id == f"{asked.session.id}-anew"
    await heart.sessions.sleep(session.id)
    await heart.settled(await heart.ask("two"))
    assert heart.host.opened[-1]["claude_session_id"] == f"{asked.session.id}-anew"


async def test_what_was_forgotten_is_not_told_again_when_the_volume_is_lost(heart: Heart) -> None:
    asked = await heart.ask("the old matter")
    await heart.settled(asked)
    await heart.settled(await heart.ask("/clear"))
    await heart.settled(await heart.ask("the new matter"))
    await heart.sessions.sleep(asked.session.id)
    await heart.host.destroy(asked.session.worklet)
    await heart.settled(await heart.ask("go on"))
    (told,) = heart.host.processes[asked.session.worklet].contexts[-1]
    assert "the new matter" in told
    assert "the old matter" not in told


async def test_a_fork_goes_on_from_a_copy_and_is_made_once(heart: Heart) -> None:
    asked = await heart.ask("one", model="opus")
    await heart.settled(asked)
    forked = await heart.sessions.fork(asked.session.id, "C1:word", "U7")
    assert (await heart.sessions.fork(asked.session.id, "C1:word", "U7")).id == forked.id
    assert set(heart.host.copied) == {(asked.session.worklet, forked.worklet)}
    assert (forked.user_id, forked.state, forked.thread.thread_ts) == ("U7", SessionState.ASLEEP, None)
    assert (forked.model, forked.fork_of) == ("opus", asked.session.id)
    await heart.sessions.opened(forked.id, "1700009999.000000")
    await heart.settled(await heart.ask("and now", "1700009999.000000", starts=False))
    opened = heart.host.opened[-1]
    assert (opened["name"], opened["claude_session_id"], opened["has_history"]) == (forked.worklet, forked.id, True)
    assert opened["env"][FORK_OF] == asked.session.id
    await heart.settled(await heart.ask("/clear", "1700009999.000000", starts=False))
    await heart.sessions.sleep(forked.id)
    await heart.settled(await heart.ask("later", "1700009999.000000", starts=False))
    assert FORK_OF not in heart.host.opened[-1]["env"], "it began anew: nothing of the origin comes back"


async def test_a_fork_of_a_working_session_is_refused(heart: Heart) -> None:
    asked = await heart.ask("HOLD it")
    process = await heart.process(asked)
    with pytest.raises(SessionBusy):
        await heart.sessions.fork(asked.session.id, "C1:word", "U7")
    process.answer("done")
    await heart.settled(asked)


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_fork_of_a_session_that_begins_to_work_meanwhile_is_discarded(heart: Heart, is_done: bool) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)

    async def write() -> None:
        more = await heart.ask("two" if is_done else "HOLD it")
        await (heart.settled(more) if is_done else heart.process(more))

    heart.host.on_copy = write
    with pytest.raises(SessionBusy):
        await heart.sessions.fork(asked.session.id, "C1:word", "U7")
    ((_, name),) = heart.host.copied
    assert name in heart.host.closed, "its volume is removed"
    assert [one.id for one in await heart.sessions.list()] == [asked.session.id]
    if not is_done:
        heart.host.processes[asked.session.worklet].answer("done")


async def test_a_fork_of_a_session_without_a_volume_is_told_what_was_said(heart: Heart) -> None:
    asked = await heart.ask("the blue commit")
    await heart.settled(asked)
    await heart.sessions.sleep(asked.session.id)
    await heart.host.destroy(asked.session.worklet)
    async with heart.db.transaction() as connection:
        retired = sa.update(sessions).where(sessions.c.id == asked.session.id)
        await connection.execute(retired.values(retired_at=heart.sessions.store.clock()))
    forked = await heart.sessions.fork(asked.session.id, "C1:word", "U7")
    assert heart.host.copied == []
    await heart.sessions.opened(forked.id, "1700009999.000000")
    await heart.settled(await heart.ask("and now", "1700009999.000000", starts=False))
    (told,) = heart.host.processes[forked.worklet].contexts[0]
    assert "the blue commit" in told


async def test_everybody_has_one_opinion_of_an_answer(heart: Heart) -> None:
    asked = await heart.ask("one")
    controls = heart.sessions.controls
    await controls.rate(asked.turn.id, "U1", True)
    await controls.rate(asked.turn.id, "U2", True)
    await controls.rate(asked.turn.id, "U1", False)
    await controls.rate(asked.turn.id, "U3", True)
    assert await controls.ratings(asked.turn.id) == {"U1": False, "U2": True, "U3": True}
    other = await heart.ask("two")
    assert await controls.opinions(asked.session.id) == {asked.turn.id: (2, 1)}
    await heart.settled(other)
    with pytest.raises(SessionNotFound):
        await controls.rate(TurnId("none"), "U1", True)
    await heart.settled(asked)


async def test_a_model_that_another_process_set_counts_from_the_next_prompt(heart: Heart) -> None:
    asked = await heart.ask("one")
    await heart.settled(asked)
    await heart.sessions.controls.configure(asked.session.id, model="opus")
    process = heart.host.processes[asked.session.worklet]
    assert models(process) == []
    await heart.settled(await heart.ask("two"))
    assert models(process) == ["opus"]


async def test_a_process_that_outlived_the_program_is_told_the_model_again(start: Start) -> None:
    async with start() as before:
        asked = await before.ask("one", model="opus")
        await before.settled(asked)
        process = before.host.processes[asked.session.worklet]
    async with start() as after:
        await after.settled(await after.ask("two"))
        assert after.host.processes[asked.session.worklet] is process
        assert models(process) == ["opus", "opus"], "whoever attaches does not know what it was told"
