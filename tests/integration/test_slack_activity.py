"""What people see of Claude's work in a real thread: diffs, checklists, levels, the mention at the end."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from slackdoor import Flow, Start
from unit.sessions.scripted import Process, ScriptedHost
from waiting import until

from simulator.slack import SlackSimulator
from worklets.events import Text, Thinking, ToolFinished, ToolStarted

PATCH = "@@ -1,1 +1,2 @@\n-old <!channel>\n+new\n+lines"


async def at_work(flow: Flow, text: str = "HOLD on") -> tuple[str, Process]:
    ts = await flow.slack.post("maya", "#general", f"@flow {text}")
    return ts, await flow.process(text)


def edit(process: Process, tool_id: str = "e1", **details: Any) -> None:
    known = {"added": 2, "removed": 1, "path": "src/a.py", "patch": PATCH, **details}
    process.say(ToolStarted(tool_id, "Edit", {"file_path": "src/a.py"}), ToolFinished(tool_id, True, "ok", known))


def live(flow: Flow, ts: str) -> dict[str, Any]:
    return flow.slack.messages("#general", ts)[-1]


async def diff_shown(flow: Flow) -> str:
    views = await until(lambda: flow.slack.views("maya"), what="a modal")
    return flow.slack.visible_text({"blocks": views[-1]["blocks"]})


# ---- diffs -------------------------------------------------------------------------------------------------------


async def test_a_diff_on_demand(flow: Flow) -> None:
    ts, process = await at_work(flow)
    edit(process)
    await flow.shows("#general", ts, "✓ Edit `src/a.py` – +2 −1")
    await flow.slack.click("maya", live(flow, ts), "diff")
    shown = await diff_shown(flow)
    assert shown.splitlines()[0] == "`src/a.py` +2 −1"
    assert PATCH in shown
    assert "'language': 'diff'" in str(flow.slack.views("maya"))
    process.end()
    await flow.shows("#general", ts, "tokens in")
    assert (await flow.slack.click("jonas", live(flow, ts), "diff")).ok, "it stays when the turn is over"


async def test_a_workspace_that_colours_no_code(flow: Flow) -> None:
    ts, process = await at_work(flow)
    edit(process, patch_cut=7)
    await flow.shows("#general", ts, "✓ Edit")
    flow.slack.faults.fail("views.open", error="invalid_arguments")
    await flow.slack.click("maya", live(flow, ts), "diff")
    assert "7 more lines" in await diff_shown(flow)
    assert "language" not in str(flow.slack.views("maya"))


async def test_a_diff_that_is_gone(flow: Flow) -> None:
    ts, process = await at_work(flow)
    edit(process)
    await flow.shows("#general", ts, "✓ Edit")
    message = live(flow, ts)
    buttons = deepcopy([block for block in message["blocks"] if block["type"] == "actions"])
    for element in buttons[0]["elements"]:
        element["value"] = element["value"].removesuffix("e1") + "e9"
    await flow.slack.click("maya", message, "diff", stale=buttons)
    await until(lambda: any("archived" in flow.slack.visible_text(m) for m in flow.slack.ephemerals("maya")))


# ---- checklists --------------------------------------------------------------------------------------------------


def create(process: Process, number: int, subject: str) -> None:
    process.say(
        ToolStarted(f"c{number}", "TaskCreate", {"subject": subject}),
        ToolFinished(f"c{number}", True, "", {"task": {"id": str(number), "subject": subject}}),
    )


def update(process: Process, number: int, status: str) -> None:
    process.say(
        ToolStarted(f"u{number}{status}", "TaskUpdate", {"taskId": str(number), "status": status}),
        ToolFinished(f"u{number}{status}", True, "", {"task": {"id": str(number), "status": status}}),
    )


async def test_one_checklist_that_lives(start: Start, host: ScriptedHost) -> None:
    async with start(flush=False) as flow:
        ts, process = await at_work(flow)
        create(process, 1, "Read the code")
        create(process, 2, "Mend it")
        update(process, 1, "in_progress")
        await flow.shows("#general", ts, "Plan: 0 of 2 done\n◐ Read the code\n☐ Mend it")
    async with start() as flow:  # a restart shows the same list
        update(process, 1, "completed")
        process.say(Text("Half of it."))
        await flow.shows("#general", ts, "Half of it.\nPlan: 1 of 2 done\n☑ Read the code\n☐ Mend it")
        process.end()
        texts = await flow.shows("#general", ts, "tokens in")
        assert sum("Plan:" in text for text in texts) == 1
    assert len(host.processes) == 1


async def test_plan_blocks_where_slack_takes_them_and_plain_ones_where_not(start: Start) -> None:
    async with start(plan=True) as flow:
        ts, process = await at_work(flow)
        create(process, 1, "Read the code")
        await until(lambda: any(block["type"] == "plan" for block in live(flow, ts)["blocks"]))
        flow.slack.faults.fail("chat.update", error="invalid_blocks")
        update(process, 1, "completed")
        await flow.shows("#general", ts, "Plan: 1 of 1 done\n☑ Read the code")
        assert not any(block["type"] == "plan" for block in live(flow, ts)["blocks"])
        process.say(Text("All *done*."))
        process.end()
        await flow.shows("#general", ts, "All *done*.", "tokens in")
        assert any(block["type"] == "markdown" for block in live(flow, ts)["blocks"]), "the rest stays as it is"


# ---- levels ------------------------------------------------------------------------------------------------------


async def test_a_channel_is_set_to_quiet_and_back(flow: Flow) -> None:
    said = await flow.slack.command("maya", "#general", "/flow", "quiet")
    assert "only the answer" in flow.slack.visible_text(said.message)
    ts, process = await at_work(flow)
    edit(process)
    process.say(ToolStarted("b1", "Bash", {"command": "make"}))
    await flow.shows("#general", ts, "⏳ Working: Bash `make`")
    await flow.slack.command("maya", "#general", "/flow", "verbose")  # this turn stays what it was
    process.say(ToolFinished("b1", True, "out"), Text("The answer."))
    process.end()
    await flow.shows("#general", ts, "The answer.", "tokens in")
    assert not any("Bash" in text or "Edit" in text for text in flow.thread("#general", ts)[1:])
    other, process = await at_work(flow, "HOLD two")
    process.say(Thinking("let me see"))
    await flow.shows("#general", other, "💭 `let me see`")


async def test_a_thread_may_have_a_level_of_its_own(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "quiet")
    ts, process = await at_work(flow)
    process.end()
    await flow.shows("#general", ts, "tokens in")
    await flow.slack.post("maya", "#general", "@flow verbose", thread_ts=ts)
    await flow.shows("#general", ts, "this thread shows everything")
    await flow.slack.post("maya", "#general", "HOLD two", thread_ts=ts)
    (await flow.process("HOLD two")).say(Thinking("let me see"))
    await flow.shows("#general", ts, "💭 `let me see`")


async def test_a_level_outlives_a_restart(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        await slack.command("maya", "#general", "/flow", "verbose")
        ts, process = await at_work(flow)
        process.say(Thinking("let me see"))
        await flow.shows("#general", ts, "let me see")
        await slack.command("maya", "#general", "/flow", "quiet")
    async with start() as flow:
        process.say(Thinking("still"))
        await flow.shows("#general", ts, "💭 `let me see`\n💭 `still`")


async def test_a_misspelt_level_is_no_prompt(flow: Flow) -> None:
    said = await flow.slack.command("maya", "#general", "/flow", "verbos")
    assert "/flow verbose" in flow.slack.visible_text(said.message)


# ---- the end -----------------------------------------------------------------------------------------------------


async def test_who_asked_is_mentioned_once_even_over_a_kill(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        await flow.sessions.options.set("user", slack.user("maya").id, "mention", True, "maya")
        ts, process = await at_work(flow)
        process.say(Text("Here."))
        await flow.shows("#general", ts, "Here.")
        slack.faults.fail("chat.postMessage", error="internal_error", after=True)
        process.end()
        await until(lambda: any("That is done." in text for text in flow.thread("#general", ts)))
    async with start() as flow:
        await until(lambda: not len(flow.show.outbox))
        assert sum("@maya That is done." in text for text in flow.thread("#general", ts)) == 1


async def test_nobody_else_is_mentioned(flow: Flow) -> None:
    ts, process = await at_work(flow)
    process.answer("Here.")
    await flow.shows("#general", ts, "tokens in")
    await until(lambda: not len(flow.show.outbox))
    assert len(flow.thread("#general", ts)) == 2


# ---- reactions ---------------------------------------------------------------------------------------------------


def reactions(slack: SlackSimulator, ts: str) -> list[str]:
    return [one["name"] for one in slack.record(ts).body.get("reactions", [])]


async def test_reactions_say_who_waits_for_whom(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        ts, process = await at_work(flow)
        await until(lambda: reactions(slack, ts) == ["gear"])
        process.ask("Bash", {"command": "touch x"})
        await until(lambda: reactions(slack, ts) == ["raised_hand"])
    async with start() as flow:  # a restart knows what stands there
        question = await until(
            lambda: next((m for m in slack.messages("#general", ts) if "ask_allow_once" in str(m["blocks"])), None)
        )
        await slack.click("maya", question, "ask_allow_once")
        await until(lambda: reactions(slack, ts) == ["gear"])
        process.end()
        await flow.shows("#general", ts, "tokens in")
        await until(lambda: reactions(slack, ts) == ["white_check_mark"])


async def test_no_reactions_where_they_are_switched_off(start: Start, slack: SlackSimulator) -> None:
    async with start(reactions=False) as flow:
        ts, process = await at_work(flow)
        process.answer("Here.")
        await flow.shows("#general", ts, "tokens in")
        await until(lambda: not len(flow.show.outbox))
        assert not flow.calls("reactions.add")
