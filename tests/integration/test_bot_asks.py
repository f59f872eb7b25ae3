"""What Claude asks, in Slack: each button, the modals, who may, two at once, a restart before the answer."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from slackdoor import Flow, Start
from unit.sessions.scripted import Process
from waiting import until

from bot.answerers import Answerers
from bot.askmodals import why_modal
from bot.modals import open_modal
from sessions.asks import Decision
from simulator.slack import SlackSimulator
from worklets.events import Text, TextDelta

QUESTION = {
    "question": "Which cache?",
    "header": "Cache",
    "options": [{"label": "Redis", "description": "fast"}, {"label": "PostgreSQL", "description": "ours"}],
    "multiSelect": False,
}
PARTS = {**QUESTION, "question": "Which parts?", "multiSelect": True}


class Story:
    """A thread in which Claude has asked something, and waits."""

    def __init__(self, flow: Flow, ts: str, process: Process, request_id: str) -> None:
        self.flow, self.ts, self.process, self.request_id = flow, ts, process, request_id

    def texts(self) -> list[str]:
        return self.flow.thread("#general", self.ts)

    def message(self, words: str) -> dict[str, Any]:
        found = self.flow.slack.messages("#general", self.ts)
        return next(m for m in found if words in self.flow.slack.visible_text(m))

    async def asked(self, words: str) -> dict[str, Any]:
        """The message that asks, once it is there."""
        await self.flow.shows("#general", self.ts, words)
        return self.message(words)

    async def heard(self) -> dict[str, Any]:
        """What Claude was answered."""
        return await until(lambda: self.process.heard.get(self.request_id), what="an answer")

    async def told(self, user: str, words: str) -> None:
        """Only this person reads so."""
        slack = self.flow.slack
        await until(lambda: any(words in slack.visible_text(m) for m in slack.ephemerals(user)), what=words)

    async def modal(self, user: str) -> dict[str, Any]:
        await until(lambda: self.flow.slack.views(user), what="a modal")
        return dict(self.flow.slack.views(user)[-1])


async def asking(flow: Flow, tool: str, given: dict[str, Any], *rules: str) -> Story:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    process.say(Text("Let me see."))
    return Story(flow, ts, process, process.ask(tool, given, suggestions=rules))


def labels(message: dict[str, Any]) -> list[str]:
    elements = [e for b in message["blocks"] if b["type"] == "actions" for e in b["elements"]]
    return [e["text"]["text"] for e in elements if e["type"] == "button"]


# ---- permissions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "behavior", "line"),
    [
        ("ask_allow_once", "allow", "✓ @maya allowed it once."),
        ("ask_allow_session", "allow", "✓ @maya allowed it for this session: `Bash(touch x)`."),
        ("ask_allow_channel", "allow", "✓ @maya allowed it for this channel from now on: `Bash(touch x)`."),
        ("ask_deny", "deny", "✗ @maya denied it."),
    ],
)
async def test_each_button_of_a_permission(flow: Flow, action: str, behavior: str, line: str) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"}, "Bash(touch x)")
    message = await story.asked("Allow once")
    assert "Waiting for you…" in flow.slack.visible_text(message)
    assert labels(message) == [
        *("Allow once", "Allow for this session", "Always for this channel", "Deny", "Deny and say why"),
        "Stop",
    ]
    assert message["ts"] > story.message("Let me see.")["ts"]
    assert (await flow.slack.click("maya", message, action)).ok
    assert (await story.heard())["behavior"] == behavior
    await flow.shows("#general", story.ts, line)
    assert labels(story.message(line)) in (["Stop"], [])
    story.process.say(Text("Going on."))
    story.process.end()
    await flow.shows("#general", story.ts, "Going on.", "tokens in")
    ends = [text for text in story.texts() if "tokens in" in text]
    assert len(story.texts()) == 4
    assert "Going on." in ends[0]
    assert story.texts()[2].endswith(line)


async def test_deny_and_say_why(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "rm -r build"})
    await flow.slack.click("maya", await story.asked("Allow once"), "ask_deny_why")
    assert (await story.modal("maya"))["title"]["text"] == "Deny and say why"
    assert (await flow.slack.submit("maya", {"text": "use make clean"})).ok
    assert "use make clean" in (await story.heard())["message"]
    await flow.shows("#general", story.ts, "✗ @maya denied it: use make clean")


async def test_all_of_a_long_command(flow: Flow) -> None:
    command = "".join(f"echo {n}\n" for n in range(3_000))
    story = await asking(flow, "Bash", {"command": command})
    await flow.slack.click("jonas", await story.asked("Show all"), "ask_show_all")
    view = await story.modal("jonas")
    shown = "".join(b["elements"][0]["elements"][0]["text"] for b in view["blocks"] if b["type"] == "rich_text")
    assert shown == command
    assert story.process.heard == {}


async def test_a_double_click_decides_once_and_says_nothing(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    first, second = await asyncio.gather(*(flow.slack.click("maya", message, "ask_allow_once") for _ in range(2)))
    assert first.ok
    assert second.ok
    await flow.shows("#general", story.ts, "allowed it once")
    await flow.slack.click("maya", message, "ask_deny", stale=message["blocks"])
    await story.told("maya", "That is settled already. ✓ @maya allowed it once.")
    assert len(flow.slack.ephemerals("maya")) == 1


async def test_of_two_people_the_second_is_told_who_decided(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    await flow.slack.post("jonas", "#general", "@flow and then this", thread_ts=story.ts)
    await flow.shows("#general", story.ts, "Claude has asked something above")
    await asyncio.gather(
        flow.slack.click("maya", message, "ask_allow_once"), flow.slack.click("jonas", message, "ask_deny")
    )
    heard = await story.heard()
    first, line = ("maya", "✓ @maya allowed it once.") if heard["behavior"] == "allow" else ("jonas", "✗ @jonas denied")
    await story.told("jonas" if first == "maya" else "maya", f"That is settled already. {line}")
    await flow.shows("#general", story.ts, line, "I will start when the current answer is done")


async def test_somebody_who_does_not_take_part_is_refused_privately(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    for action in ("ask_allow_once", "ask_deny_why"):
        flow.slack.workspace.ephemerals.clear()
        await flow.slack.click("jonas", message, action)
        await story.told("jonas", "Only people who asked Claude something in this thread can answer this: @maya.")
    assert flow.slack.views("jonas") == []
    assert story.process.heard == {}
    assert not any("jonas" in text for text in story.texts())


async def test_who_may_is_a_setting(flow: Flow) -> None:
    flow.door.answerers = Answerers("approvers", (flow.slack.add_user("priya").id,))
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    await flow.slack.click("maya", message, "ask_allow_once")
    await story.told("maya", "Only approvers can answer this: @priya.")
    await flow.slack.click("priya", message, "ask_allow_once")
    await flow.shows("#general", story.ts, "✓ @priya allowed it once.")


async def test_a_modal_that_comes_too_late(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    await flow.slack.click("maya", message, "ask_deny_why")
    await story.modal("maya")
    await flow.slack.click("maya", message, "ask_allow_once")
    await story.heard()
    await flow.slack.submit("maya", {"text": "no!"})
    await story.told("maya", "That is settled already. ✓ @maya allowed it once.")
    await flow.slack.click("maya", message, "ask_deny_why", stale=message["blocks"])
    await until(lambda: len(flow.slack.ephemerals("maya")) == 2)


async def test_what_is_stopped_is_withdrawn(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Allow once")
    await flow.slack.click("maya", message, "stop_turn")
    await flow.shows("#general", story.ts, "■ Withdrawn", "Stopped by @maya")
    await flow.slack.click("maya", message, "ask_allow_once", stale=message["blocks"])
    await story.told("maya", "Withdrawn: Claude does not wait for an answer any more.")


async def test_what_has_expired_says_so(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    message = await story.asked("Open until")
    await flow.sessions.store.asks.expire(datetime.now(UTC) + timedelta(days=2))
    await flow.slack.click("maya", message, "ask_allow_once")
    await story.told("maya", "⌛ Expired: nobody answered in time.")
    (session,) = await flow.sessions.list()
    flow.sessions.ring(session.id)
    await flow.shows("#general", story.ts, "⌛ Expired: nobody answered in time.")
    assert "denied" not in str(story.texts())


# ---- questions ---------------------------------------------------------------------------------------------------


async def answers(story: Story) -> dict[str, str]:
    return dict((await story.heard())["input"]["answers"])


async def test_a_choice(flow: Flow) -> None:
    story = await asking(flow, "AskUserQuestion", {"questions": [QUESTION]})
    message = await story.asked("Which cache?")
    assert labels(message) == ["Redis", "PostgreSQL", "Answer in my own words", "Stop"]
    await flow.slack.click("maya", message, "ask_choice_1")
    assert await answers(story) == {"Which cache?": "PostgreSQL"}
    await flow.shows("#general", story.ts, "✓ @maya answered: PostgreSQL")


async def test_check_boxes(flow: Flow) -> None:
    story = await asking(flow, "AskUserQuestion", {"questions": [PARTS]})
    message = await story.asked("Which parts?")
    await flow.slack.click("maya", message, "ask_submit")
    await story.told("maya", "Tick at least one box first")
    await flow.slack.click("maya", message, "ask_pick", value="0,1")
    await flow.slack.click("maya", message, "ask_submit")
    assert await answers(story) == {"Which parts?": "Redis, PostgreSQL"}
    await flow.shows("#general", story.ts, "✓ @maya answered: Redis, PostgreSQL")


async def test_ones_own_words(flow: Flow) -> None:
    story = await asking(flow, "AskUserQuestion", {"questions": [QUESTION]})
    await flow.slack.click("maya", await story.asked("Which cache?"), "ask_own_words")
    await story.modal("maya")
    await flow.slack.submit("maya", {"words0": "none at all"})
    assert await answers(story) == {"Which cache?": "none at all"}


async def test_several_questions(flow: Flow) -> None:
    story = await asking(flow, "AskUserQuestion", {"questions": [QUESTION, PARTS]})
    await flow.slack.click("maya", await story.asked("Claude asks 2 questions"), "ask_form")
    await story.modal("maya")
    refused = await flow.slack.submit("maya", {"pick0": "0"})
    assert refused.ack["errors"] == {"pick1": "Choose an answer, or write one."}
    await flow.slack.submit("maya", {"pick0": "0", "pick1": "1", "words1": "and files"})
    assert await answers(story) == {"Which cache?": "Redis", "Which parts?": "PostgreSQL, and files"}
    await flow.shows("#general", story.ts, "✓ @maya answered:\n• Which cache? Redis")
    assert flow.slack.views("maya") == []


# ---- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "line"),
    [
        ("ask_approve", "✓ @maya approved the plan."),
        ("ask_approve_edits", "✓ @maya approved the plan, and edits need no further yes."),
    ],
)
async def test_a_plan_is_approved(flow: Flow, action: str, line: str) -> None:
    story = await asking(flow, "ExitPlanMode", {"plan": "# Plan\n1. look\n2. do"})
    message = await story.asked("Claude's plan")
    assert labels(message) == ["Approve", "Approve and auto-accept edits", "Keep planning", "Stop"]
    await flow.slack.click("maya", message, action)
    assert (await story.heard())["behavior"] == "allow"
    await flow.shows("#general", story.ts, line)


async def test_keep_planning(flow: Flow) -> None:
    story = await asking(flow, "ExitPlanMode", {"plan": "step\n" * 5_000})
    await flow.shows("#general", story.ts, "Keep planning")
    pages = [text for text in story.texts() if "Claude's plan" in text]
    assert sum(text.count("step") for text in pages) == 5_000
    assert [("Keep planning" in text) for text in pages] == [False] * (len(pages) - 1) + [True]
    await flow.slack.click("maya", story.message("Keep planning"), "ask_keep_planning")
    await story.modal("maya")
    await flow.slack.submit("maya", {"text": "smaller steps"})
    assert "smaller steps" in (await story.heard())["message"]
    await flow.shows("#general", story.ts, "↻ @maya wants Claude to keep planning: smaller steps")


# ---- restarts, and Slack or the table being slow ------------------------------------------------------------------


async def test_a_restart_between_question_and_answer(slack: SlackSimulator, start: Start) -> None:
    async with start() as flow:
        story = await asking(flow, "Bash", {"command": "touch x"})
        message = await story.asked("Allow once")
        before = [(m["ts"], slack.visible_text(m)) for m in slack.messages("#general", story.ts)]
    async with start() as flow:
        story.flow = flow
        await flow.slack.click("maya", message, "ask_allow_once")
        assert (await story.heard())["behavior"] == "allow"
        await flow.shows("#general", story.ts, "✓ @maya allowed it once.")
        story.process.say(TextDelta("After"), Text("After all."))
        story.process.end()
        await flow.shows("#general", story.ts, "After all.", "tokens in")
        after = slack.messages("#general", story.ts)
        assert [m["ts"] for m in after][: len(before)] == [ts for ts, _ in before]
        assert len(after) == len(before) + 1
        posts = [call for call in flow.calls("chat.postMessage") if "Allow once" in str(call)]
        assert len(posts) == 1


async def test_an_ask_is_told_at_once_also_while_much_is_written(start: Start) -> None:
    # By this clock the three seconds that an edit waits are thirty.
    async with start(clock=lambda: time.monotonic() / 10) as flow:
        ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
        process = await flow.process("HOLD on")
        process.say(TextDelta("half a thought"))
        await flow.shows("#general", ts, "half a thought")
        process.say(Text("half a thought"))
        process.ask("Bash", {"command": "touch x"})
        await flow.shows("#general", ts, "Allow once", timeout=20)


async def opening(flow: Flow, making: Any) -> list[str]:
    """A press of maya's whose modal is made so; what she is told instead."""
    slack, told = flow.slack, list[str]()

    async def tell(text: str) -> None:
        told.append(text)

    trigger = slack._interactions.trigger(slack.app, slack.user("maya"))
    await open_modal(flow.door.client, trigger, making, tell)
    return told


async def test_a_modal_that_takes_long_to_make_is_opened_empty_and_filled_in(flow: Flow) -> None:
    ready = asyncio.Event()

    async def slow(made: Any) -> Any:
        await ready.wait()
        return made

    for made, shown in ((why_modal("a1"), "Deny and say why"), ("Too late.", "Flow")):
        ready.clear()
        task = asyncio.create_task(opening(flow, slow(made)))
        await until(lambda: flow.slack.views("maya"))
        assert "One moment" in str(flow.slack.views("maya")[-1]["blocks"])
        ready.set()
        assert await task == []
        assert flow.slack.views("maya")[-1]["title"]["text"] == shown
        await flow.slack.close_view("maya")


async def test_a_modal_that_cannot_be_made_or_opened(flow: Flow) -> None:
    async def failing() -> str:
        raise RuntimeError("boom")

    (told,) = await opening(flow, failing())
    assert "Something went wrong on my side" in told
    flow.slack.faults.fail("views.open", error="internal_error")
    (told,) = await opening(flow, made(why_modal("a1")))
    assert "Something went wrong on my side" in told
    assert flow.slack.views("maya") == []


async def made(view: Any) -> Any:
    return view


async def test_what_another_decided_is_shown_here_too(flow: Flow) -> None:
    story = await asking(flow, "Bash", {"command": "touch x"})
    await story.asked("Allow once")
    (session,) = await flow.sessions.list()
    (ask,) = [stored.ask for stored in await flow.sessions.store.asks.of_turn(
        (await flow.sessions.turns(session.id))[0].id)]  # fmt: skip
    await flow.sessions.decide(ask.id, Decision("deny", message="from the command line"), "U0CLI")
    await flow.shows("#general", story.ts, "denied it: from the command line")


async def test_in_a_streamed_conversation_too(start: Start, slack: SlackSimulator) -> None:
    async with start(streaming="native") as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD on")
        process = await flow.process("HOLD on")
        process.say(TextDelta("Let me see. "))
        process.say(TextDelta("And so on."))
        await flow.shows("#general", ts, "Let me see.")
        process.say(Text("Let me see. And so on."))
        story = Story(flow, ts, process, process.ask("Bash", {"command": "touch x"}))
        message = await story.asked("Allow once")
        assert "touch x" in slack.visible_text(message)
        assert await until(lambda: "Stop" not in labels(story.message("Let me see.")))
        await slack.click("maya", message, "ask_allow_once")
        await flow.shows("#general", ts, "✓ @maya allowed it once.")
        process.say(Text("Done."))
        process.end()
        await flow.shows("#general", ts, "Done.", "tokens in")
        assert len(flow.calls("chat.startStream")) >= 1


async def test_buttons_stay_when_slack_refuses_the_blocks(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    process.say(Text("Let me see."))
    await flow.shows("#general", ts, "Let me see.")
    flow.slack.faults.fail("chat.postMessage", error="invalid_blocks")
    story = Story(flow, ts, process, process.ask("Bash", {"command": "touch x"}))
    message = await story.asked("Allow once")
    assert plainly(message, "touch x")
    await flow.slack.click("maya", message, "ask_deny")
    assert (await story.heard())["behavior"] == "deny"


def plainly(message: dict[str, Any], words: str) -> bool:
    """It says so in a section of plain text."""
    return any(
        b["type"] == "section" and b["text"]["type"] == "plain_text" and words in b["text"]["text"]
        for b in message.get("blocks") or []
    )
