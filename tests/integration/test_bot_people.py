"""What people write and press while Claude works, and around it: stop, Now, edits, asides, choices, catching up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from slackdoor import Flow, Start
from waiting import until

from bot.reactions import DONE, WAITING, WORKING
from sessions.db import open_database
from sessions.tables import asides, turns
from sessions.types import SessionState, TurnState
from simulator.slack import SlackSimulator
from worklets.events import Text, TextDelta


def message(flow: Flow, ts: str, words: str) -> dict[str, Any]:
    """The thread's message with these words."""
    return next(m for m in flow.slack.messages("#general", ts) if words in flow.slack.visible_text(m))


def buttons(message: dict[str, Any]) -> list[str]:
    return [e["text"]["text"] for b in message["blocks"] if b["type"] == "actions" for e in b["elements"]]


def told(flow: Flow, user: str, words: str) -> bool:
    return any(words in flow.slack.visible_text(m) for m in flow.slack.ephemerals(user))


def marked(slack: SlackSimulator, ts: str) -> bool:
    return WAITING in reactions(slack, ts)


def reactions(slack: SlackSimulator, ts: str) -> list[str]:
    return [r["name"] for r in slack.record(ts).body.get("reactions", [])]


async def states(flow: Flow) -> list[TurnState]:
    (session,) = await flow.sessions.list()
    return [turn.state for turn in await flow.sessions.turns(session.id)]


async def overheard(flow: Flow) -> list[tuple[str, str]]:
    async with flow.db.read() as connection:
        rows = (await connection.execute(sa.select(asides).order_by(asides.c.ts))).all()
    return [(row.author, row.text) for row in rows]


async def at_work(flow: Flow, text: str = "HOLD on") -> str:
    """A thread whose answer has begun; its ts."""
    ts = await flow.slack.post("maya", "#general", f"@flow {text}")
    (await flow.process(text)).say(TextDelta("half a thought"))
    await flow.shows("#general", ts, "half a thought")
    return ts


# ---- stop --------------------------------------------------------------------------------------------------------


async def test_the_stop_button_ends_the_turn_and_keeps_the_session(flow: Flow) -> None:
    ts = await at_work(flow)
    live = message(flow, ts, "half a thought")
    assert buttons(live) == ["Stop"]
    assert (await flow.slack.click("jonas", live, "stop_turn")).ok
    await flow.shows("#general", ts, "Stopped by @jonas", "half a thought")
    assert "Stop" not in buttons(message(flow, ts, "half a thought"))
    await flow.slack.post("maya", "#general", "go on", thread_ts=ts)
    await flow.shows("#general", ts, "go on", "tokens in")
    assert len(flow.host.processes) == 1
    assert (await flow.sessions.list())[0].state is not SessionState.ASLEEP


async def test_stop_during_start_up(flow: Flow) -> None:
    flow.host.gate.clear()
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "Start")
    await flow.slack.click("maya", flow.slack.messages("#general", ts)[1], "stop_turn")
    await flow.shows("#general", ts, "■")
    flow.host.gate.set()
    assert (await states(flow))[0].settled
    await flow.slack.post("maya", "#general", "still there?", thread_ts=ts)
    await until(lambda: any("tokens in" in text for text in flow.thread("#general", ts)))


async def test_a_stop_button_of_an_ended_turn_ends_nothing_else(flow: Flow) -> None:
    ts = await at_work(flow, "HOLD one")
    old = message(flow, ts, "half a thought")
    (await flow.process("HOLD one")).end()
    await flow.shows("#general", ts, "tokens in")
    await flow.slack.post("maya", "#general", "HOLD two", thread_ts=ts)
    process = await flow.process("HOLD two")
    await flow.slack.click("maya", old, "stop_turn", stale=old["blocks"])
    await until(lambda: told(flow, "maya", "ended already"))
    process.answer("untouched")
    await flow.shows("#general", ts, "untouched")
    assert not any("Stopped" in text for text in flow.thread("#general", ts))


@pytest.mark.parametrize("word", ["stop", "STOP!", "@flow Stop.", "stop @flow"])
async def test_the_word_stop_is_no_prompt(flow: Flow, word: str) -> None:
    ts = await at_work(flow)
    await flow.slack.post("maya", "#general", "then this", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when")
    await flow.slack.post("jonas", "#general", word, thread_ts=ts)
    await flow.shows("#general", ts, "Stopped by @jonas", "half a thought")

    async def settled() -> bool:
        return all(state.settled for state in await states(flow))

    await until(settled)
    assert len(await states(flow)) == 2
    assert not flow.slack.ephemerals("jonas")
    await flow.slack.post("maya", "#general", "stop the server", thread_ts=ts)
    await until(lambda: any("stop the server" in text for text in flow.thread("#general", ts)[1:]))


async def test_stop_where_nothing_runs_is_answered_privately(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "tokens in")
    await until(lambda: len(flow.show.outbox) == 0)
    await flow.slack.post("maya", "#general", "stop", thread_ts=ts)
    await until(lambda: told(flow, "maya", "Nothing is running here"))
    assert len(flow.slack.ephemerals("maya")) == 1
    assert len(await states(flow)) == 1
    lone = await flow.slack.post("maya", "#random", "who stops first?")
    await flow.slack.post("jonas", "#random", "stop", thread_ts=lone)
    await flow.slack.post("jonas", "#general", "@flow stop")
    await until(lambda: told(flow, "jonas", "Nothing is working for you here"))
    assert len(flow.slack.ephemerals("jonas")) == 1


async def test_stop_in_a_direct_message(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "dm", "HOLD hi")
    await flow.process("HOLD hi")
    await flow.slack.post("maya", "dm", "stop")
    await flow.shows("dm", ts, "Stopped by @maya", user="maya")


async def test_flow_stop_is_about_its_channel(flow: Flow) -> None:
    ts = await at_work(flow)
    elsewhere = await flow.slack.command("maya", "#engineering", "/flow", "stop")
    assert "Nothing is working for you here" in flow.slack.visible_text(elsewhere.message)
    assert "HOLD on" in flow.slack.visible_text(elsewhere.message)
    nobodys = await flow.slack.command("jonas", "#general", "/flow", "stop")
    assert flow.slack.visible_text(nobodys.message) == ("Nothing is working for you here, so there is nothing to stop.")
    await flow.slack.command("maya", "#general", "/flow", "stop")
    await flow.shows("#general", ts, "Stopped by @maya")
    assert (await flow.sessions.list())[0].state is not SessionState.ASLEEP
    again = await flow.slack.command("maya", "#general", "/flow", "stop")
    assert "Which one?" not in flow.slack.visible_text(again.message)


@pytest.mark.parametrize("where", ["root", "reply", "answer"])
async def test_a_stop_sign_anywhere_in_the_thread(flow: Flow, where: str) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow one")
    await flow.shows("#general", ts, "tokens in")
    reply = await flow.slack.post("maya", "#general", "HOLD two", thread_ts=ts)
    (await flow.process("HOLD two")).say(TextDelta("half a thought"))
    await flow.shows("#general", ts, "half a thought")
    target = {"root": ts, "reply": reply, "answer": message(flow, ts, "half a thought")["ts"]}[where]
    await flow.slack.react("jonas", target, "wave")
    await flow.slack.react("jonas", target, "octagonal_sign")
    await flow.shows("#general", ts, "Stopped by @jonas")
    await until(lambda: all(delivery.acked for delivery in flow.slack.deliveries))


async def test_a_stop_sign_elsewhere_is_nothing_to_us(flow: Flow) -> None:
    ts = await at_work(flow)
    other = await flow.slack.post("jonas", "#general", "no way")
    await flow.slack.react("maya", other, "octagonal_sign")
    await until(lambda: flow.calls("conversations.replies"))
    (await flow.process("HOLD on")).answer("done")
    await flow.shows("#general", ts, "done", "tokens in")


async def test_an_idle_session_can_be_put_to_sleep_from_the_list(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "tokens in")
    listed = await flow.slack.command("maya", "#general", "/flow", "sessions")
    await flow.slack.click("maya", listed.message, "sleep")
    await until(lambda: told(flow, "maya", "sleeps now"))
    assert (await flow.sessions.list())[0].state is SessionState.ASLEEP


# ---- what waits --------------------------------------------------------------------------------------------------


async def test_who_waits_is_marked_until_the_turn_begins(flow: Flow) -> None:
    ts = await at_work(flow)
    reply = await flow.slack.post("jonas", "#general", "HOLD next", thread_ts=ts)
    await until(lambda: marked(flow.slack, reply))
    assert not marked(flow.slack, ts)
    (await flow.process("HOLD on")).end()
    await flow.process("HOLD next")
    await until(lambda: reactions(flow.slack, reply) == [WORKING])


async def test_a_short_wait_costs_no_call(flow: Flow) -> None:
    ts = await at_work(flow)
    flow.door.reactions._delay = 60.0  # what this machine takes for the rest is short
    quick = await flow.slack.post("jonas", "#general", "quick", thread_ts=ts)
    await flow.slack.wait_for(lambda: len(flow.slack.deliveries) > 2)
    (await flow.process("HOLD on")).end()
    await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)
    await until(lambda: DONE in reactions(flow.slack, quick))
    assert [call["name"] for call in flow.calls("reactions.add") if call["timestamp"] == quick] == [DONE]


async def test_a_mark_of_a_dead_process_is_taken_away(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        ts = await at_work(flow)
        reply = await slack.post("jonas", "#general", "HOLD next", thread_ts=ts)
        await until(lambda: marked(slack, reply))
    async with start() as flow:
        (await flow.process("HOLD on")).end()
        (await flow.process("HOLD next")).end()
        await until(lambda: not marked(slack, reply))


@pytest.mark.parametrize("trouble", [{"status": 429, "retry_after": 1}, {"status": 503}, {"error": "internal_error"}])
async def test_a_mark_outlasts_slacks_troubles(flow: Flow, trouble: dict[str, Any]) -> None:
    ts = await at_work(flow)
    await until(lambda: reactions(flow.slack, ts) == [WORKING])
    flow.slack.faults.fail("reactions.add", **trouble)
    reply = await flow.slack.post("jonas", "#general", "HOLD next", thread_ts=ts)
    await until(lambda: marked(flow.slack, reply))
    flow.slack.faults.fail("reactions.remove", **trouble)
    (await flow.process("HOLD on")).end()
    await until(lambda: not marked(flow.slack, reply))


async def test_a_mark_that_slack_refuses_is_let_be(flow: Flow) -> None:
    ts = await at_work(flow)
    await until(lambda: reactions(flow.slack, ts) == [WORKING])
    flow.slack.faults.fail("reactions.add", error="too_many_reactions")

    def tried() -> int:
        return sum(call.method == "reactions.add" for call in flow.slack.calls)

    before = tried()
    reply = await flow.slack.post("jonas", "#general", "next", thread_ts=ts)

    await until(lambda: tried() > before)
    (await flow.process("HOLD on")).end()
    await until(lambda: reactions(flow.slack, reply) == [DONE])


async def test_now_interrupts_and_goes_next(flow: Flow) -> None:
    ts = await at_work(flow)
    await flow.slack.post("maya", "#general", "later", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when")  # it is stored: the next one is counted behind it
    await flow.slack.post("jonas", "#general", "HOLD urgent", thread_ts=ts)
    await flow.shows("#general", ts, "the 2 messages before this one")
    waiting = message(flow, ts, "the 2 messages before this one")
    assert buttons(waiting) == ["Now", "Take back"]
    await flow.slack.click("maya", waiting, "now")
    await until(lambda: told(flow, "maya", "Only @jonas"))
    await flow.slack.click("jonas", waiting, "now")
    await flow.shows("#general", ts, "Stopped by @jonas", "half a thought")
    (await flow.process("HOLD urgent")).answer("urgent done")
    await flow.shows("#general", ts, "urgent done", "later")
    await flow.slack.click("jonas", waiting, "now", stale=waiting["blocks"])
    await until(lambda: told(flow, "jonas", "does not wait any more"))


async def test_what_is_taken_back_vanishes(flow: Flow) -> None:
    ts = await at_work(flow)
    reply = await flow.slack.post("jonas", "#general", "never mind", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when")
    await until(lambda: marked(flow.slack, reply))
    await flow.slack.click("jonas", message(flow, ts, "I will start when"), "take_back")
    await until(lambda: len(flow.thread("#general", ts)) == 3)
    await until(lambda: not marked(flow.slack, reply))
    (await flow.process("HOLD on")).answer("done")
    await flow.shows("#general", ts, "done", "tokens in")
    assert await states(flow) == [TurnState.DONE, TurnState.WITHDRAWN]
    await until(lambda: len(flow.show.outbox) == 0)


# ---- edits -------------------------------------------------------------------------------------------------------


async def test_an_edited_message_is_put_as_it_reads_now(flow: Flow) -> None:
    ts = await at_work(flow)
    reply = await flow.slack.post("jonas", "#general", "@flow frist", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when")
    await flow.slack.edit("jonas", reply, "@flow first & best")

    async def followed() -> bool:
        (session,) = await flow.sessions.list()
        return (await flow.sessions.turns(session.id))[1].text == "first & best"

    await until(followed)
    (await flow.process("HOLD on")).end()
    await until(lambda: any("first & best" in text for text in flow.thread("#general", ts)[3:]))
    prompts = [text for process in flow.host.processes.values() for _, text in process.prompts]
    assert prompts == ["HOLD on", "first & best"]


async def test_a_deleted_message_is_not_put_to_claude(flow: Flow) -> None:
    ts = await at_work(flow)
    reply = await flow.slack.post("jonas", "#general", "oh no", thread_ts=ts)
    await flow.shows("#general", ts, "I will start when")
    await flow.slack.delete("jonas", reply)
    await until(lambda: not any("I will start when" in text for text in flow.thread("#general", ts)))
    (await flow.process("HOLD on")).answer("done")
    await flow.shows("#general", ts, "done", "tokens in")
    assert await states(flow) == [TurnState.DONE, TurnState.WITHDRAWN]


async def test_edits_of_what_is_none_of_ours_leave_no_trace(flow: Flow) -> None:
    lone = await flow.slack.post("maya", "#general", "lunch?")
    reply = await flow.slack.post("jonas", "#general", "yes", thread_ts=lone)
    await flow.slack.edit("jonas", reply, "no")
    await flow.slack.delete("jonas", reply)
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "tokens in")
    async with flow.db.read() as connection:
        assert (await connection.execute(sa.text("select count(*) from amendments"))).scalar_one() == 0


# ---- asides ------------------------------------------------------------------------------------------------------


async def test_what_is_for_others_is_only_noted(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "tokens in")
    await flow.slack.post("maya", "#general", "@jonas what do you think?", thread_ts=ts)
    await flow.slack.post("maya", "#general", "@jonas and @flow, go on", thread_ts=ts)
    await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)

    async def noted() -> bool:
        return await overheard(flow) == [("maya", "@jonas what do you think?")]

    await until(noted)
    assert len(await states(flow)) == 2
    await flow.slack.post("maya", "#general", "@jonas well?", thread_ts=ts)

    async def noted_again() -> bool:
        return len(await overheard(flow)) == 2

    await until(noted_again)
    assert len(flow.calls("users.info")) == 2, "a name is asked for once"


async def test_an_edited_aside_follows(flow: Flow) -> None:
    ts = await at_work(flow)
    aside = await flow.slack.post("maya", "#general", "@jonas look", thread_ts=ts)

    async def noted(text: str) -> bool:
        return await overheard(flow) == [("maya", text)]

    await until(lambda: noted("@jonas look"))
    await flow.slack.edit("maya", aside, "@jonas look there")
    await until(lambda: noted("@jonas look there"))
    await flow.slack.delete("maya", aside)

    async def gone() -> bool:
        return await overheard(flow) == []

    await until(gone)


async def test_without_names_people_go_by_their_ids(flow: Flow) -> None:
    ts = await at_work(flow)
    flow.slack.faults.fail("users.info", error="user_not_found", times=100)
    await flow.slack.post("jonas", "#general", "@jonas look", thread_ts=ts)  # maya's name is known: she asked
    jonas = flow.slack.user("jonas").id

    async def noted() -> bool:
        return await overheard(flow) == [(jonas, f"@{jonas} look")]

    await until(noted)


async def test_a_call_into_a_thread_brings_what_was_said_before(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "the build is red")
    await flow.slack.post("jonas", "#general", "since @maya pushed", thread_ts=ts)
    await flow.slack.post("maya", "#general", "@flow what is wrong?", thread_ts=ts)
    await flow.shows("#general", ts, "tokens in")
    assert await overheard(flow) == [("maya", "the build is red"), ("jonas", "since @maya pushed")]


async def test_a_thread_that_cannot_be_read_is_answered_all_the_same(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "the build is red")
    flow.slack.faults.fail("conversations.replies", error="missing_scope", times=2)
    await flow.slack.post("maya", "#general", "@flow what is wrong?", thread_ts=ts)
    await flow.shows("#general", ts, "tokens in")
    assert await overheard(flow) == []


# ---- cut turns ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def cut(start: Start, slack: SlackSimulator, tmp_path: Path) -> AsyncIterator[tuple[Flow, str]]:
    """A thread that asks how to go on."""
    async with start(flush=False) as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD the line")
        (await flow.process("HOLD the line")).say(Text("Before."))
        await flow.shows("#general", ts, "Before.")
        name = next(iter(flow.host.processes))
    flow.host.processes[name].die()
    database = open_database(f"sqlite://{tmp_path}/db.sqlite")
    async with database.transaction() as connection:
        values = {"state": "cut", "error": "The container was lost.", "ended_at": datetime.now(UTC)}
        await connection.execute(sa.update(turns).values(values))
    await database.close()
    async with start() as flow:
        await flow.shows("#general", ts, "The container was lost")
        yield flow, ts


async def test_a_cut_turn_asks_once_in_a_message_of_its_own(cut: tuple[Flow, str]) -> None:
    flow, ts = cut
    question = message(flow, ts, "The container was lost")
    assert buttons(question) == ["Continue", "Start over", "Leave it"]
    assert "Cut off" in flow.slack.visible_text(message(flow, ts, "Before."))
    await flow.slack.click("jonas", question, "cut_again")
    await flow.shows("#general", ts, "@jonas let me start over")
    assert buttons(message(flow, ts, "The container was lost")) == []
    (await flow.process("HOLD the line")).answer("Again.")
    await flow.shows("#general", ts, "Again.", "tokens in")
    await flow.slack.click("maya", question, "cut_continue", stale=question["blocks"])
    await until(lambda: told(flow, "maya", "@jonas was quicker"))
    await flow.shows("#general", ts, "@jonas decided how to go on")
    await flow.slack.click("jonas", question, "cut_leave", stale=question["blocks"])
    await until(lambda: told(flow, "jonas", "@jonas was quicker"))
    assert not flow.slack.visible_text(message(flow, ts, "The container was lost")).count("left it there")
    assert len(await states(flow)) == 2


async def test_a_cut_turn_can_be_left(cut: tuple[Flow, str]) -> None:
    flow, ts = cut
    await flow.slack.click("maya", message(flow, ts, "The container was lost"), "cut_leave")
    await flow.shows("#general", ts, "@maya left it there")
    assert buttons(message(flow, ts, "The container was lost")) == []
    assert await states(flow) == [TurnState.CUT]
